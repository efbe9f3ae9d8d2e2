"""Consensus ADMM in the metric of the Hessian, one Newton step a round on every local problem.

    minimise  sum_c f_c(x_c) + Omega(z)  subject to  x_c = z,   c = 1..N ranges of rows

    x_c <- z - (H_c + M_c)^-1 (g_c(z) + y_c)       one Newton step on  f_c(x) + y_c'x + 1/2 ||x - z||^2_{M_c}
    x^_c = 1.8 x_c - 0.8 z                         over-relaxation
    z  <- argmin Omega(z) - (sum y_c)'z + 1/2 sum_c ||z - x^_c||^2_{M_c}
    y_c <- y_c + M_c (x^_c - z),                   M_c = rho w_c M,  w_c = W_c / W

Boyd, Parikh, Chu, Peleato and Eckstein (2011), "Distributed optimization and statistical learning via ADMM", Found.
Trends Mach. Learn. 3(1), sections 3.1, 3.4.3, 4.3 and 7; the metric: Giselsson and Boyd (2017), IEEE TAC 62(2).

f_c carries the 1/W, so sum f_c = f. M is the Hessian and H_c are those of the local problems where both were last
taken, so the iteration does not depend on n nor on the columns' units, and rho stays 1 unless a round goes astray. The
step starts at z and not at the last x_c: near the optimum the two are the same to second order, a range of one class
alone does not run away, and one gradient a round serves the step and the certificate. The duals start at y_c = -g_c(z),
where z would be optimal for every local problem: ranges that differ (rows sorted by the target) agree from the start.

The N local problems are ranges of rows fixed by the size of the data alone. Workers send g_c, and H_c when it is taken;
the p x p algebra is the driver's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import inverse_root, scales
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.quadratic import minimise
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_RELAXATION = 1.8
_RIDGE = 1e-8  # relative to the diagonal: keeps the metric definite and free of units
_FAR = 0.05  # squared move since the Hessians were taken, beside the objective, above which they are taken anew
_STIFFER = 4.0  # growth of rho when a round ends above the start
_NOISE = 1e-10  # relative change of the objective that may be rounding of the sums


def admm(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    if start.parts is None:
        start = problem.at(start.beta, hessian=True, ranges=True)
    rho, point, origin = 1.0, start, start  # ``origin``: where the Hessians were taken
    M, inverses = metric(origin, rho)
    g, w = start.ranges.gradient, start.ranges.weight
    y = -g
    while not (status := stop(trace(point, rho))):
        relaxed = point.beta - _RELAXATION * np.einsum("cij,cj->ci", inverses, g + y)
        z = minimise(M, -y.sum(axis=0), w @ relaxed, problem.penalty)
        y = y + w[:, None] * ((relaxed - z) @ M)
        moved = z - origin.beta
        renew = bool(problem.family.self_concordance and moved @ M @ moved > rho * _FAR * point.objective)
        point = problem.at(z, hessian=renew, ranges=True)
        if not point.objective <= start.objective * (1 + _NOISE):
            # The local models do not hold as far as this: again from where they were made, in shorter steps.
            rho, point = rho * _STIFFER, origin
            M, inverses = metric(origin, rho)
            y = -origin.ranges.gradient
        elif renew:
            origin = point
            M, inverses = metric(origin, rho)
        g = point.ranges.gradient
    return Solution(point, status)


def metric(point: Point, rho: float) -> tuple[Array, Array]:
    """Return rho M, the Hessian with a small ridge, and (H_c + rho w_c M)^-1 of every local problem, (N, p, p)."""
    H = point.hessian
    assert H is not None
    assert point.ranges.hessian is not None
    M = rho * (H + np.diag(_RIDGE * scales(H) ** 2))
    roots = [inverse_root(H_c + w * M) for H_c, w in zip(point.ranges.hessian, point.ranges.weight, strict=True)]
    return M, np.stack([np.zeros_like(M) if R is None else R @ R.T for R in roots])  # None: a range without weight
