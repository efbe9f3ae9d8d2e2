"""A fitted model: coefficients with their names, levels and family; it predicts without Dask.

    eta = offset + b_0 + sum_j x_j b_j,    mean = g^-1(eta)

The sum runs over the columns in their order, a row by itself, so a prediction has the same bits however rows are cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clusterglm.errors import DataError, UsageError, quoted, unknown
from clusterglm.glm.families import get_family
from clusterglm.glm.families.family import Family

if TYPE_CHECKING:
    import pyarrow as pa

    from clusterglm.data.levels import Levels

UNSEEN = ("error", "reference", "missing")
MODEL_FILE = "model.json"
_NUMERIC = {"number", "bool", "null"}


class Unseen(NamedTuple):
    """Values of a column that are no level of the model: how many, and the first, with its row."""

    column: str
    values: int
    row: int
    value: str

    def refusal(self, place: str, levels: Levels) -> DataError:
        """Return the error that names the first of them; ``place`` says where it is."""
        cure = f"not among the model's {len(levels.labels)} levels: correct it, or --unseen reference or missing"
        return DataError(f"column {quoted(self.column)}", f"{self.value[:40]} in {place}", cure)


class Scores(NamedTuple):
    """``eta`` and ``mean``, (n,) or (n, K) float64, NaN where a value is missing; ``unseen`` by column."""

    eta: np.ndarray
    mean: np.ndarray
    unseen: list[Unseen]


@dataclass(frozen=True)
class FittedModel:
    """What ``model.json`` holds.

    ``coefficients`` (p,) float64 are those of ``feature_names``; ``features`` are the columns that these are made of,
    and ``levels`` those of the ones that are coded. ``offset`` names the column that was added to the predictor. With
    K ``classes`` coefficients are (K, p), intercepts (K,), and what is predicted (n, K).
    """

    family: Family
    feature_names: tuple[str, ...]
    coefficients: np.ndarray
    intercept: Any
    features: tuple[str, ...]
    levels: Mapping[str, Levels]
    offset: str | None
    status: str
    classes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns of the data that a prediction takes."""
        return [*self.features, *([self.offset] if self.offset is not None else [])]

    def predict(self, X: Any, offset: np.ndarray | str | None = None, *, unseen: str = "error") -> np.ndarray:
        """Return the mean of every row, (n,) float64; NaN where one of its values is missing or not finite.

        Parameters
        ----------
        X : pandas.DataFrame or array
            A frame with the model's ``features``, and its offset, as columns; or numbers, (n, p), dense or sparse,
            whose columns are ``feature_names``.
        offset : array or str, optional
            (n,) numbers to add to the linear predictor, or the column that holds them.
        unseen : str
            What a level is that the model does not know: an ``error``, the ``reference`` or ``missing``.

        Raises
        ------
        UsageError
            Not one of these policies; an offset of a model without one.
        DataError
            A column is missing or no number, a level is unseen, a shape does not fit.
        """
        eta = self.linear_predictor(X, offset, unseen=unseen)
        return self.family.mean(eta.T).T if self.classes else self.family.mean(eta)

    def of_class(self, k: int) -> FittedModel:
        """Return the model of the predictor of class ``k`` alone."""
        intercept = None if self.intercept is None else float(self.intercept[k])
        return replace(self, coefficients=self.coefficients[k], intercept=intercept, classes=())

    def linear_predictor(self, X: Any, offset: np.ndarray | str | None = None, *, unseen: str = "error") -> np.ndarray:
        """Return eta of every row, (n,) float64; all as in ``predict``."""
        if self.classes:
            each = [self.of_class(k).linear_predictor(X, offset, unseen=unseen) for k in range(len(self.classes))]
            return np.column_stack(each)
        if unseen not in UNSEEN:
            raise unknown("unseen", unseen, UNSEEN)
        if offset is not None and self.offset is None:
            raise UsageError("offset", None, "the model has none: leave it out")
        if not hasattr(X, "columns"):
            return self._of_matrix(X, offset)
        named = offset if isinstance(offset, str) else self.offset
        added = None if isinstance(offset, str) else offset
        scores = self.scores(_frame_columns(X), len(X), named if added is None else None, unseen, added)
        if scores.unseen and unseen == "error":
            first = scores.unseen[0]
            raise first.refusal(f"row {first.row}", self.levels[first.column])
        return scores.eta

    def scores(
        self,
        column: Callable[[str], pa.Array],
        rows: int,
        offset: str | None,
        unseen: str = "error",
        added: np.ndarray | None = None,
    ) -> Scores:
        """Return the predictions of ``rows``, whose columns ``column`` returns; ``offset`` names one of them.

        Raises
        ------
        DataError
            A column is no number where the model took one.
        """
        from clusterglm.data import levels as coding

        if self.classes:
            all_scores = [
                self.of_class(k).scores(column, rows, offset, unseen, added) for k in range(len(self.classes))
            ]
            eta = np.column_stack([scores.eta for scores in all_scores])
            return Scores(eta, self.family.mean(eta.T).T, all_scores[0].unseen)
        eta = self._base(rows, added)
        if offset is not None:
            eta += _number(offset, column(offset))
        at, found = 0, []
        for name in self.features:
            levels = self.levels.get(name)
            if levels is None:
                with np.errstate(invalid="ignore"):  # a coefficient of 0 times an infinite value
                    eta += self.coefficients[at] * _number(name, column(name))
                at += 1
                continue
            values = _checked(name, column(name), {*_NUMERIC, "string"}, "category")
            width = len(levels.labels) - 1
            codes = levels.codes(values)
            # Behind those of the levels stand what UNSEEN and MISSING, -2 and -1, add.
            other = [0.0 if unseen == "reference" else np.nan, np.nan]
            eta += np.concatenate([[0.0], self.coefficients[at : at + width], other])[codes]
            at += width
            strange = codes == coding.UNSEEN
            if strange.any():
                row = int(strange.argmax())
                found.append(Unseen(name, int(strange.sum()), row, coding.label(values[row].as_py())))
        eta[~np.isfinite(eta)] = np.nan
        mean = eta if self.family.predictors > 1 else self.family.mean(eta)
        return Scores(eta, mean, found)

    def _of_matrix(self, X: Any, offset: Any) -> np.ndarray:
        from scipy.sparse import issparse

        from clusterglm.data.rows import _numbers

        if not issparse(X):
            X = _numbers("X", X)
        if X.ndim != 2 or X.shape[1] != len(self.coefficients):
            raise DataError("X", f"shape {X.shape}", f"the model has {len(self.coefficients)} columns: {self._named()}")
        if self.offset is not None and (offset is None or isinstance(offset, str)):
            raise DataError("offset", offset, f"the model was fitted with {quoted(self.offset)}: give its numbers")
        eta = self._base(X.shape[0], offset)
        if issparse(X):
            eta += X @ self.coefficients
        else:
            with np.errstate(invalid="ignore"):
                for j, coefficient in enumerate(self.coefficients):
                    eta += coefficient * X[:, j]
        eta[~np.isfinite(eta)] = np.nan
        return eta

    def _named(self) -> str:
        return ", ".join(map(quoted, self.feature_names[:5])) + (", ..." if len(self.feature_names) > 5 else "")

    def _base(self, rows: int, offset: Any) -> np.ndarray:
        eta = np.full(rows, 0.0 if self.intercept is None else self.intercept)
        if offset is not None:
            from clusterglm.data.rows import _numbers

            offset = _numbers("offset", offset).astype(np.float64)
            if offset.shape != (rows,):
                raise DataError("offset", f"shape {offset.shape}", f"X has {rows} rows")
            eta = offset + eta
        return eta


