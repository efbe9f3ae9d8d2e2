"""Families of targets that are not negative: gamma, inverse Gaussian, Tweedie's and the negative binomial.

In the log link all are convex in eta but the inverse Gaussian; in their canonical links gamma and inverse Gaussian
have predictors above 0, and |h'| <= c h as far as these stay away from 0.

Jorgensen, "Exponential dispersion models", JRSS B 49 (1987); Hilbe, Negative Binomial Regression (2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import UsageError
from clusterglm.glm.families.family import Array, Family


class _Log(Family):
    """A family in the log link that is not its canonical one."""

    link = "log"
    canonical = False
    self_concordance = 1.0

    def mean(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(eta)

    def slope(self, eta: Array) -> Array:
        return self.mean(eta)

    def predictor(self, mean: float) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(mean))


class Gamma(_Log):
    """l = e^-r - 1 + r = x - 1 - log x, r = eta - log y, x = y / mu; s = 1 - x, h = x."""

    name = "gamma"
    has_dispersion = True
    takes = "numbers above 0"

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            r = np.log(y) - eta
            x = np.exp(r)
            return np.maximum(np.expm1(r) - r, 0.0), -np.expm1(r), x

    def information(self, eta: Array) -> Array:
        return np.ones_like(eta)

    def variance(self, mean: Array) -> Array:
        return mean * mean

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return y <= 0

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        return 2 * loss + 1.4  # l >= x / 2 - log 2


class _Above(Family):
    """A family whose canonical link, but for a factor, has predictors above 0."""

    canonical = False
    positive = True
    has_dispersion = True
    takes = "numbers above 0"

    def loss_at_zero(self, y: Array, w: Array | None = None) -> float:  # noqa: ARG002
        return np.inf

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return y <= 0


class GammaInverse(_Above):
    """eta = 1 / mu: l = y eta - 1 - log(y eta), s = y - 1 / eta, h = 1 / eta^2; h' = -2 h / eta."""

    name = "gamma"
    link = "inverse"

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            inside = eta > 0
            mu = 1 / np.where(inside, eta, np.nan)
            x = np.where(inside, y * eta, 1.0)
            log_x = np.where(np.abs(x - 1) < 0.5, np.log1p(x - 1), np.log(x))
            loss = np.where(inside, np.maximum(x - 1 - log_x, 0.0), np.inf)
            return loss, y - mu, mu * mu

    def mean(self, eta: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(1 / np.where(eta > 0, eta, np.nan))

    def slope(self, eta: Array) -> Array:
        return -(self.mean(eta) ** 2)

    def predictor(self, mean: float) -> float:
        return 1 / mean

    def variance(self, mean: Array) -> Array:
        return mean * mean

    def concordance(self, low: float, high: float) -> float:  # noqa: ARG002
        return 3 / low if low > 0 else np.inf  # c >= 2 / (low - 1 / c)

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        return 1 / low**2 if low > 0 else np.inf


class InverseGaussian(_Above):
    """eta = 1 / mu^2: l = (y - mu)^2 / (2 y mu^2), s = (y - mu) / 2, h = mu^3 / 4; h' = -3 h / (2 eta)."""

    name = "inverse-gaussian"
    link = "inverse-squared"

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            inside = eta > 0
            mu = 1 / np.sqrt(np.where(inside, eta, np.nan))
            off = y - mu
            loss = np.where(inside, off * off / (2 * y * mu * mu), np.inf)
            return loss, off / 2, mu**3 / 4

    def mean(self, eta: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(1 / np.sqrt(np.where(eta > 0, eta, np.nan)))

    def slope(self, eta: Array) -> Array:
        return -(self.mean(eta) ** 3) / 2

    def predictor(self, mean: float) -> float:
        return 1 / (mean * mean)

    def variance(self, mean: Array) -> Array:
        return mean**3

    def concordance(self, low: float, high: float) -> float:  # noqa: ARG002
        return 2.5 / low if low > 0 else np.inf  # c >= 1.5 / (low - 1 / c)

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        return float(0.25 * low**-1.5) if low > 0 else np.inf


@dataclass(frozen=True)
class Tweedie(_Log):
    """Variance mu^power, 1 < power < 2: sums of a Poisson number of gamma variables, with a share of exact zeros.

    With p = power: l = y^(2-p) / ((1-p)(2-p)) - y mu^(1-p) / (1-p) + mu^(2-p) / (2-p), s = mu^(2-p) - y mu^(1-p).
    """

    power: float = 1.5

    name = "tweedie"
    has_dispersion = True
    recession = "zeros"
    takes = "0 or more"

    def __post_init__(self) -> None:
        if not 1 < self.power < 2:
            cure = "must lie between 1 and 2: 1 is poisson, 2 is gamma, 3 is inverse-gaussian"
            raise UsageError("--power", self.power, cure)

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        a, b = 2 - self.power, self.power - 1
        with np.errstate(over="ignore", invalid="ignore"):
            some = y > 0
            whole, drawn = np.exp(a * eta), y * np.exp(-b * eta)
            # y^a (e^(a r) / a + e^(-b r) / b - 1 / (a b)), r = eta - log y, free of cancellation near r = 0.
            log_y = np.log(np.where(some, y, 1.0))
            r = eta - log_y
            near = np.exp(a * log_y) * (np.expm1(a * r) / a + np.expm1(-b * r) / b)
            loss = np.where(some, np.maximum(near, 0.0), whole / a)
            return loss, whole - drawn, a * whole + b * drawn

    def variance(self, mean: Array) -> Array:
        return np.asarray(mean**self.power)

    def information(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp((2 - self.power) * eta)

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return y < 0

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        a, b = 2 - self.power, self.power - 1
        # mu^a / a + y mu^-b / b = l + y^a / (a b), and the mean of y^a is at most that of y to the a.
        return float(max(a, b) ** 2 * (loss + target**a / (a * b)))


@dataclass(frozen=True)
class NegativeBinomial(_Log):
    """Variance mu + mu^2 / theta.

    l = y log(y / mu) - (y + theta) log((y + theta) / (mu + theta)), s = theta (mu - y) / (theta + mu),
    h = theta mu (y + theta) / (theta + mu)^2 <= (y + theta) / 4.
    """

    theta: float = 1.0

    name = "negative-binomial"
    recession = "zeros"
    takes = "0 or more"

    def __post_init__(self) -> None:
        if not 0 < self.theta < np.inf:
            raise UsageError("--theta", self.theta, "must be greater than 0; with theta infinite it is poisson")

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        theta = self.theta
        with np.errstate(over="ignore", invalid="ignore"):
            some = y > 0
            mu = np.exp(eta)
            share = 1 / (1 + mu / theta)  # theta / (theta + mu)
            rest = 1 / (1 + theta * np.exp(-eta))  # mu / (theta + mu)
            r = eta - np.log(np.where(some, y, 1.0))
            # log((mu + theta) / (y + theta)), of a mean beyond the largest number too
            grown = np.where(np.isfinite(mu), np.log1p((mu - y) / (y + theta)), eta - np.log(y + theta))
            loss = np.maximum((y + theta) * grown - np.where(some, y * r, 0.0), 0.0)
            score = np.where(np.isfinite(mu), share * (mu - y), theta)
            return loss, score, share * rest * (y + theta)

    def variance(self, mean: Array) -> Array:
        return mean + mean * mean / self.theta

    def information(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(self.theta / (1 + self.theta * np.exp(-eta)))

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return y < 0

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        return (target + self.theta) / 4
