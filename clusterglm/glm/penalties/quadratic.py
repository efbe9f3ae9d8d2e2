"""The penalised quadratic model, p x p and without data: the inner problem of proximal Newton and of ADMM's z-step.

    minimise over z    1/2 (z - c)' H (z - c) + g'(z - c) + Omega(z)

A few sweeps of coordinate descent (Friedman, Hastie and Tibshirani 2010, JSS 33(1)) guess which coefficients are off 0.
Feature-sign search (Lee, Battle, Raina and Ng 2006, NIPS 19) finishes: solve with the signs fixed, search along the
line past every change of sign while the model falls, and let those leave 0 whose gradients exceed l1 once the others
are stationary. Every solve lowers the model, so no pattern of signs comes twice: it ends after finitely many, however
nearly collinear the columns are, where coordinate descent would take one sweep for every unit of the condition number.

Where the guess is poor, with more columns than the rank of H under a weak penalty or long chains of correlation, a
search from it would take one solve with nearly all columns for every one that has to go. Then it begins again from
what an interior point method finds (interior.py), whose signs are nearly all right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import scales, solve
from clusterglm.glm.penalties import Penalty, soft_threshold
from clusterglm.glm.penalties.interior import interior
from clusterglm.glm.penalties.quadratic_groups import minimise_groups

Array = NDArray[np.float64]
_EPS = float(np.finfo(float).eps)
_MOST_SWEEPS = 10
_SETTLED = 0.01  # share of the signs that a sweep may change and still be the last one
_SLIGHT = 1e-8  # relative: what counts as nothing beside the slope, and in a straight line
_PATIENCE = 15  # directions, after which the guess is given up
_MOST_SOLVES = 5  # a column, and 100 more: about one is usual; at rounding level patterns of signs might come again


def minimise(H: Array, g: Array, center: Array, penalty: Penalty, tolerance: float = 1e-14) -> Array:
    """Return the minimiser, (p,). ``tolerance`` bounds the model's residual, relative to that at ``center``."""
    if penalty.bounded:
        return _within_bounds(H, g, center, penalty, tolerance)
    if penalty.smooth:
        return center - solve(H + np.diag(penalty.l2), g + penalty.l2 * center)
    if len(penalty.grouped):
        return minimise_groups(H, g, center, penalty, tolerance)
    z, ended = _feature_sign(H, g, center, penalty, _descend(H, g, center, penalty), tolerance, _PATIENCE)
    if ended:
        return z
    slope = g + H @ (z - center)
    near = np.flatnonzero((z != 0) | (np.abs(slope) >= penalty.l1 / 2))  # the others are likely to stay at 0
    own = penalty.take(near)
    if own.l1.any():
        z, pull = np.zeros_like(z), (g - H @ center)[near]
        z[near] = interior(H[np.ix_(near, near)], pull, z[near], own)
    return _feature_sign(H, g, center, penalty, z, tolerance)[0]


