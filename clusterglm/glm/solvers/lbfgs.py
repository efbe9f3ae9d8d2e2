"""Limited-memory BFGS.

    minimise  P(beta) = f(beta) + 1/2 sum_j l2_j beta_j^2

    beta <- beta - t H_k grad P(beta),   H_k from the last 10 pairs (s, y) by the two-loop recursion, H_k^0 = gamma D^-1

Liu and Nocedal (1989), "On the limited memory BFGS method for large scale optimization", Math. Prog. 45; Nocedal and
Wright (2006), algorithm 7.4. Armijo steps; a pair without enough curvature is skipped. D is the diagonal of the first
Hessian. One pass per accepted step.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.line_search import halve
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_MEMORY = 10


def lbfgs(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    l2 = problem.penalty.l2
    metric = start.curvatures + l2
    metric = np.where(metric > 0, metric, 1.0)
    pairs: deque[tuple[Array, Array]] = deque(maxlen=_MEMORY)
    point, t = start, np.nan
    while not (status := stop(trace(point, t))):
        slope = point.gradient + l2 * point.beta
        trial, t = halve(problem, point, -two_loop(slope, pairs, metric))
        if trial is None:
            if not pairs:
                return Solution(point, "stalled")
            pairs.clear()  # a direction spoilt by rounding: begin again from the gradient
            continue
        s, y = trial.beta - point.beta, trial.gradient + l2 * trial.beta - slope
        if s @ y > 1e-10 * np.sqrt((s * metric) @ s * (y / metric) @ y):
            pairs.append((s, y))
        point = trial
    return Solution(point, status)


def two_loop(slope: Array, pairs: deque[tuple[Array, Array]], metric: Array) -> Array:
    """Return H_k times ``slope`` (Nocedal and Wright 2006, algorithm 7.4)."""
    q = slope.copy()
    shares = []
    for s, y in reversed(pairs):
        share = (s @ q) / (s @ y)
        shares.append(share)
        q -= share * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ (y / metric))
    q /= metric
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q += (share - (y @ q) / (s @ y)) * s
    return q
