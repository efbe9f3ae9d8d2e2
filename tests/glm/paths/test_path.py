"""Paths and cross-validation in shared passes: the answers of single fits, proven, in few passes."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from made import drawn, family

from clusterglm.data.chunk import Chunk
from clusterglm.data.rows import LocalRows, from_arrays
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.paths.folds import fold_of
from clusterglm.glm.paths.path import Grid, fit_path
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

PAIRS = ["gaussian", "logit", "poisson", "gamma", "probit", "negative-binomial"]
TIGHT = Limits(Tolerance(1e-6))


def made(pair: str, n: int, p: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    X, y = drawn(pair, np.random.default_rng([seed, n]), n, p)
    return X, y, [f"x{j}" for j in range(p)]


def folds_of(n: int, folds: int) -> np.ndarray:
    whole = Chunk(np.zeros((n, 1)), np.zeros(n), block_rows=8192)
    return np.concatenate([fold_of(block, folds) for block in whole.blocks()])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("penalty", "n"), [("l1", 400), ("elastic-net", 12_000), ("l2", 400)])
def test_every_strength_has_the_answer_of_its_own_fit(pair: str, penalty: str, n: int) -> None:
    X, y, names = made(pair, n)
    rows, model = from_arrays(X, y, intercept=True), Model(family(pair), penalty)
    path = fit_path(rows, names, model, Grid(8, 1e-2), limits=TIGHT)
    assert max(c.error_in_se for c in path.certificates) <= 1e-6 or pair == "gaussian"
    assert path.passes <= 25
    for k in (0, 3, 7):
        own = Model(family(pair), penalty, alpha=float(path.alphas[k]))
        alone = fit(rows, names, own, SOLVERS["proximal_newton"], TIGHT)
        np.testing.assert_allclose(path.coefficients[k], alone.coefficients, rtol=1e-6, atol=1e-7)
        assert path.intercepts is not None
        assert path.intercepts[k] == pytest.approx(alone.intercept, abs=1e-7)
        assert path.objectives[k] == pytest.approx(alone.objective, rel=1e-10)
    if penalty != "l2":
        assert not path.coefficients[0].any()  # the strength at which all is zero
        assert path.coefficients[1].any()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("weights", [False, True])
def test_folds_have_the_answers_of_fits_without_them(pair: str, weights: bool) -> None:
    n, folds = 500, 4
    X, y, names = made(pair, n)
    w = np.random.default_rng(1).integers(0, 3, n).astype(float) if weights else np.ones(n)
    model = Model(family(pair), "l1")
    path = fit_path(from_arrays(X, y, w, intercept=True), names, model, Grid(6, 1e-2), folds, TIGHT)
    assert path.held_out is not None
    assert path.fold_certificates is not None
    own = folds_of(n, folds)
    for fold in range(folds):
        assert max(c.error_in_se for c in path.fold_certificates[fold]) <= 1e-6
        rest = from_arrays(X, y, w * (own != fold), intercept=True)
        for k in (1, 5):
            alone = fit(
                rest, names, Model(family(pair), "l1", float(path.alphas[k])), SOLVERS["proximal_newton"], TIGHT
            )
            inside = (own == fold) & (w > 0)
            eta = X[inside] @ alone.coefficients + (alone.intercept or 0.0)
            loss = np.average(family(pair).loss(y[inside], eta), weights=w[inside])
            assert path.held_out[fold, k] == pytest.approx(2 * loss, rel=1e-7)
    assert path.mean is not None
    np.testing.assert_allclose(path.mean, path.held_out.mean(axis=0))
    assert path.best == int(np.argmin(path.mean))
    assert path.simplest is not None
    assert path.alphas[path.simplest] >= path.alphas[path.best]


def test_models_that_steps_lead_astray_are_fitted_by_themselves() -> None:
    n, folds = 400, 5
    X = np.random.default_rng(0).normal(size=(n, 3))
    y, own = (X[:, 0] > 0).astype(float), folds_of(n, folds)
    names, model = ["x0", "x1", "x2"], Model(family("logit"), "l1")
    path = fit_path(from_arrays(X, y, intercept=True), names, model, Grid(alphas=(1e-2, 1e-5, 1e-7)), folds)
    assert path.held_out is not None
    assert path.fold_certificates is not None
    assert max(c.error_in_se for certificates in path.fold_certificates for c in certificates) <= 0.01
    for fold in (1, 4):
        rest = from_arrays(X[own != fold], y[own != fold], intercept=True)
        alone = fit(rest, names, Model(family("logit"), "l1", 1e-5), SOLVERS["proximal_newton"], TIGHT)
        eta = X[own == fold] @ alone.coefficients + (alone.intercept or 0.0)
        loss = family("logit").loss(y[own == fold], eta).mean()
        assert path.held_out[fold, 1] == pytest.approx(2 * loss, rel=1e-2)


def test_strengths_without_an_answer_are_told() -> None:
    X = np.random.default_rng(0).normal(size=(400, 2))
    y, model = (X[:, 0] > 0).astype(float), Model(family("logit"), "l1", factors={"x0": 0.0})
    path = fit_path(from_arrays(X, y, intercept=True), ["x0", "x1"], model, Grid(2), 3)
    assert "warning: 2 of 2 models have no answer: no_finite_mle" in path.notes
    assert any("models without a fold have no answer" in note for note in path.notes)


@pytest.mark.parametrize(("n", "folds", "last"), [(10, 5, 10), (400, 5, 4)])
def test_a_fold_without_rows_or_weight_is_refused(n: int, folds: int, last: int) -> None:
    X, y, names = made("gaussian", n)
    rows = from_arrays(X, y, (np.arange(n) < last).astype(float), intercept=True)
    with pytest.raises(DataError, match="has no row with a weight above 0"):
        fit_path(rows, names, Model(family("gaussian"), "l1"), Grid(3), folds)


def test_the_path_of_least_squares_is_that_of_scikit_learn_in_two_passes() -> None:
    from sklearn.linear_model import enet_path

    X, y, names = made("gaussian", 600, 6)
    X, y = X - X.mean(axis=0), y - y.mean()
    path = fit_path(from_arrays(X, y), names, Model(family("gaussian"), "l1", intercept=False), Grid(30), 5)
    alphas, peer, _ = enet_path(X, y, l1_ratio=1.0, alphas=path.alphas, tol=1e-12, max_iter=100_000)
    np.testing.assert_allclose(path.alphas, alphas)
    np.testing.assert_allclose(path.coefficients, peer.T, atol=1e-8)
    assert path.passes <= 3  # a look, the Gram matrices, and the sample, which here are all rows


@pytest.mark.parametrize("pair", ["gaussian", "logit"])
def test_factors_standardising_and_constant_columns(pair: str) -> None:
    X, y, names = made(pair, 300)
    X[:, 1] *= 50
    X[:, 2] = 3.0
    rows = from_arrays(X, y, intercept=True)
    model = Model(family(pair), "elastic-net", standardize=True, factors={"x0": 0.0, "x3": 2.0})
    path = fit_path(rows, names, model, Grid(5, 0.05), limits=TIGHT)
    assert not path.coefficients[:, 2].any()
    assert path.coefficients[0, 0] != 0  # without a penalty
    assert not path.coefficients[0, 1:].any()
    own = Model(family(pair), "elastic-net", float(path.alphas[3]), standardize=True, factors={"x0": 0.0, "x3": 2.0})
    alone = fit(rows, names, own, SOLVERS["proximal_newton"], TIGHT)
    np.testing.assert_allclose(path.coefficients[3], alone.coefficients, rtol=1e-6, atol=1e-8)


def test_fifty_strengths_and_five_folds_take_few_passes() -> None:
    X, y, names = made("logit", 20_000, 6)
    rows = from_arrays(X, y, intercept=True)
    one = fit(rows, names, Model(family("logit"), "l1", 1e-3), SOLVERS["proximal_newton"])
    path = fit_path(rows, names, Model(family("logit"), "l1"), folds=5)
    assert path.fold_certificates is not None
    assert max(c.error_in_se for c in [*path.certificates, *chain(*path.fold_certificates)]) <= 0.01
    assert path.passes <= 5 * one.passes


def test_bits_do_not_depend_on_how_rows_are_cut() -> None:
    X, y, names = made("logit", 3000)
    A = np.column_stack([np.ones(3000), X])
    found: list[Any] = []
    for cut in (3000, 640):
        held = Chunk(A, y, block_rows=64)
        parts = [held.part(i, min(i + cut, 3000)) for i in range(0, 3000, cut)]
        rows = _Cut(parts, LocalRows(held, intercept=True))
        found.append(fit_path(rows, names, Model(family("logit"), "l1"), Grid(5, 0.1), 3))
    assert (found[0].coefficients == found[1].coefficients).all()
    assert (found[0].held_out == found[1].held_out).all()


class _Cut:
    """Rows in several chunks."""

    def __init__(self, parts: list[Chunk], whole: LocalRows) -> None:
        self.parts, self.rows, self.local_problems, self.columns = parts, whole.rows, 1, whole.columns

    def sum(self, kernel: Any, *args: Any) -> Any:
        from clusterglm.data.chunk import subtotals
        from clusterglm.data.tree import fold

        return fold([node for part in self.parts for node in subtotals(part, kernel, args)])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"penalty": "none"}, "has no strength"),
        ({"folds": 400}, "--folds"),
        ({"grid": (0, 0.1)}, "--strengths"),
        ({"grid": (5, 1.5)}, "--smallest"),
        ({"grid": (5, 0.1, (-1.0,))}, "--alphas"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any], match: str) -> None:
    X, y, names = made("gaussian", 100)
    with pytest.raises(UsageError, match=match):
        fit_path(
            from_arrays(X, y), names, Model(family("gaussian"), words.get("penalty", "l1"), intercept=False),
            Grid(*words.get("grid", (3, 0.1))), words.get("folds", 1),
        )  # fmt: skip


def test_no_column_with_a_penalty_is_refused() -> None:
    X, y, names = made("gaussian", 50)
    with pytest.raises(DataError, match="none carries a penalty"):
        fit_path(
            from_arrays(X, y),
            names,
            Model(family("gaussian"), "l1", intercept=False, factors=dict.fromkeys(names, 0.0)),
        )
