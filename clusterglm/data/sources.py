"""Where rows come from. A source is looked at once, on a worker, and then makes any range of its rows anywhere."""

from __future__ import annotations

import copy
import hashlib
import json
import socket
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clusterglm.data.chunk import Chunk, Held, block_rows
from clusterglm.data.chunks import Plan, local_problem_rows
from clusterglm.data.columns import Look, Roles, Schema, choose, coded, rounded, same
from clusterglm.data.dask_rows import Make
from clusterglm.data.disk import OnDisk
from clusterglm.data.files import DataFile, Location, location, unchanged
from clusterglm.data.listing import find
from clusterglm.data.rows import LocalRows
from clusterglm.data.stream import Origin, Stream
from clusterglm.data.tasks import map_where, retried
from clusterglm.errors import ClusterError, DataError, UsageError, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from distributed import Client, Future

    from clusterglm.data.levels import Levels

_MOST_NAMED = 3


class Source(Protocol):
    """What a fit asks of its data. All but ``open`` and ``extra_columns`` is known once the source is open."""

    @property
    def names(self) -> list[str]:
        """The columns of the design matrix in order; the intercept is none of them."""

    @property
    def coding(self) -> dict[str, Any]:
        """What a prediction needs to make these columns again: ``features``, and the ``levels`` of those coded; and the
        ``classes`` of a target that has them."""

    @property
    def rows(self) -> int: ...

    @property
    def truth(self) -> np.ndarray | None:
        """The generating coefficients, (features,) float64, where they are known."""

    @property
    def extra_columns(self) -> int:
        """Target, weights and offset: 8 bytes a row each."""

    @property
    def stored(self) -> Sequence[int]:
        """The first rows, in order, of what must be decoded together; none where any row can be made by itself."""

    @property
    def notes(self) -> list[str]:
        """Lines that begin with ``note:`` or ``warning:``."""

    @property
    def whole(self) -> list[str]:
        """Columns of whole numbers of which nobody knows yet whether float64 tells them apart."""

    def open(self, client: Client | None) -> None:
        """Look at the data, on the workers of ``client`` or in this process. Raises DataError and ClusterError."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these rows from others, fit for JSON."""

    def make(self, plan: Plan, intercept: bool) -> Make:
        """Return the recipe by which the workers make the chunks of ``plan``."""

    def part(self, bounds: tuple[int, int]) -> Origin:
        """Return where the rows ``bounds[0]`` to ``bounds[1] - 1`` come from, with no more state than they need."""

    @property
    def random_access(self) -> bool:
        """See ``stream.Origin``, as for ``windows``."""

    def windows(
        self, bounds: tuple[int, int], rows: int, block_rows: int, dtype: str = "float64", intercept: bool = False
    ) -> Iterator[Chunk]: ...

    def chunk(self, bounds: tuple[int, int], block_rows: int, dtype: str = "float64", intercept: bool = False) -> Chunk:
        """Return the global rows ``bounds[0]`` to ``bounds[1] - 1``."""

    def locate(self, row: int) -> str:
        """Return where a global row came from, in words."""


def open_source(
    url: str,
    target: str,
    features: Sequence[str] | None = None,
    weights: str | None = None,
    offset: str | None = None,
    categorical: Sequence[str] = (),
    missing: str = "raise",
    classes: bool = False,
) -> FileSource:
    """Return the source for a file, a folder or a pattern, as a path or a URL; nothing is touched before ``open``.

    Parquet, csv, .npy, Zarr and HDF5 are read; ``::/GROUP`` behind it means a part of a Zarr store or an HDF5 file.
    ``features`` are the columns to fit, in order; None takes every number, bool or text without another role. Texts,
    and the numbers in ``categorical``, are coded by their levels. ``missing`` is raise, or drop to leave out the rows
    where a column that is used has no value. With ``classes`` the target's values are levels, whatever they are.

    Raises
    ------
    UsageError
        The URL cannot be read here, or the names of the columns contradict each other.
    """
    roles = Roles(target, None if features is None else tuple(features), weights, offset, tuple(categorical), classes)
    return FileSource(url, location(url), roles, missing == "drop")


