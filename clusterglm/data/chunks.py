"""The planner: from sizes to a plan, with its reasons in words. A pure function; it touches no data and no cluster.

Three sizes are kept apart. A *micro-block* is the unit of arithmetic and of the bits; a *local problem* is the range of
rows that ADMM solves by itself; a *chunk* is what is stored and what one task works on. The first two are functions of
rows, columns and dtype alone, so the answer does not depend on the cluster; chunks are whole local problems.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clusterglm.data.chunk import block_rows
from clusterglm.errors import UsageError
from clusterglm.units import format_size

_PROBLEM_BYTES = 64 * 2**20
_FEWEST_PROBLEMS, _FEWEST_WIDE = 64, 16
_NARROW = 256  # columns up to which 64 Gram matrices are a small message
_CHUNKS_A_THREAD = 16  # of generated rows: their shares differ by one part in 16 at most
_MEMORY_SHARE = 0.6


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
    workers: int = 1,
    threads: int = 1,
    memory: int = 0,
    chunk_rows: int | None = None,
    extra_columns: int = 1,
    data: str | None = None,
) -> Plan:
    """Return the plan for ``rows`` x ``columns`` (the intercept's column counted) on ``workers`` of ``memory`` bytes.

    ``threads`` counts those of all workers together; ``memory`` is each worker's limit in bytes, 0 where there is none;
    ``extra_columns`` are the target, weights and offset, 8 bytes each; ``data`` names what was asked for where rows are
    not generated.

    Raises
    ------
    UsageError
        The rows do not fit into the workers' memory.
    """
    itemsize = {"float64": 8, "float32": 4}[dtype]
    row_bytes = columns * itemsize + 8 * extra_columns
    total = rows * row_bytes
    m = block_rows(columns, itemsize)
    local = local_problem_rows(rows, columns, itemsize)
    reasons = [f"micro-blocks of {m} rows: {format_size(m * columns * itemsize)} stay in cache"]
    available = workers * memory
    if memory and total > _MEMORY_SHARE * available:
        needed = int(-(-total // (_MEMORY_SHARE * memory)))
        raise UsageError(
            "--rows" if data is None else "--data",
            f"{rows:.6g}" if data is None else data,
            f"{format_size(total)} of rows, {format_size(available)} of memory on {workers} workers: "
            f"use {needed} such workers, or at most {int(_MEMORY_SHARE * available / row_bytes)} rows",
        )
    if memory:
        reasons.append(
            f"in memory: {format_size(total)}, {total / available:.0%} of the workers' {format_size(available)}"
        )
    if chunk_rows is None:
        size = local
        # Files are read in few large pieces, because a row group that is cut is decoded twice.
        fewest = max(threads, 1) * (_CHUNKS_A_THREAD if data is None else 2)
        while size * 2 * fewest <= rows and size * 2 * row_bytes <= 4 * _PROBLEM_BYTES:
            size *= 2
        number = _count(-(-rows // size), "chunk")
        held = format_size(size * row_bytes)
        reasons.append(f"chunks of {size} rows: {held}, {number} on {_count(threads, 'thread')}")
    else:
        size = -(-chunk_rows // local) * local
        if size != chunk_rows and size < rows:
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
        storage="memory",
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
        bytes_per_worker=-(-chunks // workers) * min(size, rows) * row_bytes,
        tasks_per_pass=min(chunks, max(threads, 1)),
        workers=workers,
        threads=threads,
        memory=memory,
        reasons=tuple(reasons),
    )
