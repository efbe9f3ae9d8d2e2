"""The quadratic model under norms of groups: the inner problem of quadratic.py for a group penalty.

    minimise over z    1/2 (z - c)' H (z - c) + g'(z - c) + Omega(z)

Sweeps over the groups minimise along each of them exactly: with c_g = l1 z_g and the eigenvalues of its block of H that
is a sum of one unknown (group_norm.py), and a group is 0 exactly where its pull is no longer than 1 (Qin, Scheinberg
and Goldfarb 2013, "Efficient block-coordinate descent algorithms for the Group Lasso", Math. Prog. Comp. 5). Between
sweeps, where the norms are smooth, Newton steps take all groups off 0 together: a few of them end what sweeps would
take the condition number for. A step that turns a group around takes it to 0. Where many groups would turn, each stops
the others: after two rounds all begins again from what an interior point method finds (interior.py).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import scales, solve
from clusterglm.glm.penalties import Penalty, group_norm
from clusterglm.glm.penalties.interior import interior

Array = NDArray[np.float64]
_EPS = float(np.finfo(float).eps)
_MOST_STEPS, _MOST_HALVINGS = 20, 30
_FIRST, _STALE = 2, 3  # rounds before all begins again, and those in a row that do not halve the residual


def minimise_groups(H: Array, g: Array, center: Array, penalty: Penalty, tolerance: float) -> Array:
    """Return the minimiser, (p,). ``tolerance`` bounds the model's residual, relative to that at ``center``."""
    z, units = center.copy(), scales(H)
    target = tolerance * float(np.max(np.abs(penalty.residual(center, g)) / units, initial=0.0))
    model = _Model(H, g, center, penalty, units, target)
    best, least, stale = z, np.inf, 0
    for turn in count(1):
        z = model.newton(model.sweep(z))
        residual = np.abs(penalty.residual(z, g + H @ (z - center)))
        left = float(np.max(residual / units, initial=0.0))
        stale = 0 if left < least / 2 else stale + 1
        if left < least:
            best, least = z, left
        rounded = bool(np.all(residual <= np.maximum(target * units, 16 * model.rounding(z))))
        if left <= target or not np.isfinite(left) or stale == _STALE or (stale and rounded and turn > _FIRST):
            break
        if turn == _FIRST:
            z = interior(H, g, center, penalty)
    return best


class _Model:
    """One model, with the coefficients that carry no norm as its first block and every other as a group."""

    def __init__(self, H: Array, g: Array, center: Array, penalty: Penalty, units: Array, target: float) -> None:
        numbers = penalty.kinks
        self.penalty = replace(penalty, groups=numbers)
        self.curved, self.plain = H + np.diag(penalty.l2), np.flatnonzero(numbers < 0)
        self.start, self.center, self.units, self.target = g + penalty.l2 * center, center, units, target
        self.sizes, self.pull = np.abs(H), np.abs(g)
        order = np.argsort(numbers, kind="stable")[len(self.plain) :]
        self.groups = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
        self._bends: dict[int, tuple[Array, Array]] = {}

    def rounding(self, z: Array) -> Array:
        """Return what rounding may do to the slope at ``z``, (p,)."""
        noise: Array = 4 * _EPS * (self.sizes @ (np.abs(z) + np.abs(self.center)) + self.pull)
        return noise

    def slope(self, z: Array) -> Array:
        """Return the gradient of the part without kinks, (p,)."""
        slope: Array = self.start + self.curved @ (z - self.center)
        return slope

    def sweep(self, z: Array) -> Array:
        """Return ``z`` minimised along one block after another."""
        z, slope = z.copy(), self.slope(z)
        if len(self.plain):
            step = -solve(self.curved[np.ix_(self.plain, self.plain)], slope[self.plain])
            z[self.plain] += step
            slope = slope + self.curved[:, self.plain] @ step
        for k, own in enumerate(self.groups):
            l1, before = self.penalty.l1[own], z[own].copy()
            if not before.any() and np.linalg.norm(slope[own] / l1) <= 1:
                continue
            if k not in self._bends:
                bends, axes = np.linalg.eigh(self.curved[np.ix_(own, own)] / l1 / l1[:, None])
                self._bends[k] = np.maximum(bends, _EPS * bends[-1]), axes
            bends, axes = self._bends[k]
            at = (l1 * before) @ axes
            pull = bends * at - (slope[own] / l1) @ axes
            z[own] = axes @ group_norm.minimise(np.zeros(len(own), dtype=np.intp), pull, bends) / l1
            slope = slope + self.curved[:, own] @ (z[own] - before)
        return z

    def newton(self, z: Array) -> Array:
        """Return ``z`` after Newton steps with the groups that are off 0, as long as the model falls."""
        last = np.inf
        for _ in range(_MOST_STEPS):
            S = np.flatnonzero((self.penalty.l1 == 0) | self.penalty.off(z))
            slope = self.slope(z)
            residual = self._residual(z, slope)[S]
            left = float(np.max(np.abs(residual) / self.units[S], initial=0.0))
            settled = left > last / 2 and np.all(np.abs(residual) <= 16 * self.rounding(z)[S])
            if not left > self.target or settled:
                return z
            d = np.zeros_like(z)
            d[S] = -solve(self.curved[np.ix_(S, S)] + self._bend(z, S), residual)
            fall = float(d[S] @ residual)
            if not fall < 0:
                return z
            turned = self._turned(z, d)
            if turned.any():
                trial = np.where(turned, 0.0, z + d)
                if self._change(z, trial, slope) < 0:
                    z, last = trial, left
                    continue
            t = 1.0
            for _ in range(_MOST_HALVINGS):
                trial = z + t * d
                if self._change(z, trial, slope) <= 1e-4 * t * fall:
                    break
                t /= 2
            else:
                # At rounding level the model says nothing; its gradient still does.
                trial = z + d
                if not np.linalg.norm(self._residual(trial, self.slope(trial))[S]) < np.linalg.norm(residual) / 2:
                    return z
            z, last = trial, left
        return z

    def _residual(self, z: Array, slope: Array) -> Array:
        return self.penalty.residual(z, slope - self.penalty.l2 * z)

    def _change(self, z: Array, to: Array, slope: Array) -> float:
        """Return the model at ``to`` less that at ``z``, where its smooth part has this slope."""
        d = to - z
        return float(slope @ d + d @ self.curved @ d / 2) + self.penalty.rise(z, to)

    def _turned(self, z: Array, d: Array) -> NDArray[np.bool_]:
        """Return which coefficients are in groups that ``d`` turns around, (p,)."""
        turned = np.zeros(len(z), dtype=np.bool_)
        own, numbers = self.penalty.grouped, self.penalty.groups
        assert numbers is not None
        c, l1 = self.penalty.l1[own] * z[own], self.penalty.l1[own]
        turned[own] = (group_norm.sums(numbers[own], c * (c + l1 * d[own])) < 0) & (z[own] != 0)
        return turned

    def _bend(self, z: Array, S: NDArray[np.intp]) -> Array:
        """Return the Hessian of the norms among the coefficients S, (|S|, |S|)."""
        bend, place = np.zeros((len(S), len(S))), np.full(len(z), -1)
        place[S] = np.arange(len(S))
        for own in self.groups:
            c = self.penalty.l1[own] * z[own]
            if (n := float(np.linalg.norm(c))) > 0:
                at = place[own]
                l1, along = self.penalty.l1[own], c / n
                bend[np.ix_(at, at)] = (np.eye(len(own)) - np.outer(along, along)) * l1 * l1[:, None] / n
        return bend
