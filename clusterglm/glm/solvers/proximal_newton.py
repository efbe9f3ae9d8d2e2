"""Proximal Newton on the aggregated Gram matrix.

    minimise  P(beta) = f(beta) + Omega(beta)

    z = argmin 1/2 (z - beta)' H (z - beta) + g'(z - beta) + Omega(z),    beta <- beta + t (z - beta),  t = 1, 1/2, ...

Lee, Sun and Saunders (2014), "Proximal Newton-type methods for minimizing composite functions", SIAM J. Optim. 24(3);
Friedman, Hastie and Tibshirani (2010), JSS 33(1). The inner problem is p x p and costs no pass; one pass per step.
"""

from __future__ import annotations

import numpy as np

from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.quadratic import minimise
from clusterglm.glm.solvers.line_search import halve
from clusterglm.glm.trace import StoppingRule, Trace


def proximal_newton(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    point, t = start, np.nan
    while not (status := stop(trace(point, t))):
        z = minimise(point.hessian, point.gradient, point.beta, problem.penalty)  # type: ignore[arg-type]
        trial, t = halve(problem, point, z - point.beta, hessian=True)
        if trial is None:
            return Solution(point, "stalled")
        point = trial
    return Solution(point, status)
