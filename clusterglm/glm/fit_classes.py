"""From rows of several classes to a certified fit of the multinomial family: the way of fit.py, class by class.

The columns are those of one class; coefficients, and all that there is one of for each of them, are K times as many
(softmax.py). Without a penalty the answer is told less the first class, which is the reference of textbooks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError, UsageError
from clusterglm.glm.algebra import MOST_COLUMNS
from clusterglm.glm.families.softmax import Multinomial, class_weights, gauge
from clusterglm.glm.fit import evaluate, first_point, fit, inferred, kept_columns, restrict, search, separation_note
from clusterglm.glm.inference import Wanted
from clusterglm.glm.inference.classes import infer_classes
from clusterglm.glm.model import LEAST_PASSES, Fit, Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Columns, Point, Problem, Recorded, Rows
from clusterglm.glm.proof.certificate import Certifier
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.scan import Scan, refuse
from clusterglm.glm.solvers import Solver, refuse_classes
from clusterglm.glm.start import Look, Start, first_every, look, sample_start

Array = NDArray[np.float64]


def fit_classes(
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
    """Fit rows whose targets are the numbers of classes; all as in ``fit``.

    Raises
    ------
    UsageError
        A solver that knows no classes, or more coefficients than a Hessian may have.
    DataError
        What ``fit`` refuses, offsets, and classes without a row.
    """
    limits, began, read = limits or Limits(), time.perf_counter(), 0
    first, labels = int(model.intercept), ["intercept"] * int(model.intercept) + list(names)
    refuse_classes(solver, model.family)
    if seen is None:
        seen, read = look(rows, model, len(labels), "null" if limits.begin is not None else limits.start), 1
    scan = seen.scan
    notes = refuse(scan, labels, model, locate, target)
    model, p = _counted(model, scan, len(labels), target), len(labels)
    K = model.family.predictors
    sd = np.where(scan.deviation > 0, scan.deviation, 1.0)
    alpha = model.strength(scan.weight)
    one = model.penalty_of(alpha, labels, sd)
    problem = Problem(rows, model.family, one.repeated(K), scan.weight, journal, limits.on_pass, passes=1, read=read)
    problem.limit = max(limits.max_passes, LEAST_PASSES + 1)
    problem.every = first_every(solver, model.family, rows.rows, p)
    problem.gauge = gauge(one.free, scan.mean**2 + scan.deviation**2, K)
    shares = _shares(problem, K, target)
    start = _start(names, model, alpha, seen, limits, shares, one)
    problem.sample = start.sample
    start, point = first_point(problem, start, solver)
    kept, dropped, dropped_notes = kept_columns(problem, _of_one(point, problem.gauge, K), scan, labels, model)
    if not kept.size:
        raise DataError("columns", None, "0 in every row: nothing to fit: add --intercept, or name others")
    notes += dropped_notes
    flat = _flat(kept, p, K)
    if dropped:
        problem.rows, problem.penalty = Columns(rows, kept), problem.penalty.take(flat)
        problem.sample = problem.sample and Columns(problem.sample, kept)
        problem.gauge = problem.gauge[np.ix_(flat, flat)]
        moved = start.beta[_flat(np.array(dropped), p, K)].any()
        point = evaluate(problem, start.beta[flat], solver) if moved else restrict(point, flat, problem)
    null_objective = point.objective if start.null_objective is None else start.null_objective

    def each(values: Array) -> Array:
        return np.tile(values[kept], K)

    largest = np.maximum(np.abs(scan.smallest), np.abs(scan.largest))
    frame = Frame(each(scan.smallest), each(scan.largest), each(scan.mean), scan.target_sum / scan.weight)
    # Predictors round one by one: what an offset of K - 1 would add to the rounding of one.
    certifier = Certifier(problem, each(largest), K - 1.0, frame)
    varying = each(np.where(scan.constant, 0.0, scan.deviation))
    solution, stop, trace = search(problem, point, solver, certifier, limits, null_objective, varying, began)
    inference = inferred(infer_classes, problem, solution, wanted, labels, kept, start.null, notes)
    full = np.zeros((K, p))
    full[:, kept] = solution.point.beta.reshape(K, -1)
    full[:, one.free] -= full[0, one.free]
    notes += stop.notes
    direction = None
    if stop.direction is not None:
        direction = np.zeros(K * p)
        direction[flat] = stop.direction
        every = [f"{name} of class {k}" for k in range(K) for name in labels]
        notes.append(separation_note(direction, every, np.tile(sd, K)))
    return Fit(
        solver=solver.name,
        family=model.family,
        coefficients=full[:, first:],
        intercept=full[:, 0] if first else None,
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
    )


def _counted(model: Model, scan: Scan, columns: int, target: str) -> Model:
    """Return the model with the number of classes that the rows have told."""
    if scan.largest_offset > 0:
        raise DataError("offset", None, f"{model.family.name} takes none: every class has its own predictor")
    K = model.family.predictors or int(scan.target_largest) + 1
    if K < 2:
        raise DataError(f"target {target}", None, "only one class: nothing to fit")
    if K * columns > MOST_COLUMNS:
        raise UsageError("columns", columns, f"times {K} classes are more than {MOST_COLUMNS} coefficients")
    return replace(model, family=Multinomial(K))


def _shares(problem: Problem, classes: int, target: str) -> Array:
    """Return the share of the weights of every class, (K,); one pass."""
    (weights,) = problem.sum(class_weights, classes)
    for k in np.flatnonzero(weights == 0):
        raise DataError(f"target {target}", f"class {k}", "has no row: number the classes from 0 on, without gaps")
    found: Array = weights / weights.sum()
    return found


def _start(
    names: Sequence[str],
    model: Model,
    alpha: float,
    seen: Look,
    limits: Limits,
    shares: Array,
    one: Penalty,
) -> Start:
    """Return where to begin, as ``start.find_start`` does; the objective of the null model takes no pass."""
    K, first = len(shares), int(model.intercept)
    null = np.zeros((K, len(names) + first))
    null[:, :first] = (np.log(shares) - np.log(shares).mean())[:, None]
    loss = -float((shares * np.log(shares)).sum()) if first else float(np.log(K))

    def centred(beta: Array) -> Array:
        each = beta.reshape(K, -1).copy()
        each[:, one.free] -= each[:, one.free].mean(axis=0)
        return each.ravel()

    if limits.begin is not None:
        if limits.begin.size != null.size:
            raise DataError("--start", None, f"a model of other classes: there are {K} here")
        return Start(centred(limits.begin), "given coefficients", null.ravel(), None, loss)
    found = sample_start(seen.drawn, names, model, alpha, fit) if seen.drawn is not None else None
    if found is None:
        return Start(null.ravel(), "null model", null.ravel())
    beta, sample = found
    return Start(centred(beta), f"fit on {sample.rows} sampled rows", null.ravel(), sample, loss)


def _flat(columns: NDArray[np.intp], p: int, classes: int) -> NDArray[np.intp]:
    """Return the places of these columns' coefficients of all classes."""
    return np.asarray((np.arange(classes)[:, None] * p + columns).ravel())


def _of_one(point: Point, gauge: Array, classes: int) -> Point:
    """Return a point of one predictor with the sum of the classes' own Hessians, which tells what columns repeat."""
    assert point.hessian is not None
    p = len(point.beta) // classes
    blocks = (point.hessian - gauge).reshape(classes, p, classes, p)
    H = np.einsum("kikj->ij", blocks)
    return Point(np.zeros(p), point.loss, np.zeros(p), H, point.objective)
