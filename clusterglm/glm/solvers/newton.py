"""Newton's method with step halving.

    minimise  P(beta) = f(beta) + 1/2 sum_j l2_j beta_j^2

    d = -(Hess f + L2)^-1 (grad f + L2 beta),    beta <- beta + t d,  t = 1, 1/2, 1/4, ... (Armijo)

Boyd and Vandenberghe, Convex Optimization (2004), algorithm 9.5. One pass per accepted step: the trial point is
evaluated with everything that the next iteration needs.
"""

from __future__ import annotations

import numpy as np

from clusterglm.glm.algebra import solve
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.line_search import halve
from clusterglm.glm.trace import StoppingRule, Trace


def newton(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    l2 = problem.penalty.l2
    point, t = start, np.nan
    while not (status := stop(trace(point, t))):
        direction = -solve(point.hessian + np.diag(l2), point.gradient + l2 * point.beta)  # type: ignore[operator]
        trial, t = halve(problem, point, direction, hessian=True)
        if trial is None:
            return Solution(point, "stalled")
        point = trial
    return Solution(point, status)
