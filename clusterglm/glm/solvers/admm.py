"""Consensus ADMM in the metric of the Hessians, one Newton step a round on every local problem.

    minimise  sum_c f_c(x_c) + Omega(z)  subject to  x_c = z,   c = 1..N ranges of rows

    x_c <- z - (H_c + M_c)^-1 (g_c(z) + y_c)       one Newton step on  f_c(x) + y_c'x + 1/2 ||x - z||^2_{M_c}
    x^_c = 1.8 x_c - 0.8 z                         over-relaxation
    z  <- argmin Omega(z) - (sum y_c)'z + 1/2 sum_c ||z - x^_c||^2_{M_c}
    y_c <- y_c + M_c (x^_c - z),                   M_c = rho (3/4 H_c + 1/4 w_c H),  w_c = W_c / W,  sum_c M_c = rho H

Boyd, Parikh, Chu, Peleato and Eckstein (2011), "Distributed optimization and statistical learning via ADMM", Found.
Trends Mach. Learn. 3(1), sections 3.1, 3.4 (M_c: the P of 3.4.2), 4.3 and 7; Giselsson and Boyd (2017), IEEE TAC 62(2).

f_c carries the 1/W, so sum f_c = f. H and H_c are the Hessians where they were last taken, so the iteration does not
depend on n nor on the columns' units, and hardly on how rows lie in ranges; the share of H bounds the step of a range
that has no curvature of its own. The step starts at z and not at the last x_c: near the optimum the two are the same to
second order, and one gradient a round serves the step and the certificate. The duals start at y_c = -g_c(z), where z
would be optimal for every local problem: the first round is a proximal Newton step, and rounds lower P if rho is large.

Duals are not scaled by rho, so that it may change between rounds (section 3.4.1). It is 1 unless a round ends above
where the Hessians were taken: the iteration begins again from there with a larger rho, as Marquardt (1963, J. SIAM
11(2)) damps Newton steps, takes Hessians in every round, and lowers rho with each that goes well.

The N local problems are ranges of rows fixed by the size of the data alone. Workers send g_c, and H_c when it is taken;
the p x p algebra is the driver's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import scales
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
RELAXATION = 1.8
_SHARED = 0.25  # share of H in every M_c
_RIDGE = 100 * np.finfo(float).eps  # a column, beside the diagonal: definite and no more, lest flat directions crawl
FAR = 0.05  # squared move since the Hessians were taken, beside the objective, above which they are taken anew
_SLOW = 0.1  # share of the curvature that they miss, above which they are too: relaxation leaves as much of an error
STIFFER = 4.0  # growth of rho when a round goes astray, and its decay when one goes well
NOISE = 1e-10  # relative change of the objective that may be rounding of the sums


def admm(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    if start.parts is None:
        start = problem.at(start.beta, hessian=True, ranges=True)
    point, metric, y = start, Metric(start, 1.0), -start.ranges.gradient
    renew = False
    while not (status := stop(trace(point, metric.rho))):
        step = -RELAXATION * metric.solve(point.ranges.gradient + y)  # x^_c - z
        z = minimise(metric.total, -metric.times(step).sum(axis=0) - y.sum(axis=0), point.beta, problem.penalty)
        y = y + metric.times(point.beta + step - z)
        renew = renew or metric.rho > 1 or metric.squared(z) > FAR * point.objective
        point = problem.at(z, hessian=renew and not problem.family.quadratic, ranges=True)
        if not point.objective <= metric.origin.objective * (1 + NOISE):
            point, renew = metric.origin, False
            metric, y = Metric(point, metric.rho * STIFFER), -point.ranges.gradient
        elif point.hessian is not None:
            metric, renew = Metric(point, max(metric.rho / STIFFER, 1.0)), False
        else:
            renew = metric.misses(point)
    return Solution(point, status)


class Metric:
    """The M_c of a rho and an ``origin``, the point whose Hessians they are; vectors are one a range, (N, p)."""

    def __init__(self, origin: Point, rho: float) -> None:
        H, parts = origin.hessian, origin.ranges
        assert H is not None
        assert parts.hessian is not None
        self.origin, self.rho, self.hessians = origin, rho, parts.hessian
        ridge = _RIDGE * len(H)
        self.total = rho * (H + np.diag(ridge * scales(H) ** 2))
        self.shares = _SHARED * parts.weight[:, None]
        own = 1 + rho * (1 - _SHARED)
        self.inverses = np.zeros_like(parts.hessian)  # of H_c + M_c; a range of weight 0 stays at z
        for c in np.flatnonzero(parts.weight > 0):
            # One row may have most of the curvature and a range hardly any weight: a ridge of its own, lest the rest
            # drown in rounding.
            A = own * parts.hessian[c] + self.shares[c] * self.total
            d = scales(A)
            self.inverses[c] = np.linalg.inv(A / d / d[:, None] + ridge * np.eye(len(d))) / d / d[:, None]

    def times(self, v: Array) -> Array:
        """Return M_c v_c."""
        return self.rho * (1 - _SHARED) * (self.hessians @ v[:, :, None])[:, :, 0] + self.shares * (v @ self.total)

    def solve(self, v: Array) -> Array:
        """Return (H_c + M_c)^-1 v_c."""
        found: Array = (self.inverses @ v[:, :, None])[:, :, 0]
        return found

    def squared(self, beta: Array) -> float:
        """Return ||beta - origin||^2 in H."""
        move = beta - self.origin.beta
        return float(move @ self.total @ move) / self.rho

    def misses(self, point: Point) -> bool:
        """Whether the ranges bend otherwise between the origin and ``point`` than their Hessians say."""
        move = point.beta - self.origin.beta
        told = self.hessians @ move
        missed = point.ranges.gradient - self.origin.ranges.gradient - told
        return bool(np.abs(missed @ move).sum() > _SLOW * (told @ move).sum())
