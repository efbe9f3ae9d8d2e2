"""From rows to a fit: what is refused and in which words, the null model, and the analytic truths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.penalties import elastic_net, smallest_null_strength
from clusterglm.glm.scan import scan
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.start import null_intercept
from clusterglm.glm.trace import Tolerance

TIGHT = Limits(Tolerance(1e-10))


def fitted(table: Any, family: str, solver: str = "proximal_newton", limits: Limits = TIGHT, **words: Any) -> Fit:
    model = Model(FAMILIES[family], intercept=table.intercept, **words)
    return fit(table.rows(), table.names, model, SOLVERS[solver], limits)


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"penalty": "lasso"}, r"--penalty \(lasso\)"),
        ({"penalty": "l1", "alpha": -1.0}, r"--alpha \(-1.0\): must be 0 or more"),
        ({"penalty": "l1", "lamduh": np.inf}, "--lamduh"),
        ({"penalty": "l1", "alpha": np.nan}, "--alpha"),
        ({"penalty": "l1", "alpha": 1.0, "lamduh": 1.0}, "given together with --alpha"),
        ({"l1_ratio": 1.5}, r"--l1-ratio \(1.5\): must be 0 to 1"),
    ],
)
def test_impossible_models_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model(FAMILIES["gaussian"], **words)


def test_strengths() -> None:
    gaussian = FAMILIES["gaussian"]
    assert Model(gaussian, "l1", lamduh=3.0).strength(6.0) == 0.5
    assert Model(gaussian, "l2", alpha=3.0).strength(6.0) == 3.0
    assert Model(gaussian, "none", alpha=3.0).strength(6.0) == 0.0
    assert [Model(gaussian, p, alpha=1.0).share for p in ("none", "l1", "l2", "elastic-net")] == [0, 1, 0, 0.5]
    assert not Model(gaussian, "l1", alpha=0.0).penalised
    assert not Model(gaussian, "elastic-net", alpha=1.0, l1_ratio=0.0).has_l1


@pytest.mark.parametrize(
    ("change", "family", "message"),
    [
        (
            {"A": (5, 2, np.nan)},
            "gaussian",
            r"column x1 \(nan in row 5\): not finite: 1 value is missing: drop such rows",
        ),
        ({"A": (37, 1, -np.inf)}, "binomial", r"column x0 \(-inf in row 37\)"),
        ({"y": (3, np.nan)}, "poisson", r"target y \(nan in row 3\): not finite"),
        ({"weights": (20, np.inf)}, "gaussian", r"weights \(inf in row 20\)"),
        ({"weights": (20, -2.0)}, "gaussian", r"weights \(-2 in row 20\): weights must be 0 or more"),
        ({"offset": (39, np.nan)}, "gaussian", r"offset \(nan in row 39\)"),
        ({"y": (7, -1.0)}, "binomial", r"target y \(-1 in row 7\): binomial takes 0 and 1: map -1 to 0"),
        ({"y": (7, 2.0)}, "binomial", r"target y \(2 in row 7\): binomial takes 0 and 1$"),
        ({"y": (7, -0.5)}, "poisson", r"target y \(-0.5 in row 7\): poisson takes 0 or more"),
    ],
)
def test_bad_values_are_named_with_their_place(
    make_table: Any, change: dict[str, Any], family: str, message: str
) -> None:
    table = make_table(family, 40, 2, weights=True, offset=True)
    for name, (*place, value) in change.items():
        getattr(table, name)[tuple(place)] = value
    with pytest.raises(DataError, match=message):
        fitted(table, family)


def test_rows_that_no_model_fits_are_refused(make_table: Any, table: Any) -> None:
    words = {"binomial": 1.0, "poisson": 0.0}
    for family, value in words.items():
        t = make_table(family, 30, 2)
        t.y[:] = value
        with pytest.raises(DataError, match=f"target y: only the value {value:g}: nothing to fit"):
            fitted(t, family)
    t = make_table("gaussian", 30, 2, weights=True)
    t.weights[:] = 0
    with pytest.raises(DataError, match="weights: their sum is 0"):
        fitted(t, "gaussian")
    with pytest.raises(DataError, match=r"rows \(1\): one row fits any line"):
        fitted(table(np.ones((1, 1)), np.ones(1), intercept=False), "gaussian")
    with pytest.raises(DataError, match=r"columns \(4\): more than the 3 rows: add --penalty l2"):
        fitted(make_table("gaussian", 3, 3), "gaussian")
    assert fitted(make_table("gaussian", 3, 3), "gaussian", penalty="l2", alpha=0.1).status == "optimal"


@pytest.mark.parametrize(("value", "word"), [(1e160, "finite"), (1e-160, "above zero")])
def test_columns_whose_square_is_no_number_are_refused(make_table: Any, value: float, word: str) -> None:
    table = make_table("gaussian", 30, 2)
    table.A[:, 1] *= value
    with pytest.raises(DataError, match=f"column x0 .*its square is not {word}: rescale"):
        fitted(table, "gaussian")


def test_a_start_that_is_not_finite_is_refused(make_table: Any) -> None:
    table = make_table("poisson", 30, 2, intercept=False)
    table.offset = np.full(30, 1000.0)
    with pytest.raises(DataError, match=r"mean loss \(inf\): not finite where all coefficients are 0: rescale"):
        fitted(table, "poisson")


def test_targets_that_are_not_whole_are_rates_with_a_warning(make_table: Any) -> None:
    table = make_table("poisson", 60, 2)
    table.y += 0.5
    assert "60 values are not whole: fitted as rates" in fitted(table, "poisson").notes[0]


# The null model


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    family=st.sampled_from(sorted(FAMILIES)),
    level=st.sampled_from([0.0, 50.0, -1000.0, 700.0]),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
    weights=st.booleans(),
)
def test_the_null_model_is_found_under_any_offset(
    make_table: Any, seed: int, family: str, level: float, spread: float, weights: bool
) -> None:
    table = make_table(family, 60, 1, seed, weights=weights)
    if family == "binomial":
        table.y[:2], table.w[:2] = [0, 1], 1
    table.y[0] += family == "poisson"
    if weights:
        table.weights[:2] = 1
    table.offset = level + spread * np.random.default_rng(seed).standard_normal(60)
    rows = table.rows()
    (seen,) = rows.sum(scan, FAMILIES[family])
    model = Model(FAMILIES[family])
    found = null_intercept(rows, model, seen)
    eta = table.offset + found
    mu = FAMILIES[family].mean(eta)
    assert np.average(mu, weights=table.w) == pytest.approx(np.average(table.y, weights=table.w), rel=1e-7)
    passes = rows.reads - 1  # beside the scan
    assert passes <= (2 if spread == 0 or family != "binomial" else 12)
    assert null_intercept(rows, Model(FAMILIES[family], intercept=False), seen) == 0.0
    null_intercept(rows, model, seen, most=1)
    assert rows.reads == 1 + passes + min(passes, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", [False, True])
def test_an_intercept_alone_is_the_link_of_the_mean(make_table: Any, family: str, weights: bool) -> None:
    table = make_table(family, 60, 1, weights=weights)
    table.A[:, 1] = 7.0  # left out as constant
    found = fitted(table, family)
    assert found.status == "optimal"
    mean = np.average(table.y, weights=table.w)
    assert found.intercept == pytest.approx(FAMILIES[family].predictor(mean), rel=1e-13)
    assert found.objective == found.null_objective


def test_row_18_proportions_need_the_numbers_of_their_trials(make_table: Any, table: type[Any]) -> None:
    made = make_table("binomial", 60, 2)
    made.y[7] = 0.4
    with pytest.raises(DataError, match=r"target y \(0\.4 in row 7\): proportions need --weights"):
        fitted(made, "binomial")
    made.weights = np.full(60, 5.0)
    assert fitted(made, "binomial").status == "optimal"


@pytest.mark.parametrize("most", [3, 6, 9])
@pytest.mark.parametrize("solver", ["newton", "proximal_newton", "admm"])
def test_passes_are_not_exceeded(table: type[Any], solver: str, most: int) -> None:
    """Not by the search for separation either, which this problem calls for."""
    x = np.linspace(-1, 1, 80)
    separated = table(np.column_stack([np.ones(80), x]), (x > 0).astype(float))
    found = fitted(separated, "binomial", solver, Limits(Tolerance(1e-9), max_passes=most))
    assert found.status in ("max_passes", "no_finite_mle")
    assert found.passes <= most


# Analytic truths (solvers.md, section 15)


def test_one_binary_feature_gives_the_log_odds_ratio(table: Any) -> None:
    counts = {(0, 0): 11, (0, 1): 23, (1, 0): 31, (1, 1): 17}
    x, y = (np.array(v, dtype=float) for v in zip(*(k for k, n in counts.items() for _ in range(n)), strict=True))
    found = fitted(table(np.column_stack([np.ones(82), x]), y), "binomial")
    assert found.coefficients[0] == pytest.approx(np.log(17 * 11 / (23 * 31)), rel=1e-11)
    assert found.intercept == pytest.approx(np.log(23 / 11), rel=1e-11)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_saturated_table_has_deviance_0(table: Any, family: str, solver: str) -> None:
    y = np.array([0.2, 0.5, 0.9]) if family == "binomial" else np.array([3.0, 400.0, 17.0])
    A = np.array([[1.0, 0, 0], [1, 1, 0], [1, 0, 1]])
    found = fitted(table(A, y, np.array([5.0, 2.0, 9.0])), family, solver, Limits(Tolerance(1e-6)))
    assert found.status == "optimal"
    assert 0 <= found.objective <= 1e-9 * found.null_objective
    eta = A @ np.array([found.intercept, *found.coefficients])
    np.testing.assert_allclose(FAMILIES[family].mean(eta), y, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_orthonormal_design_is_solved_by_shrinkage(table: Any, solver: str) -> None:
    random = np.random.default_rng(0)
    Q = np.linalg.qr(random.standard_normal((128, 5)))[0] * np.sqrt(128)
    y = Q @ np.array([2.0, -1.0, 0.3, 0.05, 0.0]) + random.standard_normal(128)
    t, c = table(Q, y, intercept=False), Q.T @ y / 128
    shrunk = np.sign(c) * np.maximum(np.abs(c) - 0.2, 0)
    np.testing.assert_allclose(fitted(t, "gaussian", solver).coefficients, c, atol=1e-10)
    ridge = fitted(t, "gaussian", solver, penalty="l2", alpha=0.2).coefficients
    np.testing.assert_allclose(ridge, c / 1.2, atol=1e-10)
    if not SOLVERS[solver].smooth_only:
        lasso = fitted(t, "gaussian", solver, penalty="l1", alpha=0.2).coefficients
        np.testing.assert_allclose(lasso, shrunk, atol=1e-10)
        assert ((lasso == 0) == (shrunk == 0)).all()
        net = fitted(t, "gaussian", solver, penalty="elastic-net", alpha=0.4, l1_ratio=0.5).coefficients
        np.testing.assert_allclose(net, shrunk / 1.2, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", [name for name, s in SOLVERS.items() if not s.smooth_only])
def test_from_the_largest_strength_on_all_is_exactly_zero_and_just_below_one_enters(
    make_table: Any, family: str, solver: str
) -> None:
    table = make_table(family, 200, 5, offset=True)
    null = fitted(table, family, penalty="l1", alpha=1e6)
    eta = table.offset + null.intercept
    g = table.A.T @ (FAMILIES[family].mean(eta) - table.y) / 200
    top = smallest_null_strength(g, elastic_net(1.0, 1.0, np.array([0.0, 1, 1, 1, 1, 1])))
    for factor, active in ((1.001, 0), (0.999, 1)):
        found = fitted(table, family, solver, penalty="l1", alpha=factor * top)
        assert np.count_nonzero(found.coefficients) == active
        assert found.status == "optimal"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_are_replication_and_their_scale_does_not_matter(
    make_table: Any, table: Any, family: str, solver: str
) -> None:
    t = make_table(family, 150, 3, weights=True, offset=True)
    k = t.weights.astype(int)
    repeated = table(np.repeat(t.A, k, axis=0), np.repeat(t.y, k), None, np.repeat(t.offset, k))
    words = {} if SOLVERS[solver].smooth_only else {"penalty": "l1", "alpha": 0.02}
    weighted = fitted(t, family, solver, **words)
    np.testing.assert_allclose(
        weighted.coefficients, fitted(repeated, family, solver, **words).coefficients, atol=1e-10
    )
    t.weights = t.weights * 1e-3
    scaled = fitted(t, family, solver, Limits(Tolerance(1e-11)), **words)
    np.testing.assert_allclose(scaled.coefficients, weighted.coefficients, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_stands_in_rows_of_weight_zero_does_not_matter(make_table: Any, family: str, solver: str) -> None:
    one, two = (make_table(family, 150, 3, weights=True, offset=True) for _ in range(2))
    out = two.weights == 0
    two.A[out, 1:] = 1e100
    two.y[out] = two.y.max() + (family == "gaussian")
    two.offset[out] = -1e5
    a, b = fitted(one, family, solver), fitted(two, family, solver)
    assert b.status == a.status == "optimal"
    np.testing.assert_allclose(b.coefficients, a.coefficients, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_offset_is_a_rate_model(make_table: Any, table: Any, solver: str) -> None:
    t = make_table("poisson", 200, 3, offset=True)
    exposure = np.exp(t.offset)
    rates = fitted(table(t.A, t.y / exposure, exposure), "poisson", solver)
    counts = fitted(t, "poisson", solver)
    np.testing.assert_allclose(counts.coefficients, rates.coefficients, atol=1e-9)
    assert counts.intercept == pytest.approx(rates.intercept, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_linear_map_of_the_columns_maps_the_coefficients(make_table: Any, family: str) -> None:
    table, mapped = make_table(family, 200, 3), make_table(family, 200, 3)
    T = np.array([[1.0, 0.5, 0], [0, 2, -1], [1, 0, 1]])
    mapped.A = np.ascontiguousarray(np.column_stack([np.ones(200), table.A[:, 1:] @ T]))
    one, two = fitted(table, family), fitted(mapped, family)
    np.testing.assert_allclose(T @ two.coefficients, one.coefficients, rtol=1e-9)
    assert two.objective == pytest.approx(one.objective, rel=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_equations_hold(make_table: Any, family: str) -> None:
    table = make_table(family, 200, 3, weights=True, offset=True)
    found = fitted(table, family)
    eta = table.A @ np.array([found.intercept, *found.coefficients]) + table.offset
    residual = table.w * (table.y - FAMILIES[family].mean(eta))
    np.testing.assert_allclose(table.A.T @ residual, 0, atol=1e-8)


@pytest.mark.parametrize("penalty", ["l1", "l2", "elastic-net"])
@pytest.mark.parametrize("family", FAMILIES)
def test_standardize_is_a_fit_on_standardised_columns_mapped_back(make_table: Any, family: str, penalty: str) -> None:
    scale = np.array([1e-3, 1.0, 1e4])
    table = make_table(family, 200, 3, weights=True, scale=scale)
    mean = np.average(table.A[:, 1:], axis=0, weights=table.w)
    sd = np.sqrt(np.average((table.A[:, 1:] - mean) ** 2, axis=0, weights=table.w))
    other = make_table(family, 200, 3, weights=True, scale=scale)
    other.A = np.column_stack([np.ones(200), (table.A[:, 1:] - mean) / sd])
    found = fitted(table, family, penalty=penalty, alpha=0.1, standardize=True)
    theirs = fitted(other, family, penalty=penalty, alpha=0.1)
    np.testing.assert_allclose(found.coefficients, theirs.coefficients / sd, rtol=1e-8, atol=1e-10)
    assert found.intercept == pytest.approx(theirs.intercept - theirs.coefficients @ (mean / sd), rel=1e-8)
    assert found.objective == pytest.approx(theirs.objective, rel=1e-12)


def test_lamduh_is_alpha_times_the_weight_and_dask_glms_gaussian_one_is_twice_ours(make_table: Any) -> None:
    """dask-glm minimises sum (y - eta)^2 + lamduh |beta|_1, without the half."""
    table = make_table("gaussian", 100, 3, weights=True, intercept=False)
    lamduh = 8.0
    found = fitted(table, "gaussian", penalty="l1", lamduh=lamduh)
    np.testing.assert_allclose(
        found.coefficients,
        fitted(table, "gaussian", penalty="l1", alpha=lamduh / table.w.sum()).coefficients,
        rtol=1e-12,
    )
    r = table.w * (table.y - table.A @ found.coefficients)
    active = found.coefficients != 0
    np.testing.assert_allclose(2 * np.abs(table.A.T @ r)[active], 2 * lamduh, rtol=1e-9)  # theirs would be 2 lamduh


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_narrow_storage_is_worked_in_float64(make_table: Any, dtype: str) -> None:
    table = make_table("binomial", 300, 3)
    narrow = table.A[:, 1:].astype(dtype)
    rows = clusterglm.from_arrays(narrow, table.y, intercept=True, dtype=dtype)
    assert rows.chunk.X.dtype == dtype
    wide = clusterglm.from_arrays(narrow.astype("float64"), table.y, intercept=True)
    words = {"solver": "newton", "family": "binomial", "tol": 1e-10}
    np.testing.assert_array_equal(
        clusterglm.fit(data=rows, **words).coefficients, clusterglm.fit(data=wide, **words).coefficients
    )
