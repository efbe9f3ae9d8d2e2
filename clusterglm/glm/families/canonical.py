"""The three families of most fits, in their canonical links, where the loss's curvature is the variance.

Sources: McCullagh and Nelder, Generalized Linear Models (1989), chapter 2; Maechler, "Accurately computing
log(1 - exp(-|a|))" (2012) for the logistic loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Array, Family, xlogx

_FACTORS, _FARTHEST = 32, 20.0  # the product of 32 factors 1 + e^z, z <= 20, does not overflow
_PLAIN = 1 / 16  # a mean loss, or its part of what cancels in it, from which on a cheaper sum is as good
_LARGE = 4.0  # mean count
_LOGS = np.log(np.maximum(np.arange(256.0), 1.0))


def _sum_of_logs(factors: Array) -> Array:
    """Return the sum of log x by a logarithm for every 32 of them, which costs two digits at most."""
    whole = len(factors) // _FACTORS * _FACTORS
    products = np.multiply.reduce(factors[:whole].reshape(_FACTORS, -1))
    total = np.add.reduce(np.log(products, out=products))
    return np.asarray(total if whole == len(factors) else total + np.add.reduce(np.log(factors[whole:])))


def _log_counts(y: Array) -> Array:
    """Return log y, 0 at y = 0, from a table where the targets are small counts."""
    if y.max(initial=0.0) < len(_LOGS):
        counts = y.astype(np.intp)
        if (counts == y).all():
            return np.asarray(_LOGS.take(counts, mode="clip"))  # one below 0 has not been refused yet
    return np.log(np.where(y > 0, y, 1.0))


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
    ulps = 24.0

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        e = np.exp(-np.abs(eta))
        tail = 1.0 / (1.0 + e)  # sigmoid(|eta|)
        rest = e * tail  # mu where eta < 0, else 1 - mu: mu - 1 would lose the digits that tell separation
        side = ~np.signbit(eta) - y  # 1 - y where eta >= 0, else -y
        loss = side * eta + np.log1p(e)
        if ((y > 0) & (y < 1)).any():
            loss = np.maximum(loss + xlogx(y) + xlogx(1 - y), 0.0)
        return loss, side - np.copysign(rest, eta), rest * tail

    def total(self, y: Array, eta: Array, w: Array | None = None) -> Array:
        found = self._classes(y, eta) if w is None else None
        return super().total(y, eta, w) if found is None else found[0]

    def sums(self, y: Array, eta: Array, w: Array | None = None) -> tuple[Array, Array, Array]:
        found = self._classes(y, eta) if w is None else None
        if found is None:
            return super().sums(y, eta, w)
        total, side, odds, grown = found
        rest = np.divide(1.0, grown, out=grown)
        odds *= rest  # 1 - the probability of the row's own class
        rest *= odds
        return total, np.multiply(side, odds, out=odds), rest

    def _classes(self, y: Array, eta: Array) -> tuple[Array, Array, Array, Array] | None:
        """Return (sum of l, q = 1 - 2 y, e^(q eta), 1 + e^(q eta)), l = log(1 + e^(q eta)), where y is 0 or 1.

        None where some y is neither, or some row so far on the wrong side that products of the last would overflow.
        """
        other = 1.0 - y
        if y @ other != 0:  # a sum of terms that are 0 or more: 0 where each is
            return None
        side = np.subtract(other, y, out=other)
        odds = side * eta
        if not np.maximum.reduce(odds, initial=0.0) <= _FARTHEST:
            return None
        np.exp(odds, out=odds)
        grown = 1.0 + odds
        total = _sum_of_logs(grown)
        if not total > _PLAIN * len(y):  # small odds have lost their digits in 1 + odds
            total = np.asarray(np.log1p(odds).sum())
        return total, side, odds, grown

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
    ulps = 128.0

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        some = y > 0
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite loss tells a line search of a step too long
            mu = np.exp(eta)
            r = eta - _log_counts(y)
            loss = np.where(some, np.maximum(y * (np.expm1(r) - r), 0.0), mu)
        return loss, mu - y, mu

    def total(self, y: Array, eta: Array, w: Array | None = None) -> Array:
        return self.sums(y, eta, w)[0]

    def sums(self, y: Array, eta: Array, w: Array | None = None) -> tuple[Array, Array, Array]:
        if y.sum() > _LARGE * len(y):  # mu and y are so much larger than losses that these would lose digits
            return super().sums(y, eta, w)
        with np.errstate(over="ignore", invalid="ignore"):
            mu = np.exp(eta)
            score, growth = mu - y, eta - _log_counts(y)
            growth *= y
            losses = np.subtract(score, growth, out=growth)
            if w is None:
                total, size = losses.sum(), mu.sum() + y.sum()
            else:
                total, size = losses @ w, mu @ w + y @ w
        if not total > _PLAIN * size:
            return super().sums(y, eta, w)
        return (total, score, mu) if w is None else (total, w * score, w * mu)

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
