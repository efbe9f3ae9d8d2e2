"""Arrays as tables: what .npy, Zarr and HDF5 have in common.

A matrix has the columns x0, x1, ... or those that its attribute ``columns`` names; a structured array has its fields; a
group has one column for every 1-D array, and those of the matrix ``X``. Rows are read in pieces of whole stored chunks,
so that none is decoded twice.

Readers of arrays yield ``Columns`` rather than Arrow's batches. In a batch of Arrow's every column lies by itself: rows
of a matrix would be turned into columns for it, and back into rows for the design, a copy too many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clusterglm.data.columns import Column, Look, Schema
from clusterglm.data.files import DataFile, Piece
from clusterglm.errors import DataError, quoted

MATRIX = "X"
_PIECE_BYTES = 16 * 2**20  # of arrays that are stored in one
_LARGEST_PIECE = 256 * 2**20
_NAMED = {"number": "iuf", "bool": "b", "complex": "c", "datetime": "Mm", "string": "UT"}
_KINDS = {letter: kind for kind, letters in _NAMED.items() for letter in letters}


class Columns:
    """Some rows of several columns, as views: ``places`` has for every name its array and, in a matrix, its position.
    Columns that are coded may be Arrow's.

    ``column`` and ``slice`` are those of Arrow's batches.
    """

    def __init__(self, places: Mapping[str, tuple[np.ndarray, int | None]], rows: int) -> None:
        self.places, self.rows = places, rows

    def __len__(self) -> int:
        return self.rows

    def slice(self, first: int, rows: int) -> Columns:
        """Return the rows from ``first`` on, ``rows`` of them or as many as there are."""
        cut = slice(first, min(first + rows, self.rows))
        cuts = {id(array): array[cut] for array, _ in self.places.values()}  # a matrix stays one
        return Columns({name: (cuts[id(array)], j) for name, (array, j) in self.places.items()}, cut.stop - first)

    def to_arrow(self) -> pa.RecordBatch:
        """Return the rows as Arrow has them, each column by itself."""
        return pa.RecordBatch.from_pydict({name: as_arrow(self.column(name)) for name in self.places})

    def column(self, name: str) -> np.ndarray:
        """Return a column, (rows,), in the dtype that it has."""
        array, j = self.places[name]
        return array if j is None else array[:, j]

    def matrix(self, names: list[str]) -> np.ndarray | None:
        """Return columns as a view (rows, columns) where they lie side by side in one matrix; None elsewhere."""
        array, first = self.places[names[0]]
        for i, name in enumerate(names):
            other, j = self.places[name]
            if first is None or other is not array or j != first + i:
                return None
        return array[:, first : first + len(names)] if first is not None else None


def as_arrow(column: np.ndarray) -> pa.Array:
    """Return a column of numbers or text as Arrow has it, which knows no strides and no foreign order of bytes."""
    native = object if column.dtype.kind == "T" else column.dtype.newbyteorder("=")
    return pa.array(np.ascontiguousarray(column.astype(native, copy=False)))


class _Part(NamedTuple):
    """An array of a file with the names of its columns; ``fields`` tells those of a structured array."""

    array: Any
    names: tuple[str, ...]
    fields: bool = False


def look(file: DataFile, arrays: Mapping[str, Any]) -> Look:
    """Return what the arrays of a file hold; an array named "" is the only one.

    Each has ``shape``, ``dtype``, ``chunks`` and ``attrs``, as Zarr and h5py have them.

    Raises
    ------
    DataError
        Shapes that make no table, or names that do not fit.
    """
    parts, left_out = _parts(file, arrays)
    schema: Schema = {}
    for part in parts:
        for name in part.names:
            if name in schema:
                raise DataError(quoted(file.name), None, f"column {quoted(name)} is there twice: rename one")
            dtype = part.array.dtype[name] if part.fields else part.array.dtype
            schema[name] = Column(_kind(dtype), str(dtype))
    lengths = {part.names[0]: part.array.shape[0] for part in parts}
    rows = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != rows:
            text = f"column {quoted(name)} has {length} rows, {quoted(next(iter(lengths)))} {rows}"
            raise DataError(quoted(file.name), None, f"{text}: give a group of arrays of one length")
    size = _piece_rows(parts)
    pieces = tuple(Piece(i, min(size, rows - i), i, min(i + size, rows)) for i in range(0, rows, size))
    large: dict[str, int | None] = {name: None for name, column in schema.items() if column.type in ("int64", "uint64")}
    notes = tuple(
        f"note: {quoted(file.name)}: array {quoted(name)} ({why}): left out" for name, why in left_out.items()
    )
    return Look(replace(file, pieces=pieces), schema, large, frozenset(), notes)


def batches(file: DataFile, arrays: Mapping[str, Any], kinds: dict[str, str]) -> Iterator[Columns]:
    """Yield the rows of the file's pieces, in order; ``kinds`` names the columns."""
    parts = [part for part in _parts(file, arrays)[0] if not kinds.keys().isdisjoint(part.names)]
    for piece in file.pieces:
        places: dict[str, tuple[np.ndarray, int | None]] = {}
        for part in parts:
            places |= _read(part, piece, kinds)
        yield Columns(places, piece.rows)


