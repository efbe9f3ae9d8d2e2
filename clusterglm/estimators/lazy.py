"""What estimators do with collections of Dask: rows for a fit, and predictions that stay lazy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TARGET, WEIGHT, OFFSET = "__target__", "__weight__", "__offset__"


def is_dask(X: Any) -> bool:
    """Whether X is a collection of Dask, asked without importing Dask for everybody else."""
    if not type(X).__module__.startswith("dask"):
        return False
    from dask import is_dask_collection

    return bool(is_dask_collection(X))


def is_frame(X: Any) -> bool:
    return hasattr(X, "columns")


def coded(X: Any) -> bool:
    """Whether X is a pandas frame with a column of words or categories, which a fit codes by their levels."""
    if is_dask(X) or not hasattr(X, "columns") or not hasattr(X, "dtypes"):
        return False
    from pandas.api.types import infer_dtype, is_object_dtype

    def words(column: Any) -> bool:
        kind = str(column.dtype)
        return kind == "category" or ((is_object_dtype(column) or "str" in kind) and infer_dtype(column) == "string")

    return any(words(X.iloc[:, j]) for j in range(X.shape[1]))


def data_of(X: Any, y: Any, weight: Any, offset: Any) -> tuple[Any, dict[str, Any]]:
    """Return what ``clusterglm.fit`` takes as data, and the options that go with it."""
    if not is_frame(X):
        arrays = [X, *(None if v is None else as_array(v) for v in (y, weight, offset))]
        while arrays[-1] is None:
            arrays.pop()
        return tuple(arrays), {}
    columns = {str(name): X[name] for name in X.columns}
    named = {"target": (TARGET, y), "weights": (WEIGHT, weight), "offset": (OFFSET, offset)}
    columns |= {name: values for name, values in named.values() if values is not None}
    roles = {role: name for role, (name, values) in named.items() if values is not None}
    return columns, roles | {"features": tuple(str(name) for name in X.columns)}


def as_array(v: Any) -> Any:
    """Return a series of Dask as an array of it; an array as it is."""
    return v.values if hasattr(v, "values") else v


def together(like: Any, *arrays: Any) -> list[Any]:
    """Return arrays of Dask cut as ``like`` is; where lengths are not known, their parts must be the same already.

    Raises
    ------
    ValueError
        One that is not of Dask.
    """
    if not all(is_dask(v) for v in arrays):
        raise ValueError("X is of Dask, and y or the weights are not: give all in one way")
    if np.isnan(like.chunks[0]).any():
        return list(arrays)
    return [v if np.isnan(v.chunks[0]).any() else v.rechunk(like.chunks) for v in arrays]


def apply(function: Callable[[Any], np.ndarray], X: Any, width: int | None = None, names: Any = None) -> Any:
    """Return ``function`` of every block of rows, lazily: an array of Dask for an array, a series or frame for a frame.

    ``width`` is the number of columns of what it returns, None for a vector; ``names`` are theirs.
    """
    if is_frame(X):
        import pandas as pd

        if width is None:
            return X.map_partitions(_series, function, meta=pd.Series(dtype=np.float64))
        return X.map_partitions(_frame, function, names, meta=pd.DataFrame(columns=names, dtype=np.float64))
    X = X.rechunk({1: -1})
    if width is None:
        return X.map_blocks(function, drop_axis=1, dtype=np.float64)
    return X.map_blocks(function, chunks=(X.chunks[0], (width,)), dtype=np.float64)


def _series(part: Any, function: Callable[[Any], np.ndarray]) -> Any:
    import pandas as pd

    return pd.Series(function(part), index=part.index, dtype=np.float64)


def _frame(part: Any, function: Callable[[Any], np.ndarray], names: Any) -> Any:
    import pandas as pd

    return pd.DataFrame(function(part), index=part.index, columns=names, dtype=np.float64)
