"""Penalties, separable over the coefficients.

    Omega(beta) = sum_j l1_j |beta_j| + l2_j / 2 beta_j^2,    l1 = alpha l1_ratio v,  l2 = alpha (1 - l1_ratio) v

The strengths are vectors with 0 at the intercept. That one choice takes the intercept out of every solver, prox and
certificate. ``alpha`` and ``l1_ratio`` as in glmnet, glum and scikit-learn's GLMs (mean loss + alpha x penalty).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PENALTIES = ("none", "l1", "l2", "elastic-net")


def soft_threshold(v: Array, threshold: Array | float) -> Array:
    """Return sign(v) max(|v| - threshold, 0)."""
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0.0)


@dataclass(frozen=True)
class Penalty:
    """An elastic net with a strength for every coefficient: ``l1`` and ``l2`` are (p,) float64, 0 or more.

    Where there are bounds, ``lower`` and ``upper`` (p,) are those of the coefficients, infinite where one has none.
    """

    l1: Array
    l2: Array
    lower: Array | None = None
    upper: Array | None = None

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

    def clip(self, beta: Array) -> Array:
        """Return the coefficients within the bounds that are nearest to ``beta``."""
        return beta if self.lower is None else np.clip(beta, self.lower, self.upper)

    def value(self, beta: Array) -> float:
        return float(self.l1 @ np.abs(beta) + 0.5 * self.l2 @ (beta * beta))

    def prox(self, v: Array, step: Array | float) -> Array:
        """Return argmin_b Omega(b) + sum_j (b_j - v_j)^2 / (2 step_j)."""
        # Of a convex function of one variable the minimum between bounds is the nearest to the one without.
        return self.clip(soft_threshold(v, step * self.l1) / (1.0 + step * self.l2))

    def residual(self, beta: Array, gradient: Array) -> Array:
        """Return gradient + q with q in the subdifferential of Omega at beta nearest to -gradient: 0 at the optimum.

        At a bound that of Omega has all that pushes against it.
        """
        at_zero = soft_threshold(gradient, self.l1)
        residual = np.where(beta == 0, at_zero, gradient + self.l1 * np.sign(beta) + self.l2 * beta)
        if self.lower is not None and self.upper is not None:
            slope = gradient + self.l2 * beta
            upward, downward = (slope + np.where(side, self.l1, -self.l1) for side in (beta >= 0, beta > 0))
            residual = np.where(beta <= self.lower, np.minimum(upward, 0.0), residual)
            residual = np.where(beta >= self.upper, np.maximum(downward, 0.0), residual)
            residual = np.where(self.lower == self.upper, 0.0, residual)
        return residual

    def take(self, columns: NDArray[np.intp]) -> Penalty:
        ends = (None if v is None else v[columns] for v in (self.lower, self.upper))
        return Penalty(self.l1[columns], self.l2[columns], *ends)


def elastic_net(alpha: float, l1_ratio: float, factors: Array, scales: Array | None = None) -> Penalty:
    """Return the penalty of strength ``alpha``; ``factors`` (p,) are the v_j, 0 for the intercept.

    With ``scales`` (p,), the columns' standard deviations, it penalises the coefficients of the standardised columns:
    beta_j sd_j is what a fit on x_j / sd_j would call its coefficient.
    """
    scales = np.ones_like(factors) if scales is None else scales
    return Penalty(alpha * l1_ratio * factors * scales, alpha * (1 - l1_ratio) * factors * scales * scales)


def smallest_null_strength(gradient: Array, factors: Array, l1_ratio: float) -> float:
    """Return lambda_max: from this alpha on, all penalised coefficients are zero. ``gradient`` at the null model."""
    penalised = factors > 0
    if not penalised.any() or l1_ratio == 0:
        return np.inf if penalised.any() else 0.0
    return float(np.max(np.abs(gradient[penalised]) / (l1_ratio * factors[penalised])))
