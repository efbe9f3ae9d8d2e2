"""From rows and a description of the model to a certified fit, in one process and without a cluster.

    scan -> refuse what cannot be fitted -> start: a fit on a sample, or the null model -> first Hessian
         -> leave out aliased columns -> solver -> status

The rows may be anywhere: they are asked for sums only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError, UsageError, unknown
from clusterglm.glm import kernels
from clusterglm.glm.algebra import aliased
from clusterglm.glm.certificate import Certificate, Certifier
from clusterglm.glm.families import FAMILIES, Family
from clusterglm.glm.free_gap import Frame
from clusterglm.glm.penalties import PENALTIES, elastic_net
from clusterglm.glm.problem import Columns, Point, Problem, Recorded, Rows, Solution
from clusterglm.glm.refine import refine
from clusterglm.glm.sample import SampleRows, draw, sample_rows
from clusterglm.glm.scan import Place, Scan, scan
from clusterglm.glm.solvers import MOST_COLUMNS, SOLVERS, Solver
from clusterglm.glm.trace import Iteration, StoppingRule, Tolerance, Trace

Array = NDArray[np.float64]
_MOST_NULL_STEPS = 30
_CANCELLED = 1e-4  # of a sum that is left of its terms
STARTS = ("auto", "null")


@dataclass(frozen=True)
class Model:
    """What is to be fitted.

    ``alpha`` multiplies the penalty of the mean loss; ``lamduh`` is the sum form, alpha = lamduh / sum of weights. Give
    one of them. ``l1_ratio`` is the share of L1 (1 for ``l1``, 0 for ``l2``).
    """

    family: Family
    penalty: str = "none"
    alpha: float | None = None
    lamduh: float | None = None
    l1_ratio: float = 0.5
    intercept: bool = True
    standardize: bool = False

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            raise unknown("--penalty", self.penalty, PENALTIES)
        for name, value in (("--alpha", self.alpha), ("--lamduh", self.lamduh)):
            if value is not None and not 0 <= value < np.inf:
                raise UsageError(name, value, "must be 0 or more")
        if self.alpha is not None and self.lamduh is not None:
            raise UsageError("--lamduh", self.lamduh, "given together with --alpha: give one of them")
        if not 0 <= self.l1_ratio <= 1:
            raise UsageError("--l1-ratio", self.l1_ratio, "must be 0 to 1")

    @property
    def share(self) -> float:
        """The share of L1 in the penalty that was asked for."""
        return {"none": 0.0, "l1": 1.0, "l2": 0.0}.get(self.penalty, self.l1_ratio)

    @property
    def penalised(self) -> bool:
        return self.penalty != "none" and (self.alpha or self.lamduh or 0.0) > 0

    @property
    def has_l1(self) -> bool:
        return self.penalised and self.share > 0

    def strength(self, weight: float) -> float:
        """Return alpha for rows of total weight W."""
        if self.penalty == "none":
            return 0.0
        return self.alpha if self.alpha is not None else (self.lamduh or 0.0) / weight


@dataclass(frozen=True)
class Fit:
    """A finished fit. ``coefficients`` (p,) without the intercept, 0 where a column was left out."""

    coefficients: Array
    intercept: float | None
    status: str
    objective: float
    null_objective: float
    start: str
    alpha: float
    weight: float
    certificate: Certificate
    passes: int
    iterations: list[Iteration]
    dropped: list[str]
    notes: list[str]
    direction: Array | None = None


@dataclass(frozen=True)
class Limits:
    """Where to start, when to stop, and what to tell on the way.

    ``start`` is one of ``STARTS``: ``auto`` draws a sample where the rows are enough for one. ``on_pass`` is called
    after every new pass, ``on_iteration`` after each step with its row and the objective of the null model.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    max_passes: int = 1000
    start: str = "auto"
    on_pass: Callable[[Problem], None] | None = None
    on_iteration: Callable[[Iteration, float], None] | None = None


