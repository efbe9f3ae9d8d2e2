"""One pass over the columns of a model before the fit: which levels there are, how many rows are complete.

It runs on the workers, over a few pieces of a file at a time, and brings back no more than levels and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from clusterglm.data.columns import EXACT
from clusterglm.data.files import DataFile, Piece, unchanged
from clusterglm.data.levels import Levels, Value, as_arrow, complete, is_missing
from clusterglm.errors import DataError, quoted

MOST_LEVELS = 1000
_COUNTED_LEVELS = 100_000  # beyond which nobody wants to know how many there are
_TASK_ROWS = 2**21
Kinds = dict[str, str]
Batches = Callable[[DataFile, Kinds], Iterator[Any]]
# Words that stand for a missing value where there is nothing but text, as R and pandas read a csv file.
_WORDS = frozenset({"NA", "N/A", "NaN", "nan", "NULL", "null", "None"})


@dataclass
class Census:
    """What is known of a stretch of rows; ``+=`` adds the next stretch.

    ``kept`` are the complete rows of every piece, ``missing`` the missing values of every column that has any and
    ``first`` where the first of them is: the place of the file, and the row in it. ``values`` are the levels of the
    complete rows, and ``declared`` the order that all pieces declare, None where they do not agree.
    """

    kept: list[int] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, set[Value]] = field(default_factory=dict)
    declared: dict[str, tuple[Value, ...] | None] = field(default_factory=dict)

    def __iadd__(self, other: Census) -> Census:
        self.kept += other.kept
        self.missing += other.missing
        self.first = other.first | self.first
        for name, values in other.values.items():
            self._meet(name, values, other.declared[name])
        return self

    def _meet(self, name: str, values: set[Value], declared: tuple[Value, ...] | None) -> None:
        known = self.values.setdefault(name, set())
        if len(known) <= _COUNTED_LEVELS:
            known |= values
        if self.declared.setdefault(name, declared) != declared:
            self.declared[name] = None

    def look(self, name: str, column: pa.Array, category: bool) -> None:
        """Take the levels of a column of complete rows; ``category``: a dictionary in it declares an order."""
        declared = None
        if pa.types.is_dictionary(column.type):
            if category:
                declared = tuple(_values(column.dictionary))
            column = column.unique().dictionary_decode()
        self._meet(name, {value for value in _values(column.unique()) if value is not None}, declared)

    def levels(self) -> dict[str, Levels]:
        """Return the levels of every column.

        Raises
        ------
        DataError
            They are too many, or numbers that float64 cannot tell apart.
        """
        for name, values in self.values.items():
            number = len(values)
            if number > MOST_LEVELS:
                count = f"{number} levels" if number <= _COUNTED_LEVELS else f"more than {_COUNTED_LEVELS} levels"
                cure = f"at most {MOST_LEVELS} of a column can be fitted: leave it out with --features, or group them"
                raise DataError(f"column {quoted(name)}", count, cure)
            for value in values:
                if not isinstance(value, str) and not -EXACT <= value <= EXACT:
                    raise DataError(f"column {quoted(name)}", value, "too large a number for a level: write it as text")
        return {name: Levels.of(values, self.declared[name] or ()) for name, values in self.values.items()}

    def refuse_missing(self, place: Callable[[int, int], str]) -> None:
        """Raise DataError where a value is missing; ``place`` says in words where a row of a file is."""
        if self.missing:
            name, count = self.missing.most_common(1)[0]
            at = f"{count} missing, the first in {place(*self.first[name])}"
            raise DataError(f"column {quoted(name)}", at, "--missing drop leaves such rows out, or fill them")

    def notes(self, levels: Mapping[str, Levels]) -> list[str]:
        """Return what is said of the levels of every column, and of those that look like missing values."""
        found = {name: sorted(_WORDS & values) for name, values in self.values.items()}
        return [f"note: column {quoted(name)}: {of}" for name, of in levels.items()] + [
            f"warning: column {quoted(name)} ({', '.join(words)}): a level, not a missing value"
            for name, words in found.items()
            if words
        ]


def _values(column: pa.Array) -> list[Any]:
    """Return the values of a column, decimals as the numbers that a prediction finds in their place."""
    return [float(value) if isinstance(value, Decimal) else value for value in column.to_pylist()]


def take(
    run: Callable[..., list[Any]], batches: Batches, files: Sequence[DataFile], kinds: Kinds, coded: Sequence[str]
) -> Census:
    """Return the census of all rows; ``kinds`` are the columns that count, ``coded`` those whose levels are wanted."""
    tasks = [(batches, i, part, kinds, coded) for i, file in enumerate(files) for part in _parts(file)]
    total = Census()
    for found in run(_take, tasks):
        total += found
    return total


def _parts(file: DataFile) -> Iterator[DataFile]:
    """Yield the file in a few pieces at a time."""
    for pieces in runs(file.pieces, _TASK_ROWS):
        yield replace(file, pieces=pieces)


def runs(pieces: Sequence[Piece], rows: int) -> Iterator[tuple[Piece, ...]]:
    """Yield consecutive pieces of about ``rows`` rows together."""
    held: list[Piece] = []
    for piece in pieces:
        if held and sum(p.rows for p in held) + piece.rows > rows:
            yield tuple(held)
            held = []
        held.append(piece)
    if held:
        yield tuple(held)


def _take(task: tuple[Batches, int, DataFile, Kinds, Sequence[str]]) -> Census:
    batches, place, file, kinds, coded = task
    found, row = Census(), file.pieces[0].first
    starts = np.array([piece.first for piece in file.pieces])
    kept = np.zeros(len(starts), dtype=np.int64)
    with unchanged(file):
        for batch in map(as_arrow, batches(file, kinds)):
            for name in kinds:
                gaps = is_missing(batch.column(name))
                if gaps is not None:
                    found.missing[name] += int(gaps.sum())
                    found.first.setdefault(name, (place, row + int(gaps.argmax())))
            mask = complete(batch)
            whole = np.arange(len(batch)) if mask is None else np.flatnonzero(mask)
            kept += np.bincount(np.searchsorted(starts, row + whole, "right") - 1, minlength=len(kept))
            rest = batch if mask is None else batch.filter(pa.array(mask))
            for name in coded:
                found.look(name, rest.column(name), kinds[name] == "category")
            row += len(batch)
    found.kept = kept.tolist()
    return found


def nth_complete(task: tuple[Batches, DataFile, Kinds, int]) -> int:
    """Return the row, within its file, of the complete row number ``n`` of a piece."""
    batches, file, kinds, n = task
    row = file.pieces[0].first
    with unchanged(file):
        for batch in map(as_arrow, batches(file, kinds)):
            mask = complete(batch)
            whole = np.arange(len(batch)) if mask is None else np.flatnonzero(mask)
            if n < len(whole):
                return row + int(whole[n])
            n, row = n - len(whole), row + len(batch)
    raise DataError(quoted(file.name), None, "holds fewer rows than before: start again")
