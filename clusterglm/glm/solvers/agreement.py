"""Whether lanes of rows are alike, so that some of them can speak for the others.

Where they have rows of different kinds, sorted by the target say, they have different optima, and where the prompt ones
go is of no use to the others: asynchronous rounds are then slower than synchronous ones. Their optima are judged by one
Newton step each from the same point,

    max_c ||d_c - d||^2_H > 0.1 + 4 phi p / W_c,    d_c = -H_c^-1 g_c,    d = -H^-1 g

in units of the mean loss: rows spread at random come to phi p / W_c, in the mean.
"""

from __future__ import annotations

import numpy as np

from clusterglm.glm.algebra import solve
from clusterglm.glm.problem import Point, Problem, Ranges

_APART, _BY_CHANCE = 0.1, 4.0


def disagreement(problem: Problem, point: Point) -> float:
    """Return how far apart the lanes' optima lie, 1 for as far as rounds without some of them can do with."""
    parts, H = point.ranges, point.hessian
    assert parts.hessian is not None
    assert H is not None
    l2, phi = np.diag(problem.penalty.l2), 2 * point.loss if problem.family.has_dispersion else 1.0
    whole, most = solve(H + l2, point.gradient), 0.0
    for w, g, H_c in zip(parts.weight, parts.gradient, parts.hessian, strict=True):
        if w > 0:
            d = solve(H_c / w + l2, g / w) - whole
            by_chance = phi * len(d) / (w * problem.weight)
            most = max(most, float(d @ H @ d) / (_APART + _BY_CHANCE * by_chance))
    return float(np.sqrt(most)) if np.isfinite(most) else np.inf


def refusal(solver: str, apart: float) -> str:
    """Return the note of a fit that goes on without ``solver``."""
    return (
        f"note: {solver}: the rows of the worker threads are of different kinds: their optima lie {apart:.2g} times as "
        "far apart as it can gain from: going on by proximal_newton"
    )


def as_one(problem: Problem, members: list[int]) -> Point:
    """Return the point that these lanes, which have answered about the newest one, make for all of them."""
    reports = [problem.lanes.reports[i] for i in members]
    weight = sum(r.weight for r in reports)
    w, losses, g = (np.array(v) / weight for v in zip(*((r.weight, r.loss, r.gradient) for r in reports), strict=True))
    H = None if reports[0].hessian is None else np.array([r.hessian for r in reports]) / weight
    beta, loss = reports[0].beta, float(losses.sum())
    whole = None if H is None else H.sum(axis=0)
    objective = loss + problem.penalty.value(beta)
    return Point(beta, loss, g.sum(axis=0), whole, objective, Ranges(w, g, H))