def _read(part: _Part, piece: Piece, kinds: dict[str, str]) -> dict[str, tuple[np.ndarray, int | None]]:
    rows = slice(piece.start, piece.stop)
    if part.fields:
        return _fields(np.asarray(part.array[rows]), [name for name in part.names if name in kinds])
    if len(part.array.shape) == 1:
        return {part.names[0]: (np.asarray(part.array[rows]), None)}
    wanted = [j for j, name in enumerate(part.names) if name in kinds]
    first = wanted[0]
    values = np.asarray(part.array[rows, first : wanted[-1] + 1])
    return {part.names[j]: (values, j - first) for j in wanted}


def _fields(values: np.ndarray, names: list[str]) -> dict[str, tuple[np.ndarray, int | None]]:
    """Return fields of a structured array; neighbours of one dtype as one matrix, which they are in memory."""
    runs: list[list[str]] = []
    known: Mapping[str, Any] = values.dtype.fields or {}
    for name in sorted(names, key=lambda name: known[name][1]):
        dtype, offset = known[name][:2]
        before = known[runs[-1][-1]] if runs else None
        if before is not None and before[0] == dtype and before[1] + dtype.itemsize == offset:
            runs[-1].append(name)
        else:
            runs.append([name])
    places: dict[str, tuple[np.ndarray, int | None]] = {}
    for run in runs:
        column = values[run[0]]
        strides = (*values.strides, column.dtype.itemsize)
        matrix = np.lib.stride_tricks.as_strided(column, (len(values), len(run)), strides, writeable=False)
        places |= {name: (matrix, j) for j, name in enumerate(run)}
    return places


def _parts(file: DataFile, arrays: Mapping[str, Any]) -> tuple[list[_Part], dict[str, str]]:
    """Return the arrays that are columns, ``X`` first and the others by name, and why each of the rest is left out."""
    parts, left_out = [], {}
    for name in sorted(arrays, key=lambda name: (name != MATRIX, name)):
        array = arrays[name]
        dimensions, alone = len(array.shape), not name
        if dimensions == 2 and name in ("", MATRIX):
            parts.append(_Part(array, _names(file, array)))
        elif dimensions == 1 and alone and array.dtype.names:
            parts.append(_Part(array, tuple(array.dtype.names), fields=True))
        elif dimensions == 1 and not alone:
            parts.append(_Part(array, (name,)))
        elif alone:
            shape = f"shape {tuple(array.shape)}"
            raise DataError(quoted(file.name), shape, "give a matrix of rows by columns, or a structured array")
        else:
            left_out[name] = f"{dimensions} dimensions"
    if not any(part.names for part in parts):
        cure = "no 1-D array and no matrix X in it: name a group that has them, with ::/GROUP behind the file"
        raise DataError(quoted(file.name), file.group or None, cure)
    return parts, left_out


def _names(file: DataFile, matrix: Any) -> tuple[str, ...]:
    width = matrix.shape[1]
    given = matrix.attrs.get("columns")
    if given is None:
        return tuple(f"x{j}" for j in range(width))
    names = tuple(n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in np.atleast_1d(given).tolist())
    if len(names) != width:
        text = f"{len(names)} names in the attribute columns of a matrix of {width}: give one for each"
        raise DataError(quoted(file.name), None, text)
    return names


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.subdtype is not None or dtype.names:
        return str(dtype)
    return _KINDS.get(dtype.kind, str(dtype))


def _piece_rows(parts: list[_Part]) -> int:
    """Return the rows of a piece: whole stored chunks of every array, as far as a worker has room for them."""
    row_bytes: int = max(sum(part.array.dtype.itemsize * math.prod(part.array.shape[1:]) for part in parts), 1)
    stored: list[int] = [part.array.chunks[0] for part in parts if part.array.chunks]
    if not stored:
        return max(_PIECE_BYTES // row_bytes, 1)
    together = math.lcm(*stored)
    if together * row_bytes > _LARGEST_PIECE:
        return max(stored)
    return max(_PIECE_BYTES // (together * row_bytes), 1) * together
