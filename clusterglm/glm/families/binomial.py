"""The binomial family in links other than the logit: probit and complementary log-log.

A proportion y has y times the loss of a success and 1 - y times that of a failure, and y log y + (1 - y) log(1 - y).

Neither has |h'| <= c h for all eta: far out on the side of its class a row's curvature falls faster than its own size,
like phi(x) or exp(-e^eta). Within the predictors of the rows it has (``concordance``).
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Array, Family, xlogx

_HALF_LOG_2PI = 0.9189385332046727


class _Proportion(Family):
    """A binomial family; ``_success`` and ``_failure`` are (l, s, h) of y = 1 and of y = 0."""

    name = "binomial"
    canonical = False
    recession = "signs"
    takes = "0 and 1"

    @abstractmethod
    def _success(self, eta: Array) -> tuple[Array, Array, Array]: ...

    @abstractmethod
    def _failure(self, eta: Array) -> tuple[Array, Array, Array]: ...

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            ones, zeros = self._success(eta), self._failure(eta)
        if not ((y > 0) & (y < 1)).any():
            some = y == 1
            loss, score, curvature = (np.where(some, a, b) for a, b in zip(ones, zeros, strict=True))
            return loss, score, curvature
        # An infinite loss of the class that a row is not of must not be multiplied by 0.
        loss, score, curvature = (
            np.where(y > 0, y * a, 0.0) + np.where(y < 1, (1 - y) * b, 0.0) for a, b in zip(ones, zeros, strict=True)
        )
        return np.maximum(loss + xlogx(y) + xlogx(1 - y), 0.0), score, curvature

    def variance(self, mean: Array) -> Array:
        return mean * (1 - mean)

    def outside(self, y: Array) -> NDArray[np.bool_]:
        return (y < 0) | (y > 1)


class Probit(_Proportion):
    """l = -log Phi(q eta), q = 2y - 1; with x = q eta and m = phi(x) / Phi(x): s = -q m, h = m (m + x) <= 1.

    -h'/h = x + 2m - 1/(m + x) is at most x + 0.35 where x > 0, and between -0.35 and 0.35 elsewhere.
    """

    link = "probit"
    curvature_bound = 1.0

    @staticmethod
    def _of(x: Array) -> tuple[Array, Array, Array]:
        """Return (-log Phi(x), m, m (m + x))."""
        from scipy.special import erfcx, log_ndtr

        # phi / Phi without either, where both are small.
        m = np.sqrt(2 / np.pi) / erfcx(-x / np.sqrt(2))
        # m + x cancels far out: the asymptotic series of Mills' ratio has it without.
        far = x < -50
        u = 1 / np.where(far, x, -50.0) ** 2
        series = 1 - u * (2 - u * (10 - u * (74 - u * (706 - u * 8162))))
        return -log_ndtr(x), m, m * np.where(far, series / -np.where(far, x, -50.0), m + x)

    def _success(self, eta: Array) -> tuple[Array, Array, Array]:
        loss, m, h = self._of(eta)
        return loss, -m, h

    def _failure(self, eta: Array) -> tuple[Array, Array, Array]:
        return self._of(-eta)

    def mean(self, eta: Array) -> Array:
        from scipy.special import ndtr

        return np.asarray(ndtr(eta))

    def slope(self, eta: Array) -> Array:
        return np.exp(-0.5 * eta * eta - _HALF_LOG_2PI)

    def information(self, eta: Array) -> Array:
        return -self._success(eta)[1] * self._failure(eta)[1]  # phi^2 / (Phi (1 - Phi))

    def predictor(self, mean: float) -> float:
        from scipy.special import ndtri

        return float(ndtri(mean))

    def concordance(self, low: float, high: float) -> float:
        return max(-low, high, 0.0) + 1.35


class Cloglog(_Proportion):
    """t = e^eta: l = t of a failure, -log(1 - e^-t) of a success; 1 - mu = e^-t.

    Failure: s = h = t, so h' = h. Success: s = -t / (e^t - 1), h = t (t e^t - e^t + 1) / (e^t - 1)^2, and |h'| <=
    max(1, t) h.
    """

    link = "cloglog"

    def _failure(self, eta: Array) -> tuple[Array, Array, Array]:
        t = np.exp(eta)
        return t, t, t

    def _success(self, eta: Array) -> tuple[Array, Array, Array]:
        t = np.exp(eta)
        ratio = np.where(t > 0, t / np.where(t > 0, np.expm1(t), 1.0), 1.0)  # t / (e^t - 1)
        # h / ratio = t / (1 - e^-t) - 1, which is t/2 + t^2/12 - t^4/720 + ... near 0, where it would cancel.
        small = t < 0.1
        u = np.where(small, t * t, 0.0)
        series = t / 2 + u / 12 * (1 - u / 60 * (1 - u / 42 * (1 - u / 40)))
        far = np.minimum(np.where(small, 1.0, t), 700.0)
        curvature = np.where(t > 700, 0.0, ratio * np.where(small, series, far / -np.expm1(-far) - 1))
        gone = np.where(t > 1e-300, -np.expm1(-t), 1.0)
        loss = np.where(t > 1, -np.log1p(-np.exp(-np.maximum(t, 1.0))), np.where(t > 1e-300, -np.log(gone), -eta))
        return loss, -ratio, curvature

    def mean(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(-np.expm1(-np.exp(eta)))

    def slope(self, eta: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(eta - np.exp(eta))

    def information(self, eta: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            t = np.exp(eta)
            return t * -self._success(eta)[1]  # t^2 e^-t / (1 - e^-t)

    def predictor(self, mean: float) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(-np.log1p(-mean)))

    def concordance(self, low: float, high: float) -> float:  # noqa: ARG002
        with np.errstate(over="ignore"):
            return float(np.exp(high)) + 1.2  # c >= e^(high + 1/c)

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        return loss + 1.2  # h = l of a failure, at most 0.5 of a success; log 2 for the proportions
