"""Families: elementwise loss, score and curvature of one row as functions of its linear predictor eta.

    l(y, eta) = 1/2 unit deviance >= 0,    s = dl/deta,    h = d2l/deta2 > 0

All three share their exponentials, so they are computed together. ``curvature_bound`` is sup h (infinite where there is
none); ``self_concordance`` is the smallest known c with |dh/deta| <= c h, on which the certificate rests
(glm/certificate.py). Families are stateless.

Sources: McCullagh and Nelder, Generalized Linear Models (1989), chapter 2; Maechler, "Accurately computing
log(1 - exp(-|a|))" (2012) for the logistic loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import unknown

Array = NDArray[np.float64]


def xlogx(x: Array) -> Array:
    """Return x log x, 0 at x = 0."""
    return x * np.log(np.where(x > 0, x, 1.0))


@dataclass(frozen=True)
class Family:
    """One exponential family with its canonical link. ``y`` is (m,), ``eta`` (m,) or (K, m), both float64."""

    name: ClassVar[str]
    link: ClassVar[str]
    curvature_bound: ClassVar[float]
    self_concordance: ClassVar[float]
    has_dispersion: ClassVar[bool] = False
    takes: ClassVar[str] = "any finite number"

    def loss(self, y: Array, eta: Array) -> Array:
        """Return l(y, eta)."""
        return self.terms(y, eta)[0]

    def loss_at_zero(self, y: Array, w: Array | None = None) -> float:
        """Return the sum of w l(y, 0); ``w`` is None where all weights are 1."""
        losses = self.loss(y, np.zeros(len(y)))
        return float(losses.sum() if w is None else w @ losses)

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        """Return (l, s, h)."""
        raise NotImplementedError  # pragma: no cover

    def mean(self, eta: Array) -> Array:
        """Return the mean mu = g^-1(eta)."""
        raise NotImplementedError  # pragma: no cover

    def predictor(self, mean: float) -> float:
        """Return eta = g(mu) of one mean; infinite at the edge of the range."""
        raise NotImplementedError  # pragma: no cover

    def outside(self, y: Array) -> NDArray[np.bool_]:
        """Return which targets the family cannot take."""
        return np.zeros(np.shape(y), dtype=np.bool_)


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


class Binomial(Family):
    """l = log(1 + e^eta) - y eta + y log y + (1 - y) log(1 - y), y in [0, 1] (a proportion where 0 < y < 1)."""

    name = "binomial"
    link = "logit"
    curvature_bound = 0.25
    self_concordance = 1.0
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

    def loss_at_zero(self, y: Array, w: Array | None = None) -> float:
        if ((y > 0) & (y < 1)).any():
            return super().loss_at_zero(y, w)
        return float(np.log(2.0) * (len(y) if w is None else w.sum()))

    def mean(self, eta: Array) -> Array:
        e = np.exp(-np.abs(eta))
        return np.where(eta >= 0, 1.0, e) / (1.0 + e)

    def predictor(self, mean: float) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(mean) - np.log1p(-mean))

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return (y < 0) | (y > 1)


class Poisson(Family):
    """l = y log(y / mu) - (y - mu) = y (e^r - 1 - r), mu = e^eta, r = eta - log y; mu at y = 0.

    Targets that are not whole are rates.
    """

    name = "poisson"
    link = "log"
    curvature_bound = np.inf
    self_concordance = 1.0
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

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return y < 0


FAMILIES: dict[str, Family] = {family.name: family for family in (Gaussian(), Binomial(), Poisson())}


def get_family(name: str, link: str | None = None) -> Family:
    """Return the family of this name.

    Raises
    ------
    UsageError
        An unknown family, or a link that is not the family's own.
    """
    if name not in FAMILIES:
        raise unknown("--family", name, FAMILIES)
    family = FAMILIES[name]
    if link is not None and link != family.link:
        raise unknown("--link", link, [family.link])
    return family
