"""What must be true without an oracle: closed forms, changes of units, and the shapes at the edge.

solvers.md, section 15; the truths about intercepts, orthonormal designs, weights and offsets stand in test_model.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from clusterglm.errors import DataError
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Problem
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

TIGHT = Limits(Tolerance(1e-9), 600)
KINKED = [name for name, solver in SOLVERS.items() if not solver.smooth_only]


def fitted(table: Any, family: str, solver: str = "proximal_newton", limits: Limits = TIGHT, **words: Any) -> Fit:
    model = Model(FAMILIES[family], intercept=table.intercept, **words)
    return fit(table.rows(), table.names, model, SOLVERS[solver], limits)


# Closed forms


def test_one_binary_feature_gives_the_log_of_the_ratio_of_rates(table: Any) -> None:
    x, y = np.repeat([0.0, 1.0], [3, 4]), np.array([2.0, 0, 5, 7, 1, 4, 9])
    found = fitted(table(np.column_stack([np.ones(7), x]), y), "poisson")
    assert found.intercept == pytest.approx(np.log(7 / 3), rel=1e-9)
    assert found.coefficients[0] == pytest.approx(np.log(21 / 4) - np.log(7 / 3), rel=1e-9)


def test_two_groups_of_the_gaussian_family_differ_by_their_means(table: Any) -> None:
    x, y = np.repeat([0.0, 1.0], [3, 4]), np.array([2.0, 0, 5, 7, 1, 4, 9])
    found = fitted(table(np.column_stack([np.ones(7), x]), y), "gaussian")
    assert found.intercept == pytest.approx(7 / 3, rel=1e-13)
    assert found.coefficients[0] == pytest.approx(21 / 4 - 7 / 3, rel=1e-13)
    within = np.sum((y[:3] - 7 / 3) ** 2) + np.sum((y[3:] - 21 / 4) ** 2)
    assert found.objective == pytest.approx(within / 14, rel=1e-13)


@pytest.mark.parametrize("solver", KINKED)
@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_the_lasso_of_one_binary_feature_moves_both_group_means_by_its_strength(
    table: Any, solver: str, family: str
) -> None:
    """Without an intercept, x = 1 in m of n rows: m/n (mean - mu) = alpha sign b."""
    y = np.array([1.0, 1, 0, 1, 1, 0, 1, 0])
    x = np.repeat([1.0, 0.0], [5, 3])
    alpha = 0.05
    mu = 0.8 - alpha * 8 / 5
    t = table(x[:, None], y, intercept=False)
    found = fitted(t, family, solver, penalty="l1", alpha=alpha)
    if family == "binomial":
        assert found.coefficients[0] == pytest.approx(np.log(mu / (1 - mu)), rel=1e-9)
    else:
        t.y = y * 3
        found = fitted(t, family, solver, penalty="l1", alpha=alpha)
        assert found.coefficients[0] == pytest.approx(np.log(2.4 - alpha * 8 / 5), rel=1e-9)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_ridge_of_one_coefficient_is_the_root_of_a_scalar_equation(make_table: Any, family: str) -> None:
    t = make_table(family, 80, 1, 3, weights=True, offset=True, intercept=False)
    x = t.A[:, 0]
    slope = lambda b: t.w @ ((FAMILIES[family].mean(t.o + b * x) - t.y) * x) / t.w.sum() + 0.3 * b  # noqa: E731
    root = brentq(slope, -20, 20, xtol=1e-14, rtol=1e-14)
    assert fitted(t, family, "newton", penalty="l2", alpha=0.3).coefficients[0] == pytest.approx(root, rel=1e-11)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_order_of_rows_changes_rounding_alone(make_table: Any, family: str) -> None:
    one, two = (make_table(family, 200, 3, weights=True, offset=True) for _ in range(2))
    order = np.random.default_rng(1).permutation(200)
    two.A, two.y = np.ascontiguousarray(two.A[order]), two.y[order]
    two.weights, two.offset = two.weights[order], two.offset[order]
    a, b = fitted(one, family), fitted(two, family)
    np.testing.assert_allclose(a.coefficients, b.coefficients, rtol=1e-11, atol=1e-13)
    assert (a.status, a.passes) == (b.status, b.passes)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("solver", KINKED)
def test_a_column_in_other_units_with_its_strength_has_its_coefficient_in_others(
    make_table: Any, family: str, solver: str
) -> None:
    """x_j -> c x_j with l1_j -> c l1_j, l2_j -> c^2 l2_j: beta_j -> beta_j / c, by way of --standardize."""
    one, two = make_table(family, 150, 3), make_table(family, 150, 3, scale=np.array([1e6, 1.0, 1e-6]))
    words = {"penalty": "elastic-net", "alpha": 0.05, "standardize": True}
    a, b = (fitted(t, family, solver, **words) for t in (one, two))
    np.testing.assert_allclose(b.coefficients * [1e6, 1.0, 1e-6], a.coefficients, rtol=1e-8, atol=1e-12)
    assert b.objective == pytest.approx(a.objective, rel=1e-12)


# Units


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(rel_gap=1e-8)])
def test_a_column_times_a_million_takes_the_same_passes_to_the_same_status(
    make_table: Any, solver: str, family: str, tolerance: Tolerance
) -> None:
    one, two = make_table(family, 150, 3), make_table(family, 150, 3, scale=np.array([1e6, 1.0, 1.0]))
    a, b = (fitted(t, family, solver, Limits(tolerance)) for t in (one, two))
    assert (a.status, a.passes) == (b.status, b.passes)
    assert a.status == "optimal"
    assert b.certificate.error_in_se == pytest.approx(a.certificate.error_in_se, rel=1e-3, abs=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("penalty", ["none", "l1", "l2"])
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(rel_gap=1e-8)])
def test_a_gaussian_target_times_a_million_takes_the_same_passes_to_the_same_status(
    make_table: Any, solver: str, penalty: str, tolerance: Tolerance
) -> None:
    """An L1 strength is in units of the target, an L2 strength in none."""
    if penalty == "l1" and SOLVERS[solver].smooth_only:
        return
    one, two = make_table("gaussian", 150, 3), make_table("gaussian", 150, 3)
    two.y = two.y * 1e6
    words: list[dict[str, Any]] = [{}, {}]
    if penalty != "none":
        words = [{"penalty": penalty, "alpha": 0.1 * (u if penalty == "l1" else 1)} for u in (1, 1e6)]
    a, b = (fitted(t, "gaussian", solver, Limits(tolerance), **w) for t, w in zip((one, two), words, strict=True))
    assert (a.status, a.passes) == (b.status, b.passes)
    assert a.status == "optimal"
    np.testing.assert_allclose(b.coefficients, a.coefficients * 1e6, rtol=1e-9)


@pytest.mark.parametrize("solver", KINKED)
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(rel_gap=1e-8)])
def test_units_do_not_matter_where_no_hessian_is_definite(
    make_table: Any, solver: str, family: str, tolerance: Tolerance
) -> None:
    """More columns than rows; powers of two change no bit of any product."""
    one, two = make_table(family, 20, 30), make_table(family, 20, 30)
    two.A = two.A * np.concatenate([[1.0], 2.0 ** np.arange(-15, 15)])
    words = {"penalty": "l1", "alpha": 0.2, "standardize": True}
    a, b = (fitted(t, family, solver, Limits(tolerance), **words) for t in (one, two))
    assert (a.status, a.passes) == (b.status, b.passes)
    assert a.status == "optimal"
    assert b.certificate.gap == pytest.approx(a.certificate.gap, rel=1e-6)


# Shapes at the edge


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("solver", KINKED)
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(rel_gap=1e-8)])
def test_more_columns_than_rows_under_l1_end_with_a_bound(
    make_table: Any, family: str, solver: str, intercept: bool, tolerance: Tolerance
) -> None:
    t = make_table(family, 20, 40, intercept=intercept)
    found = fitted(t, family, solver, Limits(tolerance), penalty="l1", alpha=0.1)
    assert found.status == "optimal"
    assert found.certificate.method in ("curvature", "free")
    assert 0 < found.certificate.gap < 1e-3 * found.null_objective
    assert np.count_nonzero(found.coefficients) <= 20


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("penalty", ["l1", "l2", "elastic-net"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (5, 5)])
def test_one_row_and_a_column_per_row_are_solved_under_a_penalty(
    table: Any, family: str, penalty: str, shape: tuple[int, int]
) -> None:
    n = shape[0]
    A = np.random.default_rng(n).standard_normal(shape)
    y = np.ones(n) if family != "gaussian" else 3 * np.ones(n)
    y[1:] = 0
    if n == 1 and family == "binomial":
        with pytest.raises(DataError, match="only the value 1"):
            fitted(table(A, y, intercept=False), family, penalty=penalty, alpha=0.01)
        return
    found = fitted(table(A, y, intercept=False), family, penalty=penalty, alpha=0.01)
    assert found.status == "optimal"
    assert np.isfinite(found.certificate.gap)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rows_of_weight_zero_and_blocks_of_them_are_no_rows(make_table: Any, table: Any, family: str) -> None:
    one = make_table(family, 96, 2, weights=True)
    one.weights[:64] = 0  # two whole micro-blocks of 32, and a local problem of 64
    two = table(one.A[64:], one.y[64:], one.weights[64:])
    for solver in ("proximal_newton", "admm"):
        a, b = (fitted(t, family, solver, penalty="l2", alpha=0.1) for t in (one, two))
        assert a.status == b.status == "optimal"
        np.testing.assert_allclose(a.coefficients, b.coefficients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_blocks_of_one_class_are_no_obstacle(make_table: Any, solver: str) -> None:
    t = make_table("binomial", 192, 3)
    order = np.argsort(t.y, kind="stable")
    t.A, t.y = np.ascontiguousarray(t.A[order]), t.y[order]
    assert fitted(t, "binomial", solver, Limits()).status == "optimal"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("near", [1e-3, 1e-6, 1e-9, 1e-12])
def test_columns_that_nearly_coincide_are_solved_or_named(make_table: Any, solver: str, near: float) -> None:
    """Condition numbers of the Gram matrix up to 1e24: a proven answer, or the column is named and left out."""
    t = make_table("gaussian", 150, 3)
    t.A[:, 2] = t.A[:, 1] + near * t.A[:, 2]
    found = fitted(t, "gaussian", solver, Limits(max_passes=2000))
    assert found.status in ("optimal", "max_passes")
    if found.dropped:
        assert found.dropped == ["x1"]
        assert any("collinear" in note for note in found.notes)
    if found.status == "optimal":
        beta = np.array([found.intercept, *found.coefficients])
        kept = [j for j in range(4) if j == 0 or f"x{j - 1}" not in found.dropped]
        A = t.A[:, kept].astype(np.longdouble)
        r = t.y - A @ beta[kept]
        Q = np.linalg.qr(t.A[:, kept])[0]
        distance = float(np.sum((Q.T @ r.astype(float)) ** 2)) / 300
        assert distance <= found.certificate.gap + 1e-18


def test_a_bound_is_about_the_problem_of_the_kept_columns(make_table: Any) -> None:
    t = make_table("poisson", 60, 4)
    t.A[:, 3], t.A[:, 4] = t.A[:, 1], 2.0
    found = fitted(t, "poisson", "newton", Limits())
    assert found.dropped == ["x2", "x3"]
    problem = Problem(t.rows(), FAMILIES["poisson"], Penalty(np.zeros(5), np.zeros(5)), 60.0)
    point = problem.at(np.array([found.intercept, *found.coefficients]))
    assert point.objective == pytest.approx(found.objective, rel=1e-13)
