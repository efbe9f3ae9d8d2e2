"""Columns that Python holds, from a pandas frame or a dict: their kinds, and Arrow's form of them.

From there on they are the columns of a file: ``columns.py`` chooses and refuses, ``levels.py`` codes, ``design.py``
turns them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clusterglm.data.arrays import as_arrow
from clusterglm.data.census import Census
from clusterglm.data.chunk import block_rows
from clusterglm.data.chunks import local_problem_rows
from clusterglm.data.columns import EXACT, Column, Roles, Schema, choose, coded
from clusterglm.data.design import Design, windows
from clusterglm.data.levels import design_names, is_missing, without_gaps
from clusterglm.data.parquet import kind_of
from clusterglm.data.rows import Here, LocalRows
from clusterglm.errors import DataError, quoted, unknown

_ALIKE = "see that all partitions are alike"
_DECLARED = "category"  # pandas' name for a column of declared levels
_NUMERIC = {"number", "bool", "null"}


def by_name(columns: Iterable[Hashable], label: str) -> dict[str, Any]:
    """Return the columns' own names by what they are called here, for a frame's may be numbers.

    Raises
    ------
    DataError
        Two are called the same.
    """
    found: dict[str, Any] = {}
    for column in columns:
        if str(column) in found:
            raise DataError(label, None, f"column {quoted(str(column))} is there twice: rename one")
        found[str(column)] = column
    return found


def schema(columns: Mapping[str, Any]) -> Schema:
    """Return the kind of every column: an array, or a pandas Series, of any length."""
    return {name: _column(values) for name, values in columns.items()}


def _column(values: Any) -> Column:
    """Return the kind of a column, of which there may be no row: then objects are taken for text."""
    dtype, objects = values.dtype, str(values.dtype) == "object"
    if isinstance(dtype, np.dtype) and dtype.kind in "MmcV":
        return Column({"c": "complex", "V": "structure"}.get(dtype.kind, "datetime"), str(dtype))
    if objects and not len(values):
        return Column("string", "object")
    try:
        kind = kind_of(as_column(values if objects else values[:0]).type)
        if str(dtype) == _DECLARED:
            kind = {"string": "category", "number": "code"}.get(kind, kind)
        return Column(kind, str(dtype))
    except (pa.ArrowException, TypeError):
        return Column(str(dtype), str(dtype))


def as_column(values: Any) -> pa.Array:
    """Return a column as Arrow has it; numpy's numbers are views where they can be, and NaN remains NaN."""
    if type(values.dtype).__name__ == "SparseDtype":
        values = np.asarray(values)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind != "O":
        array = np.asarray(values)
        return as_arrow(array.astype(np.float64) if array.dtype == np.longdouble else array)
    found = pa.array(values, from_pandas=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def batch(columns: Mapping[str, Any], promised: Schema) -> pa.RecordBatch:
    """Return columns of one length as a batch.

    Raises
    ------
    DataError
        Masked values, or a column of another kind than was ``promised``.
    """
    found = {}
    for name, values in columns.items():
        what, word = f"column {quoted(name)}", promised[name].kind
        if np.ma.is_masked(values):
            raise DataError(what, "masked values", "drop or fill these rows")
        try:
            found[name] = as_column(values)
        except (pa.ArrowException, TypeError) as error:
            raise DataError(what, str(values.dtype), f"{promised[name].type} was promised: {_ALIKE}") from error
        here = kind_of(found[name].type)
        alike = here == word or "null" in (here, word) or {here, word} <= _NUMERIC
        if not alike and promised[name].type != _DECLARED:  # of which Dask need not know the values
            raise DataError(what, here, f"{promised[name].type} was promised: {_ALIKE}")
    return pa.record_batch(found)


def largest(batch: pa.RecordBatch, besides: Iterable[str] = ()) -> dict[str, int]:
    """Return the largest magnitude above 2^53 of every column of whole numbers that has one, ``besides`` some."""
    found = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.type in (pa.int64(), pa.uint64()) and name not in besides:
            ends = pc.min_max(column).as_py()
            if ends["min"] is not None and (size := max(abs(ends["min"]), abs(ends["max"]))) > EXACT:
                found[name] = size
    return found


def rounded(sizes: Mapping[str, int]) -> list[str]:
    """Return what is said about whole numbers that float64 does not hold."""
    return [f"warning: column {quoted(name)} ({size}): rounded to float64" for name, size in sizes.items()]


def census(batch: pa.RecordBatch, kinds: Mapping[str, str], place: int = 0) -> Census:
    """Return the levels of the columns that ``kinds`` has, and the values that are missing in them."""
    found = Census()
    for name, kind in kinds.items():
        if name not in batch.schema.names:
            continue
        column = batch.column(name)
        gaps = is_missing(column)
        if gaps is not None:
            found.missing[name], found.first[name] = int(gaps.sum()), (place, int(gaps.argmax()))
            column = column.filter(pa.array(~gaps))
        found.look(name, column, kind == "category")
    return found


def coding(features: Sequence[str], levels: Mapping[str, Any], roles: Roles) -> dict[str, Any]:
    """Return what a prediction needs to make the columns of the design matrix again, and the classes of the target."""
    labels = {name: list(of.labels) for name, of in levels.items()}
    classes = {"classes": labels.pop(roles.target)} if roles.target in labels else {}
    return {"features": list(features), "levels": labels, **classes}


def rows_here(data: Any, roles: Roles, *, intercept: bool, dtype: str, drop: bool = False) -> Here:
    """Return the rows of a pandas frame or a dict of columns; ``drop`` leaves out those with a missing value.

    Raises
    ------
    UsageError
        A dtype other than float64 and float32.
    DataError
        Columns that are missing, of different lengths, neither numbers nor categories; no rows.
    """
    if dtype not in ("float64", "float32"):
        raise unknown("dtype", dtype, ("float64", "float32"))
    label = "dict" if isinstance(data, Mapping) else "frame"
    names = by_name(data if label == "dict" else data.columns, label)
    columns = {name: data[key] if label == "frame" else _flat(name, data[key]) for name, key in names.items()}
    kinds = schema(columns)
    features = choose(kinds, roles, label)
    columns = {name: columns[name] for name in (*features, *roles.others.values())}
    rows = len(columns[roles.target])
    for name, column in columns.items():
        if len(column) != rows:
            raise DataError(f"column {quoted(name)}", f"{len(column)} rows", f"the target has {rows}")
    if not rows:
        raise DataError("data", f"{label} of 0 rows", "nothing to fit")
    whole = batch(columns, kinds)
    notes = []
    if drop and (left := without_gaps(whole)).num_rows < rows:
        if not left.num_rows:
            raise DataError("data", label, "no row without a missing value: leave out such columns")
        notes = [f"note: missing drop: {rows - left.num_rows} of {rows} rows left out"]
        whole, rows = left, left.num_rows
    found = census(whole, {name: kinds[name].kind for name in coded(kinds, features, roles)})
    found.refuse_missing(lambda _, row: f"row {row}")
    levels = found.levels()
    wide = design_names(features, levels)
    if not wide:
        raise DataError("data", label, f"no columns besides the target {quoted(roles.target)}")
    width, itemsize = len(wide) + intercept, np.dtype(dtype).itemsize
    design = Design(rows, features, list(roles.others.values()), dtype, intercept, levels)
    [chunk] = windows(design, [whole], (0, rows), rows, block_rows(width, itemsize), roles)
    held = LocalRows(chunk, local_problem_rows(rows, width, itemsize), intercept=intercept)
    notes += [*rounded(largest(whole, found.values)), *found.notes(levels)]
    return Here(held, wide, roles.target, coding(features, levels, roles), notes)


def _flat(name: str, values: Any) -> Any:
    """Return a column of a dict as an array or a Series. Raises DataError."""
    try:
        column = values if hasattr(values, "dtype") else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"column {quoted(name)}", None, "give one value for every row") from error
    if column.ndim != 1:
        raise DataError(f"column {quoted(name)}", f"shape {column.shape}", "give one value for every row")
    return column
