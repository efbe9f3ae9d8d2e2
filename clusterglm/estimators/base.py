"""What all estimators share: rows go to ``clusterglm.fit``, its answer becomes attributes, its refusals ValueErrors."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import (
    _check_sample_weight,
    _check_y,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from clusterglm.data.rows import Here, from_arrays
from clusterglm.errors import DataError, UsageError
from clusterglm.estimators.lazy import apply, as_array, coded, data_of, is_dask, together
from clusterglm.glm.families.family import Family
from clusterglm.model import FittedModel

_WORDS = {
    "max_passes": "the passes were used up before the tolerance was reached: raise max_passes",
    "no_finite_mle": "no coefficients are the best: they grow without end (separation): add a penalty",
    "diverged": "no step makes progress: rescale the columns",
}


class Estimator(BaseEstimator):  # type: ignore[misc]
    """A generalized linear model; what its parameters mean says ``GLM``.

    Attributes
    ----------
    coef_ : array (p,)
    intercept_ : float
    n_iter_ : int
    result_ : clusterglm.Result
        With the certificate, the passes, the history, and the summary where it was asked for.
    model_ : clusterglm.model.FittedModel
        Predicts without Dask.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn; the latter for frames.
    """

    def __sklearn_clone__(self) -> Self:
        # A client is no parameter to be copied: it is the same cluster.
        return type(self)(**self.get_params(deep=False))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"client": None}  # type: ignore[no-any-return]

    def _options(self) -> dict[str, Any]:
        """Return the options of the fit."""
        p = self.get_params(deep=False)
        keys = ("family", "link", "power", "theta", "penalty", "alpha", "solver", "tol", "max_passes", "summary")
        for key in ("alpha", "C", "l1_ratio", "power", "tol"):
            if p.get(key) is not None and not isinstance(p[key], Real):
                raise ValueError(f"{key}: {p[key]!r} is no number")
        options = {"penalty": "none"} | {key: p[key] for key in keys if p.get(key) is not None}
        if options["penalty"] in ("elastic-net", "group") and p["l1_ratio"] is not None:
            options["l1_ratio"] = p["l1_ratio"]
        if p["groups"] is not None:
            options["penalty_groups"] = p["groups"]
        if options["penalty"] == "none":
            options.pop("alpha", None)
        return options

    def _fit(self, X: Any, y: Any, weight: Any, offset: Any) -> Self:
        """Fit rows that are checked; X is of numpy, scipy or Dask, or a pandas frame with words or categories."""
        from clusterglm import fit

        options, client = self._options(), None
        try:
            names = list(getattr(self, "feature_names_in_", ())) or [f"x{j}" for j in range(self.n_features_in_)]
            if (groups := options.get("penalty_groups")) is not None:
                options["penalty_groups"] = _named(groups, names)
            data: Any
            if is_dask(X) or coded(X):
                data, roles = data_of(X, y, weight, offset)
                options |= roles | {"intercept": self.fit_intercept}
                client = self._client() if is_dask(X) else None
            else:
                data = Here(from_arrays(X, y, weight, offset, intercept=self.fit_intercept), names)
            result = fit(client, data=data, **options)
        except (DataError, UsageError) as error:
            raise ValueError(str(error)) from error
        self.result_, self.n_iter_ = result, max(result.iterations, 1)
        told = result.model()
        self.coef_, self.intercept_ = told["coefficients"], 0.0 if told["intercept"] is None else told["intercept"]
        self.model_ = FittedModel(
            self._fitted_family(),
            tuple(told["feature_names"]),
            told["coefficients"],
            told["intercept"],
            tuple(result.features),
            self._levels(result.levels),
            None,
            result.status,
            tuple(told.get("classes", ())),
        )
        if (words := _WORDS.get(result.status)) is not None:
            warnings.warn(words, ConvergenceWarning, stacklevel=3)
        return self

    def _levels(self, labels: dict[str, list[str]]) -> dict[str, Any]:
        from clusterglm.data.levels import Levels

        return {name: Levels.parse(own) for name, own in labels.items()}

    def _fitted_family(self) -> Family:
        from clusterglm.glm.families import get_family

        return get_family(self.result_.family, self.result_.link, **self.result_.parameters)

    def _client(self) -> Any:
        """Return the client to fit on: the given one, else the one of this process, else None for a new cluster."""
        if self.client is not None:
            return self.client
        from distributed import default_client

        try:
            return default_client()
        except ValueError:
            return None

    def _checked(self, X: Any, y: Any, weight: Any, offset: Any, y_numeric: bool = True) -> tuple[Any, Any, Any, Any]:
        """Return rows of numpy or scipy as arrays, those of Dask as they are; sets ``n_features_in_`` and names."""
        if is_dask(X):
            self._remember(X)
            return X, y, weight, offset
        if coded(X):
            self._remember(X)
            y = _check_y(y, y_numeric=y_numeric, estimator=self)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=y_numeric)
        if X.shape[0] == 1 and self._options()["penalty"] == "none":
            raise ValueError("n_samples=1: one row fits any line: add a penalty")
        weight = None if weight is None else _check_sample_weight(weight, X, ensure_non_negative=True)
        offset = None if offset is None else np.asarray(offset, dtype=np.float64)
        return X, y, weight, offset

    def _remember(self, X: Any) -> None:
        if hasattr(X, "columns"):
            self.feature_names_in_ = np.array([str(name) for name in X.columns], dtype=object)
            self.n_features_in_ = len(X.columns)
            return
        self.n_features_in_ = int(X.shape[1])
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _predictor(self, X: Any) -> Any:
        """Return eta, (n,), or (n, K) of K classes: lazily for Dask."""
        check_is_fitted(self)
        if is_dask(X):
            if not hasattr(X, "columns") and X.shape[1] != self.n_features_in_:
                raise ValueError(f"X has {X.shape[1]} features, but {type(self).__name__} was fitted with others")
            classes = self.model_.classes
            return apply(self.model_.linear_predictor, X, len(classes) or None, classes or None)
        if self.model_.levels:
            if not hasattr(X, "columns"):
                raise ValueError("X has no names, and words or categories were fitted: give a frame")
            try:
                return np.asarray(self.model_.linear_predictor(X))
            except DataError as error:
                raise ValueError(str(error)) from error
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        if self.model_.classes:
            return np.asarray(X @ self.coef_.T + self.intercept_)
        return np.asarray(X @ self.coef_.ravel() + self.intercept_).ravel()

    def _deviances(self, X: Any, y: Any, weight: Any) -> tuple[float, float]:
        """Return the mean loss of the model and of the mean of y, both at the weights."""
        family, eta = self.model_.family, self._predictor(X)
        if is_dask(X):
            import dask.array as da
            from dask import compute

            eta = as_array(eta)
            y, w = together(eta, as_array(y), da.ones_like(eta) if weight is None else as_array(weight))
            total, mean = compute(w.sum(), (w * y).sum())
            level = family.predictor(float(mean / total))
            own = da.map_blocks(family.loss, y, eta, dtype=np.float64)
            null = da.map_blocks(_loss_at, y, family=family, level=level, dtype=np.float64)
            found, base = compute((w * own).sum(), (w * null).sum())
            return float(found / total), float(base / total)
        y = np.asarray(y, dtype=np.float64)
        w = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
        level = family.predictor(float(np.average(y, weights=w)))
        own, null = family.loss(y, eta), _loss_at(y, family, level)
        return float(np.average(own, weights=w)), float(np.average(null, weights=w))


def _named(groups: Any, names: list[str]) -> list[list[str]]:
    """Return groups of columns, given by number or by name, by the names that they have in the fit.

    Raises
    ------
    ValueError
        A number that no column has.
    """

    def name(column: Any) -> str:
        if isinstance(column, str):
            return column
        if not 0 <= column < len(names):
            raise ValueError(f"groups: column {column}, and there are {len(names)}")
        return str(names[column])

    return [[name(column) for column in group] for group in groups]


def _loss_at(y: np.ndarray, family: Family, level: float) -> np.ndarray:
    return family.loss(y, np.full(len(y), level))
