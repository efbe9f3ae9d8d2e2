"""Rows from Dask collections: their partitions are made on the workers, by the collection's own graph, and cut anew.

A chunk in memory is one more task behind the collection's: it copies the rows that it needs of a few neighbouring
pieces into place, so the pieces can go at once. Nothing passes through the client, no second copy stays, and a chunk
that is lost is made again from the collection's graph. Rows as a stream or on disk carry their part of the graph with
them, and the worker runs it piece by piece. Where a collection does not know how long its pieces are, they are counted
in a pass of their own.
"""

from __future__ import annotations

import itertools
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from clusterglm.data.arrays import Columns
from clusterglm.data.census import Census
from clusterglm.data.chunk import Chunk
from clusterglm.data.chunks import Plan
from clusterglm.data.columns import Roles
from clusterglm.data.dask_rows import Make
from clusterglm.data.design import Design, windows
from clusterglm.data.frames import census, coding, largest, rounded
from clusterglm.data.levels import Levels, design_names
from clusterglm.data.sources import recipe
from clusterglm.data.tasks import retried
from clusterglm.errors import ClusterError, DataError, UsageError, quoted

if TYPE_CHECKING:
    from distributed import Client, Future

_COUNTED = "note: row counts unknown: counted in one extra pass"


class Span(NamedTuple):
    """The rows ``low`` to ``high - 1`` of a piece that must have ``rows``; ``place`` says which piece it is."""

    place: str
    rows: int
    low: int
    high: int


@dataclass
class Stack:
    """Columns whose rows lie in ``pieces``, tasks of the collection's own graph; ``lengths`` where they are known.

    ``take`` makes of a piece an Arrow batch or ``arrays.Columns`` with the columns in ``names``.
    """

    label: str
    names: tuple[str, ...]
    pieces: list[Any]
    lengths: list[int] | None
    take: Callable[[Any], Any]

    @property
    def rows(self) -> int:
        return sum(self.lengths or ())

    def spans(self, first: int, last: int) -> dict[int, Span]:
        """Return what the rows ``first`` to ``last - 1`` need, by piece."""
        assert self.lengths is not None
        ends = list(itertools.accumulate(self.lengths))
        found = {}
        for i in range(bisect_right(ends, first), len(ends)):
            start = ends[i] - self.lengths[i]
            if start >= last:
                break
            if self.lengths[i]:
                place = f"{self.label}, partition {i}"
                found[i] = Span(place, self.lengths[i], max(first - start, 0), min(last, ends[i]) - start)
        return found


class Form(NamedTuple):
    """What becomes of the columns: which are features, with the levels of some, and which have other roles."""

    features: list[str]
    levels: dict[str, Levels]
    roles: Roles


class Cut:
    """The rows ``bounds[0]`` to ``bounds[1] - 1``: where they lie in the pieces of every stack. A ``stream.Origin``."""

    random_access = False

    def __init__(self, stacks: Sequence[Stack], bounds: tuple[int, int], form: Form) -> None:
        found = [stack.spans(*bounds) for stack in stacks]
        self.bounds, self.form = bounds, form
        self.spans = [list(spans.values()) for spans in found]
        self.takes = [stack.take for stack in stacks]
        self.pieces = [[stack.pieces[i] for i in spans] for stack, spans in zip(stacks, found, strict=True)]

    def windows(
        self, bounds: tuple[int, int], rows: int, block_rows: int, dtype: str = "float64", intercept: bool = False
    ) -> Iterator[Chunk]:
        """Return the rows in chunks of ``rows``, one at a time, and compute each piece when its turn comes.

        Raises
        ------
        DataError
            A piece has other rows than it should, or other types; and whatever computing it raises.
        """
        assert bounds == self.bounds  # a cut has the rows that it was made for
        made = [(piece.compute(scheduler="synchronous") for piece in pieces) for pieces in self.pieces]
        return self._windows(made, rows, block_rows, dtype, intercept)

    def task(self, key: str, **words: Any) -> Any:
        """Return the task that makes one chunk in memory of the pieces, which are tasks of their own."""
        from dask import delayed

        pieces = list(itertools.chain(*self.pieces))
        self.pieces = []
        # Bound to the function, so that Dask does not look for tasks in it.
        return delayed(partial(self._chunk, **words), name=key, pure=False)(*pieces, dask_key_name=key)

    def _chunk(self, *pieces: Any, **words: Any) -> Chunk:
        ends = list(itertools.accumulate(map(len, self.spans)))
        made = [pieces[end - len(spans) : end] for end, spans in zip(ends, self.spans, strict=True)]
        [chunk] = self._windows(made, self.bounds[1] - self.bounds[0], **words)
        return chunk

    def _windows(
        self, made: Sequence[Iterable[Any]], rows: int, block_rows: int, dtype: str, intercept: bool
    ) -> Iterator[Chunk]:
        size = min(rows, self.bounds[1] - self.bounds[0])
        features, levels, roles = self.form
        design = Design(size, features, list(roles.others.values()), dtype, intercept, levels)
        batches = map(_joined, side_by_side([self._taken(i, pieces) for i, pieces in enumerate(made)]))
        return windows(design, batches, self.bounds, rows, block_rows, roles)

    def _taken(self, i: int, pieces: Iterable[Any]) -> Iterator[Any]:
        """Yield the rows that are wanted of the pieces of one stack."""
        for span, piece in zip(self.spans[i], pieces, strict=True):
            taken = self.takes[i](piece)
            if len(taken) != span.rows:
                cure = f"{span.rows} were promised: compute_chunk_sizes(), or see that it is the same each time"
                raise DataError(span.place, f"{len(taken)} rows", cure)
            yield taken.slice(span.low, span.high - span.low)


