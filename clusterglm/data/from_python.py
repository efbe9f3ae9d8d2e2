"""What ``clusterglm.fit`` takes as ``data`` from Python: frames, dicts of columns and arrays, in memory or of Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from clusterglm.data.arrays import Columns
from clusterglm.data.collections import Collections, Stack
from clusterglm.data.columns import Roles, Schema, choose, coded
from clusterglm.data.frames import batch, by_name, rows_here, schema
from clusterglm.data.rows import Here, _numbers, _vector, from_arrays
from clusterglm.errors import DataError, UsageError, quoted, unknown

FRAME, COLUMNS, ARRAYS = LABELS = ("dask frame", "dask columns", "dask arrays")
ROLES = ("target", "weights", "offset")
OPTIONS = (*ROLES, "features", "categorical", "missing")


def from_python(
    data: Any, options: Mapping[str, Any], *, intercept: bool, dtype: str, classes: bool = False
) -> Collections | Here:
    """Return what ``clusterglm.fit`` was given: rows in this process, or the source of rows that Dask makes.

    ``data`` is a frame or a dict of columns, of pandas and numpy or of Dask, in which ``options`` names the ``target``,
    ``features``, ``categorical``, ``weights`` and ``offset``; or a tuple (X, y[, weights[, offset]]) of arrays, of
    numpy or of Dask. With ``classes`` the values of a frame's target are levels; those of arrays are their places.

    Raises
    ------
    UsageError
        Something else, or some of each; rows to drop from what is no frame.
    DataError
        Neither numbers nor categories, or shapes that do not fit together.
    """
    from dask import is_dask_collection

    if (missing := options["missing"] or "raise") not in ("raise", "drop"):
        raise unknown("missing", missing, ("raise", "drop"))
    drop = missing == "drop"
    parts = data if isinstance(data, tuple) else data.values() if isinstance(data, Mapping) else [data]
    lazy = [is_dask_collection(part) for part in parts if part is not None]
    if any(lazy) and not all(lazy):
        raise UsageError("data", None, "some of it is of Dask and some is not: give all of it in one way")
    named = {name: value for name, value in options.items() if name != "missing"}
    if isinstance(data, tuple):
        if not 2 <= len(data) <= 4 or data[1] is None:
            cure = "give (X, y), (X, y, weights) or (X, y, weights, offset)"
            raise UsageError("data", f"a tuple of {len(data)}", cure)
        if drop:
            raise UsageError("missing", "drop", "has no effect on arrays: give a frame, or drop such rows of them")
        for name, value in named.items():
            if value is not None:
                raise UsageError(name, value, "has no effect on arrays: leave it out")
        if any(lazy):
            return _arrays(*data)
        rows = from_arrays(*data, intercept=intercept, dtype=dtype)
        return Here(rows, [f"x{j}" for j in range(rows.columns - intercept)])
    if not isinstance(data, Mapping) and not (getattr(data, "ndim", 0) == 2 and hasattr(data, "columns")):
        cure = "give a path, a frame of pandas or Dask, a dict of columns, or (X, y)"
        raise UsageError("data", type(data).__name__, cure)
    if named["target"] is None:
        raise UsageError("target", None, "needed with data: the column to explain")
    for name in ("features", "categorical"):
        named[name] = None if named[name] is None else tuple(named[name])
    roles = Roles(**named | {"categorical": named["categorical"] or (), "classes": classes})
    if not any(lazy):
        return rows_here(data, roles, intercept=intercept, dtype=dtype, drop=drop)
    if not isinstance(data, Mapping):
        return _frame(data, roles, drop)
    if drop:
        raise UsageError("missing", "drop", "has no effect on columns of Dask one by one: give them as one frame")
    return _columns(data, roles)


def _frame(data: Any, roles: Roles, drop: bool) -> Collections:
    """Return the source for the columns of a Dask frame, of its complete rows alone with ``drop``."""
    keys = by_name(data.columns, FRAME)
    kinds = schema({name: data._meta[key] for name, key in keys.items()})
    features = choose(kinds, roles, FRAME)
    wanted = {name: keys[name] for name in (*features, *roles.others.values())}
    chosen = data[list(wanted.values())]
    if drop:
        chosen = chosen.dropna()
    take = partial(_columns_of, keys=wanted, promised={name: kinds[name] for name in wanted})
    stack = Stack("the frame", tuple(wanted), list(chosen.to_delayed()), None, take)
    return Collections(FRAME, [stack], features, roles, _to_code(kinds, features, roles), [chosen])


def _columns(data: Mapping[Any, Any], roles: Roles) -> Collections:
    """Return the source for columns that are Dask arrays or series each."""
    keys = by_name(data, COLUMNS)
    for name, key in keys.items():
        if not _is_vector(data[key]):
            raise DataError(f"column {quoted(name)}", type(data[key]).__name__, "give an array or a series of Dask")
    kinds = schema({name: data[key]._meta for name, key in keys.items()})
    features = choose(kinds, roles, COLUMNS)
    chosen = {name: data[keys[name]] for name in (*features, *roles.others.values())}
    stacks = [
        _stack(f"column {quoted(name)}", (name,), column, partial(_column_of, promised={name: kinds[name]}))
        for name, column in chosen.items()
    ]
    to_code = _to_code(kinds, features, roles)
    return Collections(COLUMNS, stacks, features, roles, to_code, list(chosen.values()))


def _to_code(kinds: Schema, features: list[str], roles: Roles) -> dict[str, str]:
    return {name: kinds[name].kind for name in coded(kinds, features, roles)}


def _arrays(X: Any, *vectors: Any) -> Collections:
    """Return the source for X, y and, where they are given, weights and offset."""
    if not _is_array(X) or X.ndim != 2 or not X.shape[1] >= 1:  # nor unknown
        what = f"shape {X.shape}" if _is_array(X) else type(X).__name__
        cure = "give a Dask array of rows by columns, or a frame as data and the name of its target"
        raise DataError("features", what, cure)
    if not isinstance(X._meta, np.ndarray):
        raise DataError("features", type(X._meta).__name__, "give blocks of numpy")
    given = {role: vector for role, vector in zip(ROLES, vectors, strict=False) if vector is not None}
    for name, vector in given.items():
        if _is_array(vector) and vector.shape[1:] == (1,):
            given[name] = vector[:, 0]
        elif not _is_vector(vector):
            raise DataError(name, type(vector).__name__, "give one value for every row, an array or a series of Dask")
    for name, array in {"features": X, **given}.items():
        if getattr(array.dtype, "kind", "O") not in "biuf":
            raise DataError(name, str(array.dtype), "give an array of numbers")
    features = [f"x{j}" for j in range(X.shape[1])]
    stacks = [_stack("features", tuple(features), X.rechunk({1: -1}), partial(_matrix, names=features))]
    stacks += [_stack(name, (name,), vector, partial(_role, name=name)) for name, vector in given.items()]
    weights, offset = (role if role in given else None for role in ROLES[1:])
    roles = Roles("target", None, weights, offset)
    return Collections(ARRAYS, stacks, features, roles, {}, [X, *given.values()])


def _is_array(collection: Any) -> bool:
    return isinstance(getattr(collection, "numblocks", None), tuple)


def _is_vector(collection: Any) -> bool:
    """Whether this is a one-dimensional array of Dask, or a series."""
    return isinstance(getattr(collection, "ndim", None), int) and collection.ndim == 1


def _stack(label: str, names: tuple[str, ...], collection: Any, take: Callable[[Any], Any]) -> Stack:
    """Return an array of whole rows, or a series, as a stack."""
    lengths = getattr(collection, "chunks", ((np.nan,),))[0]  # a series has none
    known = None if np.isnan(lengths).any() else [int(n) for n in lengths]
    return Stack(label, names, list(np.ravel(collection.to_delayed())), known, take)


def _matrix(block: Any, names: list[str]) -> Columns:
    found = _numbers("features", block)
    if found.ndim != 2 or found.shape[1] != len(names):
        raise DataError("features", f"a block of shape {found.shape}", f"{len(names)} columns were promised")
    return Columns({name: (found, j) for j, name in enumerate(names)}, len(found))


def _role(values: Any, name: str) -> Columns:
    found = _vector(name, values)
    return Columns({name: (found, None)}, len(found))


def _columns_of(frame: Any, keys: dict[str, Any], promised: Schema) -> pa.RecordBatch:
    return batch({name: frame[key] for name, key in keys.items()}, promised)


def _column_of(values: Any, promised: Schema) -> pa.RecordBatch:
    return batch(dict.fromkeys(promised, values), promised)