class FileSource:
    """Rows of files, in the order of the files' names.

    Parameters
    ----------
    url : str
        What the user wrote.
    path : Location
        What it means.
    roles : Roles
        The columns to use.
    drop : bool
        Whether rows in which one of them has no value are left out.

    Attributes
    ----------
    features : list of str
        The columns that are features, ``names`` those of the design matrix.
    levels : dict of Levels
        Of the features that are coded.
    """

    truth = None
    random_access = False

    def __init__(self, url: str, path: Location, roles: Roles, drop: bool = False) -> None:
        self.url, self.path, self.roles, self.drop = url, path, roles, drop
        self.extra_columns = len(roles.others)
        self.features: list[str] = []
        self.names: list[str] = []
        self.levels: dict[str, Levels] = {}
        self._run: Callable[..., list[Any]] = partial(on_workers, None)
        self.notes: list[str] = []
        self.whole: list[str] = []
        self.files: list[DataFile] = []
        self.kinds: dict[str, str] = {}
        self.format = ""

    @property
    def rows(self) -> int:
        return self.files[-1].first + self.files[-1].rows if self.files else 0

    @property
    def stored(self) -> list[int]:
        return [file.first + first for file in self.files for first, rows in file.held if rows]

    def open(self, client: Client | None) -> None:
        if client is not None and str(self.path.path).startswith("memory://"):
            raise UsageError("--data", self.url, "is in this process alone: write it where workers see it")
        self._run = partial(on_workers, client)
        self.format, full, self.notes = survey(self._run, self.url, self.path)
        to_code = self._choose(full)
        self.files = _numbered([look.file for look in full])
        if to_code or self.drop:
            self._count(to_code)
        from clusterglm.data.levels import design_names

        self.names = design_names(self.features, self.levels)
        if not self.names:
            raise DataError("--data", self.url, f"no columns besides the target {quoted(self.roles.target)}")

    def _choose(self, looks: list[Look]) -> list[str]:
        """Settle the columns, which all files must have alike, and note what is lost in them; return those to code."""
        schema: Schema = dict(looks[0].schema)
        for look in looks[1:]:
            for name, column in look.schema.items():
                if name in schema and schema[name].kind == "null":  # nothing but missing values so far
                    schema[name] = column
        index = set() if self.roles.features else looks[0].numbering & schema.keys() - set(self.roles.others.values())
        self.features = choose(schema, self.roles, self.url, index)
        wanted = [*self.features, *self.roles.others.values()]
        for i, look in enumerate(looks):
            if not i or look.schema is not looks[i - 1].schema:
                same(look.file.name, look.schema, looks[0].file.name, schema, wanted, self.roles.features is None)
        kinds = {name: schema[name].kind for name in wanted}
        # In csv a column whose first megabyte has no value may be text further down.
        blank = set(self.roles.categorical) if self.format == "csv" else set()
        texts = {name for name, kind in kinds.items() if kind == "mixed" or (kind == "null" and name in blank)}
        self.kinds = {name: "string" if name in texts else kind for name, kind in kinds.items()}
        for name in sorted(index):
            shown = f"column {quoted(name)}: numbers the rows" if name else "the column without a name"
            self.notes.append(f"note: {shown}: left out")
        for name in self.kinds:
            sizes = [look.large[name] for look in looks if name in look.large]
            if known := [size for size in sizes if size is not None]:
                self.notes += rounded({name: max(known)})
            elif sizes:
                self.whole.append(name)
        return coded(schema, self.features, self.roles)

    def _count(self, to_code: list[str]) -> None:
        """Find the levels, and the rows that are complete, in one pass.

        Raises
        ------
        DataError
            Too many levels; a missing value, unless such rows are left out, or nothing else is left.
        """
        from clusterglm.data import census

        kinds = self.kinds if self.drop else {name: self.kinds[name] for name in to_code}
        found = census.take(self._run, self._reader.batches, self.files, kinds, to_code)
        worst = ", ".join(f"{quoted(name)} {count}" for name, count in found.missing.most_common(_MOST_NAMED))
        if self.drop:
            before, kept = self.rows, iter(found.kept)
            self.files = _numbered([_thinned(file, kept) for file in self.files])
            if not self.files:
                raise DataError("--data", self.url, f"no row without a missing value ({worst}): leave out such columns")
            if self.rows < before:
                rows = f"{before - self.rows} of {before} rows left out"
                self.notes.append(f"note: --missing drop: {rows}, missing values: {worst}")
        else:
            found.refuse_missing(lambda i, row: place(self.format, self.files[i], row))
        self.levels = found.levels()
        self.notes += found.notes(self.levels)

    @property
    def coding(self) -> dict[str, Any]:
        from clusterglm.data.frames import coding

        return coding(self.features, self.levels, self.roles)

    @property
    def _reader(self) -> Any:
        return reader(self.format)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "source": f"{self.format}::/{self.path.group}" if self.path.group else self.format,
            "files": [[file.name, file.size, file.modified] for file in self.files],
            "rows": self.rows,
            **self.coding,
            "target": self.roles.target,
            "weights": self.roles.weights,
            "offset": self.roles.offset,
        }

    def make(self, plan: Plan, intercept: bool) -> Make:
        # Copies of a folder have the same names, and those out of an archive the same times.
        return recipe(self, plan, intercept, [[str(file.path), file.changed] for file in self.files])

    def part(self, bounds: tuple[int, int]) -> FileSource:
        part = copy.copy(self)
        part.notes, part.files, part._run = [], [], partial(on_workers, None)
        for file in self.files[self._place(bounds[0]) :]:
            first, last = bounds[0] - file.first, bounds[1] - file.first
            if last <= 0:
                break
            inside = [i for i, (f, rows) in enumerate(file.held) if f < last and f + rows > first and rows]
            if inside:
                cut = slice(inside[0], inside[-1] + 1)
                part.files.append(replace(file, pieces=file.pieces[cut], kept=file.kept and file.kept[cut]))
        return part

    def windows(
        self, bounds: tuple[int, int], rows: int, block_rows: int, dtype: str = "float64", intercept: bool = False
    ) -> Iterator[Chunk]:
        """Return the rows from ``bounds[0]`` to ``bounds[1] - 1`` in chunks of ``rows``, one at a time.

        Raises
        ------
        DataError
            A file has changed or gone, cannot be read in its format, or holds what is not a number.
        ClusterError
            A file may not be read, or the system failed to.
        """
        from clusterglm.data import design

        size, others = min(rows, bounds[1] - bounds[0]), list(self.roles.others.values())
        held = design.Design(size, self.features, others, dtype, intercept, self.levels)
        return design.windows(held, self._batches(bounds), bounds, rows, block_rows, self.roles)

    def _batches(self, bounds: tuple[int, int]) -> Iterator[pa.RecordBatch]:
        """Yield the rows from ``bounds[0]`` to ``bounds[1] - 1`` as the files hold them."""
        from clusterglm.data.levels import without_gaps

        first, last = bounds
        for file in self.part(bounds).files:
            with unchanged(file):
                row = file.first + file.held[0][0]
                end = min(file.first + sum(file.held[-1]), last)
                for batch in self._reader.batches(file, self.kinds):
                    if self.drop:
                        batch = without_gaps(batch)
                    low, high = max(first - row, 0), min(end - row, len(batch))
                    if high > low:
                        yield batch.slice(low, high - low)
                    row += len(batch)
                    if row >= end:
                        break
                else:
                    raise DataError(quoted(file.name), None, "holds other rows than its footer says: write it again")

    def chunk(self, bounds: tuple[int, int], block_rows: int, dtype: str = "float64", intercept: bool = False) -> Chunk:
        """Return the rows from ``bounds[0]`` to ``bounds[1] - 1``. Raises what ``windows`` raises."""
        [chunk] = self.windows(bounds, bounds[1] - bounds[0], block_rows, dtype, intercept)
        return chunk

    def locate(self, row: int) -> str:
        """Return the file and, counted from 1, the row (parquet) or the line (csv, whose first is the header)."""
        file = self.files[self._place(row)]
        inside = row - file.first
        if file.kept is not None:
            from clusterglm.data.census import nth_complete

            i = bisect_right(file.kept, inside, key=lambda piece: piece[0]) - 1
            piece = replace(file, pieces=file.pieces[i : i + 1])
            task = (self._reader.batches, piece, self.kinds, inside - file.kept[i][0])
            [inside] = self._run(nth_complete, [task])
        return place(self.format, file, inside)

    def _place(self, row: int) -> int:
        return bisect_right(self.files, row, key=lambda file: file.first) - 1


