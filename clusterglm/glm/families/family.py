"""What a family is: elementwise loss, score and curvature of one row as functions of its linear predictor eta.

    l(y, eta) = 1/2 unit deviance >= 0,    s = dl/deta,    h = d2l/deta2 > 0

All three share their exponentials, so they are computed together. The certificates rest on

    |dh/deta| <= c h    for all eta, or from the least to the greatest predictor of any row and 1 / c beyond

(``concordance``), and their rounding on bounds of the mean of h (``mean_curvature``). A link whose loss is not convex
has no such c and no proof: such a pair is refused (families.py).

Sources: McCullagh and Nelder, Generalized Linear Models (1989), chapter 2; self-concordance: Bach 2010, EJS 4; Sun and
Tran-Dinh 2019, Math. Prog. 178.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def xlogx(x: Array) -> Array:
    """Return x log x, 0 at x = 0."""
    return x * np.log(np.where(x > 0, x, 1.0))


@dataclass(frozen=True)
class Family(ABC):
    """One exponential family with a link. ``y`` is (m,), ``eta`` (m,) or (K, m), both float64.

    ``curvature_bound`` is sup h, and ``self_concordance`` a c that holds for all eta; infinite where there is none.
    ``canonical`` says that l(y, eta) = b(eta) - y eta + a function of y; ``positive`` that the predictors are those
    above 0, and all others have an infinite loss. ``recession`` says along which directions the loss may fall for
    ever: by the ``signs`` of 2 y - 1, where y is ``zeros``, by ``classes``, or none. ``whole`` says that targets are.
    ``ulps`` is a bound on the rounding of a sum of losses, in units in its last place.
    """

    name: ClassVar[str]
    link: ClassVar[str]
    curvature_bound: ClassVar[float] = np.inf
    self_concordance: ClassVar[float] = np.inf
    canonical: ClassVar[bool] = True
    positive: ClassVar[bool] = False
    has_dispersion: ClassVar[bool] = False
    recession: ClassVar[str] = ""
    takes: ClassVar[str] = "any finite number"
    ulps: ClassVar[float] = 8.0
    whole: ClassVar[bool] = False

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters beside those of the model: ``power`` or ``theta``."""
        return asdict(self)

    @property
    def predictors(self) -> int:
        """How many linear predictors a row has: one, or one for each of several classes (softmax.py)."""
        return 1

    @property
    def harmless(self) -> float:
        """A predictor at which every loss is finite."""
        return 1.0 if self.positive else 0.0

    @property
    def quadratic(self) -> bool:
        """Whether the loss is a quadratic, with the same Hessian everywhere."""
        return self.self_concordance == 0

    def loss(self, y: Array, eta: Array) -> Array:
        """Return l(y, eta)."""
        return self.terms(y, eta)[0]

    def total(self, y: Array, eta: Array, w: Array | None = None) -> Array:
        """Return the sum of w l(y, eta), eta (m,); ``w`` is None where all weights are 1."""
        values = self.loss(y, eta)
        return np.asarray(values.sum() if w is None else values @ w)

    def sums(self, y: Array, eta: Array, w: Array | None = None) -> tuple[Array, Array, Array]:
        """Return (the sum of w l, w s, w h), eta (m,).

        Kernels want no more, so a family whose losses cost more one by one than their sum may say so here.
        """
        values, score, curvature = self.terms(y, eta)
        if w is None:
            return values.sum(), score, curvature
        return values @ w, w * score, w * curvature

    def loss_at_zero(self, y: Array, w: Array | None = None) -> float:
        """Return the sum of w l(y, 0); ``w`` is None where all weights are 1."""
        losses = self.loss(y, np.zeros(len(y)))
        return float(losses.sum() if w is None else w @ losses)

    @abstractmethod
    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        """Return (l, s, h)."""

    def score(self, y: Array, eta: Array) -> Array:
        """Return s alone, where it costs less than all three."""
        return self.mean(eta) - y if self.canonical else self.terms(y, eta)[1]

    @abstractmethod
    def mean(self, eta: Array) -> Array:
        """Return the mean mu = g^-1(eta)."""

    @abstractmethod
    def predictor(self, mean: float) -> float:
        """Return eta = g(mu) of one mean; infinite at the edge of the range."""

    def information(self, eta: Array) -> Array:
        """Return the expectation of h, (m,): Fisher's information of a row, but for the dispersion."""
        mu, slope = self.mean(eta), self.slope(eta)
        return slope * slope / self.variance(mu)

    def slope(self, eta: Array) -> Array:
        """Return dmu/deta, (m,)."""
        return self.variance(self.mean(eta))

    @abstractmethod
    def variance(self, mean: Array) -> Array:
        """Return the variance function V(mu), (m,)."""

    def outside(self, y: Array) -> NDArray[np.bool_]:
        """Return which targets the family cannot take."""
        return np.zeros(np.shape(y), dtype=np.bool_)

    def concordance(self, low: float, high: float) -> float:  # noqa: ARG002
        """Return c for predictors from ``low`` to ``high`` and 1 / c beyond; infinite where there is none."""
        return self.self_concordance

    def mean_curvature(self, loss: float, target: float, low: float) -> float:  # noqa: ARG002
        """Return a bound on the mean of h where the mean loss is ``loss``, the mean of y is ``target``, and all
        predictors are at least ``low``."""
        return self.curvature_bound