def _within_bounds(H: Array, g: Array, center: Array, penalty: Penalty, tolerance: float) -> Array:
    """Return the minimiser between bounds, (p,): coordinate descent for which coefficients are at a bound or at 0, and
    a solve with the others, as far as one of them meets a bound or 0 (an active-set method: Nocedal and Wright 2006,
    section 16.7)."""
    assert penalty.lower is not None
    assert penalty.upper is not None
    lower, upper = penalty.lower, penalty.upper
    z, units = penalty.clip(center), scales(H)
    target = tolerance * float(np.max(np.abs(penalty.residual(z, g + H @ (z - center))) / units, initial=0.0))
    curved, diagonal, sizes = H + np.diag(penalty.l2), np.diag(H), np.abs(H)
    best, least, stale = z, np.inf, 0
    for _ in range(50 + 5 * len(z)):
        slope = g + H @ (z - center)
        for j in np.flatnonzero(diagonal + penalty.l2 > 0):
            at = diagonal[j] * z[j] - slope[j]
            new = soft_threshold(at, penalty.l1[j]) / (diagonal[j] + penalty.l2[j])
            new = min(max(float(new), lower[j]), upper[j])
            if new != z[j]:
                slope = slope + H[:, j] * (new - z[j])
                z[j] = new
        for _ in range(len(z)):
            S = np.flatnonzero((z > lower) & (z < upper) & ((z != 0) | (penalty.l1 == 0)))
            if not len(S):
                break
            slope = g[S] + H[S] @ (z - center) + penalty.l1[S] * np.sign(z[S]) + penalty.l2[S] * z[S]
            H_S = curved[np.ix_(S, S)]
            d, longest = -solve(H_S, slope), 1.0
            if (valley := _valley(H_S, slope, d)) is not None:
                d, longest = valley, np.inf
            with np.errstate(divide="ignore", invalid="ignore"):
                walls = np.where(d > 0, (upper[S] - z[S]) / d, (lower[S] - z[S]) / d)
                kinks = np.where((penalty.l1[S] > 0) & (z[S] * d < 0), -z[S] / d, np.inf)
            ends = np.where(d == 0, np.inf, np.minimum(walls, kinks))
            t = min(longest, float(np.min(ends)))
            if not np.isfinite(t):
                break
            z[S] = np.where(ends <= t, np.where(kinks <= walls, 0.0, np.where(d > 0, upper[S], lower[S])), z[S] + t * d)
            if t == 1.0:
                break
        residual = np.abs(penalty.residual(z, g + H @ (z - center)))
        left = float(np.max(residual / units, initial=0.0))
        stale = 0 if left < least / 2 else stale + 1
        if left < least:
            best, least = z.copy(), left
        noise = 16 * _EPS * (sizes @ (np.abs(z) + np.abs(center)) + np.abs(g))
        if left <= target or not np.isfinite(left) or (stale and np.all(residual <= noise)):
            break
    return best


def _valley(H: Array, slope: Array, d: Array) -> Array | None:
    """Return a direction, (k,), along which the model falls in a straight line; None where it has none.

    ``d`` is the least-norm solution of H d = -slope, so what it leaves is at right angles to the columns of H: in a
    singular H more of it than rounding is such a line, which ends at a bound or a kink or not at all. ``_direction``
    takes less for more than rounding: there a kink must pay for the way, and a bound, which may be far, does not.
    """
    units = scales(H)
    left = -(slope + H @ d) / units
    size = float(np.max(np.abs(left), initial=0.0))
    if not size > _SLIGHT * np.max(np.abs(slope) / units, initial=0.0):
        return None
    if np.max(np.abs(H @ (left / units)) / units) > _SLIGHT * size:  # rounding of a solution with large entries
        return None
    found: Array = np.where(np.abs(left) > _SLIGHT * size, left, 0.0) / units
    return found


def _feature_sign(
    H: Array, g: Array, center: Array, penalty: Penalty, start: Array, tolerance: float, most: int | None = None
) -> tuple[Array, bool]:
    """Return what feature-sign search from ``start`` finds, and whether it came to its end in ``most`` directions."""
    units, sizes, curved = scales(H), np.abs(H), H + np.diag(penalty.l2)
    target = tolerance * float(np.max(np.abs(penalty.residual(center, g)) / units, initial=0.0))
    best = before = z = start
    least = last = np.inf
    for _ in range(most or 100 + _MOST_SOLVES * len(z)):
        residual = penalty.residual(z, H @ (z - center) + g)
        left = float(np.max(np.abs(residual) / units, initial=0.0))
        if left < least:
            best, least = z, left
        rounding = 4 * _EPS * (sizes @ (np.abs(z) + np.abs(center)) + np.abs(g))
        large = np.abs(residual) > np.maximum(target * units, rounding)
        on = (z != 0) | (penalty.l1 == 0)
        # With the same signs as before this was a step of iterative refinement, of use while it halves the residual.
        refined = np.array_equal(np.sign(z), np.sign(before)) and left > last / 2
        new = ~on & large & (refined or not large[on].any())
        if left <= target or not np.isfinite(left):
            return best, True
        while (active := np.flatnonzero(on | new)).size:
            H_A = curved[np.ix_(active, active)]
            step, slope, curvature = _direction(H_A, -residual[active], z[active], penalty.l1[active], rounding[active])
            d = np.zeros_like(z)
            d[active] = step
            # The others are stationary, so at first the model falls by those that leave 0: one at least goes its way.
            wrong = new & (d * residual >= 0)
            if not wrong.any():
                break
            new &= ~wrong
        if not active.size or (refined and not new.any()):
            return best, True
        before, last = z, left
        z = _search(z, d, slope, curvature, penalty.l1)
    return best, most is None


