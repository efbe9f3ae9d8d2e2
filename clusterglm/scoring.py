"""Predictions at scale: the model is applied where the files are, part by part, in constant memory.

A part is a few consecutive pieces of one file, and one file of the target, or several where a piece has many rows: what
is written of a file is held until it is complete. Files are numbered in the order of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clusterglm.data.census import runs
from clusterglm.data.columns import Look
from clusterglm.data.files import DataFile, location, unchanged
from clusterglm.data.generate import written_parts
from clusterglm.data.sources import on_workers, place, reader, survey
from clusterglm.data.target import Target
from clusterglm.errors import ClusterglmError, DataError, UsageError, quoted, unknown
from clusterglm.model import UNSEEN, FittedModel, missing_column

if TYPE_CHECKING:
    import pyarrow as pa
    from distributed import Client

PREDICTIONS = ("mean", "eta")
OF_CLASSES = "class"  # the likeliest, in place of eta, beside the mean of each
_FEWEST_ROWS, _MOST_ROWS = 2**16, 2**20  # of a part
_PARTS_A_THREAD = 4
_ROW_BYTES = 16
_NUMBERS = {"number", "bool", "null", "code"}
_TEXTS = {"string", "category", "mixed"}


class _Part(NamedTuple):
    """A stretch of a file: the file with these pieces alone, how its columns are read, and the files that are written,
    of ``rows`` each, from ``number`` on."""

    file: DataFile
    kinds: dict[str, str]
    number: int
    rows: int

    @property
    def numbers(self) -> range:
        """The numbers of the files that are written."""
        return range(self.number, self.number - (-self.file.rows // self.rows))


class Written(NamedTuple):
    """What a part, or all of them together, came to: ``unseen`` counts values by column."""

    rows: int
    missing: int
    unseen: Counter[str]


@dataclass(frozen=True)
class Scoring:
    """What is to be predicted, checked before anything is started.

    Parameters
    ----------
    model : FittedModel
    data : str
        A file, a folder or a pattern, as a path or a URL.
    target : Target
        Where the predictions go.
    keep : sequence of str
        Columns of the data that are copied beside them.
    unseen : str
        What a level is that the model does not know: an error, the reference or missing.
    offset : str, optional
        The column of the offset, by default the model's.

    Raises
    ------
    UsageError
        Not such a policy, a column is named twice or like a prediction, or the model has no offset.
    """

    model: FittedModel
    data: str
    target: Target
    keep: tuple[str, ...] = ()
    unseen: str = "error"
    offset: str | None = None

    def __post_init__(self) -> None:
        if self.unseen not in UNSEEN:
            raise unknown("--unseen", self.unseen, UNSEEN)
        for name in self.keep:
            if name in self.predictions:
                raise UsageError("--keep", name, "is the name of a prediction: rename the column")
            if self.keep.count(name) > 1:
                raise UsageError("--keep", name, "named twice")
        if self.offset is not None and self.model.offset is None:
            raise UsageError("--offset", self.offset, "the model has none: leave it out")
        _ = self.place

    @property
    def place(self) -> Any:
        return location(self.data, "DATA")

    @property
    def predictions(self) -> tuple[str, ...]:
        """The names of the columns that are written."""
        classes = self.model.classes
        return (OF_CLASSES, *(f"mean:{name}" for name in classes)) if classes else PREDICTIONS

    @property
    def added(self) -> str | None:
        """The column of the offset."""
        return self.offset or self.model.offset

    def run(
        self, client: Client, note: Callable[[str], object], tell: Callable[[int, int], object]
    ) -> tuple[Written, int]:
        """Write the predictions into the unfinished target; return what they came to, and the number of files.

        ``note`` is called with a line for the user, ``tell`` with the rows that are done and all of them.

        Raises
        ------
        UsageError
            The target would replace the rows.
        DataError
            A column is missing or no number, or a level is unseen.
        ClusterError
            The files cannot be read or written, or the workers are lost.
        """
        try:
            format, looks, notes = survey(partial(on_workers, client), self.data, self.place)
        except ClusterglmError as error:
            if error.what != "--data":
                raise
            raise type(error)("DATA", error.value, error.cure) from error
        for look in looks:
            if self.target.holds(look.file.path):
                raise UsageError("--to", self.target.url, "holds the rows that are to be predicted: another name")
        for text in notes:
            note(text)
        rows = sum(look.file.rows for look in looks)
        share = rows // (_PARTS_A_THREAD * max(sum(client.nthreads().values()), 1))
        parts = list(self._parts(format, looks, min(max(share, _FEWEST_ROWS), _MOST_ROWS)))
        self.target.check(rows * _ROW_BYTES, overwrite=True)
        total = Written(0, 0, Counter())
        files = parts[-1].numbers.stop
        digits = max(5, len(str(files - 1)))
        for done in written_parts(client, partial(_write, self, format, digits), parts):
            total = Written(total.rows + done.rows, total.missing + done.missing, total.unseen + done.unseen)
            tell(total.rows, rows)
        for name, count in total.unseen.items():
            levels = self.model.levels[name]
            taken = f"taken as the reference {quoted(levels.labels[0])}" if self.unseen == "reference" else "missing"
            number = f"{count} value is" if count == 1 else f"{count} values are"
            note(f"warning: column {quoted(name)}: {number} no level of the model: {taken}")
        if total.missing:
            note(f"note: rows without a prediction, for a value is missing: {total.missing} of {total.rows}")
        return total, files

    def _parts(self, format: str, looks: Sequence[Look], rows: int) -> Iterator[_Part]:
        number = 0
        for look in looks:
            kinds = self._kinds(format, look)
            for pieces in runs(look.file.pieces, rows):
                part = _Part(replace(look.file, pieces=pieces), kinds, number, _MOST_ROWS)
                number = part.numbers.stop
                yield part

    def _why(self, name: str) -> str:
        """Return the words for what a column is wanted for."""
        if name in self.model.columns:
            return "the model was fitted with it"
        option = "--offset" if name == self.offset else "--keep"
        return f"correct {option}"

    def _kinds(self, format: str, look: Look) -> dict[str, str]:
        """Return how the columns of a file are read: those that are only kept, as they are."""
        kinds = {}
        needed = [*self.model.features, *([self.added] if self.added is not None else [])]
        for name in [*needed, *self.keep]:
            if name not in look.schema:
                raise missing_column(name, list(look.schema), f" in {quoted(look.file.name)}", self._why(name))
        for name in needed:
            column, levels = look.schema[name], self.model.levels.get(name)
            if column.kind in _NUMBERS | _TEXTS if levels is not None else column.kind in _NUMBERS:
                # In csv a level is what is written, whatever the first megabyte looks like.
                text = column.kind in _TEXTS or (format == "csv" and levels is not None and not levels.numeric)
                kinds[name] = "string" if text else column.kind
                continue
            taken = "a number" if levels is None else "number or category"
            raise DataError(f"column {quoted(name)}", column.example or column.kind, f"not {taken}: correct it")
        return dict.fromkeys(self.keep, "kept") | kinds


def _write(scoring: Scoring, format: str, digits: int, part: _Part) -> Written:
    """Write the predictions of one part, on a worker."""
    from clusterglm.data.levels import as_arrow

    names = [f"part-{number:0{digits}}.parquet" for number in part.numbers]
    file, row, output = part.file, part.file.pieces[0].first, _Output(scoring.target, names, part.rows)
    missing, unseen, first = 0, Counter[str](), row
    with unchanged(file):
        for batch in map(as_arrow, reader(format).batches(file, part.kinds)):
            scores = scoring.model.scores(batch.column, len(batch), scoring.added, scoring.unseen)
            for found in scores.unseen:
                if scoring.unseen == "error":
                    raise found.refusal(place(format, file, row + found.row), scoring.model.levels[found.column])
                unseen[found.column] += found.values
            missing += int(np.isnan(scores.eta.reshape(len(batch), -1)[:, 0]).sum())
            row += len(batch)
            if row - first > file.rows:
                break
            output.append(_table(scoring, batch, scores.mean, scores.eta))
    if row - first != file.rows:
        raise DataError(quoted(file.name), None, "holds other rows than its footer says: write it again")
    output.close()
    scoring.target.leave_if_over()
    return Written(file.rows, missing, unseen)


class _Output:
    """The files ``names`` of a target, one after another, of ``rows`` each."""

    def __init__(self, target: Target, names: Sequence[str], rows: int) -> None:
        self.target, self.names, self.rows = target, iter(names), rows
        self._writer: Any = None

    def append(self, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        while len(table):
            if self._writer is None:
                self._sink, self._left = pa.BufferOutputStream(), self.rows
                words: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
                self._writer = pq.ParquetWriter(self._sink, table.schema, **words)
            now = table.slice(0, self._left)
            self._writer.write_table(now)
            self._left -= len(now)
            table = table.slice(len(now))
            if not self._left:
                self.close()

    def close(self) -> None:
        """Write the file that is begun, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self.target.write(next(self.names), self._sink.getvalue())
            self._writer = None


def _table(scoring: Scoring, batch: pa.RecordBatch, mean: np.ndarray, eta: np.ndarray) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in scoring.keep:
        column = batch.column(name)
        columns[name] = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    found: list[Any] = [mean, eta]
    if classes := scoring.model.classes:
        likeliest = np.where(np.isnan(mean[:, 0]), None, np.array(classes, dtype=object)[mean.argmax(axis=1)])
        found = [pa.array(likeliest, pa.string()), *mean.T]
    for name, values in zip(scoring.predictions, found, strict=True):  # NaN becomes null
        columns[name] = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    return pa.table(columns)