def side_by_side(stacks: Sequence[Iterator[Any]]) -> Iterator[list[Any]]:
    """Yield batches of equal length from every stack, cut wherever one of theirs ends."""
    held = [next(stack) for stack in stacks]
    while True:
        rows = min(map(len, held))
        yield [batch.slice(0, rows) for batch in held]
        for i, batch in enumerate(held):
            following = batch.slice(rows, len(batch) - rows) if len(batch) > rows else next(stacks[i], None)
            if following is None:  # all have as many rows
                return
            held[i] = following


def _joined(batches: list[Any]) -> Any:
    """Return the columns of several batches of equal length as one."""
    if len(batches) == 1:
        return batches[0]
    if isinstance(batches[0], Columns):
        return Columns({name: place for batch in batches for name, place in batch.places.items()}, len(batches[0]))
    return pa.record_batch({name: c for b in batches for name, c in zip(b.schema.names, b.columns, strict=True)})


class Collections:
    """Rows of Dask collections, a ``Source``. ``from_python.py`` makes them.

    Parameters
    ----------
    label : str
        What messages call the data.
    stacks : sequence of Stack
        The columns, cut into pieces each in its own way.
    features : list of str
        Those that are features.
    roles : Roles
        The others.
    to_code : dict
        Features whose levels are to be found, and their kinds.
    collections : list
        The collections themselves.

    Attributes
    ----------
    names : list of str
        The columns of the design matrix, known once the source is open.
    """

    truth = None
    random_access = False
    stored = ()  # in memory a piece that is cut is made once, and handed to two chunks

    def __init__(
        self,
        label: str,
        stacks: Sequence[Stack],
        features: list[str],
        roles: Roles,
        to_code: dict[str, str],
        collections: list[Any],
    ) -> None:
        self.label, self.stacks, self.collections, self.to_code = label, stacks, collections, to_code
        self.form = Form(features, {}, roles)
        self.names: list[str] = []
        self.extra_columns = len(roles.others)
        self.notes: list[str] = []
        self.whole: list[str] = []

    @property
    def coding(self) -> dict[str, Any]:
        return coding(self.form.features, self.form.levels, self.form.roles)

    @property
    def rows(self) -> int:
        return self.stacks[0].rows

    def open(self, client: Client | None) -> None:
        """Count the rows where the collections do not know them, and see that all columns have as many.

        Raises
        ------
        DataError
            Columns of different length, no rows, or no features; what the levels of a category refuse.
        ClusterError
            The workers could not count them.
        """
        self._count(client)
        first = self.stacks[0]
        for stack in self.stacks[1:]:
            if stack.rows != first.rows:
                raise DataError(stack.label, f"{stack.rows} rows", f"{first.label} has {first.rows}: give as many")
        if not first.rows:
            raise DataError("data", f"{self.label} of 0 rows", "nothing to fit")
        cuts = [[n for n in stack.lengths or () if n] for stack in self.stacks]
        if other := [stack.label for stack, cut in zip(self.stacks, cuts, strict=True) if cut != cuts[0]]:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            self.notes.append(f"note: {other[0]}{more}: other chunks than {first.label}: cut anew")
        if empty := len(first.lengths or ()) - len(cuts[0]):
            self.notes.append(f"note: {first.label}: {empty} of {len(first.pieces)} partitions have no rows, skipped")

    def _count(self, client: Client | None) -> None:
        """Find the rows of the pieces and the levels of categories, in one pass over those who do not know them."""
        from dask import delayed

        unknown = [stack for stack in self.stacks if stack.lengths is None]
        stacks = [stack for stack in self.stacks if stack.lengths is None or self.to_code.keys() & set(stack.names)]
        pieces = [(stack, i) for stack in stacks for i in range(len(stack.pieces))]
        tasks = [delayed(_look)(stack.pieces[i], stack.take, self.to_code, i) for stack, i in pieces]
        found: dict[str, list[int]] = {stack.label: [] for stack in stacks}
        sizes: dict[str, int] = {}
        total = Census()
        for (stack, _), (rows, large, seen) in zip(pieces, _compute(client, tasks) if tasks else [], strict=True):
            found[stack.label].append(rows)
            total += seen
            for name, size in large.items():
                sizes[name] = max(size, sizes.get(name, 0))
        for stack in unknown:
            stack.lengths = found[stack.label]
        homes = {name: stack.label for stack in stacks for name in stack.names}
        if total.missing:
            home = homes[total.missing.most_common(1)[0][0]]
            total.refuse_missing(lambda place, row: f"{home}, partition {place}, row {row}")
        levels = total.levels()
        self.form = self.form._replace(levels=levels)
        self.names = design_names(self.form.features, levels)
        if not self.names:
            target = quoted(self.form.roles.target)
            raise DataError("data", self.label, f"no columns besides the target {target}")
        self.notes += [*([_COUNTED] if unknown else []), *rounded(sizes), *total.notes(levels)]

    def fingerprint(self) -> dict[str, Any]:
        from dask.base import tokenize

        roles = self.form.roles
        return {
            "source": self.label,
            "tokens": [tokenize(collection) for collection in self.collections],
            "rows": self.rows,
            **self.coding,
            "target": roles.target,
            "weights": roles.weights,
            "offset": roles.offset,
        }

    def make(self, plan: Plan, intercept: bool) -> Make:
        """Return the recipe for the chunks of ``plan``. Raises UsageError for rows that nothing could make again."""
        if plan.storage != "memory":
            from distributed import futures_of

            if futures_of(self.collections):
                cure = f"persisted, so that a {plan.storage} could not make it again: do not persist it"
                raise UsageError("data", self.label, cure)
            return recipe(self, plan, intercept)
        ranges = plan.ranges()
        words = {"block_rows": plan.block_rows, "dtype": plan.dtype, "intercept": intercept}

        def make(
            client: Client, indices: Sequence[int], generation: int, workers: Sequence[str] | None
        ) -> list[Future]:
            keys = [f"chunk-{generation}-{i}-{time.time_ns():x}" for i in indices]
            chunks = [self.part(ranges[i]).task(key, **words) for i, key in zip(indices, keys, strict=True)]

            def submit(of_worker: Sequence[int], **wish: Any) -> list[Future]:
                return client.compute([chunks[i] for i in of_worker], **wish)  # type: ignore[no-any-return]

            return _where_wished(submit, workers or [""] * len(chunks))

        return make

    def part(self, bounds: tuple[int, int]) -> Cut:
        """Return these rows with no more of the graph than they need."""
        from dask import optimize

        part = Cut(self.stacks, bounds, self.form)
        part.pieces = [list(optimize(*pieces)) for pieces in part.pieces]
        return part

    def windows(
        self, bounds: tuple[int, int], rows: int, block_rows: int, dtype: str = "float64", intercept: bool = False
    ) -> Iterator[Chunk]:
        """Return the rows in chunks of ``rows``, made in this process one at a time."""
        return Cut(self.stacks, bounds, self.form).windows(bounds, rows, block_rows, dtype, intercept)

    def chunk(self, bounds: tuple[int, int], block_rows: int, dtype: str = "float64", intercept: bool = False) -> Chunk:
        """Return the rows from ``bounds[0]`` to ``bounds[1] - 1``, made in this process."""
        [chunk] = self.windows(bounds, bounds[1] - bounds[0], block_rows, dtype, intercept)
        return chunk

    def locate(self, row: int) -> str:
        """Return the partition of the first columns and the row in it, both counted from 0 as Python does."""
        [span] = self.stacks[0].spans(row, row + 1).values()
        return f"{span.place}, row {span.low}"


