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
_EPS = float(np.finfo(float).eps)
_MOST_SWEEPS = 10_000
_SWEEPS_PER_POLISH = 5
_MOST_SOLVES = 10


def minimise(H: Array, g: Array, center: Array, penalty: Penalty, tolerance: float = 1e-14) -> Array:
    """Return the minimiser, (p,). ``tolerance`` bounds the model's residual, relative to that at ``center``."""
    if penalty.smooth:
        return center - solve(H + np.diag(penalty.l2), g + penalty.l2 * center)
    z = center.copy()
    r = -g.copy()  # minus the model's gradient at z, kept up to date
    diagonal = np.diag(H)
    units = scales(H)
    target = tolerance * float(np.max(np.abs(penalty.residual(z, -r)) / units, initial=0.0))
    for sweep in range(1, _MOST_SWEEPS):
        for j in np.flatnonzero(diagonal > 0):
            new = soft_threshold(r[j] + diagonal[j] * z[j], penalty.l1[j]) / (diagonal[j] + penalty.l2[j])
            if new != z[j]:
                r -= H[:, j] * (new - z[j])
                z[j] = new
        left = float(np.max(np.abs(penalty.residual(z, -r)) / units))
        if left > target and sweep % _SWEEPS_PER_POLISH:
            continue
        polished = _polish(H, g, center, penalty, z)
        gradient = H @ (polished - center) + g
        residual = np.abs(penalty.residual(polished, gradient))
        if left <= target:
            return polished if np.max(residual / units) <= left else z
        rounding = 4 * _EPS * (np.abs(H) @ (np.abs(polished) + np.abs(center)) + np.abs(g))
        z, r = polished, -gradient
        if np.all(residual <= np.maximum(target * units, rounding)):
            break
    return z


def _polish(H: Array, g: Array, center: Array, penalty: Penalty, z: Array) -> Array:
    """Return the minimum over the active set of ``z``, leaving out every coordinate whose sign is about to change."""
    z = z.copy()
    for _ in range(_MOST_SOLVES):
        active = np.flatnonzero((z != 0) | (penalty.l1 == 0))
        signs = np.sign(z[active]) * (penalty.l1[active] > 0)
        H_A = H[np.ix_(active, active)] + np.diag(penalty.l2[active])
        # Stationarity on the active set A: H_AA z_A + l2 z_A = H_A: c - g_A - l1 sign z_A
        right = H[active] @ center - g[active] - penalty.l1[active] * signs
        full, longest = solve(H_A, right), 1.0
        step, left = full - z[active], right - H_A @ full
        if np.any(np.abs(left) > 1e-11 * (np.abs(H_A) @ np.abs(full) + np.abs(right))):
            # H_A is singular, and the model falls along this direction until a sign changes.
            step, longest = left / scales(H_A) ** 2, np.inf
        back = step * signs < 0
        lengths = np.full(len(active), np.inf)
        lengths[back] = -z[active][back] / step[back]
        length = float(np.min(lengths, initial=longest))
        if length == longest:
            if length == 1:
                z[active] = full
            break
        z[active] = np.where(lengths == length, 0.0, z[active] + length * step)
    return z
