"""Limited-memory BFGS.

    minimise  P(beta) = f(beta) + 1/2 sum_j l2_j beta_j^2

    beta <- beta - t H_k grad P(beta),   H_k from the last 10 pairs (s, y) by the two-loop recursion,
                                         H_k^0 = gamma M^-1,  M = Hessian of P at the start; its diagonal for more than
                                         4,000 columns and where it is singular

Liu and Nocedal (1989), "On the limited memory BFGS method for large scale optimization", Math. Prog. 45; Nocedal and
Wright (2006), algorithm 7.4, which leaves H_k^0 free: in this metric the iteration does not depend on the columns'
units nor on their correlations. Armijo steps; a pair without enough curvature is skipped. One pass per accepted step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import inverse_root
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.line_search import halve
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_MEMORY = 10


def lbfgs(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    l2 = problem.penalty.l2
    metric = inverse_metric(start, l2)
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
        # Along s the objective bends by s'y; less than this of what M^-1 makes of y is rounding.
        if s @ y > 1e-10 * (y @ metric(y)):
            pairs.append((s, y))
        point = trial
    return Solution(point, status)


def inverse_metric(start: Point, l2: Array) -> Callable[[Array], Array]:
    """Return v -> M^-1 v, v (p,), for the Hessian at the start or its diagonal."""
    root = None if start.hessian is None else inverse_root(start.hessian + np.diag(l2))
    if root is not None:
        return lambda v: root @ (v @ root)
    d = start.curvatures + l2
    d = np.where(d > 0, d, 1.0)
    return lambda v: v / d


def two_loop(slope: Array, pairs: deque[tuple[Array, Array]], metric: Callable[[Array], Array]) -> Array:
    """Return H_k times ``slope`` (Nocedal and Wright 2006, algorithm 7.4)."""
    q = slope.copy()
    shares = []
    for s, y in reversed(pairs):
        share = (s @ q) / (s @ y)
        shares.append(share)
        q -= share * y
    q = metric(q)
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ metric(y))
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q += (share - (y @ q) / (s @ y)) * s
    return q
