"""From rows and a description of the model to a certified fit, in one process and without a cluster.

    scan -> refuse what cannot be fitted -> start -> first Hessian -> leave out aliased columns -> solver -> status

The rows may be anywhere: they are asked for sums only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError, UsageError
from clusterglm.glm import kernels
from clusterglm.glm.algebra import MOST_COLUMNS, aliased, definite
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.inference import Inference, Wanted, infer
from clusterglm.glm.model import LEAST_PASSES, Fit, Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import OutOfPasses, Point, Problem, Recorded, Rows, Solution
from clusterglm.glm.proof.certificate import Certifier
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.refine import refine
from clusterglm.glm.scan import Scan, refuse
from clusterglm.glm.solvers import Solver, for_columns
from clusterglm.glm.start import NULL, Look, Start, find_start, first_every, look, null_loss
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]


def fit(
    rows: Rows,
    names: Sequence[str],
    model: Model,
    solver: Solver,
    limits: Limits | None = None,
    journal: Sequence[Recorded] = (),
    locate: Callable[[int], str] = "row {}".format,
    target: str = "y",
    seen: Look | None = None,
    wanted: Wanted | None = None,
) -> Fit:
    """Fit ``model`` on ``rows``, whose columns are ``names``, after a leading column of ones for an intercept.

    ``seen`` is the first look at these rows, where whoever loaded them has taken it. ``wanted`` says what inference is
    made once an answer without a penalty is there, in two passes or three.

    Ctrl-C ends the fit at its last iterate, with status ``interrupted``.

    Raises
    ------
    UsageError
        A solver, or an inference, that cannot take so many columns.
    DataError
        Values that are not finite or outside the family's range, and data that no model can be fitted to.
    """
    if model.family.predictors != 1:
        from clusterglm.glm.fit_classes import fit_classes  # which is made of the steps below

        return fit_classes(rows, names, model, solver, limits, journal, locate, target, seen, wanted)
    limits, began, read = limits or Limits(), time.perf_counter(), 0
    family, first = model.family, int(model.intercept)
    labels = ["intercept"] * first + list(names)
    solver = for_columns(solver, len(labels), not model.has_l1)
    if wanted is not None and len(labels) > MOST_COLUMNS:
        raise UsageError("--summary", None, f"needs the Hessian, which is formed up to {MOST_COLUMNS} columns")
    if seen is None:
        seen, read = look(rows, model, len(labels), "null" if limits.begin is not None else limits.start), 1
    scan = seen.scan
    notes = refuse(scan, labels, model, locate, target)
    sd = np.where(scan.deviation > 0, scan.deviation, 1.0)
    alpha = model.strength(scan.weight)
    penalty = model.penalty_of(alpha, labels, sd)
    problem = Problem(rows, family, penalty, scan.weight, journal, limits.on_pass, passes=1, read=read)
    problem.limit = max(limits.max_passes, LEAST_PASSES)
    problem.every = first_every(solver, family, rows.rows, len(labels))
    if seen.met is not None:
        problem.know(seen.met.kernel, seen.met.args, seen.met.sums)
    start = find_start(problem, names, model, alpha, seen, fit, limits.begin)
    problem.sample = start.sample
    start = replace(start, beta=penalty.clip(start.beta))
    if solver.approach is not None and start.name == NULL:
        start = _approach(problem, start, solver, lambda: null_loss(problem, model, scan, float(start.null[0] * first)))
    start, point = first_point(problem, start, solver)
    kept, dropped, dropped_notes = kept_columns(problem, point, scan, labels, model)
    if not kept.size:
        raise DataError("columns", None, "0 in every row: nothing to fit: add --intercept, or name others")
    notes += dropped_notes
    pinned = np.array(dropped if point.hessian is None else [], dtype=np.intp)
    if pinned.size:
        problem.penalty = _pin(problem.penalty, pinned, scan.largest)
    elif dropped:
        problem.take(kept)
        narrow = start.beta[kept]
        point = evaluate(problem, narrow, solver) if start.beta[dropped].any() else restrict(point, kept, problem)
    null_objective = point.objective if start.null_objective is None else start.null_objective

    largest = np.maximum(np.abs(scan.smallest), np.abs(scan.largest))
    certifier = Certifier(problem, largest[kept], scan.largest_offset, Frame.of(scan, kept))
    varying = np.where(scan.constant, 0.0, scan.deviation)[kept]
    solution, stop, trace = search(problem, point, solver, certifier, limits, null_objective, varying, began)
    if pinned.size:
        solution = replace(solution, point=_unpinned(problem, solution.point, pinned, scan.largest))

    inference = inferred(infer, problem, solution, wanted, labels, kept, start.null, notes)
    full = np.zeros(len(labels))
    full[kept] = solution.point.beta
    notes += stop.notes
    if solver.approach is not None and len(problem.lanes.lanes) > 1:
        notes.append("note: asynchronous: the last digits within the tolerance depend on who answered first")
    direction = None
    if stop.direction is not None:
        direction = np.zeros(len(labels))
        direction[kept] = stop.direction
        notes.append(separation_note(direction, labels, sd))
    return Fit(
        solver=solver.name,
        family=family,
        coefficients=full[first:],
        intercept=float(full[0]) if first else None,
        status=solution.status,
        objective=solution.point.objective,
        null_objective=null_objective,
        start=start.name,
        alpha=alpha,
        weight=scan.weight,
        certificate=trace.iterations[-1].certificate,
        passes=problem.passes,
        iterations=trace.iterations,
        dropped=[labels[j] for j in dropped],
        notes=notes,
        direction=direction,
        inference=inference,
        rounds=problem.rounds,
        lanes=[(lane.name, lane.rows) for lane in problem.lanes.lanes] if problem.rounds else [],
    )


def _approach(problem: Problem, start: Start, solver: Solver, null: Callable[[], float]) -> Start:
    """Return where the rows of those who answer first lead from the null model, which has the loss ``null``."""
    assert solver.approach is not None
    found = solver.approach(problem, start.beta)
    if found is None:
        return start
    loss = null() + problem.penalty.value(start.null)
    return replace(start, beta=found, name=f"{NULL}, and the rows of who answered first", null_objective=loss)


def first_point(problem: Problem, start: Start, solver: Solver) -> tuple[Start, Point]:
    """Return the start and its point; the null model's where that is no worse."""
    point = evaluate(problem, start.beta, solver)
    null = problem.penalty.clip(start.null)
    # A null model outside of the bounds may be better than all that lie within: only what is not finite is worse.
    most = start.null_objective
    if most is not None and not point.objective <= (most if (null == start.null).all() else np.finfo(float).max):
        # Rows that were not drawn tell another story: one far out, a rare class.
        start, problem.sample = replace(start.at_null(), beta=null), None
        point = evaluate(problem, start.beta, solver)
    if not np.isfinite(point.objective):
        zero = bool((null == start.null).all())
        where = "where all coefficients are 0" if zero else "at the bounds nearest to 0"
        cure = f"not finite {where}: rescale the target or the offset{'' if zero else ', or move the bounds'}"
        raise DataError("mean loss", f"{point.objective:g}", cure)
    return start, point


