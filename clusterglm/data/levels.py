"""Categorical columns: their levels, and the reference-coded 0/1 columns that they become.

As in R's treatment contrasts and in patsy: levels are sorted, or as declared; the first is the reference, and each
other one is a column ``name[T.level]``. A level is known by its label: text as it is, whole numbers as ``12``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clusterglm.data import arrays
from clusterglm.data.design import to_numpy
from clusterglm.errors import quoted

MISSING, UNSEEN = -1, -2
Value = str | int | float


@dataclass(frozen=True)
class Levels:
    """The labels of a column in order, the reference first; ``numeric`` where they stand for numbers."""

    labels: tuple[str, ...]
    numeric: bool = False

    @classmethod
    def of(cls, values: Iterable[Value], declared: Iterable[Value] = ()) -> Levels:
        """Return the levels that ``values`` are, in the order of ``declared`` where there is one, else sorted."""
        found = set(values)
        order = [value for value in declared if value in found] or sorted(found)
        return cls(tuple(map(label, order)), all(not isinstance(value, str) for value in order))

    @classmethod
    def parse(cls, labels: Iterable[str]) -> Levels:
        """Return the levels with these labels; they stand for numbers where all are written as numbers are.

        Raises
        ------
        ValueError
            No text, none at all, or one twice.
        """
        found = tuple(labels)
        if not found or len(set(found)) < len(found) or not all(isinstance(label, str) for label in found):
            raise ValueError("labels must be text, each once")
        return cls(found, all(map(_is_number, found)))

    def names(self, column: str) -> list[str]:
        """Return the names of the 0/1 columns, one fewer than there are levels."""
        return [f"{column}[T.{label}]" for label in self.labels[1:]]

    def codes(self, column: pa.Array | np.ndarray) -> np.ndarray:
        """Return the place of every value among the labels, (n,) int32; ``MISSING`` and ``UNSEEN`` are negative."""
        if isinstance(column, np.ndarray):
            column = arrays.as_arrow(column)
        if pa.types.is_dictionary(column.type):
            of_entry = np.append(self.codes(column.dictionary), MISSING).astype(np.int32)
            entries: np.ndarray = pc.fill_null(column.indices.cast(pa.int64()), -1).to_numpy()
            codes: np.ndarray = of_entry[entries]
            return codes
        if is_text(column.type):
            places = pc.index_in(column.cast(pa.large_string()), value_set=self._value_set)
            codes = np.array(pc.fill_null(places, UNSEEN), dtype=np.int32)
            if column.null_count:
                codes[pc.is_null(column).to_numpy(zero_copy_only=False)] = MISSING
            return codes
        values = to_numpy(column).astype(np.float64)
        if self.numeric:
            ordered, places = self._by_value
            near = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
            codes = np.where(ordered[near] == values, places[near], UNSEEN)
        else:  # text that looks like numbers: 01 is another level than 1
            distinct, inverse = np.unique(values, return_inverse=True)
            place = {label: i for i, label in enumerate(self.labels)}
            codes = np.array([place.get(label(v), UNSEEN) for v in distinct.tolist()], dtype=np.int32)[inverse]
        return np.where(np.isnan(values), MISSING, codes).astype(np.int32)

    @cached_property
    def _value_set(self) -> pa.Array:
        return pa.array(self.labels, pa.large_string())

    @cached_property
    def _by_value(self) -> tuple[np.ndarray, np.ndarray]:
        values = np.array([float(label) for label in self.labels])
        order = np.argsort(values)
        return values[order], order

    def __str__(self) -> str:
        return f"{len(self.labels)} levels, reference {quoted(self.labels[0])}"


def design_names(features: Iterable[str], levels: Mapping[str, Levels]) -> list[str]:
    """Return the columns of the design matrix that the features are."""
    return [name for f in features for name in (levels[f].names(f) if f in levels else [f])]


def label(value: Value) -> str:
    """Return the name of a level: text as it is, numbers without needless digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _is_number(text: str) -> bool:
    try:
        return label(float(text)) == text
    except ValueError:
        return False


def is_text(type: pa.DataType) -> bool:
    """Return whether values of this type are text."""
    return any((pa.types.is_string(type), pa.types.is_large_string(type), pa.types.is_string_view(type)))


def is_missing(column: pa.Array) -> np.ndarray | None:
    """Return which values are missing, null or NaN, (n,) bool; None where none is."""
    if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
        column = column.dictionary_decode()
    floating = pa.types.is_floating(column.type)
    if not (column.null_count or floating):
        return None
    missing: np.ndarray = pc.is_null(column, nan_is_null=floating).to_numpy(zero_copy_only=False)
    return missing if missing.any() else None


def complete(batch: pa.RecordBatch) -> np.ndarray | None:
    """Return which rows have no missing value, (n,) bool; None where all have none."""
    gaps = [gap for gap in map(is_missing, batch.columns) if gap is not None]
    return ~np.logical_or.reduce(gaps) if gaps else None


def as_arrow(batch: pa.RecordBatch | arrays.Columns) -> pa.RecordBatch:
    """Return the rows of any reader as Arrow has them."""
    return batch.to_arrow() if isinstance(batch, arrays.Columns) else batch


def without_gaps(batch: pa.RecordBatch | arrays.Columns) -> pa.RecordBatch:
    """Return the rows that have no missing value."""
    batch = as_arrow(batch)
    mask = complete(batch)
    return batch if mask is None else batch.filter(pa.array(mask))