def survey(run: Callable[..., list[Any]], url: str, where: Location) -> tuple[str, list[Look], list[str]]:
    """Return the format of some files, what each of those that hold rows is, and notes.

    Raises
    ------
    DataError, ClusterError
        There are none, no rows in them, or they cannot be read.
    """
    [(format, files, notes)] = run(partial(find, where, home=socket.gethostname()), [url])
    looks = reader(format).look(run, files)
    full = [look for look in looks if look.file.rows]
    if not full:
        raise DataError("--data", url, f"{len(looks)} files, no rows" if len(looks) > 1 else "no rows")
    if empty := [look.file.name for look in looks if not look.file.rows]:
        notes.append(f"note: {_some(empty)}: no rows, skipped")
    notes += [note for look in looks for note in look.notes][:_MOST_NAMED]
    return format, full, notes


def reader(format: str) -> Any:
    """Return the module that reads a format, by ``look`` and ``batches``."""
    return import_module(f"clusterglm.data.{format}")


def place(format: str, file: DataFile, row: int) -> str:
    """Return the words for a row of a file, counted from 1; or a line of a csv file, whose first is the header."""
    return f"{quoted(file.name)}, " + (f"line {row + 2}" if format == "csv" else f"row {row + 1}")


def _numbered(files: Iterable[DataFile]) -> list[DataFile]:
    """Return the files that hold rows, each with the global index of its first one."""
    numbered, row = [], 0
    for file in files:
        if file.rows:
            numbered.append(replace(file, first=row))
            row += file.rows
    return numbered


