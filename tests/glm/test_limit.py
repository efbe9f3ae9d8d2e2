"""No pass is made beyond ``max_passes``, whatever asks for it: line searches, restarts, proofs, refinement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import LEAST_PASSES, Fit, Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import OutOfPasses, Problem
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

QUIET = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
STATUSES = {"optimal", "converged", "max_passes", "no_finite_mle", "diverged"}
KINDS = ("plain", "heavy", "separated", "offset", "collinear", "huge")


def rough(table: Any, family: str, kind: str, seed: int) -> Any:
    """Rows on which full steps are often too long, or that nothing proves."""
    random = np.random.default_rng(seed)
    X = random.standard_t(1.2, (96, 3)) if kind == "heavy" else random.standard_normal((96, 3))
    if kind == "collinear":
        X[:, 2] = X[:, 0] + 1e-9 * X[:, 2]
    offset = random.uniform(-8, 8, 96) if kind == "offset" else None
    eta = X @ [0.6, -0.4, 0.2]
    if family == "binomial":
        y = (eta > 0) if kind == "separated" else random.random(96) < 0.5 * (1 + np.tanh(eta / 2))
    elif family == "poisson":
        y = random.poisson(np.exp(np.minimum(eta, 8))) * ((eta > 0) if kind == "separated" else 1)
    else:
        y = eta + random.standard_normal(96)
    y = y.astype(float)
    if kind == "huge" and family != "binomial":
        y[7] = 1e6
    return table(np.column_stack([np.ones(96), X]), y, None, offset)


def fitted(t: Any, family: str, solver: str, penalty: str, limits: Limits, journal: Any = ()) -> tuple[Fit, int]:
    if SOLVERS[solver].smooth_only and penalty == "l1":
        penalty = "l2"
    rows = t.rows(16, 32)
    model = Model(FAMILIES[family], penalty, None if penalty == "none" else 0.01)
    return fit(rows, t.names, model, SOLVERS[solver], limits, journal), rows.reads


@settings(max_examples=200, **QUIET)
@given(
    seed=st.integers(0, 10_000),
    family=st.sampled_from(list(FAMILIES)),
    kind=st.sampled_from(KINDS),
    solver=st.sampled_from(list(SOLVERS)),
    penalty=st.sampled_from(["none", "l1", "l2"]),
    most=st.integers(1, 40),
    tolerance=st.sampled_from([Tolerance(1e-9), Tolerance(rel_gap=1e-8)]),
)
def test_no_pass_is_made_beyond_the_limit(
    table: Any, seed: int, family: str, kind: str, solver: str, penalty: str, most: int, tolerance: Tolerance
) -> None:
    t = rough(table, family, kind, seed)
    found, reads = fitted(t, family, solver, penalty, Limits(tolerance, most))
    first = found.iterations[0]
    assert found.passes <= max(most, LEAST_PASSES)
    assert found.passes == found.iterations[-1].passes
    assert reads <= found.passes
    assert found.status in STATUSES
    assert np.isfinite(found.coefficients).all()
    assert np.isfinite(found.objective)
    assert found.objective <= first.point.objective * (1 + 1e-9)
    assert found.objective == found.iterations[-1].point.objective
    if found.status == "max_passes":
        assert found.passes >= most


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("kind", ["heavy", "offset"])
def test_a_fit_that_ran_out_goes_on_with_the_same_bits(table: Any, solver: str, family: str, kind: str) -> None:
    t, tolerance, saved = rough(table, family, kind, 3), Tolerance(rel_gap=1e-8), []

    def keep(problem: Problem) -> None:
        saved[:] = problem.journal

    whole, _ = fitted(t, family, solver, "l1", Limits(tolerance, 400, on_pass=keep))
    journal = list(saved)
    assert whole.status == "optimal"
    for most in range(3, min(whole.passes, 24), 3):
        few, _ = fitted(t, family, solver, "l1", Limits(tolerance, most, on_pass=keep))
        assert few.passes == most
        more, _ = fitted(t, family, solver, "l1", Limits(tolerance, 400), list(saved))
        np.testing.assert_array_equal(more.coefficients, whole.coefficients)
        assert (more.status, more.passes) == (whole.status, whole.passes)
        replayed, _ = fitted(t, family, solver, "l1", Limits(tolerance, most), journal)
        np.testing.assert_array_equal(replayed.coefficients, few.coefficients)
        assert replayed.passes == most


@pytest.mark.parametrize("start", ["auto", "null"])
@pytest.mark.parametrize("kind", ["plain", "misleading", "collinear"])
@pytest.mark.parametrize("most", range(1, 9))
def test_what_comes_before_the_first_iterate_counts(table: Any, most: int, kind: str, start: str) -> None:
    """The null model under offsets, a sample that misleads, a look for repeated columns."""
    random = np.random.default_rng(2)
    X = random.standard_normal((3000, 2))
    if kind == "collinear":
        X = X[:, [0, 1, 0]]
    y = random.poisson(np.exp(X[:, 0])).astype(float)
    if kind == "misleading":
        X[17, 0], y[17] = 2e3, 0.0
    t = table(np.column_stack([np.ones(3000), X]), y, None, random.uniform(-3, 3, 3000))
    rows = t.rows(16, 3000)
    found = fit(
        rows, t.names, Model(FAMILIES["poisson"]), SOLVERS["proximal_newton"], Limits(max_passes=most, start=start)
    )
    assert rows.reads == found.passes == found.iterations[-1].passes <= max(most, LEAST_PASSES)
    assert np.isfinite(found.objective)
    assert found.status == ("max_passes" if found.passes >= most else "optimal")


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_history_ends_at_the_passes_of_the_fit(table: Any, solver: str) -> None:
    """Those of a search for a direction of recession are its last."""
    t = rough(table, "binomial", "separated", 1)
    found, _ = fitted(t, "binomial", solver, "none", Limits())
    assert found.status == "no_finite_mle"
    assert found.iterations[-1].passes == found.passes >= found.iterations[-2].passes + 2


def test_a_problem_refuses_the_pass_and_keeps_what_it_has(make_table: Any) -> None:
    table = make_table("gaussian", 60, 3)
    rows = table.rows()
    problem = Problem(rows, FAMILIES["gaussian"], Penalty(np.zeros(4), np.zeros(4)), 60.0, passes=1)
    problem.limit = 2
    problem.at(np.zeros(4))
    for ask in (
        lambda: problem.at(np.ones(4)),
        lambda: problem.at(np.ones(4), ranges=True),
        lambda: problem.objectives(np.ones((4, 2))),
    ):
        with pytest.raises(OutOfPasses):
            ask()
    assert (problem.passes, problem.left, rows.reads, len(problem.journal)) == (2, 0, 1, 1)


def test_refinement_that_the_limit_cuts_short_leaves_the_proven_point(table: Any) -> None:
    random = np.random.default_rng(0)
    x = 1e4 + random.standard_normal(60)
    t = table(np.column_stack([np.ones(60), x, x + 1e-2 * random.standard_normal(60)]), x + random.standard_normal(60))
    whole, _ = fitted(t, "gaussian", "newton", "none", Limits())
    assert whole.status == "optimal"
    plain = next(row for row in whole.iterations if row.passes >= 3)
    assert whole.passes > plain.passes  # it was refined
    cut, _ = fitted(t, "gaussian", "newton", "none", Limits(max_passes=plain.passes + 1))
    assert (cut.status, cut.passes) == ("optimal", plain.passes + 1)
    assert cut.objective == plain.point.objective
