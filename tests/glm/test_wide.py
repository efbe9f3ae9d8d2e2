"""Sparse rows, and more columns than a Hessian may have: the same answers, with nothing made dense."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.glm import fit, scan
from clusterglm.glm import solvers as solvers_
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.penalties import PENALTIES
from clusterglm.glm.problem import Problem
from clusterglm.glm.proof import certificate, separation
from clusterglm.glm.solvers import SOLVERS

TIGHT = {"tol": 1e-7}


def sparse_rows(family: str, n: int, p: int, filled: float = 0.2, seed: int = 3) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return (X, y, weights); X holds a column of zeros, a constant one and a full one besides sparse ones."""
    random = np.random.default_rng([seed, n, p])
    X = sparse.random_array((n, p), density=filled, rng=random, data_sampler=random.standard_normal).tolil()
    X[:, 0], X[:, 2] = 0.0, random.random(n) + 3
    X = sparse.csr_array(X)
    eta = X @ (random.standard_normal(p) / np.sqrt(1 + filled * p))
    y = {
        "gaussian": lambda: eta + random.standard_normal(n),
        "binomial": lambda: (random.random(n) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: random.poisson(np.exp(np.minimum(eta, 3))).astype(float),
    }[family]()
    return X, y, random.integers(0, 3, n).astype(float)


@pytest.fixture
def few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Hessian have three columns at most."""
    for module in (certificate, fit, separation, solvers_):
        monkeypatch.setattr(module, "MOST_COLUMNS", 3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("broken", [None, (41, 3), (299, 0)])
def test_the_scan_of_sparse_rows_is_that_of_dense_ones(family: str, broken: tuple[int, int] | None) -> None:
    X, y, w = sparse_rows(family, 300, 5)
    dense = X.toarray()
    if broken:
        X = X.tolil()
        X[broken] = dense[broken] = np.nan
        X = X.tocsr()
    for weights in (None, w + (1 if broken else 0)):
        one, other = (
            clusterglm.from_arrays(rows, y, weights, intercept=True).sum(scan.scan, FAMILIES[family])[0]
            for rows in (X, dense)
        )
        if broken:
            assert (one.bad_x.row, one.bad_column) == (other.bad_x.row, other.bad_column) == (broken[0], broken[1] + 1)
            continue
        for field in fields(one):
            value, expected = (getattr(s, field.name) for s in (one, other))
            if isinstance(value, scan.Place):
                assert value == expected
            else:
                np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_sparse_rows_have_the_answer_of_dense_ones(solver: str, family: str) -> None:
    """With enough rows for a sample, too."""
    X, y, w = sparse_rows(family, 6000, 6)
    penalty = {"penalty": "l2", "alpha": 0.01} if SOLVERS[solver].smooth_only else {"l1_ratio": 0.5, "alpha": 0.01}
    found = [
        clusterglm.fit(
            data=clusterglm.from_arrays(rows, y, w, intercept=True), family=family, solver=solver, **penalty, **TIGHT
        )
        for rows in (X, X.toarray())
    ]
    assert [f.status for f in found] == ["optimal", "optimal"]
    assert found[0].start == found[1].start != "null model"
    assert found[0].columns_dropped == found[1].columns_dropped == ["x0"]
    np.testing.assert_allclose(found[0].coefficients, found[1].coefficients, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("solver", "penalty"),
    [("lbfgs", "l2"), ("lbfgs", "none"), *(("proximal_gradient", kind) for kind in PENALTIES)],
)
def test_the_diagonal_alone_leads_to_the_same_optimum(
    solver: str, penalty: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, w = sparse_rows(family, 1500, 12)
    words = {"penalty": penalty} | ({} if penalty == "none" else {"alpha": 0.01})
    rows = clusterglm.from_arrays(X[:, 1:], y, w, intercept=True)
    found = clusterglm.fit(data=rows, family=family, solver=solver, rel_gap=1e-12, **words)
    monkeypatch.undo()
    dense = clusterglm.from_arrays(X[:, 1:].toarray(), y, w, intercept=True)
    exact = clusterglm.fit(data=dense, family=family, solver="proximal_newton", start="null", tol=1e-8, **words)
    assert found.status == "optimal"
    assert found.certificate["gap"] >= found.objective - exact.objective - 1e-14
    assert found.objective - exact.objective <= 1e-11 * exact.null_objective
    np.testing.assert_allclose(found.coefficients, exact.coefficients, atol=1e-4)


@pytest.mark.usefixtures("few_columns")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("intercept", [True, False])
def test_columns_that_say_nothing_are_pinned_at_0(
    intercept: bool, penalty: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others' coefficients have a bound as if these were not there; no row is copied to leave them out."""
    X, y, w = sparse_rows(family, 1500, 7)
    X = X.tolil()
    X[:, 4] = 7.0
    X = X.tocsr()
    monkeypatch.setattr(Problem, "take", None)
    words = {"penalty": penalty, "solver": "auto", "family": family}
    words |= {} if penalty == "none" else {"alpha": 0.01}
    rows = clusterglm.from_arrays(X, y, w, intercept=intercept)
    found = clusterglm.fit(data=rows, rel_gap=1e-12, **words)
    assert found.status == "optimal"
    assert found.columns_dropped == (["x0", "x4"] if intercept else ["x0"])
    assert (found.coefficients[[0, 4] if intercept else [0]] == 0).all()
    which = "x0 and 1 more" if intercept else "x0"
    assert f"warning: column {which}: constant: coefficients set to 0" in found.notes
    monkeypatch.undo()
    others = [1, 2, 3, 5, 6] if intercept else [1, 2, 3, 4, 5, 6]
    narrow = clusterglm.from_arrays(X[:, others].toarray(), y, w, intercept=intercept)
    exact = clusterglm.fit(data=narrow, rel_gap=1e-14, **words)
    assert found.certificate["gap"] >= found.objective - exact.objective - 1e-14
    assert found.objective - exact.objective <= 1e-11 * exact.null_objective
    np.testing.assert_allclose(found.coefficients[others], exact.coefficients, atol=1e-4)


@pytest.mark.usefixtures("few_columns")
def test_columns_of_zeros_alone_are_nothing_to_fit() -> None:
    X, y, _ = sparse_rows("gaussian", 50, 5)
    with pytest.raises(DataError, match="0 in every row: nothing to fit"):
        clusterglm.fit(data=clusterglm.from_arrays(0 * X, y), family="gaussian", penalty="l2", alpha=1.0)


@pytest.mark.usefixtures("few_columns")
def test_the_choice_of_a_solver_for_many_columns() -> None:
    X, y, _ = sparse_rows("binomial", 400, 8)
    rows = clusterglm.from_arrays(X, y, intercept=True)
    for penalty, chosen in (("l2", "lbfgs"), ("l1", "proximal_gradient")):
        found = clusterglm.fit(data=rows, family="binomial", penalty=penalty, alpha=0.01)
        assert (found.solver, found.status) == (chosen, "optimal")
        assert found.notes[0] == f"note: solver auto: {chosen}: at 9 columns they are too many for a Gram matrix"
    for solver, penalty, others in (
        ("admm", "l1", "use proximal_gradient"),
        ("newton", "l2", "use proximal_gradient or lbfgs"),
        ("proximal_newton", "l1", "use proximal_gradient"),
    ):
        with pytest.raises(UsageError, match=rf"^solver \({solver}\): .*, and here are 9: {others}$"):
            clusterglm.fit(data=rows, family="binomial", solver=solver, penalty=penalty, alpha=0.01)


@pytest.mark.usefixtures("few_columns")
def test_separation_among_many_columns_has_its_direction() -> None:
    X, y, _ = sparse_rows("binomial", 400, 6)
    X = sparse.csr_array(sparse.hstack([X[:, 1:], (2 * y - 1)[:, None]]))
    rows = clusterglm.from_arrays(X, y, intercept=True)
    found = clusterglm.fit(data=rows, family="binomial", solver="lbfgs", penalty="none")
    assert found.status == "no_finite_mle"
    assert found.direction is not None
    assert np.all((2 * y - 1) * (X @ found.direction[1:] + found.direction[0]) >= -1e-12)


def test_wide_rows_agree_with_scikit_learn_and_nothing_is_made_dense() -> None:
    from sklearn.linear_model import LogisticRegression

    n, p, alpha = 20_000, 6_000, 1e-3
    random = np.random.default_rng(1)
    places = random.integers(0, p, 20 * n, dtype=np.int32), np.arange(0, 20 * n + 1, 20, dtype=np.int32)
    X = sparse.csr_array((random.standard_normal(20 * n), *places), (n, p))
    truth = np.where(random.random(p) < 0.05, random.standard_normal(p), 0.0)
    y = (random.random(n) < 1 / (1 + np.exp(-(X @ truth)))).astype(float)
    rows = clusterglm.from_arrays(X, y, intercept=True)
    tracemalloc.start()
    found = clusterglm.fit(data=rows, family="binomial", penalty="l2", alpha=alpha, tol=1e-5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * p * 8 / 8
    assert (found.solver, found.status, found.start) == ("lbfgs", "optimal", "null model")
    sklearn = LogisticRegression(C=1 / (alpha * n), tol=1e-10, max_iter=2000).fit(X, y)
    np.testing.assert_allclose(found.coefficients, sklearn.coef_[0], atol=1e-6)
    assert found.intercept == pytest.approx(sklearn.intercept_[0], abs=1e-6)
    l1 = clusterglm.fit(data=rows, family="binomial", penalty="l1", alpha=3e-3, rel_gap=1e-9)
    assert (l1.solver, l1.status) == ("proximal_gradient", "optimal")
    again = LogisticRegression(l1_ratio=1, C=1 / (3e-3 * n), solver="saga", tol=1e-9, max_iter=2000).fit(X, y)
    np.testing.assert_allclose(l1.coefficients, again.coef_[0], atol=1e-5)


def test_sparse_rows_are_refused_by_place_and_travel_as_they_are() -> None:
    X, y, _ = sparse_rows("gaussian", 50, 4)
    X.data[X.indptr[7]] = np.inf
    column = X.indices[X.indptr[7]]
    with pytest.raises(DataError, match=rf"column x{column} \(inf in row 7\): not finite"):
        clusterglm.fit(data=clusterglm.from_arrays(X, y), family="gaussian")
    chunk = clusterglm.from_arrays(X, y, intercept=True, dtype="float32").chunk
    moved = pickle.loads(pickle.dumps(chunk))
    assert moved.X.dtype == np.float32
    assert (moved.X != chunk.X).nnz == 0
    assert moved.nbytes == chunk.nbytes < X.shape[0] * 5 * 8 + X.nnz * 8 + 1000
