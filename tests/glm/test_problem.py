"""A problem counts passes, and a recorded fit goes on as if it had never stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import kernels
from clusterglm.glm import problem as problem_module
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.kernels import Piece
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Columns, OtherRows, Problem, Recorded
from clusterglm.glm.sample import Drawn
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.start import look_at_fit
from clusterglm.glm.trace import Tolerance

SMOOTH = Penalty(np.zeros(4), np.full(4, 0.1))


def test_every_evaluation_is_one_pass_and_agrees_with_the_oracle(make_table: Any, oracle: Any) -> None:
    table = make_table("poisson", 100, 3, weights=True, offset=True)
    truth = oracle(table, "poisson", np.zeros(4), SMOOTH.l2)
    seen: list[int] = []
    rows = table.rows()
    problem = Problem(
        rows, FAMILIES["poisson"], SMOOTH, table.w.sum(), on_pass=lambda p: seen.append(p.passes), passes=2
    )
    a, b = np.array([0.1, 0.2, -0.1, 0.3]), np.array([0.0, 0.1, 0.1, 0.0])
    point = problem.at(a, hessian=True)
    g, H = truth.derivatives(a)
    np.testing.assert_allclose(point.gradient + SMOOTH.l2 * a, g.astype(float), rtol=1e-12)
    assert point.hessian is not None
    np.testing.assert_allclose(point.hessian + np.diag(SMOOTH.l2), H.astype(float), rtol=1e-12)
    assert point.objective == pytest.approx(float(truth.objective(a)), rel=1e-14)
    first, second = problem.at_both(a, b)
    assert (first.hessian, second.hessian) == (None, None)
    np.testing.assert_allclose(first.gradient, point.gradient, rtol=1e-12)
    np.testing.assert_allclose(
        problem.objectives(np.column_stack([a, b])), [float(truth.objective(x)) for x in (a, b)], rtol=1e-14
    )
    assert problem.at(b).hessian is None
    assert problem.passes == 6
    assert rows.reads == 4
    assert seen == [3, 4, 5, 6]
    assert [record.passes for record in problem.journal] == [1, 1, 1, 1]


def local(rows: Any, state: np.ndarray, factor: float) -> tuple[Any, ...]:
    (total,) = rows.sum(kernels.loss, FAMILIES["gaussian"], state)
    rows.sum(kernels.loss, FAMILIES["gaussian"], state)
    return factor * total, state + 1


def test_local_problems_are_stacked_and_their_passes_counted(make_table: Any) -> None:
    table = make_table("gaussian", 150, 3)
    problem = Problem(table.rows(), FAMILIES["gaussian"], SMOOTH, 150.0)
    assert problem.local_problems == 3
    states = list(np.random.default_rng(0).standard_normal((3, 4)))
    totals, moved = problem.each(local, states, 2.0)
    assert totals.shape == (3,)
    np.testing.assert_array_equal(moved, np.array(states) + 1)
    assert problem.passes == 2
    parts = [table.y[i : i + 64] - table.A[i : i + 64] @ s for i, s in zip((0, 64, 128), states, strict=True)]
    np.testing.assert_allclose(totals, [r @ r for r in parts], rtol=1e-12)


CASES = [
    (solver, penalty, family)
    for solver, chosen in SOLVERS.items()
    for penalty in ("none", "elastic-net")
    for family in FAMILIES
    if not (chosen.smooth_only and penalty != "none")
]


@pytest.mark.parametrize(("solver", "penalty", "family"), CASES)
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.full)])
def test_a_fit_resumed_after_any_pass_has_the_same_bits_and_makes_the_rest_alone(
    make_table: Any, solver: str, penalty: str, family: str, every: int
) -> None:
    table = make_table(family, 150, 3, weights=True, offset=True)
    model = Model(FAMILIES[family], penalty, None if penalty == "none" else 0.02)
    saved: list[list[Recorded]] = []
    last: list[Problem] = []

    def keep(problem: Problem) -> None:
        last[:] = [problem]
        saved.append(list(problem.journal))

    whole = fit(table.rows(), table.names, model, SOLVERS[solver], Limits(on_pass=keep))
    journal = last[0].journal
    assert whole.status == "optimal"
    before = whole.passes - sum(r.passes for r in journal)
    for k in {*range(0, len(journal), every), 1, len(journal) - 1, len(journal)}:
        rows, calls = table.rows(), []
        limits = Limits(on_pass=lambda problem, calls=calls: calls.append(problem.passes))  # type: ignore[misc]
        again = fit(rows, table.names, model, SOLVERS[solver], limits, journal[:k])
        np.testing.assert_array_equal(again.coefficients, whole.coefficients)
        assert again.intercept == whole.intercept
        assert again.certificate == whole.certificate
        assert again.passes == whole.passes
        assert len(calls) == len(journal) - k + (k > 0)  # told once that the replay is over, then of each new pass
        if solver != "admm":
            # The first one that is replayed is made once more, to see whether the rows are the same.
            assert rows.reads == again.iterations[-1].read == before + len(journal) - k + (k > 0)


@pytest.mark.parametrize("solver", ["admm", "proximal_newton", "async_newton"])
@pytest.mark.parametrize("room", [0, 200])
def test_what_a_journal_has_no_room_for_is_made_again_with_the_same_bits(
    make_table: Any, monkeypatch: pytest.MonkeyPatch, solver: str, room: int
) -> None:
    table, model = make_table("binomial", 150, 3), Model(FAMILIES["binomial"], "l1", 0.02)
    saved: list[list[Recorded]] = []
    whole = fit(table.rows(), table.names, model, SOLVERS[solver], Limits(on_pass=lambda p: saved.append(p.journal)))
    full = list(saved[-1])
    monkeypatch.setattr(problem_module, "_JOURNAL_BYTES", room)
    again = fit(table.rows(), table.names, model, SOLVERS[solver], Limits(on_pass=lambda p: saved.append(p.journal)))
    np.testing.assert_array_equal(again.coefficients, whole.coefficients)
    journal = list(saved[-1])
    assert [record.key for record in journal] == [record.key for record in full]
    kept = [record for record in journal if record.total is not None]
    if solver == "async_newton":  # what its lanes have answered cannot be asked again
        assert len(kept) == len(journal)
    else:
        # The first is kept in any case: it tells whether the rows are still the same.
        assert sum(a.nbytes for record in kept[1:] for a in record.total or ()) <= room
        assert journal[0].total is not None
        assert len(kept) < len(journal)
    for k in range(len(journal) + 1):
        rows = table.rows()
        resumed = fit(rows, table.names, model, SOLVERS[solver], Limits(), journal[:k])
        np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
        assert (resumed.passes, resumed.certificate) == (whole.passes, whole.certificate)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("tol", [1e-6, 0.3])
def test_a_resumed_fit_may_have_another_tolerance(make_table: Any, oracle: Any, solver: str, tol: float) -> None:
    table = make_table("binomial", 200, 3)
    model, journals = Model(FAMILIES["binomial"]), []

    def keep(problem: Problem) -> None:
        journals[:] = problem.journal

    fit(table.rows(), table.names, model, SOLVERS[solver], Limits(on_pass=keep))
    other = Limits(Tolerance(tol))
    resumed = fit(table.rows(), table.names, model, SOLVERS[solver], other, journals)
    fresh = fit(table.rows(), table.names, model, SOLVERS[solver], other)
    assert resumed.status == "optimal"
    np.testing.assert_array_equal(resumed.coefficients, fresh.coefficients)
    assert resumed.passes == fresh.passes


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_that_have_changed_since_are_noticed(make_table: Any, solver: str) -> None:
    """The target is the same, and with it the null model, so the first question is."""
    table, journals = make_table("binomial", 200, 3), []

    def keep(problem: Problem) -> None:
        journals[:] = problem.journal

    model = Model(FAMILIES["binomial"])
    fit(table.rows(), table.names, model, SOLVERS[solver], Limits(on_pass=keep))
    assert journals
    table.A[7, 2] *= 1 + 1e-6
    with pytest.raises(OtherRows):
        fit(table.rows(), table.names, model, SOLVERS[solver], Limits(), journals)


@pytest.mark.parametrize("solver", ["proximal_newton", "lbfgs"])
def test_the_first_look_at_a_fit_is_in_the_journal_and_tells_whether_the_rows_are_the_same(solver: str) -> None:
    source, model, journal = Synthetic(50_000, 4), Model(FAMILIES["binomial"]), []
    drawn = Drawn((Piece(*source.first(1000, "float64", True)),))

    def keep(problem: Problem) -> None:
        saved.append(len(problem.journal))
        journal[:] = problem.journal

    def fitted(rows: Any, journal: Any = ()) -> Fit:
        seen = look_at_fit(rows, source.names, model, SOLVERS[solver], drawn, fit)
        return fit(rows, source.names, model, SOLVERS[solver], Limits(on_pass=keep), journal, seen=seen)

    saved: list[int] = []
    rows = local_rows(source, intercept=True)
    whole = fitted(rows)
    assert saved == list(range(1, len(journal) + 1))  # there is something to go on with before the first pass ends
    for k in range(1, len(journal) + 1):
        again = fitted(rows, journal[:k])
        np.testing.assert_array_equal(again.coefficients, whole.coefficients)
        assert again.passes == whole.passes
        # Without the look itself, which is made before every fit.
        assert again.iterations[-1].read == whole.passes - 1 - sum(record.passes for record in journal[:k])
    met = journal[0]
    elsewhere = [replace(met, total=tuple(a * (1 + 1e-12) for a in met.total or ()))]  # another processor
    rounded = fitted(rows, elsewhere)
    assert journal[0] is not met
    for used, recorded in zip(journal[0].total or (), elsewhere[0].total or (), strict=True):
        np.testing.assert_array_equal(used, recorded)
    np.testing.assert_allclose(rounded.coefficients, whole.coefficients, rtol=1e-6)
    journal[0] = replace(met, total=tuple(a * (1 + 1e-4) for a in met.total or ()))
    with pytest.raises(OtherRows):
        fitted(rows, journal)


def test_a_journal_of_other_questions_is_forgotten(make_table: Any) -> None:
    table = make_table("gaussian", 60, 3)
    problem = Problem(table.rows(), FAMILIES["gaussian"], SMOOTH, 60.0)
    a, b = np.zeros(4), np.ones(4)
    problem.at(a), problem.at(b)
    again = Problem(table.rows(), FAMILIES["gaussian"], SMOOTH, 60.0, problem.journal)
    assert again.replaying
    again.at(a)
    again.at(2 * b)
    assert not again.replaying
    assert again.at(b).objective == problem.at(b).objective
    assert again.passes == 3


def test_the_step_of_a_point_is_that_of_its_model_and_is_kept_until_the_penalty_changes(make_table: Any) -> None:
    table = make_table("poisson", 100, 3)
    problem = Problem(table.rows(), FAMILIES["poisson"], SMOOTH, table.w.sum())
    point = problem.at(np.zeros(4), hessian=True)
    step = problem.step(point)
    assert problem.step(point) is step
    np.testing.assert_allclose(point.hessian @ step + SMOOTH.l2 * step, -point.gradient, rtol=0, atol=1e-12)
    other = problem.at(step, hessian=True)
    assert np.linalg.norm(problem.step(other)) < np.linalg.norm(step)
    problem.penalty = Penalty(np.full(4, 1e6), np.zeros(4))
    np.testing.assert_array_equal(other.beta + problem.step(other), 0.0)


def test_columns_that_are_left_out_have_coefficient_0(make_table: Any) -> None:
    table = make_table("binomial", 150, 3, weights=True)
    narrow = make_table("binomial", 150, 3, weights=True)
    narrow.A = np.ascontiguousarray(narrow.A[:, [0, 1, 3]])
    some = Columns(table.rows(), np.array([0, 1, 3]))
    beta = np.array([0.1, 0.2, 0.3])
    for kernel in (kernels.gradient, kernels.hessian):
        for ours, theirs in zip(
            some.sum(kernel, FAMILIES["binomial"], beta),
            narrow.rows().sum(kernel, FAMILIES["binomial"], beta),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert (some.rows, some.local_problems) == (150, 3)
    states = [np.zeros(3)] * 3
    ours, reads = some.each(local, states, 1.0)
    assert reads == 2
    theirs, _ = narrow.rows().each(local, states, 1.0)
    assert [r[0] for r in ours] == [r[0] for r in theirs]
