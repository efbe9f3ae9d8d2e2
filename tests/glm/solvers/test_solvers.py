"""Every solver on every family and penalty, with weights, offset and intercept or without, against other people's code.

Objectives are compared by the oracle of conftest.py, which shares nothing with the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import clusterglm
from clusterglm.errors import UsageError
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.solvers import SOLVERS, get_solver, refuse_kink
from clusterglm.glm.trace import Tolerance

PENALTIES = {"none": (0.0, 0.0), "l1": (0.05, 1.0), "l2": (0.05, 0.0), "elastic-net": (0.05, 0.3)}
CASES = [
    (solver, family, penalty)
    for solver, chosen in SOLVERS.items()
    for family in FAMILIES
    for penalty, (_, share) in PENALTIES.items()
    if not (chosen.smooth_only and share > 0)
]
PARTS = [(True, False, False), (False, True, True), (True, True, True)]


def fitted(table: Any, family: str, solver: str, penalty: str = "none", tol: float = 1e-9, most: int = 600) -> Fit:
    alpha, share = PENALTIES[penalty]
    model = Model(FAMILIES[family], penalty, alpha or None, l1_ratio=share, intercept=table.intercept)
    return fit(table.rows(), table.names, model, SOLVERS[solver], Limits(Tolerance(tol), most))


def coefficients(found: Fit) -> np.ndarray:
    return found.coefficients if found.intercept is None else np.array([found.intercept, *found.coefficients])


@pytest.fixture(scope="module")
def optima(make_table: Any, oracle: Any) -> Callable[..., tuple[Any, Any, np.ndarray]]:
    """``optima(family, penalty, seed)``: a table, its oracle and the optimum, found once for all solvers."""

    @cache
    def found(family: str, penalty: str, seed: int) -> tuple[Any, Any, np.ndarray]:
        alpha, share = PENALTIES[penalty]
        intercept, weights, offset = PARTS[seed]
        table = make_table(family, 150, 4, seed, weights=weights, offset=offset, intercept=intercept)
        v = np.ones(table.A.shape[1])
        v[: int(intercept)] = 0
        truth = oracle(table, family, alpha * share * v, alpha * (1 - share) * v)
        return table, truth, truth.optimum()

    return found


@pytest.mark.parametrize(("solver", "family", "penalty"), CASES)
def test_the_optimum_is_found_and_proven(optima: Any, solver: str, family: str, penalty: str) -> None:
    for seed in range(len(PARTS)):
        table, truth, best = optima(family, penalty, seed)
        found = fitted(table, family, solver, penalty)
        beta = coefficients(found)
        assert found.status == "optimal"
        assert not found.notes
        assert found.certificate.error_in_se <= 1e-9
        np.testing.assert_allclose(beta, best.astype(float), rtol=0, atol=1e-9)
        assert ((beta == 0) == (best == 0)).all()
        assert found.objective == pytest.approx(float(truth.objective(best)), rel=1e-14)
        assert found.weight == table.w.sum()


@pytest.mark.parametrize(("solver", "family", "penalty"), CASES)
def test_the_default_tolerance_is_reached_in_few_passes(
    make_table: Any, oracle: Any, solver: str, family: str, penalty: str
) -> None:
    """And is what was promised: no coefficient further off than 0.01 standard errors of its own."""
    most = {"newton": 8, "proximal_newton": 8, "lbfgs": 25, "admm": 30, "proximal_gradient": 40, "gradient_descent": 70}
    most |= {"async_newton": most["newton"], "async_admm": most["admm"]}
    table = make_table(family, 300, 4, 7)
    found = fitted(table, family, solver, penalty, 0.01)
    assert found.status == "optimal"
    assert found.passes <= most[solver]
    alpha, share = PENALTIES[penalty]
    v = np.array([0.0, 1, 1, 1, 1])
    truth = oracle(table, family, alpha * share * v, alpha * (1 - share) * v)
    best = truth.optimum()
    _, H = truth.derivatives(best)
    dispersion = 2 * float(truth.objective(best)) if family == "gaussian" else 1.0
    se = np.sqrt(dispersion * np.diag(np.linalg.inv(H.astype(float))) / 300)
    assert np.max(np.abs(coefficients(found) - best.astype(float)) / se) <= 0.01


@pytest.mark.parametrize("solver", ["newton", "proximal_newton", "proximal_gradient"])
def test_least_squares_take_one_step_in_the_metric_of_the_gram(make_table: Any, solver: str) -> None:
    for seed in range(10):
        found = fitted(make_table("gaussian", 200, 5, seed), "gaussian", solver, tol=1e-6)
        assert (found.status, found.passes) == ("optimal", 3)  # scan, start, optimum


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", [None, "freq_weights", "var_weights"])
def test_unpenalised_fits_are_those_of_statsmodels(make_table: Any, family: str, weights: str | None) -> None:
    import statsmodels.api as sm

    table = make_table(family, 200, 4, 3, weights=weights is not None, offset=True)
    families = {"gaussian": sm.families.Gaussian, "binomial": sm.families.Binomial, "poisson": sm.families.Poisson}
    words = {} if weights is None else {weights: table.weights}
    theirs = sm.GLM(table.y, table.A, family=families[family](), offset=table.offset, **words)
    expected = theirs.fit(tol=1e-15, maxiter=100)
    for solver in SOLVERS:
        found = fitted(table, family, solver)
        np.testing.assert_allclose(coefficients(found), expected.params, rtol=1e-9, atol=1e-9, err_msg=solver)
        assert 2 * found.objective * found.weight == pytest.approx(expected.deviance, rel=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", ["l1", "l2", "elastic-net"])
def test_penalised_fits_are_those_of_glum(make_table: Any, oracle: Any, family: str, penalty: str) -> None:
    from glum import GeneralizedLinearRegressor

    table = make_table(family, 200, 5, 4, weights=True, offset=True)
    alpha, share = PENALTIES[penalty]
    model = GeneralizedLinearRegressor(
        family=family, alpha=alpha, l1_ratio=share, gradient_tol=1e-12, max_iter=5000, scale_predictors=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # glum divides by the weights, and some are 0
        model.fit(np.asfortranarray(table.A[:, 1:]), table.y, sample_weight=table.weights, offset=table.offset)
    theirs = np.array([model.intercept_, *model.coef_])
    v = np.array([0.0, 1, 1, 1, 1, 1])
    truth = oracle(table, family, alpha * share * v, alpha * (1 - share) * v)
    for solver in SOLVERS:
        if not (SOLVERS[solver].smooth_only and share > 0):
            found = fitted(table, family, solver, penalty)
            np.testing.assert_allclose(coefficients(found), theirs, rtol=1e-7, atol=1e-8, err_msg=solver)
            assert truth.objective(coefficients(found)) <= truth.objective(theirs) * (1 + 1e-15)


def test_lasso_and_logistic_regression_are_those_of_scikit_learn(make_table: Any) -> None:
    from sklearn.linear_model import Lasso, LogisticRegression

    table = make_table("gaussian", 200, 4)
    theirs = Lasso(alpha=0.05, tol=1e-14, max_iter=100000).fit(table.A[:, 1:], table.y)
    found = fitted(table, "gaussian", "proximal_newton", "l1")
    np.testing.assert_allclose(coefficients(found), [theirs.intercept_, *theirs.coef_], atol=1e-10)
    table = make_table("binomial", 200, 4)
    logistic = LogisticRegression(C=1 / (0.05 * 200), solver="newton-cholesky", tol=1e-14, max_iter=1000)
    logistic.fit(table.A[:, 1:], table.y)
    found = fitted(table, "binomial", "newton", "l2")
    np.testing.assert_allclose(coefficients(found), [logistic.intercept_[0], *logistic.coef_[0]], atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("penalty", ["l1", "elastic-net"])
def test_a_kink_is_solved_or_refused_before_the_first_pass(make_table: Any, solver: str, penalty: str) -> None:
    table = make_table("binomial", 60, 2)
    rows = clusterglm.from_arrays(table.A[:, 1:], table.y, intercept=True)
    words = {"solver": solver, "family": "binomial", "penalty": penalty, "alpha": 0.01}
    if not SOLVERS[solver].smooth_only:
        assert clusterglm.fit(data=rows, **words).status == "optimal"
        return
    others = "proximal_gradient, proximal_newton, admm"
    with pytest.raises(UsageError, match=f"{solver} needs a smooth penalty.*kink at zero: use one of {others}"):
        clusterglm.fit(data=rows, **words)
    assert rows.reads == 0
    refuse_kink(SOLVERS[solver], False, "l2")


@pytest.mark.parametrize("solver", SOLVERS)
def test_running_out_of_passes_is_a_status(make_table: Any, solver: str) -> None:
    table = make_table("poisson", 200, 4)
    found = fitted(table, "poisson", solver, tol=1e-9, most=3)
    assert found.status == "max_passes"
    assert found.passes == 3
    assert np.isfinite(found.objective)
    assert found.objective <= found.null_objective


def test_auto_and_unknown_names() -> None:
    assert get_solver("auto") == replace(SOLVERS["proximal_newton"], automatic=True)
    with pytest.raises(UsageError, match=r"solver \(newtn\).*did you mean newton"):
        get_solver("newtn")


@pytest.mark.parametrize("family", FAMILIES)
def test_admm_does_not_depend_on_how_rows_lie_in_local_problems(make_table: Any, oracle: Any, family: str) -> None:
    """Sorted by y most local problems have one class, or zeros alone; the consensus is the same optimum (D23)."""
    table = make_table(family, 320, 3, 5)
    order = np.argsort(table.y, kind="stable")
    table.A, table.y = np.ascontiguousarray(table.A[order]), table.y[order]
    best = oracle(table, family, np.zeros(4), np.zeros(4)).optimum().astype(float)
    model = Model(FAMILIES[family])
    for size in (32, 160, 320):
        found = fit(table.rows(16, size), table.names, model, SOLVERS["admm"], Limits(Tolerance(1e-8), 400))
        assert found.status == "optimal"
        np.testing.assert_allclose(coefficients(found), best, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_admms_rounds_do_not_grow_with_the_rows(make_table: Any, family: str) -> None:
    """The penalty parameter of a sum would grow with them (D23)."""
    passes = []
    for n in (400, 4000):
        table = make_table(family, n, 3, 6)
        model = Model(FAMILIES[family], "l1", 0.02)
        rows = table.rows(16, n // 8 // 16 * 16)
        passes.append(fit(rows, table.names, model, SOLVERS["admm"], Limits(Tolerance(rel_gap=1e-8))).passes)
    assert abs(passes[1] - passes[0]) <= 4


@pytest.mark.parametrize("seed", range(3))
def test_admm_that_has_gone_astray_comes_back_in_shorter_steps(table: type[Any], seed: int) -> None:
    """Rows sorted by a target from 0 to tens of thousands: the local models of the null model do not hold for long."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((320, 3)) * 6
    y = random.poisson(np.exp(np.minimum(X @ [0.5, -0.3, 0.2], 12))).astype(float)
    order = np.argsort(y, kind="stable")
    made = table(np.ascontiguousarray(np.column_stack([np.ones(320), X])[order]), y[order])
    model, limits = Model(FAMILIES["poisson"]), Limits(Tolerance(1e-6), 400)
    found = fit(made.rows(16, 32), made.names, model, SOLVERS["admm"], limits)
    assert max(row.step for row in found.iterations) > 1
    assert found.status == "optimal"
    other = fit(made.rows(16, 32), made.names, model, SOLVERS["newton"], limits)
    np.testing.assert_allclose(found.coefficients, other.coefficients, atol=1e-6)
