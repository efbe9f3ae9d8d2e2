"""CSV files: cut at line ends into pieces that any worker can read by itself.

Before the fit the line ends are counted, 4 MB at a time and in parallel; afterwards a piece must hold as many rows as
it has lines. So a line is a row, and line breaks within quotes are refused rather than guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from clusterglm.data.columns import EXACT, Column, Look, Schema
from clusterglm.data.files import DataFile, Piece, byte_ranges, unchanged
from clusterglm.data.parquet import kind_of
from clusterglm.errors import DataError, quoted

_PIECE_BYTES = 4 * 2**20
_TASK_BYTES = 8 * _PIECE_BYTES
_SAMPLE_BYTES = 2**20
_HEADERS = 32  # headers that one task reads
_ONE_ROW_A_LINE = "one row a line, with no line break inside quotes: correct it, or write it as parquet"
_TYPES = {"number": pa.float64(), "null": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "kept": pa.string()}


class _Head(NamedTuple):
    """The first look: rows lie between the bytes ``start`` and ``stop``, which leaves blank lines at the end out."""

    file: DataFile
    start: int
    stop: int
    schema: Schema
    large: dict[str, int | None]


def look(run: Callable[..., list[Any]], files: list[DataFile]) -> list[Look]:
    """Return headers, kinds of columns from the first megabyte of each file, and rows from the line ends of it all."""
    groups = [files[i : i + _HEADERS] for i in range(0, len(files), _HEADERS)]
    heads = [head for group in run(_heads, groups) for head in group]
    stretches = [
        (i, head.file, start, min(start + _TASK_BYTES, head.stop))
        for i, head in enumerate(heads)
        for start in range(head.start, head.stop, _TASK_BYTES)
    ]
    ends: list[list[tuple[int, int]]] = [[] for _ in heads]
    for (i, *_), counted in zip(stretches, run(_line_ends, stretches), strict=True):
        ends[i] += counted
    return [_look(head, counted) for head, counted in zip(heads, ends, strict=True)]


def _look(head: _Head, ends: list[tuple[int, int]]) -> Look:
    """Cut a file behind the last line end of each 4 MB, so that a piece has as many rows as line ends were counted."""
    pieces: list[Piece] = []
    row, start = 0, head.start
    for i, (lines, cut) in enumerate(ends):
        if i == len(ends) - 1:
            lines, cut = lines + 1, head.stop  # the last line's own end was left out
        if lines:
            pieces.append(Piece(row, lines, start, cut))
            row, start = row + lines, cut
    file = replace(head.file, header=tuple(head.schema), pieces=tuple(pieces))
    return Look(file, head.schema, head.large, frozenset({""} & head.schema.keys()))


def _line_ends(stretch: tuple[int, DataFile, int, int]) -> list[tuple[int, int]]:
    """Return the number of line ends and the byte behind the last of them, for every 4 MB of a stretch of a file."""
    _, file, first, last = stretch
    ends = []
    with unchanged(file), byte_ranges(file) as read:
        for start in range(first, last, _PIECE_BYTES):
            data = read(start, min(start + _PIECE_BYTES, last))
            ends.append((data.count(b"\n"), start + data.rfind(b"\n") + 1))
    return ends


def _heads(files: Sequence[DataFile]) -> list[_Head]:
    return [_head(file) for file in files]


def _head(file: DataFile) -> _Head:
    with unchanged(file), byte_ranges(file) as read:
        data = read(0, min(_SAMPLE_BYTES, file.size))
        tail_start = max(file.size - _SAMPLE_BYTES, 0)
        tail = data if tail_start == 0 else read(tail_start, file.size)
        stop = tail_start + len(tail.rstrip(b"\r\n"))
        if not stop:
            return _Head(file, 0, 0, {}, {})
        line, end, _ = data.partition(b"\n")
        if not end and file.size > len(data):
            raise DataError(quoted(file.name), None, "no line end in its first megabyte: not a csv file")
        header = _header(file, line)
        start = min(len(line) + 1, stop)
        sample = data[start : stop if stop <= len(data) else data.rfind(b"\n") + 1]
        if not sample:
            return _Head(file, start, stop, {name: Column("null", "null") for name in header}, {})
        file = replace(file, header=header)
        table = _parse(file, Piece(0, -1, start, start + len(sample)), sample)
    schema = {name: _column(file, table.column(name)) for name in header}
    whole = {name: table.column(name) for name in header if table.schema.field(name).type == pa.int64()}
    extremes = {name: pc.min_max(column).as_py() for name, column in whole.items()}
    sizes = {n: max(abs(e["min"]), abs(e["max"])) for n, e in extremes.items()}
    large: dict[str, int | None] = {n: v for n, v in sizes.items() if v > EXACT}
    if len(sample) < stop - start:  # and nobody knows what the rest of the file has
        large = dict.fromkeys(whole, None) | large
    return _Head(file, start, stop, schema, large)


def _header(file: DataFile, line: bytes) -> tuple[str, ...]:
    """Return the names in the first line."""
    place = f"{quoted(file.name)} (line 1)"
    if not line.strip():
        raise DataError(place, None, "blank: the first line must name the columns")
    try:
        names = pyarrow.csv.read_csv(pa.py_buffer(line + b"\n")).column_names
    except UnicodeDecodeError as error:
        raise DataError(place, None, "not UTF-8 text: save it as UTF-8") from error
    except pa.ArrowInvalid as error:
        raise DataError(place, None, "the first line must name the columns: is it a csv file?") from error
    twice = [quoted(name) for name in names if names.count(name) > 1]
    if twice:
        raise DataError(place, None, f"column {twice[0]} is there twice: rename one")
    return tuple(names)


def _column(file: DataFile, values: pa.ChunkedArray) -> Column:
    """Return what a column holds as its first megabyte has it: numbers with a word among them are neither."""
    kind = kind_of(values.type)
    if kind != "string":
        return Column(kind, kind)
    distinct = values.drop_null().unique()
    words = [value for value in distinct.to_pylist() if not _is_number(value)]
    if not words:
        return Column(kind, kind)
    example = f"{words[0]} in {file.name}, line {pc.index(values, words[0]).as_py() + 2}"
    return Column("mixed" if 2 * len(words) <= len(distinct) else kind, kind, example)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def batches(file: DataFile, kinds: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the file's pieces, in order; ``kinds`` names the columns and says which are bool or text.

    Empty, NA, NaN, null and their like are missing values in a text as in a number.

    Raises
    ------
    DataError
        A value is not a number, or a line is not a row.
    """
    types = {name: _TYPES[kind] for name, kind in kinds.items()}
    with byte_ranges(file) as read:
        for piece in file.pieces:
            table = _parse(file, piece, read(piece.start, piece.stop), types)
            yield from table.to_batches()


