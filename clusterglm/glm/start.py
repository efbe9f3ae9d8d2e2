"""Where a fit begins: at the fit of a sample of the rows, or at the null model.

The null model has nothing but an intercept; its objective is what gaps are compared to. A sample (sample.py) is drawn
in the pass that looks the rows over, which belongs to loading them, and saves two passes or more. Where rows are drawn
independently, as generated ones are, the first of them are a sample that is had before that pass; which then brings the
sums at its fit too, and saves one more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError
from clusterglm.glm import kernels
from clusterglm.glm.families.family import Family
from clusterglm.glm.kernels import Block
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.problem import Problem, Rows
from clusterglm.glm.sample import Drawn, SampleRows, draw, hessian_every, sample_rows
from clusterglm.glm.scan import Scan, scan
from clusterglm.glm.solvers import SOLVERS, Solver
from clusterglm.glm.trace import Tolerance

Array = NDArray[np.float64]
NULL = "null model"
_MOST_NULL_STEPS = 30
_CANCELLED = 1e-4  # of a sum that is left of its terms
_PASSES_OF_SAMPLE = 2  # and one for its point: the null model's loss, and its point where the sample misleads


class Summed(Protocol):
    """Rows, or a problem that counts the passes over them."""

    def sum(self, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> tuple[Any, ...]: ...


class Met(NamedTuple):
    """The fit ``beta`` (p,) of a ``sample``, and the sums that ``kernel`` found there with ``args`` over all rows."""

    beta: Array
    sample: Rows
    kernel: Callable[..., tuple[Any, ...]]
    args: tuple[Any, ...]
    sums: tuple[Any, ...]


class Look(NamedTuple):
    """What the first pass over the rows brings: their scan, and the rows that it drew, if any; or what it ``met`` at
    the fit of rows that were drawn before it."""

    scan: Scan
    drawn: Drawn | None
    met: Met | None = None


def look(rows: Rows, model: Model, columns: int, which: str) -> Look:
    """Return the scan of the rows, and a sample of them for the start ``which`` of model.STARTS, where they are enough.

    One pass. ``columns`` counts the intercept's.
    """
    if which != "auto" or not (count := sample_rows(rows.rows, columns)):
        return Look(rows.sum(scan, model.family)[0], None)
    return Look(*rows.sum(scan_and_draw, model.family, max(rows.rows // count, 1)))


def look_at_fit(
    rows: Rows, names: Sequence[str], model: Model, solver: Solver, drawn: Drawn, fit: Callable[..., Fit]
) -> Look:
    """Return the scan of rows without weights, of which ``drawn`` are a sample, and what it meets at their fit.

    One pass. Where ``solver`` asks for the local problems' shares of its first point, sums over all rows are no help.
    """
    found = None if solver.in_parts else sample_start(drawn, names, model, model.strength(rows.rows), fit)
    if found is None:
        return Look(rows.sum(scan, model.family)[0], drawn)
    beta, sample = found
    every = first_every(solver, model.family, rows.rows, len(beta))
    kernel, args = kernels.hessian_at(model.family, beta, every)
    seen, *sums = rows.sum(scan_and, model.family, kernel, args)
    return Look(seen, drawn, Met(beta, sample, kernel, args, tuple(sums)))


def scan_and(block: Block, family: Family, kernel: Callable[..., tuple[Any, ...]], args: tuple[Any, ...]) -> Any:
    """Return what ``scan`` and the kernel do."""
    return *scan(block, family), *kernel(block, *args)


def first_every(solver: Solver, family: Family, rows: int, columns: int) -> int:
    """Return k: a fit begins with Hessians of one in k micro-blocks."""
    # Least squares are solved in one step of an exact one.
    return hessian_every(rows, columns) if solver.subsampled and not family.quadratic else 1


def scan_and_draw(block: Block, family: Family, stretch: int) -> tuple[Scan, Drawn]:
    """Return what ``scan`` and ``draw`` do."""
    return *scan(block, family), *draw(block, stretch)


@dataclass(frozen=True)
class Start:
    """Coefficients to begin at, (p,) with the intercept, and a name for them.

    ``sample`` are the drawn rows that they fit; ``null_objective`` is known where the start is not the null model.
    """

    beta: Array
    name: str
    null: Array
    sample: Rows | None = None
    null_objective: float | None = None

    def at_null(self) -> Start:
        """Return the null model in place of a sample that misleads."""
        return Start(self.null, NULL, self.null)


def find_start(
    problem: Problem,
    names: Sequence[str],
    model: Model,
    alpha: float,
    seen: Look,
    fit: Callable[..., Fit],
    begin: Array | None = None,
) -> Start:
    """Return ``begin``, the fit of the drawn rows, or the null model; ``fit`` is what fits a sample.

    At least one pass is left to evaluate the start; and another for the null model, where a sample misleads.
    """
    first = int(model.intercept)
    level = null_intercept(problem, model, seen.scan, problem.left - 1)
    null = np.zeros(len(names) + first)
    null[:first] = level
    if begin is not None and problem.left > _PASSES_OF_SAMPLE:
        return Start(begin, "given coefficients", null, None, null_loss(problem, model, seen.scan, level))
    found = None
    if seen.met is not None:
        found = seen.met.beta, seen.met.sample
    elif seen.drawn is not None and problem.left > _PASSES_OF_SAMPLE:
        found = sample_start(seen.drawn, names, model, alpha, fit)
    if found is None:
        return Start(null, NULL, null)
    beta, sample = found
    null_objective = null_loss(problem, model, seen.scan, level)
    return Start(beta, f"fit on {sample.rows} sampled rows", null, sample, null_objective)


def null_intercept(rows: Summed, model: Model, seen: Scan, most: float = np.inf) -> float:
    """Return the intercept of the model without any column, after ``most`` passes at most.

    Without an offset it is g(weighted mean of y). With one it takes scalar Newton steps: for a canonical link on
    g(mean mu) = g(mean y), a straight line where the offsets are alike. A step that leaves the bracket, which holds
    because scores grow with eta, goes to its middle instead.
    """
    if not model.intercept:
        return 0.0
    family, W = model.family, seen.weight
    mean = seen.target_sum / W
    wanted = family.predictor(mean)
    if seen.largest_offset == 0:
        return wanted
    level = wanted - seen.offset_sum / W
    low, high = wanted - seen.largest_offset, wanted + seen.largest_offset
    for _ in range(int(min(most, _MOST_NULL_STEPS))):
        _, slope, curvature = (float(s) for s in rows.sum(kernels.intercept_terms, family, level))
        low, high = (low, level) if slope > 0 else (level, high)  # not a number where a predictor is not above 0
        with np.errstate(all="ignore"):
            if family.canonical:
                now = family.predictor(mean + slope / W)
                (_, _, bend) = family.terms(np.array([mean]), np.array([now]))
                step = (wanted - now) * float(bend[0]) * W / curvature
            else:
                step = -slope / curvature
        new = level + step if low <= level + step <= high else (low + high) / 2
        level, step = new, new - level
        if abs(step) <= 1e-9 * (1 + abs(level)):
            break
    return float(level)


def null_loss(rows: Summed, model: Model, seen: Scan, level: float) -> float:
    """Return the mean loss of the model with nothing but an intercept.

    Without a pass where there is no offset, for with a canonical link l(y, eta) = l(y, 0) - y eta + l(0, eta) -
    l(0, 0); by one where that would cancel too many digits.
    """
    if seen.largest_offset == 0 and model.family.canonical:
        at_zero = model.family.loss(np.zeros(2), np.array([level, 0.0]))
        found = (seen.loss_at_zero - level * seen.target_sum) / seen.weight + float(at_zero[0] - at_zero[1])
        if found > _CANCELLED * seen.loss_at_zero / seen.weight:
            return found
    return float(rows.sum(kernels.intercept_terms, model.family, level)[0]) / seen.weight


def sample_start(
    drawn: Drawn, names: Sequence[str], model: Model, alpha: float, fit: Callable[..., Fit]
) -> tuple[Array, Rows] | None:
    """Return the fit of the drawn rows, and those rows; None where it has no answer.

    The sample is fitted to a hundredth of its own distance from the optimum of all rows.
    """
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
    return found.beta, sample
