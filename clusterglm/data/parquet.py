"""Parquet files: footers once, then the row groups that a chunk needs and the columns that the model needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clusterglm.data import remote
from clusterglm.data.columns import EXACT, Column, Look, Schema
from clusterglm.data.files import DataFile, Piece, unchanged
from clusterglm.data.levels import is_text
from clusterglm.errors import DataError, quoted

_FOOTERS = 32  # footers that one task reads
# Rows that are decoded at a time: few enough to be turned into rows of X while they are in cache, and enough to pay for
# the turn to every column; of wide tables fewer, for the sake of memory.
_BATCH_ROWS, _BATCH_VALUES = 2**14, 2**21
# Read ahead in a column, of which all in a large row group would not fit into memory; a larger buffer is given back to
# the system every time, and its pages come anew.
_READ_BYTES = 2**16
_MOST_REMEMBERED = 2**16
_found_right: set[Any] = set()  # what this process has read to its end, and the checksums of its pages were right


def look(run: Callable[..., list[Any]], files: list[DataFile]) -> list[Look]:
    """Return what the footers say, read by tasks of ``run``."""
    groups = [files[i : i + _FOOTERS] for i in range(0, len(files), _FOOTERS)]
    return [seen for group in run(_footers, groups) for seen in group]


def _footers(files: Sequence[DataFile]) -> list[Look]:
    shared: dict[Any, Schema] = {}  # files of one table have one schema: it is sent once
    return [_footer(file, shared) for file in files]


def _footer(file: DataFile, shared: dict[Any, Schema]) -> Look:
    with unchanged(file), _raw(file) as raw, _readable(file, "footer"):
        opened = _parquet(raw, file)
        arrow, footer = opened.schema_arrow, opened.metadata
        names = [quoted(name) for name in arrow.names if arrow.names.count(name) > 1]
        if names:
            raise DataError(quoted(file.name), None, f"column {names[0]} is there twice: rename one")
        declared = _declared(arrow)
        schema = {field.name: _column(field, field.name in declared) for field in arrow}
        schema = shared.setdefault(tuple(schema.items()), schema)
        pieces, row = [], 0
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            pieces.append(Piece(row, rows, group, group + 1))
            row += rows
        index = {name for name in (arrow.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}
        leaves = {footer.schema.column(i).path: i for i in range(len(footer.schema))}
        large = {f.name: _largest(footer, leaves[f.name]) for f in arrow if f.type in (pa.int64(), pa.uint64())}
    large = {name: value for name, value in large.items() if value is None or value > EXACT}
    return Look(replace(file, pieces=tuple(piece for piece in pieces if piece.rows)), schema, large, frozenset(index))


def _declared(arrow: pa.Schema) -> set[str]:
    """Return the columns whose writer said that they are categories: other dictionaries only save space."""
    columns = (arrow.pandas_metadata or {}).get("columns", ())
    return {column.get("name") for column in columns if column.get("pandas_type") == "categorical"}


def _column(field: pa.Field, declared: bool) -> Column:
    kind = kind_of(field.type)
    ordered = pa.types.is_dictionary(field.type) and field.type.ordered
    if declared or ordered:
        kind = {"string": "category", "number": "code"}.get(kind, kind)
    return Column(kind, str(field.type))


def _largest(footer: pq.FileMetaData, leaf: int) -> int | None:
    """Return the largest magnitude in an integer column as its statistics have it; None where they are missing."""
    largest = 0
    for group in range(footer.num_row_groups):
        seen = footer.row_group(group).column(leaf).statistics
        if seen is not None and seen.has_min_max:
            largest = max(largest, abs(seen.min), abs(seen.max))
        elif seen is None or seen.num_values:  # which counts what is not missing
            return None
    return largest


def kind_of(type: pa.DataType) -> str:
    """Return the word that ``columns.Column`` has for a type."""
    t = pa.types
    if t.is_integer(type) or t.is_floating(type) or t.is_decimal(type):
        return "number"
    if t.is_boolean(type):
        return "bool"
    if t.is_null(type):
        return "null"
    if is_text(type):
        return "string"
    if t.is_dictionary(type):
        return kind_of(type.value_type)
    if t.is_temporal(type):
        return "datetime"
    return str(type)


def batches(file: DataFile, kinds: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the file's pieces, in order; ``kinds`` names the columns, of which categories come as
    dictionaries.

    Pages that have checksums are held to them once in a process: a fit reads them in every pass.

    Raises
    ------
    DataError
        A page cannot be read.
    """
    groups = [piece.start for piece in file.pieces]
    size = max(min(_BATCH_ROWS, _BATCH_VALUES // len(kinds)), 1024)
    place = f"row group {groups[0]}" if len(groups) == 1 else f"row groups {groups[0]} to {groups[-1]}"
    texts = [name for name, kind in kinds.items() if kind in ("string", "category")]
    what = (file.path, file.size, file.modified, *groups, *kinds)
    left = sum(piece.rows for piece in file.pieces)
    with _raw(file) as raw:
        opened = _parquet(raw, file, texts, checked=what in _found_right)
        with _readable(file, place):
            read = (
                _fetched(raw, opened, groups, size, kinds)
                if isinstance(raw, remote.RangedFile)
                else opened.iter_batches(size, row_groups=groups, columns=list(kinds), use_threads=False)
            )
            for batch in read:
                left -= len(batch)
                if not left:  # now, because whoever has the last rows does not come back for more
                    _remember(what)
                yield batch


def _remember(what: Any) -> None:
    if len(_found_right) >= _MOST_REMEMBERED:
        _found_right.clear()
    _found_right.add(what)


def _raw(file: DataFile) -> Any:
    if isinstance(file.path, str):
        return remote.RangedFile(file.path, file.size)
    # As bytes, because names need not be UTF-8; not mapped, because a file cut short would kill the worker.
    return pa.OSFile(os.fsencode(file.path), "rb")


def _parquet(raw: Any, file: DataFile, texts: Sequence[str] = (), checked: bool = False) -> pq.ParquetFile:
    # Not all of a row group at once (pre_buffer), which may be larger than memory; objects are told what to fetch.
    words = {"buffer_size": _READ_BYTES, "pre_buffer": False, "page_checksum_verification": not checked}
    with _readable(file, "footer"):
        return pq.ParquetFile(raw, read_dictionary=texts, **words)


def _fetched(
    raw: remote.RangedFile, opened: pq.ParquetFile, groups: list[int], size: int, kinds: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an object's row groups, a group's columns fetched at once, for each request takes a while."""
    footer = opened.metadata
    for group in groups:
        chunks = [footer.row_group(group).column(i) for i in range(footer.num_columns)]
        raw.hold([_extent(chunk) for chunk in chunks if chunk.path_in_schema in kinds])
        yield from opened.iter_batches(size, row_groups=[group], columns=list(kinds), use_threads=False)


def _extent(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    return start, start + chunk.total_compressed_size


@contextmanager
def _readable(file: DataFile, part: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # from the system; Arrow's own have no number
            raise
        raise DataError(f"{quoted(file.name)} ({part})", None, "not readable as parquet: copy it again") from error