def _parse(file: DataFile, piece: Piece, data: bytes, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    """Return the rows of ``data``; all columns with the types that fit them where ``types`` are left out."""
    try:
        table = pyarrow.csv.read_csv(
            pa.py_buffer(data),
            pyarrow.csv.ReadOptions(use_threads=False, column_names=list(file.header), block_size=len(data) + 1),
            pyarrow.csv.ParseOptions(ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types or ()), strings_can_be_null=True),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _refusal(file, piece, str(error)) from error
    # A blank line becomes a row in which nothing is: only where every column lacks a value is it worth a search.
    lacking = all(column.null_count or kind_of(column.type) == "string" for column in table.columns)
    if lacking and (data.startswith((b"\n", b"\r\n")) or b"\n\n" in data or b"\n\r\n" in data):
        end = re.search(rb"(?:^|\n)\r?\n", data).end()  # type: ignore[union-attr]
        line = piece.first + 1 + data.count(b"\n", 0, end)
        raise DataError(f"{quoted(file.name)} (line {line})", None, "blank: remove it")
    if piece.rows not in (table.num_rows, -1):
        lines = f"{quoted(file.name)} (lines {piece.first + 2} to {piece.first + piece.rows + 1})"
        raise DataError(lines, None, f"{table.num_rows} rows in {piece.rows} lines: {_ONE_ROW_A_LINE}")
    return table


def _refusal(file: DataFile, piece: Piece, message: str) -> DataError:
    """Return Arrow's words for a piece in the words of the file: its line and its column."""
    if found := re.match(r"In CSV column #(\d+): Row #(\d+): .*?invalid value '(.*)'", message, re.S):
        line = piece.first + int(found[2]) + 1
        what = f"column {quoted(file.header[int(found[1])])}"
        cure = "not a number: correct it, or leave the column out with --features"
        return DataError(what, f"{found[3][:40]} in {file.name}, line {line}", cure)
    if found := re.match(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)", message):
        line = piece.first + int(found[1]) + 1
        cure = f"{found[3]} values, the header has {found[2]} columns: {_ONE_ROW_A_LINE}"
        return DataError(f"{quoted(file.name)} (line {line})", None, cure)
    reason = quoted(message.splitlines()[0] if message else "")
    return DataError(f"{quoted(file.name)} (from line {piece.first + 2})", None, f"not readable as csv: {reason}")
