"""Penalties, separable over the coefficients or over groups of them.

    Omega(beta) = sum_j l1_j |beta_j| + l2_j / 2 beta_j^2,    l1 = alpha l1_ratio v,  l2 = alpha (1 - l1_ratio) v

and with groups (group_norm.py) ||(l1_j beta_j)_{j in g}||_2 in place of a group's sum of l1_j |beta_j|, where l1 has
another factor sqrt(p_g), p_g the number of columns in the group (Yuan and Lin 2006).

The strengths are vectors with 0 at the intercept. That one choice takes the intercept out of every solver, prox and
certificate. ``alpha`` and ``l1_ratio`` as in glmnet, glum and scikit-learn's GLMs (mean loss + alpha x penalty).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.penalties import group_norm

Array = NDArray[np.float64]
PENALTIES = ("none", "l1", "l2", "elastic-net", "group")


def soft_threshold(v: Array, threshold: Array | float) -> Array:
    """Return sign(v) max(|v| - threshold, 0)."""
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0.0)


@dataclass(frozen=True)
class Penalty:
    """An elastic net with a strength for every coefficient: ``l1`` and ``l2`` are (p,) float64, 0 or more.

    Where there are bounds, ``lower`` and ``upper`` (p,) are those of the coefficients, infinite where one has none.
    Where there are ``groups`` (p,), they are the numbers of the coefficients' groups, -1 for those by themselves. In a
    group all ``l1`` are above 0 and ``l2`` is a multiple of their squares; then there are no bounds.
    """

    l1: Array
    l2: Array
    lower: Array | None = None
    upper: Array | None = None
    groups: NDArray[np.intp] | None = None

    @property
    def bounded(self) -> bool:
        return self.lower is not None

    @property
    def smooth(self) -> bool:
        return not self.l1.any() and not self.bounded

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which coefficients are neither penalised nor bounded, (p,)."""
        free: NDArray[np.bool_] = (self.l1 == 0) & (self.l2 == 0)
        if self.lower is not None and self.upper is not None:
            free = free & np.isinf(self.lower) & np.isinf(self.upper)
        return free

    @property
    def grouped(self) -> NDArray[np.intp]:
        """The coefficients that belong to a group."""
        return np.empty(0, dtype=np.intp) if self.groups is None else np.flatnonzero(self.groups >= 0)

    @property
    def kinks(self) -> NDArray[np.intp]:
        """The number of every coefficient's kink, from 0 on, (p,): that of its group, or its own; -1 without one."""
        kinked, alone = self.l1 > 0, np.arange(len(self.l1))
        found = np.full(len(self.l1), -1)
        names = alone if self.groups is None else np.where(self.groups < 0, alone, len(alone) + self.groups)
        found[kinked] = np.unique(names[kinked], return_inverse=True)[1]
        return found

    def off(self, beta: Array) -> NDArray[np.bool_]:
        """Return which coefficients are off 0, or in a group that is, (p,)."""
        off: NDArray[np.bool_] = beta != 0
        if self.groups is not None and len(g := self.grouped):
            off[g] = group_norm.norms(self.groups[g], off[g].astype(np.float64)) > 0
        return off

    def clip(self, beta: Array) -> Array:
        """Return the coefficients within the bounds that are nearest to ``beta``."""
        return beta if self.lower is None else np.clip(beta, self.lower, self.upper)

    def value(self, beta: Array) -> float:
        if self.groups is not None and len(g := self.grouped):
            sizes = np.abs(self.l1 * beta)
            norms = group_norm.norms(self.groups[g], sizes[g])
            sizes[g] = np.where(group_norm.heads(self.groups[g]), norms, 0.0)
            return float(sizes.sum() + 0.5 * self.l2 @ (beta * beta))
        return float(self.l1 @ np.abs(beta) + 0.5 * self.l2 @ (beta * beta))

    def rise(self, beta: Array, to: Array) -> float:
        """Return what the part with kinks has more at ``to`` than at ``beta``, to the digits of ``to - beta``."""
        l1, of_groups = self.l1, 0.0
        if self.groups is not None and len(g := self.grouped):
            before, after = l1[g] * beta[g], l1[g] * to[g]
            lengths = group_norm.norms(self.groups[g], before) + group_norm.norms(self.groups[g], after)
            move = l1[g] * (to[g] - beta[g]) * (before + after)
            of_groups = float((move / np.where(lengths > 0, lengths, 1.0)).sum())
            l1 = np.where(self.groups >= 0, 0.0, l1)
        return float(l1 @ (np.abs(to) - np.abs(beta))) + of_groups

    def slopes(self, beta: Array, before: Array) -> Array:
        """Return the gradient of the part with kinks at ``beta``, (p,); where that is 0, as seen from ``before``."""
        slopes = self.l1 * np.where(beta == 0, np.sign(before), np.sign(beta))
        if self.groups is not None and len(g := self.grouped):
            seen = np.where(self.off(beta), beta, before)[g]
            slopes[g] = self.l1[g] * group_norm.directions(self.groups[g], self.l1[g] * seen)
        return slopes

    def prox(self, v: Array, step: Array | float) -> Array:
        """Return argmin_b Omega(b) + sum_j (b_j - v_j)^2 / (2 step_j)."""
        # Of a convex function of one variable the minimum between bounds is the nearest to the one without.
        found = self.clip(soft_threshold(v, step * self.l1) / (1.0 + step * self.l2))
        if self.groups is not None and len(g := self.grouped):
            l1, bend = self.l1[g], 1 / np.broadcast_to(step, v.shape)[g]
            c = group_norm.minimise(self.groups[g], v[g] * bend / l1, (bend + self.l2[g]) / (l1 * l1))
            found[g] = c / l1
        return found

    def residual(self, beta: Array, gradient: Array) -> Array:
        """Return gradient + q with q in the subdifferential of Omega at beta nearest to -gradient: 0 at the optimum.

        At a bound that of Omega has all that pushes against it. In a group that is 0, the nearest in units of l1.
        """
        at_zero = soft_threshold(gradient, self.l1)
        residual = np.where(beta == 0, at_zero, gradient + self.l1 * np.sign(beta) + self.l2 * beta)
        if self.groups is not None and len(g := self.grouped):
            slope, l1 = gradient[g], self.l1[g]
            pull = group_norm.norms(self.groups[g], slope / l1)
            at_zero = np.where(pull > 1, slope * (1 - 1 / np.maximum(pull, 1.0)), 0.0 * slope)
            along = group_norm.directions(self.groups[g], l1 * beta[g])
            residual[g] = np.where(self.off(beta)[g], slope + l1 * along + self.l2[g] * beta[g], at_zero)
        if self.lower is not None and self.upper is not None:
            slope = gradient + self.l2 * beta
            upward, downward = (slope + np.where(side, self.l1, -self.l1) for side in (beta >= 0, beta > 0))
            residual = np.where(beta <= self.lower, np.minimum(upward, 0.0), residual)
            residual = np.where(beta >= self.upper, np.maximum(downward, 0.0), residual)
            residual = np.where(self.lower == self.upper, 0.0, residual)
        return residual

    def extreme(self, u: Array) -> Array:
        """Return the subgradient of the part with kinks, (p,), in the direction of ``u``, where a coefficient or group
        is off 0 towards it."""
        found = np.sign(u) * self.l1
        if self.groups is not None and len(g := self.grouped):
            found[g] = self.l1[g] * group_norm.directions(self.groups[g], u[g] / self.l1[g])
        return found

    def as_single(self, v: Array) -> tuple[Array, Array, Array]:
        """Return (|v|, l1, l2) with every group as one coefficient ||(l1_j b_j)||: (||(v_j / l1_j)||, 1, l2 / l1^2)."""
        if self.groups is None or not len(g := self.grouped):
            return np.abs(v), self.l1, self.l2
        numbers, head = self.groups[g], group_norm.heads(self.groups[g])
        alone, l1 = self.groups < 0, self.l1[g]
        norms, ridge = group_norm.norms(numbers, v[g] / l1)[head], (self.l2[g] / (l1 * l1))[head]
        parts = ((np.abs(v), norms), (self.l1, np.ones_like(ridge)), (self.l2, ridge))
        return tuple(np.concatenate([own[alone], of_groups]) for own, of_groups in parts)  # type: ignore[return-value]

    def repeated(self, times: int) -> Penalty:
        """Return the same penalty on so many copies of the coefficients, one after another."""
        groups = None
        if self.groups is not None:
            step = (int(self.groups.max(initial=-1)) + 1) * np.repeat(np.arange(times), len(self.groups))
            groups = np.where(np.tile(self.groups, times) >= 0, np.tile(self.groups, times) + step, -1)
        return Penalty(np.tile(self.l1, times), np.tile(self.l2, times), groups=groups)

    def take(self, columns: NDArray[np.intp]) -> Penalty:
        low, high = (None if v is None else v[columns] for v in (self.lower, self.upper))
        groups = None if self.groups is None else self.groups[columns]
        return Penalty(self.l1[columns], self.l2[columns], low, high, groups)