def evaluate(problem: Problem, beta: Array, solver: Solver) -> Point:
    """Return the point that solvers and certificates begin with, with as much of a Hessian as there is."""
    if len(beta) > MOST_COLUMNS:
        return problem.at_diagonal(beta)
    if solver.approach is not None:
        return problem.at_lanes(beta)
    point = problem.at(beta, hessian=True, ranges=solver.ranges)
    if point.share < 1 and problem.left >= 2 and not definite(point.hessian + np.diag(problem.penalty.l2)):  # type: ignore[operator]
        problem.every = 1  # the other rows may know better
        point = problem.at(beta, hessian=True)
    return point


def solve(problem: Problem, start: Point, solver: Solver, stop: StoppingRule, trace: Trace) -> Solution:
    """Return where the solver ended, with the status of the stopping rule, refined where the sums leave few digits."""
    try:
        solution = solver.solve(problem, start, stop, trace)
        if not isinstance(solution, Solution):
            raise UsageError(
                "solver", solver.name, f"returned {type(solution).__name__}: return Solution(point, status)"
            )
        if not trace.iterations:
            trace(solution.point)
        solution = replace(solution, status=stop.settle(solution))
        exact = problem.family.quadratic
        exact = exact and not problem.penalty.bounded and not len(problem.penalty.grouped)
        if solution.status == "optimal" and exact and trace.certifier.ill_conditioned:
            with suppress(OutOfPasses):
                solution = replace(solution, point=refine(problem, replace(solution.point, hessian=start.hessian)))
                trace(solution.point)
        return solution
    except OutOfPasses:
        if not trace.iterations:
            trace(start)
        return Solution(trace.iterations[-1].point, stop.exhausted())
    except KeyboardInterrupt:
        if not trace.iterations:
            raise
        return Solution(trace.iterations[-1].point, "interrupted")


def search(
    problem: Problem,
    point: Point,
    solver: Solver,
    certifier: Certifier,
    limits: Limits,
    null_objective: float,
    varying: Array,
    began: float,
) -> tuple[Solution, StoppingRule, Trace]:
    """Return what the solver finds from ``point`` on, with the rule that has ended it and the trace of its points.

    ``varying`` are the columns' standard deviations, 0 for constant ones; ``began`` is when the fit did.
    """
    certifier(point)  # whose Hessian then serves solvers that trace no point with one
    told = limits.on_iteration
    trace = Trace(problem, certifier, told and (lambda row: told(row, null_objective)), began)
    stop = StoppingRule(trace, limits.tolerance, null_objective, varying)
    solution = solve(problem, point, solver, stop, trace)
    trace.replace(trace.iterations[-1].certificate)  # with the passes of a search or a refinement that came after it
    return solution, stop, trace


