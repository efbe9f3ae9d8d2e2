"""Asynchronous consensus ADMM: a partial barrier, with every lane of rows a local problem.

    minimise  sum_c f_c(x_c) + Omega(z)  subject to  x_c = z,       c: the rows of one worker thread

    x_c <- z_c - (H_c + M_c)^-1 (g_c(z_c) + y_c),  x^_c = 1.8 x_c - 0.8 z_c      of those that have answered, about z_c
    z   <- argmin Omega(z) - (sum y_c)'z + 1/2 sum_c ||z - x^_c||^2_{M_c}         with the last x^_c of the others
    y_c <- y_c + M_c (x^_c - z)                                                   of those that have answered

Zhang and Kwok (2014), "Asynchronous distributed ADMM for consensus optimization", ICML: the master goes on when some of
the workers have answered, and waits for those that are too late. Here it goes on with the prompt ones until z settles,
and then waits for all at one point: no delay is longer, and that pass has the certificate. Metric, relaxation and the
start of the duals are those of ``admm``. From the null model the prompt lanes find their consensus first.

Where lanes disagree (agreement.py) such rounds are slower than synchronous ones, and proximal Newton fits them instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import definite
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.admm import FAR, NOISE, RELAXATION, STIFFER, Metric
from clusterglm.glm.solvers.agreement import as_one, disagreement, refusal
from clusterglm.glm.solvers.proximal_newton import proximal_newton
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_NEAR = 0.3  # of the distance that the tolerance allows, at which z has settled
_MOST_ROUNDS, _SPARE = 20, 4


def async_admm(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    if (apart := disagreement(problem, start)) > 1:
        stop.notes.append(refusal("async_admm", apart))
        return proximal_newton(problem, start, stop, trace)
    point, consensus = start, Consensus(start, 1.0)
    while not (status := stop(trace(point, consensus.metric.rho))):
        found = _next_point(problem, consensus, point, _NEAR * stop.distance(point))
        if found is None:
            point = point if point.hessian is not None else problem.at(point.beta, hessian=True)
            return proximal_newton(problem, point, stop, trace)
        point = found
        if not point.objective <= consensus.metric.origin.objective * (1 + NOISE):
            point = consensus.metric.origin
            consensus = Consensus(point, consensus.metric.rho * STIFFER)
        elif point.hessian is not None:
            consensus.renew(point)
    return Solution(point, status)


def approach(problem: Problem, beta: Array) -> Array | None:
    """Return the consensus of the prompt lanes, from ``beta`` (p,); None if no lane is slow, or they disagree."""
    lanes = problem.lanes
    if len(lanes.prompt) == len(lanes.lanes) or problem.family.quadratic:
        return None
    problem.ask_lanes(beta, hessian=True)
    members = lanes.fresh
    point = as_one(problem, members)
    if not definite(point.hessian + np.diag(problem.penalty.l2)) or disagreement(problem, point) > 1:  # type: ignore[operator]
        return None
    consensus, rounds = Consensus(point, 1.0), 0
    near = _NEAR * np.sqrt((2 * point.loss if problem.family.has_dispersion else 1.0) * len(beta) / problem.weight)
    while problem.left >= _SPARE and (rounds := rounds + 1) <= _MOST_ROUNDS:
        z, left = consensus.step(problem, point)
        if left <= near:
            return z
        problem.ask_lanes(z, hessian=consensus.far(z, point), moved=consensus.moved)
        if not set(members) <= set(lanes.fresh):
            return z  # late ones: as good a start as any
        point = as_one(problem, members)
        if not point.objective <= consensus.metric.origin.objective * (1 + NOISE):
            point = consensus.metric.origin
            consensus = Consensus(point, consensus.metric.rho * STIFFER)
        elif point.hessian is not None:
            consensus.renew(point)
    return None


class Consensus:
    """The duals y_c and relaxed positions x^_c of local problems, (N, p) each, in the metric of a point's Hessians."""

    def __init__(self, point: Point, rho: float) -> None:
        self.metric, self.y = Metric(point, rho), -point.ranges.gradient
        self.x = np.repeat(point.beta[None], len(self.y), axis=0)
        self.z, self.moved = point.beta, np.nan
        self._newton = True  # with these duals the first step is one of Newton's

    def renew(self, point: Point) -> None:
        """Take the metric of Hessians that are taken here."""
        self.metric = Metric(point, max(self.metric.rho / STIFFER, 1.0))

    def far(self, z: Array, point: Point) -> bool:
        """Whether Hessians from the metric's origin are too old at ``z``."""
        return self.metric.rho > 1 or self.metric.squared(z) > FAR * point.objective or self.metric.misses(point)

    def answer(self, which: list[int], at: Array, gradient: Array) -> None:
        """Take local steps: lanes ``which`` have answered about the points ``at`` (k, p) by their gradients (k, p)."""
        full = np.zeros_like(self.y)
        full[which] = gradient + self.y[which]
        self.x[which] = at - RELAXATION * self.metric.solve(full)[which]

    def agree(self, problem: Problem, which: list[int]) -> float:
        """Find z with the last word of every lane and move the duals of ``which``; return how far z may still go."""
        pull = -self.metric.times(self.x - self.z).sum(axis=0) - self.y.sum(axis=0)
        z = minimise(self.metric.total, pull, self.z, problem.penalty)
        self.y[which] += self.metric.times(self.x - z)[which]
        d, before = z - self.z, self.moved
        self.z, self.moved = z, float(np.sqrt(max(float(d @ self.metric.total @ d), 0.0) / self.metric.rho))
        # Of steps that shrink by a factor r those to come add up to r / (1 - r); a Newton step is squared.
        factor = self.moved if self._newton else self.moved / before if before > 0 else 0.0
        self._newton = False
        return self.moved * (factor / (1 - factor) if factor < 0.9 else np.inf)

    def step(self, problem: Problem, point: Point) -> tuple[Array, float]:
        """Take the steps of a round at which all lanes have answered about ``point``."""
        which = list(range(len(self.y)))
        self.answer(which, np.repeat(point.beta[None], len(which), axis=0), point.ranges.gradient)
        left = self.agree(problem, which)
        return self.z, left


def _next_point(problem: Problem, consensus: Consensus, point: Point, near: float) -> Point | None:
    """Return the point after ``point`` at which all lanes answered; None where that took too long."""
    lanes = problem.lanes
    z, left = consensus.step(problem, point)
    for _ in range(_MOST_ROUNDS):
        since = lanes.step
        far = consensus.far(z, point) and not problem.family.quadratic
        found = problem.ask_lanes(z, hessian=far, everybody=far or left <= near, moved=consensus.moved)
        if found is not None:
            return found
        heard = [i for i, report in lanes.reports.items() if report.step > since]
        reports = [lanes.reports[i] for i in heard]
        consensus.answer(heard, np.array([r.beta for r in reports]), np.array([r.gradient for r in reports]))
        left = consensus.agree(problem, heard)
        z = consensus.z
    return None
