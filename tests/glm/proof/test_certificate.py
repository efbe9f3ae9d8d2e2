"""The certificate never claims less than the true distance, which is found in long double by other code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from high_precision import Exact
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Problem
from clusterglm.glm.proof.certificate import Certifier
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.scan import scan
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

QUIET = {"derandomize": True, "deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


def problem_of(table: Any, family: str, penalty: Penalty, framed: bool = False) -> tuple[Problem, Certifier]:
    problem = Problem(table.rows(), FAMILIES[family], penalty, float(table.w.sum()))
    frame = Frame.of(table.rows().sum(scan, problem.family)[0]) if framed else None
    return problem, Certifier(problem, np.max(np.abs(table.A), axis=0), float(np.max(np.abs(table.o))), frame)


def assert_true(oracle: Any, best: np.ndarray, beta: np.ndarray, certificate: Any, dispersion: float) -> None:
    """Assert that neither bound is below the distance from ``beta`` to the optimum ``best``."""
    _, H = oracle.derivatives(beta)
    d = beta.astype(np.longdouble) - best
    square = float((d * (H * d).sum(axis=1)).sum())
    error = np.sqrt(oracle.table.w.sum() / dispersion * square)
    assert certificate.error_in_se >= error * (1 - 1e-6)
    # Below 1e-14 a difference of objectives is rounding even in long double; the quadratic part is none.
    suboptimality = float(oracle.objective(beta) - oracle.objective(best)) if square > 1e-14 else 0.499 * square
    assert certificate.gap >= suboptimality


def bounds_hold(
    make_table: Any,
    oracle: Any,
    seed: int,
    family: str,
    weights: bool,
    offset: bool,
    kind: str,
    exponent: int,
    stale: bool,
    level: float,
    framed: bool,
) -> None:
    """Near and far points, with an exact Hessian of the point itself or of another one, and columns around 0 or not."""
    random = np.random.default_rng(seed)
    scale = np.array([1.0, 10.0**exponent, 1.0])
    table = make_table(family, 40, 3, seed, weights=weights, offset=offset, scale=scale)
    table.A[:, 1] += level
    factors = np.array([0.0, *scale])
    strength = 0.1 * random.random()
    l1 = strength * factors * (kind in ("l1", "elastic-net"))
    l2 = strength * factors**2 * (kind in ("l2", "elastic-net"))
    truth = oracle(table, family, l1, l2)
    assume(kind != "none" or family == "gaussian" or 4 < table.y.sum() < 38 or family == "poisson")
    best = truth.optimum()
    problem, certifier = problem_of(table, family, Penalty(l1, l2), framed)
    applied = 0
    for distance in (1e-15, 1e-10, 1e-5, 1e-2, 1e-1, 1.0):
        step = distance * random.standard_normal(4) / np.array([1.0, *scale])
        step[best == 0] *= random.random() < 0.3  # off 0 the L1 part pulls with all its strength
        beta = best.astype(float) + step
        if stale and distance > 1e-5:
            point = problem.at(beta)
        else:
            point = problem.at(beta, hessian=True)
        certificate = certifier(point)
        if not np.isfinite(certificate.gap):
            certificate = certifier.sharpen(point)
        if not np.isfinite(certificate.gap):
            continue
        applied += 1
        dispersion = 2 * point.loss if family == "gaussian" else 1.0
        assert_true(truth, best, beta, certificate, dispersion)
    assert applied


BOUNDS_HOLD = {
    "seed": st.integers(0, 10**6),
    "family": st.sampled_from(sorted(FAMILIES)),
    "weights": st.booleans(),
    "offset": st.booleans(),
    "kind": st.sampled_from(["none", "l1", "l2", "elastic-net"]),
    "exponent": st.integers(-6, 6),
    "stale": st.booleans(),
    "level": st.sampled_from([0.0, 0.0, 3.0, 30.0]),
    "framed": st.booleans(),
}
test_bounds_hold_at_any_distance_from_the_optimum = settings(max_examples=60, **QUIET)(
    given(**BOUNDS_HOLD)(bounds_hold)
)
test_bounds_hold_at_any_distance_from_the_optimum_in_2000 = pytest.mark.full(
    settings(max_examples=2000, **QUIET)(given(**BOUNDS_HOLD)(bounds_hold))
)


def iterates_are_certified(
    make_table: Any, oracle: Any, seed: int, family: str, solver: str, penalised: bool, level: float
) -> None:
    """Down to working precision, also where large offsets or columns far from 0 cost digits."""
    table = make_table(family, 60, 2, seed, weights=True)
    table.A[:, 1] += level
    table.offset = np.full(60, level) if family == "gaussian" and seed % 2 else None
    kind = "none" if not penalised else "l2" if SOLVERS[solver].smooth_only else "elastic-net"
    alpha = 0.01 if penalised else None
    assume(2 < table.w @ table.y < table.w.sum() - 2 or family != "binomial")
    model = Model(FAMILIES[family], kind, alpha)
    fitted = fit(table.rows(), table.names, model, SOLVERS[solver], Limits(Tolerance(1e-9), 150))
    assume(fitted.status != "no_finite_mle" and not fitted.dropped)
    factors = np.array([0.0, 1.0, 1.0])
    share = model.share if penalised else 0.0
    truth = oracle(table, family, (alpha or 0) * share * factors, (alpha or 0) * (1 - share) * factors)
    best = truth.optimum(np.array([fitted.intercept, *fitted.coefficients]))
    for row in fitted.iterations[::-1][:6] + fitted.iterations[:-6:9]:
        if np.isfinite(row.certificate.gap):
            dispersion = 2 * row.point.loss if family == "gaussian" else 1.0
            assert_true(truth, best, row.point.beta, row.certificate, dispersion)


ITERATES_ARE_CERTIFIED = {
    "seed": st.integers(0, 10**6),
    "family": st.sampled_from(sorted(FAMILIES)),
    "solver": st.sampled_from(sorted(SOLVERS)),
    "penalised": st.booleans(),
    "level": st.sampled_from([0.0, 30.0, 1e3]),
}
test_every_iterate_of_every_solver_is_certified_truly = settings(max_examples=25, **QUIET)(
    given(**ITERATES_ARE_CERTIFIED)(iterates_are_certified)
)
test_every_iterate_of_every_solver_is_certified_truly_in_800 = pytest.mark.full(
    settings(max_examples=800, **QUIET)(given(**ITERATES_ARE_CERTIFIED)(iterates_are_certified))
)


def test_near_the_optimum_the_bounds_are_sharp(make_table: Any, oracle: Any) -> None:
    for family in FAMILIES:
        table = make_table(family, 300, 3)
        truth = oracle(table, family, np.zeros(4), np.zeros(4))
        best = truth.optimum()
        problem, certifier = problem_of(table, family, Penalty(np.zeros(4), np.zeros(4)))
        beta = best.astype(float) + 1e-4
        certificate = certifier(problem.at(beta, hessian=True))
        distance = float(truth.objective(beta) - truth.objective(best))
        assert distance <= certificate.gap <= 1.1 * distance
        assert certificate.method == "curvature"
        assert certificate.error_in_se == pytest.approx(certificate.estimate, rel=0.05)
        assert 0 < certificate.kkt <= 1.01 * certificate.estimate


@pytest.mark.parametrize("level", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("intercept", [False, True])
def test_how_far_rows_reach_is_bounded_wherever_their_columns_lie(
    make_table: Any, level: float, intercept: bool
) -> None:
    """Within the root of twice the columns for columns around a level, which the Hessian's own scale forgets."""
    table = make_table("binomial", 400, 3)
    table.A = np.column_stack([np.ones(400)] * intercept + [np.random.default_rng(0).random((400, 3)) + level])
    p = table.A.shape[1]
    problem, certifier = problem_of(table, "binomial", Penalty(np.zeros(p), np.full(p, 1e-9)), framed=True)
    certifier(problem.at(np.zeros(p), hessian=True))
    assert certifier.reference is not None
    exact = np.linalg.norm(table.A @ certifier.reference.root, axis=1).max()
    assert exact <= certifier.reference.reach
    if intercept or not level:
        assert certifier.reference.reach <= np.sqrt(2 * p) * exact


