"""The stopping rule: which status when, and that no rule is met by a change alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Problem, Solution
from clusterglm.glm.proof.certificate import Certificate, Certifier
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Iteration, StoppingRule, Tolerance, Trace

SURE = Certificate("curvature", 1e-6, 0.005, 0.001, 0.005, 1e-16, 1e-14)


def rule_of(table: Any, family: str = "binomial", tol: Tolerance | None = None, most: int = 50) -> StoppingRule:
    p = table.A.shape[1]
    problem = Problem(table.rows(), FAMILIES[family], Penalty(np.zeros(p), np.zeros(p)), float(table.w.sum()))
    trace = Trace(problem, Certifier(problem, np.max(np.abs(table.A), axis=0)))
    null = problem.at(np.zeros(p)).objective
    problem.limit = most
    return StoppingRule(trace, tol or Tolerance(), null, table.A.std(axis=0))


def test_tolerance_is_about_the_bound() -> None:
    assert Tolerance(0.01).met(SURE, 1.0)
    assert not Tolerance(0.001).met(SURE, 1.0)
    assert Tolerance(0.001, rel_gap=1e-5).met(SURE, 1.0)
    assert not Tolerance(0.01, rel_gap=1e-7).met(SURE, 1.0)
    assert not Tolerance().met(replace(SURE, error_in_se=np.inf), 1.0)


def test_what_rounding_hides_is_out_of_reach() -> None:
    assert not Tolerance(1e-12).out_of_reach(SURE)
    assert Tolerance(1e-16).out_of_reach(replace(SURE, error_in_se=1.5e-14))
    assert Tolerance(1e-16, rel_gap=1e-20).out_of_reach(replace(SURE, gap=2e-16))
    assert not Tolerance(1e-16).out_of_reach(Certificate("none", np.inf, np.inf, 0.1, 0.1, 1e-16))


def test_rows_are_kept_told_and_sharpened(make_table: Any) -> None:
    table = make_table("binomial", 60, 2)
    told: list[Iteration] = []
    rule = rule_of(table)
    trace = Trace(rule.trace.problem, rule.trace.certifier, told.append)
    point = trace.problem.at(np.zeros(3), hessian=True)
    row = trace(point, 0.5)
    assert told == trace.iterations == [row]
    assert (row.iteration, row.passes, row.step) == (0, 2, 0.5)
    trace.problem.at(np.ones(3))
    assert trace.replace(SURE).certificate is SURE
    assert trace.iterations[0].passes == 3
    assert trace(point).iteration == 1
    assert point.hessian is not None
    # Of what lies behind, the numbers for a chart are kept, and no p x p ones.
    assert [row.point.hessian is None for row in trace.iterations] == [True, False]
    assert trace.iterations[0].point.objective == point.objective


def test_an_objective_that_is_not_finite_has_diverged(make_table: Any) -> None:
    rule = rule_of(make_table("poisson", 60, 2), "poisson")
    with np.errstate(all="ignore"):
        point = rule.trace.problem.at(np.array([1e4, 1e4, 1e4]))
    assert rule(rule.trace(point)) == "diverged"


def test_passes_run_out(make_table: Any) -> None:
    table = make_table("binomial", 60, 2)
    rule = rule_of(table, most=2)
    assert rule(rule.trace(rule.trace.problem.at(np.zeros(3)))) == "max_passes"


def test_an_exact_hessian_is_taken_when_the_first_order_estimate_promises(make_table: Any, oracle: Any) -> None:
    table = make_table("binomial", 200, 2)
    best = oracle(table, "binomial", np.zeros(3), np.zeros(3)).optimum().astype(float)
    rule = rule_of(table)
    problem = rule.trace.problem
    far = problem.at(best + np.array([0.0, 0.3, -0.3]), hessian=True)
    assert rule(rule.trace(far)) is None
    assert problem.passes == 2  # nothing to prove yet
    assert rule(rule.trace(problem.at(best))) == "optimal"
    assert rule.trace.iterations[-1].certificate.error_in_se < 0.01
    assert rule.notes == []


@pytest.mark.parametrize(("shift", "status"), [(0.0, "optimal"), (0.2, "diverged")])
def test_a_solver_that_stalls_is_judged_by_an_exact_hessian(
    make_table: Any, oracle: Any, shift: float, status: str
) -> None:
    table = make_table("poisson", 200, 2)
    best = oracle(table, "poisson", np.zeros(3), np.zeros(3)).optimum().astype(float)
    rule = rule_of(table, "poisson", Tolerance(1e-18))
    point = rule.trace.problem.at(best + shift)
    rule.trace(point)
    assert rule.settle(Solution(point, "stalled")) == status
    assert ("note: stopped at the working precision of float64 sums" in rule.notes) == (status == "optimal")
    assert rule.settle(Solution(point, "max_passes")) == "max_passes"


@pytest.mark.parametrize("seed", range(4))
def test_working_precision_is_judged_by_a_hessian_at_the_point(table: type[Any], seed: int) -> None:
    """Far from 0 the bound on the rows' reach is coarse, and a Hessian from elsewhere blurs a million times more."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((300, 3))
    y = random.poisson(np.exp(X @ [0.5, -0.3, 0.2])).astype(float)
    X[:, 0] += 1e4
    made = table(np.column_stack([np.ones(300), X]), y)
    model, limits = Model(FAMILIES["poisson"]), Limits(Tolerance(1e-10), 200)
    found = fit(made.rows(), made.names, model, SOLVERS["proximal_newton"], limits)
    assert found.status == "optimal"
    assert found.notes == ["note: stopped at the working precision of float64 sums"]
    assert found.certificate.error_in_se <= 1e-7
