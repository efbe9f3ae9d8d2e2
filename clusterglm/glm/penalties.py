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
    """An elastic net with a strength for every coefficient: ``l1`` and ``l2`` are (p,) float64, 0 or more."""

    l1: Array
    l2: Array

    @property
    def smooth(self) -> bool:
        return not self.l1.any()

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which coefficients are not penalised at all, (p,)."""
        free: NDArray[np.bool_] = (self.l1 == 0) & (self.l2 == 0)
        return free

    def value(self, beta: Array) -> float:
        return float(self.l1 @ np.abs(beta) + 0.5 * self.l2 @ (beta * beta))

    def prox(self, v: Array, step: Array | float) -> Array:
        """Return argmin_b Omega(b) + sum_j (b_j - v_j)^2 / (2 step_j)."""
        return soft_threshold(v, step * self.l1) / (1.0 + step * self.l2)

    def residual(self, beta: Array, gradient: Array) -> Array:
        """Return gradient + q with q in the subdifferential of Omega at beta nearest to -gradient: 0 at the optimum."""
        at_zero = soft_threshold(gradient, self.l1)
        return np.where(beta == 0, at_zero, gradient + self.l1 * np.sign(beta) + self.l2 * beta)

    def take(self, columns: NDArray[np.intp]) -> Penalty:
        return Penalty(self.l1[columns], self.l2[columns])


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
