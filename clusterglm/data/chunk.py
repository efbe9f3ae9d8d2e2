"""Rows as a worker holds them, and the micro-blocks that kernels work on.

A chunk in memory is arrays; stream.py and disk.py have the other two ways to hold rows. Whoever holds them, a kernel
sees the same blocks, and the sums have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_array, issparse
from threadpoolctl import ThreadpoolController

from clusterglm.data.tree import Node, push

GENERATOR_ROWS = 8192  # data/synthetic.py makes rows in blocks of this many; micro-blocks divide it
_MOST_GRAM_COLUMNS = 4000  # of the solvers that form a Gram matrix
_BLOCK_BYTES = 1048576  # what stays in a core's second-level cache


def block_rows(columns: int, itemsize: int, sparse: bool = False) -> int:
    """Return the rows of a micro-block: a power of two up to 8,192 from the width alone, never from the hardware.

    A block stays in cache, but for columns so many that its Gram matrix would cost more to add up than to form. Sparse
    rows are few numbers each, and their sums are as long as those of dense ones: the largest blocks.
    """
    if sparse:
        return GENERATOR_ROWS
    rows, fewest = GENERATOR_ROWS, max(16, 2 * columns if columns <= _MOST_GRAM_COLUMNS else 0)
    while rows > fewest and rows * columns * itemsize > _BLOCK_BYTES:
        rows //= 2
    return rows


class Block(NamedTuple):
    """A micro-block: the rows that a kernel sees, in cache.

    ``X`` is (m, p) float64, C-contiguous or CSR, with a leading column of ones where the model has an intercept; ``y``,
    ``weights`` and ``offset`` are (m,) float64, the last two None where the data have none. ``start`` is the global
    index of the first row.
    """

    X: Any
    y: np.ndarray
    weights: np.ndarray | None
    offset: np.ndarray | None
    start: int


Kernel = Callable[..., tuple[Any, ...]]


class Held(Protocol):
    """Consecutive rows, however they are held: ``start`` is the global index of the first."""

    @property
    def start(self) -> int: ...
    @property
    def block_rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def dtype(self) -> str:
        """In which ``X`` is stored."""

    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def blocks(self) -> Iterator[Block]:
        """Yield the micro-blocks in row order. A block is valid until the next one is asked for."""

    def parts(self, rows: int) -> Iterator[Held]:
        """Yield the rows in runs of ``rows``, a multiple of ``block_rows``. A run is valid until the next one."""


def subtotals(held: Held, kernel: Kernel, args: tuple[Any, ...]) -> list[Node]:
    """Return the maximal complete sub-trees of ``kernel(block, *args)`` over the micro-blocks of ``held``."""
    nodes: list[Node] = []
    with one_blas_thread():
        for block in held.blocks():
            push(nodes, (0, block.start // held.block_rows, kernel(block, *args)))
    return nodes


class Chunk:
    """Consecutive rows as they are stored: ``X`` (n, p) in its storage dtype, ``y``, ``weights``, ``offset`` float64.

    ``X`` is an array or a ``scipy.sparse.csr_array`` with sorted indices.

    ``start``, the global index of the first row, is a multiple of ``block_rows``.
    """

    __slots__ = ("X", "block_rows", "offset", "start", "weights", "y")

    def __init__(
        self,
        X: Any,
        y: np.ndarray,
        weights: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        *,
        start: int = 0,
        block_rows: int,
    ) -> None:
        if start % block_rows:
            raise ValueError(f"a chunk starts at row {start}, which is no multiple of {block_rows}")
        self.X, self.y, self.weights, self.offset = X, y, weights, offset
        self.start, self.block_rows = start, block_rows

    def __getstate__(self) -> tuple[Any, ...]:
        return self.X, self.y, self.weights, self.offset, self.start, self.block_rows

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # An array that moved between workers can arrive at an odd address: other bits, and 3.5 times slower.
        arrays = (a if a is None or issparse(a) or a.flags.aligned else a.copy() for a in state[:4])
        self.X, self.y, self.weights, self.offset = arrays
        if issparse(self.X):
            self.X.data = np.require(self.X.data, requirements="A")
        self.start, self.block_rows = state[4:]

    @property
    def nbytes(self) -> int:
        X = self.X
        features = (X.data, X.indices, X.indptr) if issparse(X) else (X,)
        return sum(int(a.nbytes) for a in (*features, self.y, self.weights, self.offset) if a is not None)

    def __sizeof__(self) -> int:
        return self.nbytes + 64

    @property
    def columns(self) -> int:
        return int(self.X.shape[1])

    @property
    def dtype(self) -> str:
        return str(self.X.dtype)

    def __len__(self) -> int:
        return len(self.y)

    def part(self, first: int, last: int) -> Chunk:
        """Return the rows from global index ``first`` (a multiple of ``block_rows``) to ``last - 1``, as views."""
        cut = slice(first - self.start, last - self.start)
        weights = None if self.weights is None else self.weights[cut]
        offset = None if self.offset is None else self.offset[cut]
        return Chunk(_cut(self.X, cut), self.y[cut], weights, offset, start=first, block_rows=self.block_rows)

    def parts(self, rows: int) -> Iterator[Chunk]:
        """Yield the rows in runs of ``rows``, as views."""
        end = self.start + len(self)
        for first in range(self.start, end, rows):
            yield self.part(first, min(first + rows, end))

    def blocks(self) -> Iterator[Block]:
        """Yield the micro-blocks in row order; narrower storage becomes float64 here, in cache."""
        for i in range(0, len(self), self.block_rows):
            cut = slice(i, i + self.block_rows)
            yield Block(
                _as_float64(_cut(self.X, cut)),
                self.y[cut],
                None if self.weights is None else self.weights[cut],
                None if self.offset is None else self.offset[cut],
                self.start + i,
            )


def _cut(X: Any, rows: slice) -> Any:
    """Return some of the rows as a view; scipy's own slices are copies, which cost as much as a product."""
    if not issparse(X):
        return X[rows]
    indptr = X.indptr[rows.start : rows.stop + 1]
    stored = slice(indptr[0], indptr[-1])
    view = csr_array((len(indptr) - 1, X.shape[1]), dtype=X.dtype)
    view.data, view.indices, view.indptr = X.data[stored], X.indices[stored], indptr - indptr[0]
    return view


def _as_float64(X: Any) -> Any:
    return X.astype(np.float64, copy=False) if issparse(X) else np.ascontiguousarray(X, dtype=np.float64)


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  scipy brings a BLAS of its own, which must be loaded to be pinned

    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[Any]:
    """Pin BLAS to one thread: two threads give other bits, and parallelism comes from the chunks."""
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit
