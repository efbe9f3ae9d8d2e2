"""From the columns of files to the rows of a design matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clusterglm.data.arrays import Columns
from clusterglm.data.chunk import Chunk
from clusterglm.data.columns import Roles

if TYPE_CHECKING:
    from clusterglm.data.levels import Levels

_TILE_ROWS, _TILE_COLUMNS = 4096, 64  # what is turned at once stays in a core's second-level cache
_LINE_BYTES = 64


class Design:
    """``X`` (rows, columns) in ``dtype``, C-contiguous, with a leading column of ones where ``intercept`` is true.

    A feature is one column; one with ``levels`` is a 0/1 column for each of them but the first. ``vectors`` holds a
    float64 column of ``rows`` for the target, and the weights and the offset where they are named; of one with levels
    it is their places, from 0 on.
    """

    def __init__(
        self,
        rows: int,
        features: list[str],
        others: list[str],
        dtype: str,
        intercept: bool,
        levels: Mapping[str, Levels] | None = None,
    ) -> None:
        self.levels, self.intercept, self.filled = levels or {}, int(intercept), 0
        self.names = [*features, *others]
        self.numbers: dict[int, list[str]] = {}  # features side by side, at the column of X that is the first of them
        self.coded: dict[int, str] = {}
        width, beside = self.intercept, -1
        for name in features:
            if name in self.levels:
                self.coded[width] = name
                width += len(self.levels[name].labels) - 1
                continue
            if beside < 0 or width != beside + len(self.numbers[beside]):
                beside = width
            self.numbers.setdefault(beside, []).append(name)
            width += 1
        self.X = np.empty((rows, width), dtype=dtype)
        # One cache line longer than the rows: columns a power of two apart would push each other out of the cache.
        pitch = _TILE_ROWS + _LINE_BYTES // self.X.itemsize
        self._tile = np.empty((min(len(features), _TILE_COLUMNS), pitch), dtype=dtype)
        self.vectors = {name: np.empty(rows) for name in others}

    def columns(self, batch: pa.RecordBatch) -> Columns:
        """Return a batch with its numbers as arrays, missing values as NaN: once for all that is cut from it, because
        to ask Arrow for a column and for its values takes as long as to turn thousands of them."""
        places = {}
        for name in self.names:
            column = batch.column(name)
            places[name] = (column if name in self.levels else to_numpy(column), None)
        return Columns(places, len(batch))

    def append(self, batch: Columns) -> None:
        """Write the next rows, of which numbers are arrays."""
        stop = self.filled + len(batch)
        X = self.X[self.filled : stop]
        X[:, : self.intercept] = 1.0
        for first, names in self.numbers.items():
            self._write_numbers(batch, names, X[:, first : first + len(names)])
        for first, name in self.coded.items():
            levels = self.levels[name]
            _write_codes(levels.codes(batch.column(name)), X[:, first : first + len(levels.labels) - 1])
        for name, vector in self.vectors.items():
            part = vector[self.filled : stop]
            if name in self.levels:
                part[:] = codes = self.levels[name].codes(batch.column(name))
                part[codes < 0] = np.nan
            else:
                part[:] = batch.column(name)
        self.filled = stop

    def take(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the rows written so far, ``X`` and ``vectors``, and begin anew in the same memory."""
        n, self.filled = self.filled, 0
        return self.X[:n], {name: vector[:n] for name, vector in self.vectors.items()}

    def _write_numbers(self, batch: Columns, names: list[str], X: np.ndarray) -> None:
        matrix = batch.matrix(names)
        if matrix is not None:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, which the fit refuses with its row
                X[:] = matrix
            return
        for j in range(0, len(names), _TILE_COLUMNS):
            columns = [batch.column(name) for name in names[j : j + _TILE_COLUMNS]]
            self._turn(columns, X[:, j : j + _TILE_COLUMNS])

    def _turn(self, columns: list[np.ndarray], X: np.ndarray) -> None:
        """Write columns side by side, so that whole lines of ``X`` go to memory: tile by tile, each column first into
        the tile, which also brings it to the dtype of ``X``."""
        tile = self._tile[: len(columns)]
        for i in range(0, len(X), _TILE_ROWS):
            part = X[i : i + _TILE_ROWS]
            with np.errstate(over="ignore"):  # beyond float32 is infinite, which the fit refuses with its row
                for row, column in zip(tile, columns, strict=True):
                    row[: len(part)] = column[i : i + _TILE_ROWS]
            part[:] = tile[:, : len(part)].T


def _write_codes(codes: np.ndarray, X: np.ndarray) -> None:
    """Write a 1 where a row has a level, 0 elsewhere, NaN where it has none that is known."""
    X[:] = 0.0
    (rows,) = np.nonzero(codes > 0)
    X[rows, codes[rows] - 1] = 1.0
    X[codes < 0] = np.nan


def windows(
    design: Design, batches: Iterable[Any], bounds: tuple[int, int], rows: int, block_rows: int, roles: Roles
) -> Iterator[Chunk]:
    """Yield the rows of ``batches``, which are ``bounds[0]`` to ``bounds[1] - 1``, in chunks of ``rows``.

    ``design`` has room for one of them, and the next is written over it.
    """
    first, last = bounds
    for found in batches:
        batch = found if isinstance(found, Columns) else design.columns(found)
        done = 0
        while done < len(batch):
            wanted = min(rows, last - first) - design.filled
            design.append(batch.slice(done, wanted))
            done += wanted
            if design.filled == min(rows, last - first):
                X, vectors = design.take()
                y, weights, offset = (
                    None if name is None else vectors[name] for name in (roles.target, roles.weights, roles.offset)
                )
                yield Chunk(X, y, weights, offset, start=first, block_rows=block_rows)  # type: ignore[arg-type]
                first += len(X)


def to_numpy(column: pa.Array) -> np.ndarray:
    """Return a numeric column as an array that numpy casts to float64: exact but for integers above 2^53."""
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())
    elif pa.types.is_null(column.type):
        column = pc.cast(column, pa.float64())
    elif pa.types.is_decimal(column.type):
        # Arrow's own cast of decimals is off by a last bit in one value of forty; its parser rounds rightly.
        column = pc.cast(pc.cast(column, pa.string()), pa.float64())
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values
