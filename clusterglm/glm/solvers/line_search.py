"""Step halving with one pass for the full step and one more for all shorter ones together.

    accept t if  P(beta + t d) <= P(beta) + 1e-4 t D,    D = (g + l2 beta)'d + N(beta + d) - N(beta)

with N the penalty's part with kinks, sum_j l1_j |beta_j| or norms of groups.

Tseng and Yun (2009), "A coordinate gradient descent method for nonsmooth separable minimization", Math. Prog. 117.
For a smooth penalty this is Armijo's rule. A trial whose objective is not finite is refused.

Near the optimum objectives differ by rounding alone. There the full step is accepted if the slope at its end is well
below that at its beginning: Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent and an
efficient line search", SIAM J. Optim. 16(1), the approximate Wolfe condition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.problem import Point, Problem

Array = NDArray[np.float64]
_SUFFICIENT = 1e-4
_HALVINGS, _PER_PASS = 60, 10
_ROUNDING = 4 * np.finfo(float).eps
_NOISE = 1e-10  # relative change of the objective that may be rounding of the sums


def halve(
    problem: Problem, point: Point, direction: Array, hessian: bool = False, reference: float | None = None
) -> tuple[Point | None, float]:
    """Return the first acceptable point along ``direction`` and its t; None after 60 halvings without progress.

    ``reference`` stands in for P(beta) in a non-monotone search.
    """
    penalty, full = problem.penalty, point.beta + direction
    slope = point.gradient + penalty.l2 * point.beta
    decrease = float(slope @ direction) + penalty.rise(point.beta, full)
    ceiling = point.objective if reference is None else reference
    rounding = _ROUNDING * abs(ceiling)
    if not np.isfinite(full).all() or decrease > rounding:
        return None, 0.0
    trial = problem.at(full, hessian)
    if np.isfinite(trial.gradient).all():
        kinks = penalty.slopes(full, point.beta)
        with np.errstate(over="ignore"):  # far out, where no objective is
            end = float((trial.gradient + penalty.l2 * full + kinks) @ direction)
        flat = trial.objective <= ceiling + _NOISE * abs(ceiling) and end <= (2 * _SUFFICIENT - 1) * decrease
        if flat or trial.objective <= ceiling + _SUFFICIENT * decrease + rounding:
            return trial, 1.0
    for first in range(1, _HALVINGS, _PER_PASS):
        steps = 0.5 ** np.arange(first, first + _PER_PASS)
        values = problem.objectives(point.beta[:, None] + direction[:, None] * steps)
        for t in steps[values <= ceiling + _SUFFICIENT * steps * decrease]:
            trial = problem.at(point.beta + t * direction, hessian)
            if np.isfinite(trial.gradient).all():
                return trial, float(t)
    return None, 0.0
