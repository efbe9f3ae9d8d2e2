"""The planner: from sizes to a plan, with its reasons in words. A pure function; it touches no data and no cluster.

Three sizes are kept apart. A *micro-block* is the unit of arithmetic and of the bits; a *local problem* is the range of
rows that ADMM solves by itself; a *chunk* is what is stored, and a task works on several. The first two are functions
of rows, columns and dtype alone, so the answer does not depend on the cluster; chunks are whole local problems.

Rows are held in one of three ways. In *memory*, where they take up to 0.6 of it. Else as a *stream*, made anew in every
pass, where they are generated: that is faster than a disk. Rows of files go to the workers' own *disks* once, where
there is room, for they are read back several times faster than the files are decoded; else they are a stream as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clusterglm.data.chunk import block_rows
from clusterglm.errors import UsageError
from clusterglm.units import format_size

_PROBLEM_BYTES = 64 * 2**20
_FEWEST_PROBLEMS, _FEWEST_WIDE = 64, 16
_NARROW = 256  # columns up to which 64 Gram matrices are a small message
_CHUNKS_A_THREAD = 16  # of generated rows: their shares differ by one part in 16 at most
_MEMORY_SHARE = 0.6  # of a worker's memory for rows: from there on Dask writes them to disk
_SPILL_SHARE = 0.7  # of it for the whole process, with the same consequence
_PROCESS_BYTES = 200 * 10**6  # of a worker without rows, its buffers included
_DISK_SHARE = 0.8  # of what is free


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def local_problem_rows(rows: int, columns: int, itemsize: int) -> int:
    """Return the rows of a local problem: a power of two of micro-blocks, at least 64 problems (16 of many columns) and
    at most 64 MiB each where the data are long enough."""
    size, fewest = block_rows(columns, itemsize), _FEWEST_PROBLEMS if columns <= _NARROW else _FEWEST_WIDE
    while size * 2 * fewest <= rows and size * 2 * columns * itemsize <= _PROBLEM_BYTES:
        size *= 2
    return size


@dataclass(frozen=True)
class Plan:
    """How the rows are held and worked on. Sizes in rows unless the name says bytes."""

    solver: str
    storage: str
    rows: int
    columns: int
    dtype: str
    itemsize: int
    block_rows: int
    local_rows: int
    local_problems: int
    chunk_rows: int
    chunks: int
    bytes: int
    bytes_per_worker: int
    tasks_per_pass: int
    workers: int
    threads: int
    memory: int
    reasons: tuple[str, ...]

    @property
    def row_bytes(self) -> int:
        """What a row takes where it is held."""
        return self.bytes // self.rows

    def ranges(self) -> list[tuple[int, int]]:
        """Return the (first, last + 1) global rows of every chunk."""
        cuts = range(0, self.rows, self.chunk_rows)
        return [(first, min(first + self.chunk_rows, self.rows)) for first in cuts]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": list(self.reasons)}


def plan(
    *,
    solver: str,
    rows: int,
    columns: int,
    dtype: str = "float64",
    storage: str = "auto",
    workers: int = 1,
    threads: int = 1,
    memory: int = 0,
    disk: int = 0,
    chunk_rows: int | None = None,
    extra_columns: int = 1,
    data: str | None = None,
    stored: Sequence[int] = (),
) -> Plan:
    """Return the plan for ``rows`` x ``columns`` (the intercept's column counted) on ``workers`` of ``memory`` bytes.

    ``threads`` counts those of all workers together; ``memory`` is each worker's limit in bytes, 0 where there is none;
    ``disk`` are the bytes that are free on all of their local disks together; ``extra_columns`` are the target, weights
    and offset, 8 bytes each; ``data`` names what was asked for where rows are not generated. ``stored`` are the first
    rows, in order, of what must be decoded together: row groups, say.

    Raises
    ------
    UsageError
        The rows do not fit where they are to be held.
    """
    itemsize = {"float64": 8, "float32": 4}[dtype]
    row_bytes = columns * itemsize + 8 * extra_columns
    total = rows * row_bytes
    m = block_rows(columns, itemsize)
    local = local_problem_rows(rows, columns, itemsize)
    reasons = [f"micro-blocks of {m} rows: {format_size(m * columns * itemsize)} stay in cache"]
    threads = max(threads, 1)
    size = local if chunk_rows is None else -(-chunk_rows // local) * local

    def fullest(size: int) -> int:
        """Return the bytes of rows on the worker that has most chunks of this size."""
        return int(-(-rows // size // workers)) * min(size, rows) * row_bytes

    room = _Room(total, min(size, rows) * row_bytes, -(-rows // size), workers, memory, disk, generated=data is None)
    held = room.choose() if storage == "auto" else storage
    room.refuse(held)
    reasons.append(room.reason(held, asked=storage != "auto"))
    if chunk_rows is None:
        # Files are read in few large pieces, because a row group that is cut is decoded twice.
        fewest = threads * (_CHUNKS_A_THREAD if data is None else 2)
        largest = rows if held == "stream" else 4 * _PROBLEM_BYTES // row_bytes
        sizes: Sequence[int] = range(max(min(rows // fewest, largest) // local, 1), 0, -1)
        if held == "memory" and memory:
            sizes = [k for k in sizes if fullest(k * local) <= room.of_a_worker] or [1]
        size *= _problems_per_chunk(
            -(-rows // local), sizes, threads, lambda k: _decoded_again(rows, k * local, stored) / (threads * local)
        )
        number = _count(-(-rows // size), "chunk")
        reasons.append(
            f"chunks of {size} rows: {format_size(size * row_bytes)}, {number} on {_count(threads, 'thread')}"
        )
    elif size != chunk_rows and size < rows:
        reasons.append(f"note: --chunk-rows ({chunk_rows}): chunks of {size} rows, whole local problems of {local}")
    if size >= rows:
        size = -(-rows // local) * local
        if chunk_rows is not None:
            reasons.append(f"note: --chunk-rows ({chunk_rows}): one chunk of {rows} rows")
    chunks = -(-rows // size)
    problems = -(-rows // local)
    reasons.append(
        f"{_count(problems, 'local problem')} of {local} rows: from the data's size alone, so that bits do not depend "
        "on the cluster"
    )
    return Plan(
        solver=solver,
        storage=held,
        rows=rows,
        columns=columns,
        dtype=dtype,
        itemsize=itemsize,
        block_rows=m,
        local_rows=local,
        local_problems=problems,
        chunk_rows=size,
        chunks=chunks,
        bytes=total,
        bytes_per_worker=0 if held == "stream" else fullest(size),
        tasks_per_pass=min(chunks, threads),
        workers=workers,
        threads=threads,
        memory=memory,
        reasons=tuple(reasons),
    )


def _problems_per_chunk(
    problems: int, sizes: Sequence[int], threads: int, besides: Callable[[int], float] = lambda _: 0.0
) -> int:
    """Return how many local problems make a chunk, of ``sizes``, the largest first: no less than a third of it, so
    that the busiest thread has the least to do, what each does ``besides`` with chunks of such a size included."""

    def busiest(size: int) -> float:
        return -(-problems // size // threads) * size + besides(size)

    return min((size for size in sizes if 3 * size >= sizes[0]), key=busiest)  # of equals the largest


def _decoded_again(rows: int, size: int, stored: Sequence[int]) -> int:
    """Return how many rows are decoded for nothing, because chunks of ``size`` begin behind them within what is
    decoded together."""
    if not stored:
        return 0
    return sum(first - stored[bisect_right(stored, first) - 1] for first in range(size, rows, size))


@dataclass(frozen=True)
class _Room:
    """``total`` bytes of rows in ``chunks`` of ``chunk`` bytes each, and where they could be held; bytes."""

    total: int
    chunk: int
    chunks: int
    workers: int
    memory: int
    disk: int
    generated: bool

    @property
    def of_a_worker(self) -> int:
        """The bytes of rows that a worker can hold without Dask writing any of them to disk."""
        return int(max(min(_MEMORY_SHARE * self.memory, _SPILL_SHARE * self.memory - _PROCESS_BYTES), 0))

    def in_memory(self) -> bool:
        return not self.memory or -(-self.chunks // self.workers) * self.chunk <= self.of_a_worker

    def on_disk(self) -> bool:
        return self.total <= _DISK_SHARE * self.disk

    def choose(self) -> str:
        if self.in_memory():
            return "memory"
        return "disk" if not self.generated and self.on_disk() else "stream"

    def refuse(self, storage: str) -> None:
        what = f"{format_size(self.total)} of rows, "
        if storage == "memory" and not self.in_memory():
            each = self.of_a_worker // self.chunk  # chunks are never cut
            more = f", or {-(-self.chunks // each)} workers" if each else ", or more memory"
            there = f"{format_size(self.workers * self.memory)} of memory on {_count(self.workers, 'worker')}"
            raise UsageError("--storage", storage, f"{what}{there}: use --storage stream or disk{more}")
        if storage == "disk" and not self.on_disk():
            there = f"{format_size(self.disk)} free on the workers' disks"
            raise UsageError(
                "--storage",
                storage,
                f"{what}{there}, of which {format_size(self.total / _DISK_SHARE)} are needed: use --storage stream",
            )

    def reason(self, storage: str, asked: bool) -> str:
        """Return why the rows are held there."""
        rows, available = format_size(self.total), format_size(self.workers * self.memory)
        if storage == "memory":
            share = (
                f": {self.total / self.workers / self.memory:.0%} of the workers' {available}" if self.memory else ""
            )
            return f"in memory: {rows}{share}"
        words = {
            "stream": "as a stream: made anew in every pass" if self.generated else "as a stream: read in every pass",
            "disk": f"on disk: {format_size(self.disk)} are free on the workers' disks",
        }[storage]
        if asked:
            return f"{words}, as asked"
        room = format_size(self.workers * self.of_a_worker)
        return f"note: {rows} of rows, and room for {room} in the workers' {available} of memory: {words}"