def _look(
    piece: Any, take: Callable[[Any], Any], to_code: dict[str, str], place: int
) -> tuple[int, dict[str, int], Census]:
    """Return the rows of a piece, its whole numbers above 2^53, and the levels of its categories."""
    taken = take(piece)
    if isinstance(taken, Columns):
        return len(taken), {}, Census()
    return len(taken), largest(taken, to_code), census(taken, to_code, place)


def _compute(client: Client | None, tasks: Sequence[Any]) -> list[Any]:
    """Return what the tasks make, on the workers or in this process. Raises what they raised."""
    if client is None:
        from dask import compute

        return list(compute(*tasks, scheduler="synchronous"))
    address = client.scheduler.address if client.scheduler else None
    try:
        return client.gather(client.compute(tasks))  # type: ignore[no-any-return]
    except retried() as error:
        cure = f"looking at the data failed: {type(error).__name__}: see the workers' logs"
        raise ClusterError("cluster", address, cure) from error


def _where_wished(submit: Callable[..., list[Future]], workers: Sequence[str]) -> list[Future]:
    """Return the futures of ``submit(indices, **wish)``, called once a worker for all that is wished for it.

    Not as in tasks.py, by key: the tasks of the collections themselves are to run there, too.
    """
    of_worker: dict[str, list[int]] = {}
    for i, address in enumerate(workers):
        of_worker.setdefault(address, []).append(i)
    futures: dict[int, Future] = {}
    for address, indices in of_worker.items():
        # A call a worker, never one an item: each call costs the scheduler more than a millisecond.
        wish = {"workers": [address], "allow_other_workers": True} if address else {}
        futures.update(zip(indices, submit(indices, **wish), strict=True))
    return [futures[i] for i in range(len(workers))]
