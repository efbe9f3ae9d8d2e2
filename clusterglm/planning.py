"""A plan with its forecast: what the rows ask for, what the solver is going to do, and how fast the workers are.

The speeds are measured on the workers, all of them at work at the same time, for half a second at most; where there are
none yet, typical ones of a core stand in.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterglm.data.ahead import read_ahead
from clusterglm.data.chunk import GENERATOR_ROWS, Chunk
from clusterglm.data.chunks import Plan
from clusterglm.data.disk import checksum, scratch
from clusterglm.data.forecast import Forecast, Speeds, Work, forecast, typical
from clusterglm.data.stream import Stream
from clusterglm.data.tasks import map_where, retried
from clusterglm.errors import UsageError
from clusterglm.glm import kernels
from clusterglm.glm.algebra import MOST_COLUMNS
from clusterglm.glm.families.softmax import Multinomial
from clusterglm.glm.sample import sample_rows
from clusterglm.glm.scan import scan
from clusterglm.glm.start import first_every
from clusterglm.scheduler import known_workers
from clusterglm.units import format_size

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.data.sources import Source
    from clusterglm.glm.families.family import Family
    from clusterglm.glm.solvers import Solver
    from clusterglm.request import Request

_PROBED_ROWS = 2**17  # at most, of which a thread makes as many as it takes to measure
_PROBED_BYTES = 2**26  # of rows in memory: far more than a core's own cache holds
_PROBE_SECONDS = 0.3  # that the kernels are measured for at most, and twice each at least
_MOST_SECONDS = 0.2  # that making rows to put into memory may take
_FILE_BYTES = 2**25
_PAGE_CACHE_SHARE = 0.5  # of the memory that is free, to which written files stay in the page cache
_TYPICAL_NULL_OBJECTIVE = 0.5  # to which a tolerance in standard errors is compared
_SAMPLE_PASSES = 8  # that a fit of the sample makes over it
_ALGEBRA_FLOPS = 12  # times p^3 that the driver does in a pass, for the step and the certificate
_INVERSE_FLOPS = 2  # times p^3 for each local problem's inverse, where a Hessian is taken
_FLOPS = 1e10  # a second of a thread, of factorisations
_MATRICES = 6  # of each local problem at a time: Hessians of three points, inverses, and those that arrive (measured)


def expected_work(request: Request, solver: Solver, rows: int, columns: int) -> Work | None:
    """Return the passes that the solver is going to make after the first look; None where nobody knows.

    A tolerance of T standard errors is a gap of T^2 / 2n (glm/trace.py); from there on a solver gains digits at its own
    pace. Of a quadratic objective, one step with its Hessian is the last.
    """
    if (pace := solver.pace) is None:
        return None
    relative = request.tolerance.relative(rows, _TYPICAL_NULL_OBJECTIVE)
    drawn = sample_rows(rows, columns) if request.start == "auto" else 0
    passes = pace.passes(relative, columns, request.model.family.quadratic, drawn, solver.subsampled)
    hessians = pace.hessians(passes, drawn)
    every = first_every(solver, request.model.family, rows, columns)
    ahead = sampled_before(request, rows, columns) > 0 and not solver.in_parts
    return Work(max(passes - hessians, 0), hessians - ahead, 1 / every, pace.pairs, ahead=ahead)


def sampled_before(request: Request, rows: int, columns: int) -> int:
    """Return how many rows are a sample of generated ones; 0 where a sample is drawn in the first look, or none."""
    if request.row_count is None or request.start != "auto":
        return 0
    return sample_rows(rows, columns)


def planned(request: Request, solver: Solver, plan: Plan, speeds: Speeds) -> Forecast:
    """Return what this fit is going to take with this plan."""
    work = expected_work(request, solver, plan.rows, plan.columns)
    if work is not None:
        inverses = (work.hessians + work.ahead) * plan.local_problems if solver.ranges else 0
        cubes = _ALGEBRA_FLOPS * work.passes + _INVERSE_FLOPS * inverses
        algebra = cubes * min(plan.columns, MOST_COLUMNS) ** 3 / _FLOPS
        drawn = sample_rows(plan.rows, plan.columns) if request.start == "auto" else 0
        work = replace(work, client=algebra + drawn * _SAMPLE_PASSES * speeds.hessian)
    return replace(forecast(plan, speeds, work), client_memory=client_memory(solver, plan))


def client_memory(solver: Solver, plan: Plan) -> int:
    """Return the bytes that the local problems' Hessians take in the process that fits, 0 where none are asked for."""
    if not solver.ranges or plan.columns > MOST_COLUMNS:
        return 0
    return _MATRICES * 8 * plan.local_problems * plan.columns**2