def inferred(
    infer: Callable[[Problem, Point, Wanted, Sequence[str], NDArray[np.intp], Array], Inference],
    problem: Problem,
    solution: Solution,
    wanted: Wanted | None,
    names: Sequence[str],
    kept: NDArray[np.intp],
    null: Array,
    notes: list[str],
) -> Inference | None:
    """Return what ``infer`` says of an answer, as ``inference.infer`` does; None where it is not wanted, or the passes
    do not suffice, of which a note is made."""
    if wanted is None or solution.status not in ("optimal", "converged"):
        return None
    try:
        found = infer(problem, solution.point, wanted, names, kept, null)
        if found.df_residual <= 0:
            notes.append(
                f"warning: {found.observations:g} observations, no more than coefficients: nothing is left to estimate "
                "errors by; weights that do not count rows are --weights-are analytic"
            )
        return found
    except OutOfPasses:
        notes.append(f"note: no pass is left for standard errors: more than --max-passes {int(problem.limit)}")
        return None


def kept_columns(
    problem: Problem, start: Point, seen: Scan, labels: Sequence[str], model: Model
) -> tuple[NDArray[np.intp], list[int], list[str]]:
    """Return which columns stay, which go, and why: those that no L2 part makes unique and that repeat earlier ones.

    Repeats are not looked for among more columns than a Hessian may have.
    """
    notes, penalty = [], problem.penalty
    constant = seen.constant.copy()
    constant[: int(model.intercept)] = False
    if penalty.bounded:
        constant &= penalty.clip(np.zeros(len(labels))) == 0
    if not model.intercept:
        constant &= seen.largest == 0
    gone = [int(j) for j in np.flatnonzero(constant)]
    every = np.arange(len(labels))
    if start.hessian is None:
        # To leave a column out is to copy every row in every pass; these stay, pinned at 0.
        if gone:
            first, more = labels[gone[0]], f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            notes.append(f"warning: column {first}{more}: constant: coefficients set to 0")
        return every if len(gone) < len(labels) else every[:0], gone, notes
    for j in gone:
        why = "same as the intercept" if model.intercept else "says nothing"
        notes.append(f"warning: column {labels[j]} (constant {seen.largest[j]:g}): {why}: coefficient set to 0")
    rest = np.setdiff1d(every, gone)

    def repeats(H: Array) -> list[int]:
        # Under an L1 part the choice among collinear columns is the penalty's own.
        found = aliased(H[np.ix_(rest, rest)] + np.diag(penalty.l2[rest]))
        return [int(rest[j]) for j in found if penalty.l1[rest[j]] == 0 and not penalty.bounded]

    repeated = repeats(start.hessian)
    if (not model.family.quadratic) + start.beta[repeated].any() > problem.left:
        repeated = []  # no pass is left to know better, nor for a fit without them
    if repeated and not model.family.quadratic:
        # A Hessian can be singular because few rows have curvature; the columns' own Gram matrix decides.
        repeated = repeats(problem.sum(kernels.hessian, FAMILIES["gaussian"], start.beta)[2] / problem.weight)
    if repeated:
        names = ", ".join(labels[j] for j in repeated)
        # An L2 part too small to be seen beside the columns could still tell them apart.
        of = ", and what is proven is of a fit without them" if penalty.l2[repeated].any() else ""
        notes.append(f"warning: columns {names}: collinear with earlier ones: their coefficients are set to 0{of}")
    dropped = sorted([*gone, *repeated])
    return np.setdiff1d(every, dropped), dropped, notes


def _pin(penalty: Penalty, pinned: NDArray[np.intp], values: Array) -> Penalty:
    """Return the penalty with an L2 part at constant columns, which an intercept can do without.

    Their coefficients are 0 at the optimum, which is the same, and which now has a bound.
    """
    l2 = penalty.l2.copy()
    l2[pinned] += np.where(values[pinned] != 0, values[pinned] ** 2, 1.0)
    groups = None if penalty.groups is None else penalty.groups.copy()
    if groups is not None:
        groups[pinned] = -1
    return replace(penalty, l2=l2, groups=groups)


def _unpinned(problem: Problem, point: Point, pinned: NDArray[np.intp], values: Array) -> Point:
    """Return the point with what constant columns add to every row in the intercept's coefficient: no predictor moves,
    and the penalty is none the greater."""
    beta = point.beta.copy()
    beta[0] += float(values[pinned] @ beta[pinned])
    beta[pinned] = 0.0
    return replace(point, beta=beta, objective=point.loss + problem.penalty.value(beta))


def restrict(start: Point, kept: NDArray[np.intp], problem: Problem) -> Point:
    beta = start.beta[kept]
    H = None if start.hessian is None else start.hessian[np.ix_(kept, kept)]
    parts = None if start.parts is None else start.parts.take(kept)
    diagonal = None if start.diagonal is None else start.diagonal[kept]
    objective = start.loss + problem.penalty.value(beta)
    return Point(beta, start.loss, start.gradient[kept], H, objective, parts, diagonal, start.share)


def separation_note(direction: Array, labels: Sequence[str], sd: Array) -> str:
    effect = np.abs(direction) * sd
    order = [j for j in np.argsort(-effect) if effect[j] > 0.05 * effect.max() and labels[j] != "intercept"]
    names = ", ".join(labels[j] for j in order[:5])
    return f"warning: separation by {names}: coefficients grow without end: add --penalty l2 --alpha A"
