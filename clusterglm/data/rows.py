"""Rows, wherever they are held, behind three verbs; this file holds them in this process.

``sum(kernel, *args)`` adds ``kernel(block, *args)`` over all micro-blocks along the fixed tree of ``data/tree.py``.
``each(step, states, *args)`` calls ``step(rows, state, *args)`` once for every local problem, a fixed range of global
rows that the plan has chosen from the size of the data alone; ``rows`` is then a ``LocalRows`` over that range.
``arrivals()`` has sums come one by one, of the rows of every worker thread (data/arrivals.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_array, hstack, issparse

from clusterglm.data.arrivals import LocalArrivals
from clusterglm.data.chunk import Chunk, Held, Kernel, block_rows, one_blas_thread, subtotals
from clusterglm.data.chunks import local_problem_rows
from clusterglm.data.tree import fold
from clusterglm.errors import DataError, unknown

Step = Callable[..., Any]


class Rows(Protocol):
    """What a ``Problem`` asks of its rows."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def local_problems(self) -> int:
        """How many ranges of rows ``each`` works on."""

    @property
    def nbytes(self) -> int: ...

    def sum(self, kernel: Kernel, *args: Any) -> tuple[Any, ...]:
        """Return the sum of ``kernel(block, *args)`` over every micro-block."""

    def each(self, step: Step, states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        """Return ``step(rows, state, *args)`` for every local problem, in row order, and the most passes that one of
        them made over its rows."""

    def locate(self, row: int) -> str:
        """Return where a global row came from, in words: ``part-012, row 40331``."""


class LocalRows:
    """Rows that this process holds.

    Parameters
    ----------
    chunk : Held
        The rows: one chunk in memory, or any other way to hold them.
    problem_rows : int, optional
        Rows of a local problem; the whole chunk where it is left out.
    locate : callable, optional
        From a global row to the words that say where it came from.
    intercept : bool
        Whether the first column of the chunk is one of ones, for an intercept.
    """

    def __init__(
        self,
        chunk: Held,
        problem_rows: int | None = None,
        locate: Callable[[int], str] = "row {}".format,
        intercept: bool = False,
    ) -> None:
        self.chunk, self.locate, self.intercept = chunk, locate, intercept
        self.rows, self.columns = len(chunk), chunk.columns
        self.problem_rows = problem_rows or max(self.rows, 1)
        self.nbytes = chunk.nbytes
        self.reads = 0

    @property
    def local_problems(self) -> int:
        return int(-(-self.rows // self.problem_rows))

    def sum(self, kernel: Kernel, *args: Any) -> tuple[Any, ...]:
        self.reads += 1
        return fold(subtotals(self.chunk, kernel, args))

    def each(self, step: Step, states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        return each_in(self.chunk, step, states, args, self.problem_rows)

    def arrivals(self) -> LocalArrivals:
        return LocalArrivals(self)


class Here(NamedTuple):
    """Rows in this process, what their columns and their target are called, and how a prediction makes them again."""

    rows: LocalRows
    names: list[str]
    target: str = "y"
    coding: dict[str, Any] = {}  # noqa: RUF012  never written to
    notes: Sequence[str] = ()


def each_in(
    held: Held, step: Step, states: Sequence[Any], args: tuple[Any, ...], problem_rows: int
) -> tuple[list[Any], int]:
    """Call ``step`` for the local problems of one chunk; ``held.start`` is a multiple of ``problem_rows``."""
    results, reads = [], 0
    for part, state in zip(held.parts(problem_rows), states, strict=True):
        rows = LocalRows(part)
        with one_blas_thread():
            results.append(step(rows, state, *args))
        reads = max(reads, rows.reads)
    return results, reads


def from_arrays(
    X: Any,
    y: np.ndarray,
    weights: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    *,
    intercept: bool = False,
    dtype: str = "float64",
) -> LocalRows:
    """Return rows in this process from arrays: ``X`` (n, p), ``y``, ``weights`` and ``offset`` (n,).

    The copy is C-contiguous in ``dtype``, with a leading column of ones where ``intercept`` is true. A sparse ``X`` of
    scipy is copied as CSR and stays sparse.

    Raises
    ------
    UsageError
        A dtype other than float64 and float32.
    DataError
        Not numbers, masked values, shapes or lengths that do not fit together, no rows or no columns.
    """
    if dtype not in ("float64", "float32"):
        raise unknown("dtype", dtype, ("float64", "float32"))
    sparse = issparse(X)
    X = _sparse(X, dtype) if sparse else _numbers("features", X)
    if X.ndim != 2 or X.shape[1] == 0:
        raise DataError("features", f"shape {X.shape}", "give a matrix of rows by columns")
    vectors = {"target": y, "weights": weights, "offset": offset}
    flat = {name: None if v is None else _vector(name, v) for name, v in vectors.items()}
    if flat["target"] is None:
        raise DataError("target", None, "give a value for every row")
    for name, v in flat.items():
        if v is not None and len(v) != X.shape[0]:
            raise DataError(name, f"{len(v)} rows", f"the features have {X.shape[0]}")
    if not X.shape[0]:
        raise DataError("features", "0 rows", "nothing to fit")
    if sparse:
        ones = csr_array(np.ones((X.shape[0], int(intercept)), dtype=dtype))
        design = hstack([ones, X], format="csr", dtype=dtype)
        design.sum_duplicates()  # and sorts the indices
        if max(design.nnz, *design.shape) <= np.iinfo(np.int32).max:  # half the traffic
            design.indices, design.indptr = design.indices.astype(np.int32), design.indptr.astype(np.int32)
    else:
        design = np.empty((X.shape[0], X.shape[1] + intercept), dtype=dtype)
        design[:, intercept:] = X
        design[:, : int(intercept)] = 1.0
    rows, columns = design.shape
    itemsize = np.dtype(dtype).itemsize
    size = block_rows(columns, itemsize, sparse)
    chunk = Chunk(design, flat["target"], flat["weights"], flat["offset"], block_rows=size)
    # Of sparse rows, too, a local problem is whole micro-blocks.
    problem_rows = max(local_problem_rows(rows, columns, itemsize), size)
    return LocalRows(chunk, problem_rows, intercept=intercept)


def _numbers(name: str, values: Any) -> np.ndarray:
    """Return an array of real numbers, dense.

    Raises
    ------
    DataError
        Anything else: masked or complex values, dates, words, rows of different lengths.
    """
    if np.ma.is_masked(values):
        raise DataError(name, "masked values", "drop or fill these rows")
    try:
        array = np.asarray(values.toarray() if issparse(values) else values)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(name, str(error).splitlines()[0], "give an array of numbers") from error
    if array.dtype.kind not in "biuf":
        raise DataError(name, str(array.dtype), "give an array of numbers")
    return array


def _vector(name: str, values: Any) -> np.ndarray:
    array = _numbers(name, values)
    if array.ndim != 1 and array.shape != (array.size, 1):
        raise DataError(name, f"shape {array.shape}", "give one value for every row")
    return np.ascontiguousarray(array, dtype=np.float64).ravel()


def _sparse(X: Any, dtype: str) -> csr_array:
    """Return a copy as CSR, whose indices are where its shape says."""
    if X.ndim != 2 or X.dtype.kind not in "biuf":
        raise DataError("features", f"{X.dtype}, shape {X.shape}", "give a matrix of numbers, rows by columns")
    try:
        if hasattr(X, "check_format"):
            X.check_format(full_check=True)  # an index out of bounds would be read from someone else's memory
        return csr_array(X, dtype=dtype, copy=True)
    except (ValueError, IndexError) as error:
        raise DataError("features", str(error).splitlines()[0], "not a valid sparse matrix: build it again") from error