def elastic_net(
    alpha: float,
    l1_ratio: float,
    factors: Array,
    scales: Array | None = None,
    groups: NDArray[np.intp] | None = None,
) -> Penalty:
    """Return the penalty of strength ``alpha``; ``factors`` (p,) are the v_j, 0 for the intercept.

    With ``scales`` (p,), the columns' standard deviations, it penalises the coefficients of the standardised columns:
    beta_j sd_j is what a fit on x_j / sd_j would call its coefficient. ``groups`` (p,) are the numbers of the
    coefficients' groups, in each of which all factors are the same, and -1 for those by themselves.
    """
    scales = np.ones_like(factors) if scales is None else scales
    l1, l2 = alpha * l1_ratio * factors * scales, alpha * (1 - l1_ratio) * factors * scales * scales
    if groups is None or not l1.any():
        return Penalty(l1, l2)
    groups = np.where(l1 > 0, groups, -1)
    some = groups >= 0
    l1[some] *= np.sqrt(group_norm.sums(groups[some], np.ones(int(some.sum()))))
    return Penalty(l1, l2, groups=groups)


def smallest_null_strength(gradient: Array, penalty: Penalty) -> float:
    """Return lambda_max: from this multiple of ``penalty`` on, all penalised coefficients are zero.

    ``gradient`` (p,) is that at the null model.
    """
    pull, l1, l2 = penalty.as_single(gradient)
    if ((l1 == 0) & (l2 > 0)).any():
        return np.inf
    return float(np.max(pull[l1 > 0] / l1[l1 > 0], initial=0.0))