def refuse_client_memory(solver: Solver, plan: Plan) -> None:
    """Raise UsageError where this machine has no memory for the local problems' Hessians."""
    needed, free = client_memory(solver, plan), _free()
    if needed > free:
        raise UsageError(
            solver.name,
            None,
            f"the Hessians of {plan.local_problems} local problems of {plan.columns} columns take "
            f"{format_size(needed)} of memory here, and {format_size(free)} are free: use proximal_newton or "
            "proximal_gradient",
        )


def on_workers(client: Client, source: Source, plan: Plan, family: Family, intercept: bool) -> Speeds:
    """Return the speeds of the workers while all are at work: the mean over all of their threads.

    Typical ones where a worker dies meanwhile: a plan is no reason to end a fit.
    """
    try:
        return _measured(client, source, plan, family, intercept)
    except retried():
        return typical(plan.columns)


def _measured(client: Client, source: Source, plan: Plan, family: Family, intercept: bool) -> Speeds:
    found = known_workers(client)
    seats = [address for address in sorted(found) for _ in range(found[address]["nthreads"])]
    if not seats:  # none has come yet, and the fit waits for them
        return typical(plan.columns)
    rows = max(_PROBED_BYTES // plan.row_bytes, _PROBED_ROWS) if plan.storage == "memory" else _PROBED_ROWS
    share = plan.rows // len(seats) if source.random_access else 0
    last = min(rows, max(share, plan.chunk_rows), plan.rows)
    stream = Stream.of(source.part((0, last)), (0, last), plan, intercept)
    name = f"probe-{time.time_ns():x}"
    items, keys = [stream] * len(seats), [f"{name}-{i}" for i in range(len(seats))]
    words = {"family": family, "storage": plan.storage, "rows": plan.rows // len(seats), "chunk_rows": plan.chunk_rows}
    probes = client.gather(map_where(client, probe, items, keys, seats, **words))
    began = time.perf_counter()
    client.gather(map_where(client, len, [()] * len(seats), [f"{key}-none" for key in keys], seats))
    overhead = time.perf_counter() - began
    hosts = [found[address]["host"] for address in seats]
    known = sorted(set.intersection(*map(set, probes)))
    mean: dict[str, Any] = {name: float(np.mean([seen[name] for seen in probes])) for name in known}
    sharing = -(-len(seats) // len(set(hosts)))
    for name in {"read", "write"} & mean.keys():
        mean[name] *= sharing  # each thread saw its own part of the disk's rate
    process = int(max(client.run(_resident).values()))
    # Not of those that have come since.
    of_host = {found[address]["host"]: free for address, free in client.run(_free).items() if address in found}
    cache = int(_PAGE_CACHE_SHARE * sum(of_host.values()))
    return typical(plan.columns)._replace(
        **mean, readers=sharing, round=overhead, process=process, cache=cache, measured=True
    )


def here(source: Source, plan: Plan, family: Family, intercept: bool) -> Speeds:
    """Return the speeds of this machine by one thread of this process, for a plan before anything is started."""
    last = min(_PROBED_ROWS, plan.local_rows, plan.rows)
    found: dict[str, Any] = probe(Stream.of(source, (0, last), plan, intercept), family, "stream", last, last)
    return typical(plan.columns)._replace(**found)


def probe(stream: Stream, family: Family, storage: str, rows: int, chunk_rows: int) -> dict[str, float]:
    """Return what a thread takes for a row, in seconds, and how fast rows come from where they are to be held.

    This takes no longer than a few passes over ``rows``, or little. Rows in memory are held in chunks of
    ``chunk_rows``.
    """
    from clusterglm.data.chunk import one_blas_thread

    with one_blas_thread():
        windows = stream.windows(stream.window_rows)
        first = copy.deepcopy(next(windows))  # which finds code, pages and files cold
        calls: dict[str, Callable[[], int]] = {}
        times = {"hessian": 0.0}
        if stream.origin.random_access:
            again = chain.from_iterable(stream.windows(stream.window_rows) for _ in count())
            together = -(-GENERATOR_ROWS // stream.window_rows)  # windows of which the first takes it all
            calls["make"] = lambda: sum(len(window) for window in islice(again, together))
        else:  # files are decoded many windows at a time, of which the first takes it all
            made = _seconds_a_row(islice(windows, 8)) or _seconds_a_row(stream.windows(stream.window_rows))
            times["make"] = float(np.mean(made))  # of one window, where that is all there is
        in_memory = storage == "memory" and (stream.origin.random_access or times["make"] * len(stream) < _MOST_SECONDS)
        held, filled = _held(stream, chunk_rows) if in_memory else ([first], 0.0)
        blocks = chain.from_iterable(chunk.blocks() for chunk in cycle(held))
        # Missing and infinite values are refused by the scan; here they are nobody's matter.
        beta = np.zeros(stream.columns * (family.predictors or 2))  # 2: of classes that nobody has counted yet
        family = family if family.predictors else Multinomial(2)

        def work(kernel: Callable[..., Any], *args: Any) -> Callable[[], int]:
            """Return a call of the kernel on the next rows, from where and in the dtype in which they are held on."""
            return lambda: sum(len(block.y) for block in islice(blocks, 1) if kernel(block, *args))

        calls |= {
            "scan": work(scan, family),
            "gradient": work(kernels.gradient, family, beta),
            "pair": work(kernels.gradient, family, np.zeros((len(beta), 2))),
        }
        if len(beta) <= MOST_COLUMNS:
            calls["hessian"] = work(kernels.hessian, family, beta)
        with np.errstate(all="ignore"):
            times |= _paces(calls, rows)
        if in_memory:
            made_here = sum(map(len, held)) * times["make"]
            times["store"] = max(filled - made_here, 0.0) / sum(chunk.nbytes for chunk in held)
            times["fetch"] = 0.0  # the kernels have fetched what they worked on
        if storage == "disk":
            times |= _disk()
    return times


def _held(stream: Stream, chunk_rows: int) -> tuple[list[Any], float]:
    """Return rows as they are held in memory, as many chunks as there is time for, and the seconds that they took."""
    began, held = time.perf_counter(), []
    parts: Iterable[Any] = stream.parts(chunk_rows) if stream.origin.random_access else [stream]
    for part in parts:
        held.append(part.in_memory())
        if time.perf_counter() - began > _MOST_SECONDS:
            break
    return held, time.perf_counter() - began


def _paces(calls: dict[str, Callable[[], int]], rows: int) -> dict[str, float]:
    """Return the seconds a row of each call, which returns how many rows it has worked on.

    They take turns, of which the first is for a core to wake up. What counts is the mean: of two virtual cores that
    share one, each runs now at full speed and now at half of it, for tenths of a second, in the fit as here.
    """

    def turn() -> dict[str, float]:
        found = {}
        for name, call in calls.items():
            start = time.perf_counter()
            done = call()
            found[name] = (time.perf_counter() - start) / done
        return found

    left = min(_PROBE_SECONDS, rows * sum(turn().values()))
    began, turns = time.perf_counter(), [turn()]
    while time.perf_counter() - began < left:
        turns.append(turn())
    return {name: float(np.mean([found[name] for found in turns])) for name in calls}


def _seconds_a_row(windows: Iterable[Chunk]) -> list[float]:
    """Return the seconds a row that each window takes to be made."""
    found, began = [], time.perf_counter()
    for window in windows:
        found.append((time.perf_counter() - began) / len(window))
        began = time.perf_counter()
    return found


def _disk() -> dict[str, float]:
    """Return the bytes a second at which this worker's disk writes, reads what is not in memory, and what is.

    Nothing of a disk that cannot be written: the fit that needs it will say so.
    """
    folder = scratch()
    path = folder / f"probe-{os.getpid()}-{time.time_ns():x}"
    data = np.random.default_rng(0).bytes(2**20)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("x+b", buffering=0) as file:
            began = time.perf_counter()
            for _ in range(_FILE_BYTES // len(data)):
                if file.write(data) < len(data):  # the disk is full
                    return {}
            os.fsync(file.fileno())
            written = time.perf_counter() - began
            cached = _read(path)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read = _read(path)
    except OSError:
        return {}
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return {name: _FILE_BYTES / seconds for name, seconds in (("read", read), ("write", written), ("cached", cached))}


def _read(path: Path) -> float:
    """Return the seconds that it takes to read a file as data/disk.py does, checksums and all."""
    began = time.perf_counter()
    for window in read_ahead(path, [(at, 2**20) for at in range(0, _FILE_BYTES, 2**20)]):
        checksum(window.view(np.uint64))
    return time.perf_counter() - began


def _resident() -> int:
    """Return the bytes of this process, less what it keeps of the rows of an earlier fit (clusters/settings.py)."""
    import ctypes

    import psutil

    with suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _free() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
