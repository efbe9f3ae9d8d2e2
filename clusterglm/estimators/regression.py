"""Regressors: the general model, and one class for each family."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags

from clusterglm.errors import UsageError
from clusterglm.estimators.base import Estimator
from clusterglm.estimators.lazy import apply, is_dask
from clusterglm.glm.families import get_family
from clusterglm.request import CLASSES


class GLM(RegressorMixin, Estimator):  # type: ignore[misc]
    """A generalized linear model of any family, fitted to a certified optimum.

    Parameters
    ----------
    family : str
        gaussian, binomial, poisson, gamma, inverse-gaussian, tweedie or negative-binomial.
    link : str, optional
        Another link than the family's own.
    power, theta : float, optional
        Of tweedie and negative-binomial; theta may be ``"estimate"``.
    penalty : str or None
        none, l1, l2, elastic-net or group.
    alpha : float
        Its strength: mean loss + alpha x penalty. Without effect where there is none.
    l1_ratio : float, optional
        The share of L1 in elastic-net, by default 0.5; of the groups' norms in group, by default 1.
    groups : sequence of sequences, optional
        Those of the penalty ``group``, by the numbers of their columns or by their names; all others are by themselves.
    fit_intercept : bool
    solver : str
        A name of ``clusterglm.fit``.
    tol : float
        Certified error of the coefficients in standard errors.
    max_passes : int
    summary : bool
        Whether ``result_`` is to have standard errors and a summary.
    client : distributed.Client, optional
        For collections of Dask: by default the client of this process, and without one a cluster of its own.
    """

    def __init__(
        self,
        family: str = "gaussian",
        *,
        link: str | None = None,
        power: float | None = None,
        theta: float | str | None = None,
        penalty: str = "none",
        alpha: float = 1.0,
        l1_ratio: float | None = None,
        groups: Any = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int = 1000,
        summary: bool = False,
        client: Any = None,
    ) -> None:
        self.family = family
        self.link = link
        self.power = power
        self.theta = theta
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.groups = groups
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_passes = max_passes
        self.summary = summary
        self.client = client

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Fit rows: ``X`` (n, p) and ``y`` (n,) of numpy, scipy, pandas or Dask.

        Parameters
        ----------
        X, y
        sample_weight : (n,), optional
            How often each row was seen.
        offset : (n,), optional
            Added to the linear predictor.

        Raises
        ------
        ValueError
            Rows, or parameters, that no model can be fitted to.
        """
        if self._options()["family"] == CLASSES:
            raise ValueError(f"family: {CLASSES} has classes to predict: use LogisticRegression")
        return self._fit(*self._checked(X, y, sample_weight, offset))

    def predict(self, X: Any) -> Any:
        """Return the mean of every row, (n,), without offset; lazily for Dask."""
        eta = self._predictor(X)
        return apply(self.model_.predict, X) if is_dask(X) else self.model_.family.mean(eta)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of the deviance that is explained, 1 for a perfect fit; R^2 for the gaussian family."""
        own, null = self._deviances(X, y, sample_weight)
        return 1 - own / null if null > 0 else float(own == 0)

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        with suppress(UsageError):  # of a family that there is not, which fit refuses
            family = get_family(self._options()["family"])
            tags.target_tags.positive_only = bool(np.all(family.outside(np.array([-1.0]))))
        return tags


class _OfOneFamily(GLM):
    """A ``GLM`` of one family, whose parameters lack what the family has not."""

    _family = "gaussian"

    def __init__(
        self,
        *,
        penalty: str = "l2",
        alpha: float = 1.0,
        l1_ratio: float | None = None,
        groups: Any = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int = 1000,
        summary: bool = False,
        client: Any = None,
    ) -> None:
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.groups = groups
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_passes = max_passes
        self.summary = summary
        self.client = client

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"family": self._family}


class LinearRegression(_OfOneFamily):
    """Least squares; other parameters as those of ``GLM``."""

    def __init__(
        self,
        *,
        penalty: str = "none",
        alpha: float = 1.0,
        l1_ratio: float | None = None,
        groups: Any = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int = 1000,
        summary: bool = False,
        client: Any = None,
    ) -> None:
        super().__init__(
            penalty=penalty,
            alpha=alpha,
            l1_ratio=l1_ratio,
            groups=groups,
            fit_intercept=fit_intercept,
            solver=solver,
            tol=tol,
            max_passes=max_passes,
            summary=summary,
            client=client,
        )


class PoissonRegression(_OfOneFamily):
    """Counts and rates, log link; parameters as those of ``GLM``."""

    _family = "poisson"


class GammaRegression(_OfOneFamily):
    """Targets above 0, log link; parameters as those of ``GLM``."""

    _family = "gamma"


class TweedieRegression(_OfOneFamily):
    """Targets of 0 or more with exact zeros, log link, variance mu^power, 1 < power < 2; others as those of ``GLM``."""

    _family = "tweedie"

    def __init__(
        self,
        *,
        power: float = 1.5,
        penalty: str = "l2",
        alpha: float = 1.0,
        l1_ratio: float | None = None,
        groups: Any = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int = 1000,
        summary: bool = False,
        client: Any = None,
    ) -> None:
        self.power = power
        super().__init__(
            penalty=penalty,
            alpha=alpha,
            l1_ratio=l1_ratio,
            groups=groups,
            fit_intercept=fit_intercept,
            solver=solver,
            tol=tol,
            max_passes=max_passes,
            summary=summary,
            client=client,
        )


class NegativeBinomialRegression(_OfOneFamily):
    """Counts that vary more than Poisson's, log link, variance mu + mu^2 / theta; others as those of ``GLM``.

    ``theta`` may be ``"estimate"``.
    """

    _family = "negative-binomial"

    def __init__(
        self,
        *,
        theta: float | str = 1.0,
        penalty: str = "l2",
        alpha: float = 1.0,
        l1_ratio: float | None = None,
        groups: Any = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int = 1000,
        summary: bool = False,
        client: Any = None,
    ) -> None:
        self.theta = theta
        super().__init__(
            penalty=penalty,
            alpha=alpha,
            l1_ratio=l1_ratio,
            groups=groups,
            fit_intercept=fit_intercept,
            solver=solver,
            tol=tol,
            max_passes=max_passes,
            summary=summary,
            client=client,
        )
