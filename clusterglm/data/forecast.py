"""What a plan will take: passes, seconds and memory, from the speeds of a worker thread. Pure functions.

With n rows on P threads, a pass, which is a task a thread, takes

    T = n / P * row + round,    row = work + row_bytes * fetch                                  (memory)
                                      work + make                                               (stream)
                                      work + row_bytes / cached                                 (disk, in page cache)
                                      max(work + row_bytes / cached, row_bytes * readers / read)  (disk)

where ``work`` is what the kernel does with a row in cache and ``readers`` the threads that share one disk. Loading is
making the rows, putting them where they are held, a task a chunk, and the first look at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from clusterglm.data.ahead import BUFFERS, PART_BYTES
from clusterglm.data.chunks import Plan

_WINDOWS = 12  # of rows, as large as a core's cache, that a thread holds while it works: buffers and their copies
_WINDOW_BYTES = 2**20


class Speeds(NamedTuple):
    """What one worker thread takes while all of them work: seconds a row, unless the name says otherwise.

    ``make``: generate or decode it; ``scan``, ``gradient``, ``pair``, ``hessian``: look it over, and the kernels (a
    gradient at one point, at two, and with the Hessian) on rows in cache; ``store``: a byte into memory that is new;
    ``fetch``: one from there into cache, 0 where kernels were measured on rows from there. ``cached`` is the bytes a
    second at which a thread reads a file in the page cache, which has room for ``cache`` bytes; ``read`` and ``write``
    those of a disk, shared by ``readers`` threads. ``round``: seconds of a pass that are no work on rows; ``task``:
    those of each of many tasks. ``process``: bytes of a worker process before it holds a row. ``measured``: on these
    workers, or typical of a recent core.
    """

    make: float
    scan: float
    gradient: float
    pair: float
    hessian: float
    store: float
    fetch: float
    cached: float
    cache: int
    read: float
    write: float
    readers: int
    round: float
    task: float
    process: int
    measured: bool


def typical(columns: int, generated: bool = True, relative: float = 1.0, readers: int = 1) -> Speeds:
    """Return the speeds of a thread that runs at ``relative`` times the speed of a core of 2022 at 3 GHz."""
    ns = 1e-9 / relative
    return Speeds(
        make=(10 + (1.8 if generated else 6) * columns) * ns,
        scan=(5 + 1.0 * columns) * ns,
        gradient=(3 + 0.45 * columns) * ns,
        pair=1.9 * (3 + 0.45 * columns) * ns,
        hessian=(3 + 0.45 * columns + 0.06 * columns**2) * ns,
        store=0.3 * ns,
        fetch=0.1 * ns,
        cached=3e9 * relative,
        cache=0,
        read=1e9,
        write=0.7e9,
        readers=readers,
        round=0.02,
        task=1.5e-3 / relative,
        process=160 * 10**6,
        measured=False,
    )


@dataclass(frozen=True)
class Work:
    """The passes that a fit makes after the first look at the rows: so many ``gradients`` alone, so many ``hessians``.

    ``share`` is the share of the rows that the Hessians are of; gradients may be taken in ``pairs``, at two points at
    once; ``client`` are the seconds of what is done by one thread with sums and with a sample. One more Hessian is
    taken with the first look where that is ``ahead``.
    """

    gradients: int
    hessians: int
    share: float = 1.0
    pairs: bool = False
    client: float = 0.0
    ahead: bool = False

    @property
    def passes(self) -> int:
        return self.gradients + self.hessians


@dataclass(frozen=True)
class Forecast:
    """``passes`` counts the first look, whose time belongs to loading; ``peak_memory`` is each worker's, in bytes, and
    ``client_memory`` what the process that fits needs besides what every fit takes."""

    passes: int | None
    seconds_load: float
    seconds_per_pass: float
    seconds_fit: float | None
    peak_memory: int
    client_memory: int = 0


def forecast(plan: Plan, speeds: Speeds, work: Work | None) -> Forecast:
    """Return what the plan will take; no number of passes and no time of the fit where ``work`` is unknown."""
    each = plan.rows / max(min(plan.threads, plan.chunks), 1)  # rows of a thread
    in_cache = plan.storage == "disk" and plan.bytes <= speeds.cache

    def one_pass(work: float) -> float:
        if plan.storage == "memory":
            row = work + plan.row_bytes * speeds.fetch
        elif plan.storage == "stream":
            row = work + speeds.make
        else:  # a disk reads ahead while the thread works; a generator does not
            row = work + plan.row_bytes / speeds.cached
            row = row if in_cache else max(row, plan.row_bytes * speeds.readers / speeds.read)
        return each * row + speeds.round

    hessian = speeds.gradient
    if work is not None:
        hessian += work.share * (speeds.hessian - speeds.gradient)
    load = one_pass(speeds.scan + (hessian if work is not None and work.ahead else 0.0))
    load += plan.chunks * speeds.task
    if plan.storage == "memory":
        load += each * (speeds.make + plan.row_bytes * speeds.store) + speeds.round
    elif plan.storage == "disk":
        written = plan.row_bytes * (1 / speeds.cached + speeds.store)
        row = speeds.make + (written if in_cache else max(written, plan.row_bytes * speeds.readers / speeds.write))
        load += each * row
    seconds = None
    gradient = one_pass(speeds.gradient)
    if work is not None:
        gradient = one_pass(speeds.pair if work.pairs else speeds.gradient)
        seconds = work.gradients * gradient + work.hessians * one_pass(hessian) + work.client
    return Forecast(
        passes=None if work is None else 1 + work.passes,
        seconds_load=load,
        seconds_per_pass=gradient if seconds is None or work is None else seconds / max(work.passes, 1),
        seconds_fit=seconds,
        peak_memory=_peak(plan, speeds),
    )


def _peak(plan: Plan, speeds: Speeds) -> int:
    threads = -(-plan.threads // plan.workers)
    held = plan.bytes_per_worker if plan.storage == "memory" else 0
    window = max(_WINDOW_BYTES, plan.block_rows * plan.columns * 8)
    ahead = BUFFERS * max(PART_BYTES, window) if plan.storage == "disk" else 0
    sums = 8 * plan.columns**2 * 8  # a few Hessians on their way up the tree
    return int(speeds.process + held + threads * (_WINDOWS * window + ahead + sums))
