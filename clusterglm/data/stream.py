"""Rows that are made anew in every pass, so that memory does not depend on their number.

A stream is a recipe of a few hundred bytes: where the rows come from, and which. A pass makes them window by window,
each about as large as a core's cache, and forgets them. Windows start at multiples of the micro-block, so the kernels
see the same blocks as from rows in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from clusterglm.data.chunk import Block, Chunk, Held

if TYPE_CHECKING:
    from clusterglm.data.chunks import Plan

_WINDOW_BYTES = 2**20


class Origin(Protocol):
    """Where rows come from, as far as the worker that makes them is concerned.

    ``random_access``: whether any range of rows costs no more than its share of them all. Files do not: what they
    store together must be decoded together.
    """

    @property
    def random_access(self) -> bool: ...

    def windows(
        self, bounds: tuple[int, int], rows: int, block_rows: int, dtype: str, intercept: bool
    ) -> Iterator[Chunk]:
        """Yield the global rows ``bounds[0]`` to ``bounds[1] - 1`` in chunks of ``rows``, a multiple of ``block_rows``.

        The same rows whoever makes them. A window is valid until the next one is asked for.
        """


@dataclass(frozen=True)
class Stream:
    """The global rows ``start`` to ``stop - 1`` of ``origin``: ``columns`` in ``dtype``, the intercept's included.

    ``window_rows`` are in cache at a time: a power of two of micro-blocks, and no more than a local problem.
    """

    origin: Any
    start: int
    stop: int
    columns: int
    dtype: str
    intercept: bool
    block_rows: int
    window_rows: int
    nbytes: int

    @classmethod
    def of(cls, origin: Any, bounds: tuple[int, int], plan: Plan, intercept: bool) -> Stream:
        """Return the rows of one chunk of a plan."""
        size = plan.block_rows
        while 2 * size <= plan.local_rows and 2 * size * plan.columns * plan.itemsize <= _WINDOW_BYTES:
            size *= 2
        held = plan.row_bytes * (bounds[1] - bounds[0])
        return cls(origin, *bounds, plan.columns, plan.dtype, intercept, plan.block_rows, size, held)

    def __sizeof__(self) -> int:
        return 1024  # which Dask counts as the worker's memory: the rows themselves take none

    def __len__(self) -> int:
        return self.stop - self.start

    def windows(self, rows: int) -> Iterator[Chunk]:
        """Yield the rows as chunks in memory of ``rows`` each, a multiple of ``block_rows``."""
        return self.origin.windows(  # type: ignore[no-any-return]
            (self.start, self.stop), rows, self.block_rows, self.dtype, self.intercept
        )

    def in_memory(self) -> Chunk:
        """Return all of the rows as one chunk in memory."""
        [chunk] = self.windows(-(-len(self) // self.block_rows) * self.block_rows)
        return chunk

    def blocks(self) -> Iterator[Block]:
        for window in self.windows(self.window_rows):
            yield from window.blocks()

    def parts(self, rows: int) -> Iterator[Held]:
        if not self.origin.random_access:
            yield from self.windows(rows)
            return
        for first in range(self.start, self.stop, rows):
            last = min(first + rows, self.stop)
            yield replace(self, start=first, stop=last, nbytes=self.nbytes * (last - first) // len(self))
