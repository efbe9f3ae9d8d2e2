"""Gradient descent with Barzilai-Borwein steps and a non-monotone line search.

    minimise  P(beta) = f(beta) + 1/2 sum_j l2_j beta_j^2

    beta <- beta - s D^-1 grad P(beta),    s = <db, D db> / <db, dg> of the last step,  D = diag of the first Hessian

Raydan (1997), "The Barzilai and Borwein gradient method for the large scale unconstrained minimization problem", SIAM
J. Optim. 7(1). D makes the iteration free of the columns' units. One pass per accepted step.
"""

from __future__ import annotations

import numpy as np

from clusterglm.glm.algebra import largest_eigenvalue, scales
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.line_search import halve
from clusterglm.glm.trace import StoppingRule, Trace

_MEMORY = 10  # objectives that the non-monotone search looks back on


def gradient_descent(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    l2 = problem.penalty.l2
    H = start.hessian + np.diag(l2)  # type: ignore[operator]
    d = scales(H)
    s = 1.0 / largest_eigenvalue(H / d / d[:, None])
    point, recent = start, [start.objective]
    while not (status := stop(trace(point, s))):
        slope = point.gradient + l2 * point.beta
        trial, _ = halve(problem, point, -s * slope / d**2, reference=max(recent))
        if trial is None:
            return Solution(point, "stalled")
        moved, change = trial.beta - point.beta, trial.gradient + l2 * trial.beta - slope
        bent = float(moved @ change)
        s = float(moved @ (d**2 * moved)) / bent if bent > 0 else s
        point, recent = trial, [*recent, trial.objective][-_MEMORY:]
    return Solution(point, status)
