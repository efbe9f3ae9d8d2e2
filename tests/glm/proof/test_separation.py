"""Whether a finite optimum exists is a linear programme: no fit denies one, however small the rows that decide."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from high_precision import Exact
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.kernels import Piece
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.proof import separation
from clusterglm.glm.proof.separation import Triangle, doubtful, margins, overlap
from clusterglm.glm.solvers import SOLVERS

QUIET = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}


def fitted(t: Any, family: str = "binomial", solver: str = "proximal_newton", limits: Limits | None = None) -> Fit:
    return fit(t.rows(), t.names, Model(FAMILIES[family], intercept=t.intercept), SOLVERS[solver], limits)


def separable(A: np.ndarray, y: np.ndarray, family: str) -> bool:
    """Whether some d has its sum of margins above 0 and none below: Konis (2007), for rows of small whole numbers."""
    if family == "binomial":
        signed, equal = A * (2 * y - 1)[:, None], A[:0]
    else:
        signed, equal = -A[y == 0], A[y > 0]
    if not len(signed):
        return False
    found = linprog(
        -signed.sum(axis=0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        A_eq=equal if len(equal) else None,
        b_eq=np.zeros(len(equal)) if len(equal) else None,
        bounds=(-1, 1),
    )
    assert found.status == 0
    return bool(-found.fun > 1e-6)


def the_linear_programme_agrees(
    table: Any, seed: int, family: str, columns: int, least: int, intercept: bool, apart: bool
) -> None:
    """Rows multiplied by 1 down to 1e-10: to the programme that is all the same."""
    random = np.random.default_rng(seed)
    A = random.integers(-2, 3, (24, columns)).astype(float)
    if intercept:
        A[:, 0] = 1.0
    level = A @ random.integers(-2, 3, columns)
    y = (level > 0).astype(float)
    y[level == 0] = random.random(np.count_nonzero(level == 0)) < 0.5
    if not apart:
        flipped = random.integers(0, 24, 2)
        y[flipped] = 1 - y[flipped]
    assume(np.linalg.matrix_rank(A) == columns)
    assume(0 < y.sum() < 24)
    size = np.ones(24) if intercept else 10.0 ** random.choice([0, least // 2, least], 24)
    t = table(A * size[:, None], y, None, None, intercept)
    found = fitted(t, family, limits=Limits(max_passes=400))
    if not separable(A, y, family):
        assert found.status != "no_finite_mle"
    elif least == 0:
        assert found.status == "no_finite_mle"
    else:  # the search need not find a direction that only rows of 1e-10 decide, but there is no optimum
        assert found.status in ("no_finite_mle", "converged", "max_passes")


test_the_linear_programme_agrees = settings(max_examples=300, **QUIET)(
    given(
        seed=st.integers(0, 10**6),
        family=st.sampled_from(["binomial", "poisson"]),
        columns=st.integers(2, 5),
        least=st.sampled_from([0, -6, -10]),
        intercept=st.booleans(),
        apart=st.booleans(),
    )(the_linear_programme_agrees)
)


def contradicted(table: Any, seed: int, large: float, intercept: bool, both: bool = True) -> Any:
    """Rows that x > 0 separates, but for one or two of them that are ``large`` times smaller."""
    random = np.random.default_rng(seed)
    x = large * random.choice([-1, 1], 200) * random.uniform(0.5, 3, 200)
    y = (x > 0).astype(float)
    x[5], y[5] = 1.0, 0.0
    if both:
        x[7], y[7] = -1.0, 1.0
    return table(np.column_stack([np.ones(200), x][not intercept :]), y, None, None, intercept)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("large", [1e4, 1e10, 1e12])
def test_a_small_row_of_the_other_class_makes_the_optimum_finite(
    table: Any, solver: str, intercept: bool, large: float
) -> None:
    t = contradicted(table, 1, large, intercept)
    found = fitted(t, solver=solver)
    assert found.status != "no_finite_mle"
    assert found.direction is None
    if solver in ("newton", "proximal_newton"):
        # The large rows' losses fall as exp(-large b), the small ones' rise as b: they meet near 0.
        assert found.status == "optimal"
        zero = np.zeros(t.A.shape[1])
        beta = np.append([found.intercept] * intercept, found.coefficients)
        exact = Exact(t, "binomial", zero, zero)
        optimum, error = exact.minimise(beta)
        assert error < 1e-20
        assert exact.objective(beta) - exact.objective(optimum) <= found.certificate.gap


def test_one_small_row_that_an_intercept_can_pass_by_changes_nothing(table: Any) -> None:
    t = contradicted(table, 2, 1e10, True, both=False)
    found = fitted(t)
    assert found.status == "no_finite_mle"
    margin = (2 * t.y - 1) * (t.A @ found.direction)
    assert margin.min() >= -1e-15


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("seed", range(6))
def test_quasi_separation_is_found_in_any_columns(table: Any, family: str, seed: int) -> None:
    """A group of one class: in columns turned at random its direction is orthogonal to the others by rounding alone."""
    random = np.random.default_rng(seed)
    Z = random.standard_normal((300, 4))
    Z[:, 0] = random.random(300) < 0.3
    Z[:, 1] *= 10.0 ** random.uniform(-9, 0, 300)  # rows of every length
    y = (random.random(300) < 0.5).astype(float)
    y[Z[:, 0] == 1] = family == "binomial"
    t = table(np.column_stack([np.ones(300), Z @ random.standard_normal((4, 4))]), y)
    found = fitted(t, family)
    assert found.status == "no_finite_mle"
    move = t.A @ found.direction * (1 if family == "binomial" else -1)
    assert move[Z[:, 0] == 1].min() > 1e-3
    assert np.abs(move[Z[:, 0] == 0]).max() < 1e-12


def rows_of(X: Any, y: list[float], weights: list[float] | None = None) -> Any:
    w = None if weights is None else np.array(weights)
    return SimpleNamespace(X=X, y=np.array(y), weights=w, offset=None, start=0)


def test_margins_tell_directions_of_recession_row_by_row() -> None:
    X = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, -2.0]])
    directions, units = np.array([[0.0, 0.0, -1.0], [1.0, -1.0, 0.0]]), np.array([1.0, 1.0])
    lengths = np.sqrt([2.0, 1.0, 5.0])

    def violations(name: str, y: list[float], weights: list[float] | None = None) -> list[float]:
        (found,) = margins(rows_of(X, y, weights), FAMILIES[name], directions, units)
        (beside,) = margins(rows_of(sparse.csr_array(X), y, weights), FAMILIES[name], directions, units)
        np.testing.assert_allclose(beside.largest, found.largest, rtol=1e-15)
        violation, largest = found.largest
        assert (largest > 0).all()
        return violation.tolist()

    assert violations("binomial", [1, 0, 0]) == pytest.approx([0, 2 / lengths[2], 1 / lengths[0]])
    assert violations("binomial", [1, 1, 0.5]) == pytest.approx([2 / lengths[2], 2 / lengths[2], 1])
    assert violations("binomial", [1, 1, 0.5], [1, 1, 0]) == pytest.approx([0, 1 / lengths[0], 1])
    assert violations("poisson", [0, 3, 0]) == pytest.approx([1 / lengths[0], 2 / lengths[2], 1])
    assert violations("poisson", [3, 0, 0]) == pytest.approx([1 / lengths[0], 2 / lengths[2], 1 / lengths[0]])


def test_overlap_sums_the_rows_that_are_still_felt(make_table: Any) -> None:
    t = make_table("binomial", 30, 2, weights=True)
    beta = np.array([1.0, 4.0, -3.0])
    s, h = FAMILIES["binomial"].terms(t.y, t.A @ beta)[1:]
    block = Piece(t.A, t.y, t.weights, t.offset, 0)
    for level, got in zip((1e-2, 1e-4), overlap(block, FAMILIES["binomial"], beta, (1e-2, 1e-4)), strict=True):
        felt = (np.maximum(abs(s), h) > level) & (t.w > 0)
        assert 0 < felt.sum() < 30
        np.testing.assert_allclose(got, t.A[felt].T @ t.A[felt])


def test_the_triangle_of_doubtful_rows_keeps_their_row_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are cut, and with small rows that a Gram matrix would lose."""
    random = np.random.default_rng(5)
    X = random.standard_normal((5000, 3))
    X[::2, 0] = 0.0
    X[::2] *= 10.0 ** random.uniform(-12, 0, 2500)[:, None]
    X[10], X[12] = [0, 1, 1e-11], [0, 1, -1e-11]
    w = np.ones(5000)
    w[20] = 0.0
    units, direction = np.max(np.abs(X), axis=0), np.array([1.0, 0.0, 0.0])
    columns = np.array([0, 1, 2])
    parts = [
        doubtful(Piece(rows(X[i : i + 1250]), np.zeros(1250), w[i : i + 1250], None, i), direction, units, columns)[0]
        for i, rows in zip(range(0, 5000, 1250), (np.asarray, sparse.csr_array) * 2, strict=True)
    ]
    R = np.asarray(parts[0] + parts[1] + (parts[2] + parts[3]))
    kept = X[::2][np.arange(2500) != 10] / units
    kept /= np.linalg.norm(kept, axis=1)[:, None]
    np.testing.assert_allclose(R.T @ R, kept.T @ kept, rtol=1e-12, atol=1e-12)
    assert np.abs(R[:, 0]).max() == 0.0
    nothing = doubtful(Piece(X[1::2], np.zeros(2500), None, None, 0), direction, units, columns)[0]
    assert np.asarray(nothing + Triangle(X[:1])).tolist() == X[:1].tolist()


def test_a_search_makes_the_passes_that_it_says(table: Any) -> None:
    t = contradicted(table, 3, 1e10, False)
    rows = t.rows(16, 400)
    found = fit(rows, t.names, Model(FAMILIES["binomial"], intercept=False), SOLVERS["newton"], Limits())
    assert found.passes == rows.reads
    assert (separation.SEARCH, separation.MOST_SEARCH) == (2, 4)
