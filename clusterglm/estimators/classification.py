"""Logistic regression of two classes or more, whatever they are called."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from clusterglm.estimators.base import Estimator
from clusterglm.estimators.lazy import apply, as_array, is_dask, together
from clusterglm.model import FittedModel


class LogisticRegression(ClassifierMixin, Estimator):  # type: ignore[misc]
    """The binomial family with its logit link, or ``link`` probit or cloglog; the multinomial family of more classes.

    Of K > 2 classes ``coef_`` is (K, p) and ``intercept_`` (K,), as in scikit-learn; without a penalty less those of
    the first class.

    Parameters
    ----------
    penalty : str or None
        l2, none, l1, elastic-net or group.
    C : float
        The inverse of its strength: sum of losses + penalty / C, as in scikit-learn and dask-ml.
    l1_ratio, groups, fit_intercept, solver, tol, max_passes, summary, client
        As in ``GLM``.
    """

    def __init__(
        self,
        penalty: str = "l2",
        *,
        C: float = 1.0,
        l1_ratio: float | None = None,
        groups: Any = None,
        link: str | None = None,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int = 1000,
        summary: bool = False,
        client: Any = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.groups = groups
        self.link = link
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_passes = max_passes
        self.summary = summary
        self.client = client

    def _options(self) -> dict[str, Any]:
        several = len(getattr(self, "classes_", ())) > 2
        options = super()._options() | {"family": "multinomial" if several else "binomial"}
        if options["penalty"] != "none":
            if not 0 < self.C < np.inf:
                raise ValueError(f"C must be above 0: {self.C}")
            options["lamduh"] = 1 / self.C
        return options

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Fit rows: ``X`` (n, p) and labels ``y`` (n,) of numpy, scipy, pandas or Dask; all as in ``GLM.fit``.

        Raises
        ------
        ValueError
            Rows that no model can be fitted to, one class alone, or a link that is for two.
        """
        if is_dask(X):
            self._remember(X)
            self.classes_ = _classes(y)
            target = _codes(y, self.classes_)
            return self._fit(X, target, sample_weight, offset)._as_classifier()
        X, y, sample_weight, offset = self._checked(X, y, sample_weight, offset, y_numeric=False)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        seen = codes if sample_weight is None else codes[sample_weight > 0]
        if len(np.unique(seen)) < max(len(self.classes_), 2):
            raise ValueError("two classes are needed, and a row that has a weight of each: here is one class too few")
        return self._fit(X, codes.astype(np.float64), sample_weight, offset)._as_classifier()

    def _as_classifier(self) -> Self:
        if len(self.classes_) == 2:
            self.coef_, self.intercept_ = self.coef_[None, :], np.array([self.intercept_])
        else:
            self.intercept_ = np.broadcast_to(self.intercept_, len(self.classes_)).copy()
        self.n_iter_ = np.array([self.n_iter_], dtype=np.int32)
        return self

    def decision_function(self, X: Any) -> Any:
        """Return the linear predictor of every row, (n,), above 0 for ``classes_[1]``, or (n, K) of K classes; lazily
        for Dask."""
        return self._predictor(X)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of every class, (n, K), in the order of ``classes_``; lazily for Dask."""
        eta = self._predictor(X)
        if is_dask(X):
            return apply(partial(_probabilities, self.model_), X, len(self.classes_), self.classes_)
        return self.model_.family.mean(eta.T).T if self.model_.classes else _both(self.model_.family.mean(eta))

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of ``predict_proba``."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Any:
        """Return the label of the likelier class of every row, (n,); lazily for Dask."""
        eta = self._predictor(X)
        label = partial(_labels, self.classes_, None if self.model_.classes else self._half)
        if not is_dask(X):
            return label(eta)
        if hasattr(X, "columns"):
            return eta.map_partitions(_labels_of, label, meta=pd.Series(dtype=self.classes_.dtype))
        return eta.map_blocks(label, dtype=self.classes_.dtype, **({"drop_axis": 1} if eta.ndim == 2 else {}))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows whose label is predicted."""
        if not is_dask(X):
            return float(super().score(X, y, sample_weight))
        eta = as_array(self._predictor(X))
        [codes] = together(eta, as_array(_codes(y, self.classes_)))
        hit = (eta.argmax(axis=1) if eta.ndim == 2 else eta > self._half) == codes
        if sample_weight is None:
            return float(hit.mean().compute())
        [w] = together(eta, as_array(sample_weight))
        return float(((w * hit).sum() / w.sum()).compute())

    @property
    def _half(self) -> float:
        """The predictor at which both classes are as likely."""
        check_is_fitted(self)
        return self.model_.family.predictor(0.5)

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _both(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - p, p])


def _probabilities(model: FittedModel, X: Any) -> np.ndarray:
    return model.predict(X) if model.classes else _both(model.predict(X))


def _labels(classes: np.ndarray, half: float | None, eta: np.ndarray) -> np.ndarray:
    return np.asarray(classes[eta.argmax(axis=1) if half is None else (eta > half).astype(np.intp)])


def _labels_of(eta: Any, label: Any) -> Any:
    return pd.Series(label(eta.to_numpy()), index=eta.index)


def _classes(labels: Any) -> np.ndarray:
    import dask.array as da

    found = labels.unique() if hasattr(labels, "unique") else da.unique(labels)
    classes = np.sort(np.asarray(found.compute()))
    if len(classes) < 2:
        raise ValueError(f"two classes are needed, here is one: {', '.join(map(str, classes))}")
    return classes


def _codes(labels: Any, classes: np.ndarray) -> Any:
    """Return the place of every label among the classes, lazily as the labels are."""
    return sum((labels == classes[k]).astype(np.float64) * k for k in range(1, len(classes)))