def fit(
    rows: Rows,
    names: Sequence[str],
    model: Model,
    solver: Solver,
    limits: Limits | None = None,
    journal: Sequence[Recorded] = (),
    locate: Callable[[int], str] = "row {}".format,
    target: str = "y",
    seen: Scan | None = None,
) -> Fit:
    """Fit ``model`` on ``rows``, whose columns are ``names``, after a leading column of ones for an intercept.

    ``seen`` is the scan of these rows, where whoever loaded them has made it.

    Ctrl-C ends the fit at its last iterate, with status ``interrupted``.

    Raises
    ------
    DataError
        Values that are not finite or outside the family's range, and data that no model can be fitted to.
    """
    limits = limits or Limits()
    family, first = model.family, int(model.intercept)
    if seen is None:
        (seen,) = rows.sum(scan, family)
    labels = ["intercept"] * first + list(names)
    notes = refuse(seen, labels, model, locate, target)
    if len(labels) > MOST_COLUMNS:
        raise DataError("columns", len(labels), f"more than {MOST_COLUMNS}, whose Gram matrix no driver should hold")

    level, extra = null_intercept(rows, model, seen)
    factors = np.ones(len(labels))
    factors[:first] = 0.0
    sd = np.where(seen.deviation > 0, seen.deviation, 1.0)
    alpha = model.strength(seen.weight)
    penalty = elastic_net(alpha, model.share, factors, sd if model.standardize else None)
    begin, began = np.zeros(len(labels)), "null model"
    sample: Rows | None = None
    begin[:first] = level
    if limits.start != "null" and (count := sample_rows(rows.rows, len(labels))):
        null = begin
        begin, began, sample = sample_start(rows, names, model, alpha, count) or (begin, began, None)
        extra += 1
        if sample is not None:
            null_objective, more = null_loss(rows, model, seen, level)
            extra += more

    problem = Problem(rows, family, penalty, seen.weight, journal, limits.on_pass, 1 + extra, sample)
    start = problem.at(begin, hessian=True, ranges=solver.ranges)
    if sample is not None and not start.objective <= null_objective:
        # Rows that were not drawn tell another story: one far out, a rare class.
        begin, began, problem.sample = null, "null model", None
        start = problem.at(begin, hessian=True, ranges=solver.ranges)
    if not np.isfinite(start.objective):
        cure = "not finite where all coefficients are 0: rescale the target or the offset"
        raise DataError("mean loss", f"{start.objective:g}", cure)
    kept, dropped, dropped_notes = _kept(problem, start, seen, labels, model)
    if not kept.size:
        raise DataError("columns", None, "0 in every row: nothing to fit: add --intercept, or name others")
    notes += dropped_notes
    if dropped:
        problem.rows = Columns(rows, kept)
        problem.sample = problem.sample and Columns(problem.sample, kept)
        problem.penalty = penalty.take(kept)
        if begin[dropped].any():
            start = problem.at(begin[kept], hessian=True, ranges=solver.ranges)
        else:
            start = _restrict(start, kept, problem)
    if began == "null model":
        null_objective = start.objective

    largest = np.maximum(np.abs(seen.smallest), np.abs(seen.largest))
    certifier = Certifier(problem, largest[kept], seen.largest_offset, Frame.of(seen, kept))
    certifier(start)  # whose Hessian then serves solvers that trace no point with one
    told = limits.on_iteration
    trace = Trace(problem, certifier, told and (lambda row: told(row, null_objective)))
    varying = np.where(seen.constant, 0.0, seen.deviation)
    stop = StoppingRule(trace, limits.tolerance, null_objective, limits.max_passes, varying[kept])
    try:
        solution = solver.solve(problem, start, stop, trace)
        if not isinstance(solution, Solution):
            raise UsageError(
                "solver", solver.name, f"returned {type(solution).__name__}: return Solution(point, status)"
            )
        if not trace.iterations:
            trace(solution.point)
        status = stop.settle(solution)
        if status == "optimal" and not family.self_concordance and certifier.ill_conditioned:
            solution = Solution(refine(problem, replace(solution.point, hessian=start.hessian)), status)
            trace(solution.point)
    except KeyboardInterrupt:
        if not trace.iterations:
            raise
        solution, status = Solution(trace.iterations[-1].point, "interrupted"), "interrupted"

    full = np.zeros(len(labels))
    full[kept] = solution.point.beta
    notes += stop.notes
    direction = None
    if stop.direction is not None:
        direction = np.zeros(len(labels))
        direction[kept] = stop.direction
        notes.append(_separation_note(direction, labels, sd))
    return Fit(
        coefficients=full[first:],
        intercept=float(full[0]) if first else None,
        status=status,
        objective=solution.point.objective,
        null_objective=null_objective,
        start=began,
        alpha=alpha,
        weight=seen.weight,
        certificate=trace.iterations[-1].certificate,
        passes=problem.passes,
        iterations=trace.iterations,
        dropped=[labels[j] for j in dropped],
        notes=notes,
        direction=direction,
    )


