"""The three families of most fits, in their canonical links, where the loss's curvature is the variance.

Sources: McCullagh and Nelder, Generalized Linear Models (1989), chapter 2; Maechler, "Accurately computing
log(1 - exp(-|a|))" (2012) for the logistic loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Array, Family, xlogx


class Gaussian(Family):
    """l = (y - eta)^2 / 2."""

    name = "gaussian"
    link = "identity"
    curvature_bound = 1.0
    self_concordance = 0.0
    has_dispersion = True

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        s = eta - y
        return 0.5 * s * s, s, np.ones_like(s)

    def mean(self, eta: Array) -> Array:
        return eta

    def predictor(self, mean: float) -> float:
        return mean

    def variance(self, mean: Array) -> Array:
        return np.ones_like(mean)


class Binomial(Family):
    """l = log(1 + e^eta) - y eta + y log y + (1 - y) log(1 - y), y in [0, 1] (a proportion where 0 < y < 1)."""

    name = "binomial"
    link = "logit"
    curvature_bound = 0.25
    self_concordance = 1.0
    recession = "signs"
    takes = "0 and 1"

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        e = np.exp(-np.abs(eta))
        tail = 1.0 / (1.0 + e)  # sigmoid(|eta|)
        rest = e * tail  # mu where eta < 0, else 1 - mu: mu - 1 would lose the digits that tell separation
        side = ~np.signbit(eta) - y  # 1 - y where eta >= 0, else -y
        loss = side * eta + np.log1p(e)
        if ((y > 0) & (y < 1)).any():
            loss = np.maximum(loss + xlogx(y) + xlogx(1 - y), 0.0)
        return loss, side - np.copysign(rest, eta), rest * tail

    def loss(self, y: Array, eta: Array) -> Array:
        if ((y > 0) & (y < 1)).any():
            return self.terms(y, eta)[0]
        loss = np.log1p(np.exp(-np.abs(eta)))
        loss += (~np.signbit(eta) - y) * eta
        return loss

    def loss_at_zero(self, y: Array, w: Array | None = None) -> float:
        if ((y > 0) & (y < 1)).any():
            return super().loss_at_zero(y, w)
        return float(np.log(2.0) * (len(y) if w is None else w.sum()))

    def score(self, y: Array, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            score = np.exp(-eta)
            score += 1.0
            np.divide(1.0, score, out=score)
            score -= y
            return score

    def mean(self, eta: Array) -> Array:
        e = np.exp(-np.abs(eta))
        return np.where(eta >= 0, 1.0, e) / (1.0 + e)

    def predictor(self, mean: float) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(mean) - np.log1p(-mean))

    def variance(self, mean: Array) -> Array:
        return mean * (1 - mean)

    def information(self, eta: Array) -> Array:
        return self.terms(np.zeros_like(eta), eta)[2]

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return (y < 0) | (y > 1)


class Poisson(Family):
    """l = y log(y / mu) - (y - mu) = y (e^r - 1 - r), mu = e^eta, r = eta - log y; mu at y = 0.

    Targets that are not whole are rates.
    """

    name = "poisson"
    link = "log"
    self_concordance = 1.0
    recession = "zeros"
    takes = "0 or more"

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        some = y > 0
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite loss tells a line search of a step too long
            mu = np.exp(eta)
            r = eta - np.log(np.where(some, y, 1.0))
            loss = np.where(some, np.maximum(y * (np.expm1(r) - r), 0.0), mu)
        return loss, mu - y, mu

    def mean(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(eta)

    def predictor(self, mean: float) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(mean))

    def variance(self, mean: Array) -> Array:
        return mean

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return y < 0

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        return 1.7 * loss + 7.4 * target  # l >= mu (1 - 3 e^-2) where mu > e^2 y
