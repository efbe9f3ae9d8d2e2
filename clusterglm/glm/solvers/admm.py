"""Consensus ADMM in the metric of the Hessian, one Newton step a round on every local problem.

    minimise  sum_c f_c(x_c) + Omega(z)   subject to  x_c = z,   c = 1..N ranges of rows,  w_c = W_c / W

    x_c <- one damped Newton step on  f_c(x) + 1/2 ||x - z + u_c||^2_{w_c M}      where the rows are
    x^_c = 1.6 x_c - 0.6 z                                                       over-relaxation
    z  <- argmin Omega(z) + 1/2 ||z - v||^2_M,   v = sum_c w_c (x^_c + u_c)       p x p, on the driver
    u_c <- u_c + x^_c - z

Boyd, Parikh, Chu, Peleato and Eckstein (2011), "Distributed optimization and statistical learning via ADMM", Found.
Trends Mach. Learn. 3(1), sections 5.2, 7 and 3.4.3; the metric: Giselsson and Boyd (2017), IEEE TAC 62(2). f_c carries
the 1/W, so sum f_c = f, and M is the Hessian at the start: the iteration does not depend on n nor on the columns'
units, and needs no rho. The N local problems are ranges of rows fixed by the size of the data alone. Each round reads
the rows once: the local step and, for the certificate, loss and gradient at z.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels
from clusterglm.glm.algebra import scales, solve
from clusterglm.glm.families import Family
from clusterglm.glm.problem import Point, Problem, Rows, Solution
from clusterglm.glm.quadratic import minimise
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_RELAXATION = 1.6
_RIDGE = 1e-8  # relative to the diagonal: keeps the metric definite and free of units
_HALVINGS = 30
_MOST_STEPS = 5
_SMALL = 0.2  # decrement of the local objective per unit weight below which one Newton step is enough
_RENEWALS = (2, 4)  # rounds after which the metric is taken anew, near the optimum: two more passes


def admm(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    N, p = problem.local_problems, len(start.beta)
    M = metric(start)
    z, x, u = start.beta, np.tile(start.beta, (N, 1)), np.zeros((N, p))
    for round_number in count(1):
        states = list(zip(x, u, strict=True))
        x, losses, gradients, weights = problem.each(local_step, states, problem.family, z, M, problem.weight)
        point = problem.point(z, losses.sum(), gradients.sum(axis=0))
        if status := stop(trace(point)):
            return Solution(point, status)
        relaxed = _RELAXATION * x + (1 - _RELAXATION) * z
        v = (weights / problem.weight) @ (relaxed + u)
        z = minimise(M, np.zeros(p), v, problem.penalty)
        u = u + relaxed - z
        if round_number in _RENEWALS and problem.family.self_concordance:
            old, M = M, metric(problem.at(z, hessian=True))
            u = np.stack([solve(M, old @ c) for c in u])  # the duals w_c M u_c stay what they are
    raise AssertionError  # pragma: no cover


def metric(point: Point) -> Array:
    """Return M: the Hessian with a small ridge."""
    H = point.hessian
    assert H is not None
    return H + np.diag(_RIDGE * scales(H) ** 2)


def local_step(
    rows: Rows, state: tuple[Array, Array], family: Family, z: Array, M: Array, W: float
) -> tuple[Any, Any, Any, Any]:
    """Return x_c after its Newton step, and the sums of loss, gradient and weight over these rows at z."""
    x, u = state
    total, score, H, total_z, score_z, weight = rows.sum(kernels.consensus, family, x, z)
    M = weight / W * M
    for _ in range(_MOST_STEPS):
        pull = x - z + u
        slope = score / W + M @ pull
        direction = -solve(H / W + M, slope)
        decrement = -float(slope @ direction)
        if decrement <= _SMALL * weight / W or not family.self_concordance:
            return x + direction, total_z, score_z, weight
        # The quadratic model is poor here (a range of one class, Poisson far out): check the step, and step once more,
        # for over-relaxation does not forgive a local problem that is far from solved.
        before = total / W + 0.5 * pull @ M @ pull
        for t in 0.5 ** np.arange(_HALVINGS):
            moved = pull + t * direction
            total, score, H = rows.sum(kernels.hessian, family, x + t * direction)
            if total / W + 0.5 * moved @ M @ moved <= before - 1e-4 * t * decrement:
                break
        x = x + t * direction
    return x, total_z, score_z, weight
