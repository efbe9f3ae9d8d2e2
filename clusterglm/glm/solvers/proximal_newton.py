"""Proximal Newton on the aggregated Gram matrix.

    minimise  P(beta) = f(beta) + Omega(beta)

    z = argmin 1/2 (z - beta)' H (z - beta) + g'(z - beta) + Omega(z),    beta <- beta + t (z - beta),  t = 1, 1/2, ...

Lee, Sun and Saunders (2014), "Proximal Newton-type methods for minimizing composite functions", SIAM J. Optim. 24(3);
Friedman, Hastie and Tibshirani (2010), JSS 33(1). The inner problem is p x p and costs no pass; one pass per step.

Where the fit began with a sample of the rows, H is moved to the middle of the step by what the sample's Hessian changes
there: H(beta) + H_s(beta + d/2) - H_s(beta). A Newton step with the Hessian of its middle converges cubically (Homeier
2003, J. Comput. Appl. Math. 157); the sample's part in it is a difference that vanishes at the optimum.

A pass with the Hessian costs two to a hundred gradient passes, so H is taken anew only while that pays (Shamanskii
1967): gradients are always exact, and with H from delta = ||beta - beta*||_H away every step shrinks the distance by a
factor of about kappa delta. The decrements d'Hd of two steps, d = z - beta, tell that factor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from clusterglm.glm.algebra import definite
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.line_search import halve
from clusterglm.glm.trace import StoppingRule, Trace

_SLOW = 0.1  # expected factor above which the next point gets a Hessian of its own


def proximal_newton(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    point, t, before = start, np.nan, start.objective
    H: Any = start.hessian
    while not (status := stop(trace(point, t))):
        fresh = point.hessian is not None
        H = point.hessian if fresh else H
        d = straight = problem.step(point if fresh else replace(point, hessian=H))
        if fresh and problem.sample is not None:
            bent = H + problem.bend(point.beta, d / 2)
            if definite(bent - H / 2):  # else the sample sees other rows than those that matter here
                d = minimise(bent, point.gradient, point.beta, problem.penalty) - point.beta
        decrement = float(d @ H @ d)
        renew = t < 1 or shrinks(decrement, before, fresh) > _SLOW
        if renew and fresh and point is not start:
            problem.every = 1  # a Hessian taken right here should do better: the rows that it is of mislead
        trial, t = halve(problem, point, d, hessian=renew and not problem.family.quadratic)
        if trial is None and d is not straight:
            trial, t = halve(problem, point, straight, hessian=True)
        if trial is None:
            if fresh:
                return Solution(point, "stalled")
            trial, t = problem.at(point.beta, hessian=True), 0.0
        point, before = trial, decrement
    return Solution(point, status)


def shrinks(decrement: float, before: float, fresh: bool) -> float:
    """Return the factor by which the next step with the H at hand is expected to shrink the distance.

    With an H taken here, quadratic convergence squares the last factor; an older one goes on as it did. In the first
    step ``before`` is the objective, to which a decrement is compared where nothing else is known.
    """
    if not decrement < before:
        return 0.0 if decrement == 0 else 1.0
    return decrement / before if fresh else float(np.sqrt(decrement / before))