def _frame_columns(frame: Any) -> Callable[[str], pa.Array]:
    import pyarrow as pa

    from clusterglm.data.frames import as_column, by_name

    names = by_name(frame.columns, "X")

    def column(name: str) -> pa.Array:
        if name not in names:
            raise missing_column(name, list(names))
        values = frame[names[name]]
        try:
            return as_column(values)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise DataError(f"column {quoted(name)}", str(values.dtype), "neither number nor category") from error

    return column


def missing_column(
    name: str, columns: Sequence[str], where: str = "", why: str = "the model was fitted with it"
) -> DataError:
    """Return the error of data without a column that is wanted."""
    import difflib

    near = difflib.get_close_matches(name, columns, n=1)
    hint = f": did you rename it to {quoted(near[0])}?" if near else f": {why}"
    return DataError(f"column {quoted(name)}", None, f"not there{where}{hint}")


def _checked(name: str, column: pa.Array, kinds: Collection[str], words: str) -> pa.Array:
    from clusterglm.data.parquet import kind_of

    kind = kind_of(column.type)
    if kind not in kinds:
        cure = f"not a {words}, as it was when the model was fitted: correct it"
        raise DataError(f"column {quoted(name)}", kind, cure)
    return column


def _number(name: str, column: pa.Array) -> np.ndarray:
    from clusterglm.data.design import to_numpy

    return to_numpy(_checked(name, column, _NUMERIC, "number")).astype(np.float64)


def load_model(path: str | Path) -> FittedModel:
    """Return the model of a run folder, or of its ``model.json``.

    Raises
    ------
    DataError
        No such file, or none that a fit has written.
    """
    from clusterglm.data.levels import Levels

    file = Path(path)
    file = file / MODEL_FILE if file.is_dir() else file
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = tuple(map(str, content["feature_names"]))
        features = tuple(map(str, content.get("features", names)))
        levels = {str(name): Levels.parse(labels) for name, labels in content.get("levels", {}).items()}
        coefficients = np.array(content["coefficients"], dtype=np.float64)
        intercept, offset = content["intercept"], content.get("offset")
        made = [name for f in features for name in (levels[f].names(f) if f in levels else [f])]
        classes = tuple(map(str, content.get("classes") or ()))
        intercept = None if intercept is None else np.array(intercept, dtype=np.float64)[()]
        shapes = coefficients.shape, np.shape(0.0 if intercept is None else intercept)
        wanted = ((len(classes), len(names)), (len(classes),)) if classes else ((len(names),), ())
        if made != list(names) or shapes[0] != wanted[0] or (intercept is not None and shapes[1] != wanted[1]):
            raise ValueError("names and coefficients do not fit together")
        if not np.isfinite(coefficients).all() or not np.isfinite(0.0 if intercept is None else intercept).all():
            raise ValueError("not finite")
        return FittedModel(
            get_family(content["family"], content.get("link"), **content.get("parameters", {})),
            names,
            coefficients,
            intercept if classes or intercept is None else float(intercept),
            features,
            levels,
            None if offset is None else str(offset),
            str(content.get("status")),
            classes,
        )
    except FileNotFoundError as error:
        raise DataError("MODEL", path, f"no such file: name a run folder, or its {MODEL_FILE}") from error
    except OSError as error:
        raise DataError("MODEL", path, (error.strerror or str(error)).lower()) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise DataError("MODEL", path, "not a model that clusterglm fit has written: name a run folder") from error
