"""Asynchronous proximal Newton: every lane of rows is a quadratic model, as old as its last answer.

    minimise  P(b) = sum_c f_c(b) + Omega(b)            f_c: lane c, the rows of one worker thread

    q_c(b) = f_c(b_c) + g_c'(b - b_c) + 1/2 (b - b_c)' H_c (b - b_c)         where it last answered, b_c
    beta  <- argmin  sum_c q_c(b) + Omega(b)                                 whenever the prompt ones have answered

Wai, Freris, Nedic and Scaglione (2020), "Accelerating incremental gradient optimization with curvature information",
Comput. Optim. Appl. 77. A model's gradient is off by the square of the distance to where it was made, so a late answer
costs digits and no stability: near the optimum there is no step size and no bound on the delay.

What a slow lane has not seen, the prompt ones tell of: of f_c = (w_c / w_F) f_F + D_c, with F those that have answered
about the newest point, D_c alone is taken from where c last answered, to second order (as Jordan, Lee and Yang 2019,
JASA 114, take it to first). Where rows are spread at random D_c is small and hardly bends. So the prompt lanes come to
the optimum of all, but for what D_c leaves out, before a slow one is asked again; and every time that it is asked it
squares the distance. From the null model they begin without it (``approach``): it reads its rows near the optimum only.

Once the models' minimum is near enough for the tolerance all lanes are asked there, and waited for: that is a pass as
any other, from which the certificate comes. Should the objective have risen there, proximal Newton ends the fit.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import definite
from clusterglm.glm.lanes import Lanes
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.agreement import as_one, disagreement, refusal
from clusterglm.glm.solvers.proximal_newton import proximal_newton
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_NEAR = 0.3  # of the distance that the tolerance allows, at which the prompt lanes need not be asked again
_MOST_ROUNDS, _MOST_POINTS = 12, 8  # of the prompt lanes for one pass, and passes; then steps are synchronous
_NOISE = 1e-10  # relative change of the objective that may be rounding of the sums
_WORSE = 1e-3  # rise of the prompt lanes' objective that other lanes may be the reason of
_SPARE = 4  # passes that are left for a start apart from them


def async_newton(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    if (apart := disagreement(problem, start)) > 1 and len(problem.lanes.prompt) < len(problem.lanes.lanes):
        stop.notes.append(refusal("async_newton", apart))
        return proximal_newton(problem, start, stop, trace)
    point, H = start, start.ranges.hessian
    for _ in range(_MOST_POINTS):
        if status := stop(trace(point)):
            return Solution(point, status)
        if problem.family.quadratic:
            break
        models = Models(problem.lanes, point, H)
        trial = _next_point(problem, models, _NEAR * stop.distance(point))
        if trial is None or not trial.objective <= point.objective * (1 + _NOISE):
            break
        point, H = trial, models.hessians() if trial.hessian is None else trial.ranges.hessian
    else:
        if status := stop(trace(point)):
            return Solution(point, status)
    problem.lanes.close()
    point = point if point.hessian is not None else problem.at(point.beta, hessian=True)
    return proximal_newton(problem, point, stop, trace)


def approach(problem: Problem, beta: Array) -> Array | None:
    """Return where the rows of the prompt lanes have their optimum, from ``beta`` (p,); None if no lane is slow, or
    they disagree."""
    lanes, p = problem.lanes, len(beta)
    if len(lanes.prompt) == len(lanes.lanes) or problem.family.quadratic:
        return None
    models, value, moved, rounds = Models(lanes), np.inf, np.nan, 0
    while problem.left >= _SPARE and (rounds := rounds + 1) <= _MOST_ROUNDS:
        problem.ask_lanes(beta, hessian=True, moved=moved)
        if rounds == 1 and disagreement(problem, as_one(problem, lanes.fresh)) > 1:
            return None
        before, value = value, models.loss() + problem.penalty.value(beta)
        g, curvature = models.at(beta)
        if not value <= before + _WORSE * abs(before) or not definite(curvature + np.diag(problem.penalty.l2)):
            return None
        # Their optimum is about as far from that of all as their share of the rows tells.
        phi = 2 * value if problem.family.has_dispersion else 1.0
        target = minimise(curvature, g, beta, problem.penalty)
        d = target - beta
        beta, moved = target, float(np.sqrt(d @ curvature @ d))
        if moved * min(moved, 1.0) <= _NEAR * np.sqrt(phi * p / problem.weight):
            return beta
    return None


def _next_point(problem: Problem, models: Models, near: float) -> Point | None:
    """Return the point at which all lanes answered next; None if there was no way to one."""
    lanes, penalty = problem.lanes, problem.penalty
    assert models.anchor is not None
    beta, last, factor = models.anchor.beta, 0.0, 1.0
    slow = 1 - sum(lanes.lanes[i].rows for i in lanes.prompt) / problem.rows.rows
    for _ in range(_MOST_ROUNDS):
        g, H = models.at(beta)
        target = minimise(H, g, beta, penalty)
        d = target - beta
        moved = float(np.sqrt(max(float(d @ H @ d), 0.0)))
        if not np.isfinite(moved):
            return None
        if last > 0:
            factor = max(moved / last**2, 1e-2)  # of the square of a step, which the next one is
        settled = factor * moved**2 <= near
        away = target - models.anchor.beta
        # The Hessians at the anchor bound the point's own, unless the slow lanes are to answer again.
        light = settled and factor * slow * float(away @ H @ away) <= near
        if (point := problem.ask_lanes(target, not light, everybody=settled, moved=moved)) is not None:
            return point
        beta, last = target, moved
    return None


class Models:
    """The lanes' quadratic models, from an ``anchor`` on at which all have answered, with Hessians (N, p, p) from there
    or before; without one, those of the lanes that have answered, for all."""

    def __init__(self, lanes: Lanes, anchor: Point | None = None, hessians: Array | None = None) -> None:
        self.lanes, self.anchor, self._H = lanes, anchor, hessians
        self._since = lanes.step

    def hessians(self) -> Array:
        """Return the last Hessian of every lane, (N, p, p)."""
        assert self._H is not None
        reports = [self.lanes.reports.get(i) for i in range(len(self._H))]
        return np.array(
            [H if r is None or r.hessian is None else r.hessian for r, H in zip(reports, self._H, strict=True)]
        )

    def loss(self) -> float:
        """Return the mean loss of the lanes that have answered about the newest point."""
        reports = [self.lanes.reports[i] for i in self.lanes.fresh]
        return sum(r.loss for r in reports) / sum(r.weight for r in reports)

    def at(self, beta: Array) -> tuple[Array, Array]:
        """Return gradient (p,) and Hessian (p, p) of the sum of the models at ``beta``."""
        if self.anchor is None:
            known = list(self.lanes.reports.values())
            weight = sum(r.weight for r in known)
            return _sum(r.slope(beta) for r in known) / weight, _sum(r.bend for r in known) / weight
        assert self._H is not None
        newer = {i: r for i, r in self.lanes.reports.items() if r.step > self._since and r.hessian is not None}
        older = [i for i in range(len(self._H)) if i not in newer]
        parts, d, H_old = self.anchor.ranges, beta - self.anchor.beta, self._H[older].sum(axis=0)
        g, H = parts.gradient[older].sum(axis=0) + H_old @ d, H_old
        if newer:
            g, H = g + _sum(r.slope(beta) for r in newer.values()), H + _sum(r.bend for r in newer.values())
        fresh = [i for i in self.lanes.fresh if i in newer]
        if fresh and older:
            share = parts.weight[older].sum() / parts.weight[fresh].sum()
            told = self._H[fresh].sum(axis=0)
            bent = share * (_sum(newer[i].bend for i in fresh) - told)
            if definite(H + bent):
                H = H + bent
                missed = _sum(newer[i].gradient for i in fresh) - parts.gradient[fresh].sum(axis=0) - told @ d
                g = g + share * missed
        return g, H


def _sum(arrays: Iterable[Array]) -> Array:
    return np.asarray(np.sum(list(arrays), axis=0))