def _thinned(file: DataFile, kept: Iterator[int]) -> DataFile:
    """Return the file without the rows that have a missing value; ``kept`` are the others of every piece."""
    counts = list(islice(kept, len(file.pieces)))
    return replace(file, kept=tuple(zip(accumulate(counts, initial=0), counts, strict=False)))


def _some(names: list[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more files"


def on_workers(client: Client | None, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return ``function`` of every item, worked out on the workers. Raises what the function raised."""
    if client is None or not items:
        return [function(item) for item in items]
    address = client.scheduler.address if client.scheduler else None
    try:
        return client.gather(client.map(function, items, pure=False))  # type: ignore[no-any-return]
    except retried() as error:
        cure = f"looking at the data failed: {type(error).__name__}: see the workers' logs"
        raise ClusterError("cluster", address, cure) from error


def recipe(source: Source, plan: Plan, intercept: bool, where: Sequence[Any] = ()) -> Make:
    """Return how the workers make the chunks of ``plan``: tasks that hold a range of rows and where they come from.

    Rows on disk are those of another fit if its source has the same fingerprint and lies at the same place, ``where``.
    """
    ranges = plan.ranges()
    layout = [source.fingerprint(), *where, plan.columns, plan.dtype, plan.chunk_rows, intercept]
    key = hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:24]

    def make(client: Client, indices: Sequence[int], generation: int, workers: Sequence[str] | None) -> list[Future]:
        keys = [f"chunk-{generation}-{i}-{time.time_ns():x}" for i in indices]
        streams = [Stream.of(source.part(ranges[i]), ranges[i], plan, intercept) for i in indices]
        return map_where(client, _hold, streams, keys, workers, storage=plan.storage, rows_key=key)

    return make


def _hold(stream: Stream, storage: str, rows_key: str) -> Held:
    if storage == "memory":
        return stream.in_memory()
    if storage == "stream":
        return stream
    return OnDisk(stream, rows_key, stream.start, stream.stop)  # written in the first pass, by whoever makes it


def local_rows(source: Source, intercept: bool = False, dtype: str = "float64") -> LocalRows:
    """Return all rows of an open source in this process."""
    columns = len(source.names) + intercept
    itemsize = np.dtype(dtype).itemsize
    chunk = source.chunk((0, source.rows), block_rows(columns, itemsize), dtype, intercept)
    return LocalRows(chunk, local_problem_rows(source.rows, columns, itemsize), source.locate, intercept)