def test_a_hessian_from_elsewhere_costs_no_more_than_what_it_may_differ_by(make_table: Any, oracle: Any) -> None:
    table = make_table("binomial", 300, 3)
    truth = oracle(table, "binomial", np.zeros(4), np.zeros(4))
    best = truth.optimum()
    problem, certifier = problem_of(table, "binomial", Penalty(np.zeros(4), np.zeros(4)), framed=True)
    reference = problem.at(best.astype(float) + np.array([0.05, 0.1, -0.1, 0.1]), hessian=True)
    point = problem.at(best.astype(float) + 1e-5)
    certificate = certifier.from_reference(reference, point)
    assert_true(truth, best, point.beta, certificate, 1.0)
    m = float(np.max(np.abs(table.A), axis=0) @ np.abs(point.beta - reference.beta))
    assert certificate.error_in_se <= 1.01 * np.exp(m / 2) * certificate.estimate


def test_without_a_definite_hessian_nothing_is_claimed(make_table: Any) -> None:
    table = make_table("binomial", 40, 2)
    table.A[:, 2] = table.A[:, 1]
    problem, certifier = problem_of(table, "binomial", Penalty(np.full(3, 0.01), np.zeros(3)))
    certificate = certifier(problem.at(np.zeros(3), hessian=True))
    assert (certificate.method, certificate.gap, certificate.error_in_se) == ("none", np.inf, np.inf)