def refuse(seen: Scan, labels: Sequence[str], model: Model, locate: Callable[[int], str], target: str) -> list[str]:
    """Raise DataError for rows that cannot be fitted; return warnings about those that can."""

    def at(place: Place) -> str:
        value = int(place.value) if np.isfinite(place.value) and place.value == int(place.value) else place.value
        return f"{value} in {locate(place.row)}"

    not_finite = "not finite: drop or fill these rows"
    family = model.family
    if seen.bad_x:
        raise DataError(f"column {labels[seen.bad_column]}", at(seen.bad_x), not_finite)
    for name, place in ((f"target {target}", seen.bad_y), ("weights", seen.bad_weight), ("offset", seen.bad_offset)):
        if place:
            raise DataError(name, at(place), not_finite)
    if seen.negative_weight:
        raise DataError("weights", at(seen.negative_weight), "weights must be 0 or more")
    if seen.weight == 0:
        raise DataError("weights", None, "their sum is 0")
    if seen.outside:
        cure = f"{family.name} takes {family.takes}"
        if family.name == "binomial" and 0 < seen.outside.value < 1:
            cure = "proportions need --weights, the numbers of their trials"
        if family.name == "binomial" and seen.outside.value == -1:
            cure += ": map -1 to 0"
        raise DataError(f"target {target}", at(seen.outside), cure)
    only = seen.target_smallest
    if only == seen.target_largest and not np.isfinite(family.predictor(only)):
        raise DataError(f"target {target}", None, f"only the value {only:g}: nothing to fit")
    if not model.penalised:
        remedy = "add --penalty l2 --alpha A"
        if seen.rows == 1:
            raise DataError("rows", 1, f"one row fits any line: {remedy}")
        if len(labels) > seen.rows:
            raise DataError("columns", len(labels), f"more than the {seen.rows} rows: {remedy}")
    largest = np.maximum(np.abs(seen.smallest), np.abs(seen.largest))
    with np.errstate(over="ignore", under="ignore"):
        square = largest * largest * seen.weight
    for j in map(int, np.flatnonzero(~np.isfinite(square) | ((square < np.finfo(float).tiny) & (largest > 0)))):
        word = "finite" if largest[j] > 1 else "above zero"
        raise DataError(f"column {labels[j]}", f"{largest[j]:g}", f"its square is not {word}: rescale the column")
    if family.name == "poisson" and seen.not_whole:
        return [f"warning: target {target}: {seen.not_whole} values are not whole: fitted as rates"]
    return []


def null_intercept(rows: Rows, model: Model, seen: Scan) -> tuple[float, int]:
    """Return the intercept of the model without any column, and the passes it took.

    Without an offset it is g(weighted mean of y). With one it takes scalar Newton steps on g(mean mu) = g(mean y), a
    straight line where the offsets are alike; a step that leaves the bracket goes to its middle instead.
    """
    if not model.intercept:
        return 0.0, 0
    family, W = model.family, seen.weight
    mean = seen.target_sum / W
    wanted = family.predictor(mean)
    if seen.largest_offset == 0:
        return wanted, 0
    level = wanted - seen.offset_sum / W
    low, high = wanted - seen.largest_offset, wanted + seen.largest_offset
    passes = 0
    while passes < _MOST_NULL_STEPS:
        passes += 1
        _, slope, curvature = rows.sum(kernels.intercept_terms, family, level)
        low, high = (low, level) if slope > 0 else (level, high)
        with np.errstate(all="ignore"):
            now = family.predictor(mean + slope / W)
            (_, _, bend) = family.terms(np.array([mean]), np.array([now]))
            step = (wanted - now) * float(bend[0]) * W / curvature
        new = level + step if low <= level + step <= high else (low + high) / 2
        level, step = new, new - level
        if abs(step) <= 1e-9 * (1 + abs(level)):
            break
    return float(level), passes


