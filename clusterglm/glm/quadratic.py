"""The penalised quadratic model, p x p and without data: the inner problem of proximal Newton and of ADMM's z-step.

    minimise over z    1/2 (z - c)' H (z - c) + g'(z - c) + Omega(z)

Cyclic coordinate descent (Friedman, Hastie and Tibshirani 2010, JSS 33(1)) finds the active set, a Cholesky solve with
the signs fixed finishes it exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import scales, solve
from clusterglm.glm.penalties import Penalty, soft_threshold

Array = NDArray[np.float64]
_MOST_SWEEPS = 10_000
_SWEEPS_PER_POLISH = 5


def minimise(H: Array, g: Array, center: Array, penalty: Penalty, tolerance: float = 1e-14) -> Array:
    """Return the minimiser, (p,). ``tolerance`` bounds the model's residual, relative to that at ``center``."""
    if penalty.smooth:
        return center - solve(H + np.diag(penalty.l2), g + penalty.l2 * center)
    z = center.copy()
    r = -g.copy()  # minus the model's gradient at z, kept up to date
    diagonal = np.diag(H)
    units = scales(H)
    target = tolerance * float(np.max(np.abs(penalty.residual(z, -r)) / units, initial=0.0))
    for sweep in range(_MOST_SWEEPS):
        for j in np.flatnonzero(diagonal > 0):
            new = soft_threshold(r[j] + diagonal[j] * z[j], penalty.l1[j]) / (diagonal[j] + penalty.l2[j])
            if new != z[j]:
                r -= H[:, j] * (new - z[j])
                z[j] = new
        if np.max(np.abs(penalty.residual(z, -r)) / units) <= target:
            break
        if sweep % _SWEEPS_PER_POLISH == _SWEEPS_PER_POLISH - 1:
            polished = _polish(H, g, center, penalty, z)
            if polished is not None:
                return polished
    polished = _polish(H, g, center, penalty, z)
    return z if polished is None else polished


def _polish(H: Array, g: Array, center: Array, penalty: Penalty, z: Array) -> Array | None:
    """Solve on the active set with the signs of ``z``; None unless the result is the minimiser."""
    active = np.flatnonzero((z != 0) | (penalty.l1 == 0))
    signs = np.sign(z[active]) * penalty.l1[active]
    # Stationarity on the active set A: H_AA z_A + l2 z_A = H_A: c - g_A - l1 sign z_A
    right = H[active] @ center - g[active] - signs
    candidate = np.zeros_like(z)
    candidate[active] = solve(H[np.ix_(active, active)] + np.diag(penalty.l2[active]), right)
    if np.any(np.sign(candidate[active]) * penalty.l1[active] != signs):
        return None
    gradient = H @ (candidate - center) + g
    # All coordinates are asked: where H is singular on the active set, the solve may not have a solution.
    slack = 1e-12 * (np.abs(H) @ (np.abs(candidate) + np.abs(center)) + np.abs(g))
    return candidate if np.all(np.abs(penalty.residual(candidate, gradient)) <= slack) else None