def test_far_from_the_optimum_nothing_is_claimed(make_table: Any) -> None:
    table = make_table("poisson", 60, 2)
    problem, certifier = problem_of(table, "poisson", Penalty(np.zeros(3), np.zeros(3)))
    assert certifier.sharpen(problem.at(np.array([9.0, 3.0, -3.0]))).gap == np.inf
    assert problem.passes == 3  # the point, its Hessian, the leverage


def test_separated_rows_are_never_certified(make_table: Any) -> None:
    """Where no minimiser exists tau >= 1: rounding must not bring it below 1 (quasi-separation at any distance)."""
    random = np.random.default_rng(3)
    for flip in (False, True):
        table = make_table("binomial", 200, 2)
        table.A[:, 1] = random.random(200) < 0.3
        table.y[table.A[:, 1] == 1] = 1
        table.A[:, 1] = 1 - table.A[:, 1] if flip else table.A[:, 1]
        rest = Penalty(np.zeros(3), np.zeros(3))
        problem, certifier = problem_of(table, "binomial", rest)
        beta = np.zeros(3)
        for _ in range(60):
            point = problem.at(beta, hessian=True)
            assert certifier.sharpen(point).gap == np.inf
            assert point.hessian is not None
            beta = beta - np.linalg.lstsq(point.hessian, point.gradient, rcond=1e-15)[0]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("level", [0.0, 1e3, 1e6, 1e8])
def test_the_reported_objective_is_within_its_rounding(make_table: Any, family: str, level: float) -> None:
    """Far from 0 columns cancel in the predictors, and the slope times the coefficients says nothing of that."""
    blurs = []
    for seed in range(12):
        table = make_table(family, 60, 6, seed, offset=bool(seed % 2))
        table.A[:, 1:] += level
        rest = Penalty(np.zeros(7), np.zeros(7))
        exact = Exact(table, family, rest.l1, rest.l2)
        random = np.random.default_rng(seed)
        beta = 0.3 * random.standard_normal(7)
        beta[1] -= beta[1:].sum()  # so that columns cancel, as they do in a fit
        beta[0] = FAMILIES[family].predictor(max(float(table.y.mean()), 0.1))
        beta[0] -= float((table.A[:, 1:] @ beta[1:]).mean())
        problem, certifier = problem_of(table, family, rest)
        certifier.frame = Frame.of(table.rows().sum(scan, FAMILIES[family])[0])
        for hessian in (True, False):
            point = problem.at(beta, hessian=hessian)
            for near in (point, replace(point, gradient=np.zeros(7))):  # the gradient is no part of it
                rounding = certifier(near).rounding
                assert abs(exact.objective(beta) - near.objective) <= rounding
        blurs.append(rounding / point.objective)
    if level == 0 and family == "binomial":
        assert np.max(blurs) < 1e-14