def null_loss(rows: Rows, model: Model, seen: Scan, level: float) -> tuple[float, int]:
    """Return the mean loss of the model with nothing but an intercept, and the passes it took.

    None without an offset, for with a canonical link l(y, eta) = l(y, 0) - y eta + l(0, eta) - l(0, 0); one where that
    would cancel too many digits.
    """
    if seen.largest_offset == 0:
        at_zero = model.family.loss(np.zeros(2), np.array([level, 0.0]))
        found = (seen.loss_at_zero - level * seen.target_sum) / seen.weight + float(at_zero[0] - at_zero[1])
        if found > _CANCELLED * seen.loss_at_zero / seen.weight:
            return found, 0
    return float(rows.sum(kernels.intercept_terms, model.family, level)[0]) / seen.weight, 1


def sample_start(
    rows: Rows, names: Sequence[str], model: Model, alpha: float, count: int
) -> tuple[Array, str, Rows] | None:
    """Return the fit of about ``count`` drawn rows, a name for it, and those rows; None where it has no answer.

    One pass. The sample is fitted to a hundredth of its own distance from the optimum of all rows.
    """
    (drawn,) = rows.sum(draw, max(rows.rows // max(count, 1), 1))
    sample = SampleRows(drawn)
    if not sample.rows:
        return None
    near = Limits(Tolerance(rel_gap=1e-2 * (len(names) + 1) / sample.rows), start="null")
    try:
        found = fit(sample, names, replace(model, alpha=alpha, lamduh=None), SOLVERS["proximal_newton"], near)
    except DataError:  # one class only, say, of one that is rare
        return None
    if found.status == "interrupted":
        raise KeyboardInterrupt
    if found.status not in ("optimal", "converged"):
        return None
    beta = found.coefficients if found.intercept is None else np.append(found.intercept, found.coefficients)
    return beta, f"fit on {sample.rows} sampled rows", sample


def _kept(
    problem: Problem, start: Point, seen: Scan, labels: Sequence[str], model: Model
) -> tuple[NDArray[np.intp], list[int], list[str]]:
    """Return which columns stay, which go, and why: those that no L2 part makes unique and that repeat earlier ones."""
    notes, penalty = [], problem.penalty
    constant = seen.constant.copy()
    constant[: int(model.intercept)] = False
    if not model.intercept:
        constant &= seen.largest == 0
    gone = [int(j) for j in np.flatnonzero(constant)]
    for j in gone:
        why = "same as the intercept" if model.intercept else "says nothing"
        notes.append(f"warning: column {labels[j]} (constant {seen.largest[j]:g}): {why}: coefficient set to 0")
    rest = np.setdiff1d(np.arange(len(labels)), gone)

    def repeats(H: Array) -> list[int]:
        # Under an L1 part the choice among collinear columns is the penalty's own.
        found = aliased(H[np.ix_(rest, rest)] + np.diag(penalty.l2[rest]))
        return [int(rest[j]) for j in found if penalty.l1[rest[j]] == 0]

    repeated = repeats(start.hessian)  # type: ignore[arg-type]
    if repeated and model.family.name != "gaussian":
        # A Hessian can be singular because few rows have curvature; the columns' own Gram matrix decides.
        repeated = repeats(problem.sum(kernels.hessian, FAMILIES["gaussian"], start.beta)[2] / problem.weight)
    if repeated:
        names = ", ".join(labels[j] for j in repeated)
        notes.append(f"warning: columns {names}: collinear with earlier ones: their coefficients are set to 0")
    dropped = sorted([*gone, *repeated])
    return np.setdiff1d(np.arange(len(labels)), dropped), dropped, notes


def _restrict(start: Point, kept: NDArray[np.intp], problem: Problem) -> Point:
    beta = start.beta[kept]
    H = start.hessian[np.ix_(kept, kept)]  # type: ignore[index]
    parts = None if start.parts is None else start.parts.take(kept)
    return Point(beta, start.loss, start.gradient[kept], H, start.loss + problem.penalty.value(beta), parts)


def _separation_note(direction: Array, labels: Sequence[str], sd: Array) -> str:
    effect = np.abs(direction) * sd
    order = [j for j in np.argsort(-effect) if effect[j] > 0.05 * effect.max() and labels[j] != "intercept"]
    names = ", ".join(labels[j] for j in order[:5])
    return f"warning: separation by {names}: coefficients grow without end: add --penalty l2 --alpha A"
