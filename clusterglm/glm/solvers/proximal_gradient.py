"""Accelerated proximal gradient (FISTA) in a fixed Gram metric, with adaptive restart and backtracking.

    minimise  P(beta) = f(beta) + Omega(beta)

    x+ = argmin_x  g(y)'(x - y) + 1/(2s) ||x - y||_M^2 + Omega(x),    M = Hessian at the start, once for the whole fit;
                                                                      its diagonal for more than 4,000 columns
         s shortened until  f(x+) <= f(y) + g(y)'(x+ - y) + 1/(2s) ||x+ - y||_M^2
    y+ = x+ + (t - 1)/t+ (x+ - x),    t+ = (1 + sqrt(1 + 4 t^2))/2,    restart (t = 1) when momentum points uphill

Beck and Teboulle (2009), SIAM J. Imaging Sci. 2(1); restart: O'Donoghue and Candes (2015), Found. Comput. Math. 15,
the gradient scheme; the metric: Boehning and Lindsay (1988), Ann. Inst. Stat. Math. 40, of whose bound for the logistic
loss, 1/4 X'X / W, the Hessian is the case at beta = 0. The iteration does not depend on the columns' units nor on their
correlations. y+ is known as soon as x+ is, so one pass evaluates both: one pass per accepted iteration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.penalties import Penalty
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_LONGER = 1.5  # steps may grow at a restart only: FISTA's rate is for steps that never grow
_SAFETY, _SHORTER = 0.9, 0.1  # a refused step shrinks to what the loss has shown, between these factors
_SHORTEST = 1e-18
_NOISE = 1e-10  # relative change of the loss that may be rounding of the sums


def proximal_gradient(problem: Problem, start: Point, stop: StoppingRule, trace: Trace) -> Solution:
    M = start.curvatures if start.hessian is None else start.hessian
    M = np.where(M > 0, M, 1.0) if M.ndim == 1 else M
    x = y = start
    s = t = 1.0
    while not (status := stop(trace(x, s))):
        while True:
            t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
            beta = step(M / s, y, problem.penalty)
            x_new, y_new = problem.at_both(beta, beta + (t - 1) / t_new * (beta - x.beta))
            move = beta - y.beta
            bent = move @ times(M, move) / (2 * s)
            if bent > _NOISE * abs(y.loss):
                rise, noise = x_new.loss - y.loss - float(y.gradient @ move), 1e-15 * abs(y.loss)
            else:  # Losses differ by rounding alone; f bends by half the change of its slope, known more closely.
                rise = float((x_new.gradient - y.gradient) @ move) / 2
                noise = 1e-15 * float(np.sqrt(abs(y.loss * bent)))
            if rise <= bent + noise:
                break
            bends = rise / bent  # times what the metric says
            s *= float(np.clip(_SAFETY / bends, _SHORTER, _SAFETY)) if np.isfinite(bends) else _SHORTER
            if s < _SHORTEST:
                return Solution(x, "stalled")
        uphill = float((y.beta - beta) @ times(M, beta - x.beta)) > 0
        if uphill or not np.isfinite(y_new.objective):
            t, s, y = 1.0, s * _LONGER, x_new
        else:
            t, y = t_new, y_new
        x = x_new
    return Solution(x, status)


def step(M: Array, y: Point, penalty: Penalty) -> Array:
    """Return argmin_x g(y)'(x - y) + 1/2 ||x - y||_M^2 + Omega(x), (p,); ``M`` (p, p), or (p,) for a diagonal."""
    if M.ndim == 1:
        return penalty.prox(y.beta - y.gradient / M, 1 / M)
    return minimise(M, y.gradient, y.beta, penalty)


def times(M: Array, v: Array) -> Array:
    """Return M v, (p,)."""
    product: Array = M * v if M.ndim == 1 else M @ v
    return product