def _descend(H: Array, g: Array, center: Array, penalty: Penalty) -> Array:
    """Return ``center``, (p,), after sweeps of coordinate descent until hardly any sign changes."""
    z, r = center.copy(), -g  # r: minus the model's gradient at z, kept up to date
    diagonal = np.diag(H)
    for _ in range(_MOST_SWEEPS):
        signs = np.sign(z)
        for j in np.flatnonzero(diagonal > 0):
            new = soft_threshold(r[j] + diagonal[j] * z[j], penalty.l1[j]) / (diagonal[j] + penalty.l2[j])
            if new != z[j]:
                r -= H[:, j] * (new - z[j])
                z[j] = new
        if np.count_nonzero(np.sign(z) != signs) <= _SETTLED * len(z):
            break
    return z


def _direction(H: Array, b: Array, z: Array, l1: Array, rounding: Array) -> tuple[Array, float, float]:
    """Return a direction, (k,), along which the k active coefficients lower the model, and its slope and curvature.

    ``b`` (k,) is minus the residual at ``z``. The direction solves H d = b among independent columns, found by Cholesky
    with pivoting (a pivot below k eps counts as 0, as in LAPACK). Where that leaves more of b than rounding, H is
    singular and the model falls in a straight line along H d = 0: that one is taken, if a change of sign stops it.
    """
    from scipy.linalg import cho_solve  # here, because a refusal of bad input has no time to import it
    from scipy.linalg.lapack import dpstrf

    units = scales(H)
    C, b_C = H / units / units[:, None], b / units
    L, order, rank, _ = dpstrf(C, lower=1, tol=len(b) * _EPS)
    free, bound = order[:rank] - 1, order[rank:] - 1
    factor = (L[:rank, :rank], True)
    d = np.zeros_like(b)
    d[free] = cho_solve(factor, b_C[free]) if rank else 0.0
    left = b_C[bound] - C[np.ix_(bound, free)] @ d[free]
    noise = rounding[bound] / units[bound] + 4 * _EPS * (np.abs(C[bound]) @ np.abs(d) + np.abs(b_C[bound]))
    if np.any(np.abs(left) > noise):
        flat = np.zeros_like(b)
        flat[bound] = left
        flat[free] = -cho_solve(factor, C[np.ix_(free, bound)] @ left) if rank else 0.0
        flat, fall = flat / units, float(left @ left)
        if fall <= 2 * float(l1 @ np.where(z * flat < 0, np.abs(flat), 0.0)):
            return flat, -fall, 0.0
    slope = -float(b_C @ d)
    return d / units, slope, -slope


def _search(z: Array, d: Array, slope: float, curvature: float, l1: Array) -> Array:
    """Return the minimum of the model along d, (p,): piecewise quadratic, bent where a penalised coefficient is 0."""
    back = np.flatnonzero((z * d < 0) & (l1 > 0))
    ends = -z[back] / d[back]
    order = np.argsort(ends, kind="stable")
    back, ends = back[order], ends[order]
    slopes = slope + np.concatenate([[0.0], np.cumsum(2 * l1[back] * np.abs(d[back]))])
    piece = int(np.argmax(np.append(slopes[:-1] + curvature * ends >= 0, True)))
    length = ends[piece - 1] if piece else 0.0
    if slopes[piece] + curvature * length < 0 < curvature:
        length = -slopes[piece] / curvature
    z = z + length * d
    z[back[ends == length]] = 0.0
    return z
