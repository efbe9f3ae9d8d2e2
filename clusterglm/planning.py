"""A plan with its forecast: what the rows ask for, what the solver is going to do, and how fast the workers are.

The speeds are measured on the workers, all of them at work at the same time, for a tenth of a second; where there are
none yet, typical ones of a core stand in.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterglm.data.chunk import Block
from clusterglm.data.chunks import Plan
from clusterglm.data.dask_rows import map_where, retried
from clusterglm.data.disk import scratch
from clusterglm.data.forecast import Forecast, Speeds, Work, forecast, typical
from clusterglm.data.stream import Stream
from clusterglm.glm import kernels
from clusterglm.glm.sample import hessian_every, sample_rows
from clusterglm.glm.scan import scan

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.data.sources import Source
    from clusterglm.glm.families import Family
    from clusterglm.glm.solvers import Solver
    from clusterglm.request import Request

_PROBED_ROWS = 2**17  # at most, of which a thread makes as many as it takes to measure
_LEAST_SECONDS = 4e-3  # that one kernel is measured for
_TOUCHED = 2**25  # bytes of new memory, and of a file
_TYPICAL_NULL_OBJECTIVE = 0.5  # to which a tolerance in standard errors is compared


def expected_work(request: Request, solver: Solver, rows: int, columns: int) -> Work | None:
    """Return the passes that the solver is going to make after the first look; None where nobody knows.

    A tolerance of T standard errors is a gap of T^2 / 2n (glm/trace.py); from there on a solver gains digits at its own
    pace. Of a quadratic objective, one step with its Hessian is the last.
    """
    if (pace := solver.pace) is None:
        return None
    tolerance = request.tolerance
    relative = tolerance.rel_gap or tolerance.tol**2 / (2 * rows * _TYPICAL_NULL_OBJECTIVE)
    digits = math.log10(1e-8 / relative)
    if request.model.family.self_concordance == 0:
        passes = pace.quadratic + (max(round(pace.digit * digits / 4), 0) if pace.quadratic > 2 else 0)
    else:
        sampled = request.start == "auto" and sample_rows(rows, columns) > 0
        first = pace.sample if sampled else pace.null
        passes = first + max(round(pace.digit * digits), -first // 2)
    hessians = 1 + round(pace.renewed * (passes - 1))
    every = hessian_every(rows, columns) if solver.subsampled else 1
    return Work(max(passes - hessians, 0), hessians, 1 / every)


def planned(request: Request, solver: Solver, plan: Plan, speeds: Speeds) -> Forecast:
    """Return what this fit is going to take with this plan."""
    return forecast(plan, speeds, expected_work(request, solver, plan.rows, plan.columns))


def on_workers(client: Client, source: Source, plan: Plan, family: Family, intercept: bool) -> Speeds:
    """Return the speeds of the workers: the mean over all of their threads, while all are at work.

    Typical ones where a worker dies meanwhile: a plan is no reason to end a fit.
    """
    try:
        return _measured(client, source, plan, family, intercept)
    except retried():
        return typical(plan.columns)


def _measured(client: Client, source: Source, plan: Plan, family: Family, intercept: bool) -> Speeds:
    found = client.scheduler_info(n_workers=-1)["workers"]
    seats = [address for address in sorted(found) for _ in range(found[address]["nthreads"])]
    if not seats:  # none has come yet, and the fit waits for them
        return typical(plan.columns)
    last = min(_PROBED_ROWS, plan.local_rows, plan.rows)
    stream = Stream.of(source.part((0, last)), (0, last), plan, intercept)
    name = f"probe-{time.time_ns():x}"
    items, keys = [stream] * len(seats), [f"{name}-{i}" for i in range(len(seats))]
    probes = client.gather(map_where(client, probe, items, keys, seats, family=family, disk=plan.storage == "disk"))
    began = time.perf_counter()
    client.gather(map_where(client, len, [()] * len(seats), [f"{key}-none" for key in keys], seats))
    overhead = time.perf_counter() - began
    mean: dict[str, Any] = {name: float(np.mean([found[name] for found in probes])) for name in probes[0]}
    sharing = -(-len(seats) // len({found[address]["host"] for address in seats}))
    for name in {"read", "write"} & mean.keys():
        mean[name] *= sharing  # each thread saw its own part of the disk's rate
    process = int(max(client.run(_resident).values()))
    return typical(plan.columns)._replace(**mean, readers=sharing, round=overhead, process=process, measured=True)


def here(source: Source, plan: Plan, family: Family, intercept: bool) -> Speeds:
    """Return the speeds of this machine by one thread of this process, for a plan before anything is started."""
    last = min(_PROBED_ROWS, plan.local_rows, plan.rows)
    found: dict[str, Any] = probe(Stream.of(source, (0, last), plan, intercept), family, disk=False)
    return typical(plan.columns)._replace(**found)


def probe(stream: Stream, family: Family, disk: bool) -> dict[str, float]:
    """Return what a thread takes for a row, in seconds, and the rates of its disk where they are wanted."""
    from clusterglm.data.chunk import one_blas_thread

    with one_blas_thread():
        windows = stream.windows(stream.window_rows)
        first = next(windows)  # which finds code, pages and files cold
        blocks = copy.deepcopy(list(first.blocks()))
        began, rows = time.perf_counter(), 0
        for window in islice(windows, 8):
            rows += len(window)
        made = time.perf_counter() - began
        if not rows:  # one window is all there is
            began = time.perf_counter()
            rows = sum(len(window) for window in stream.windows(stream.window_rows))
            made = time.perf_counter() - began
        # Missing and infinite values are refused by the scan; here they are nobody's matter.
        beta = np.zeros(stream.columns)
        with np.errstate(all="ignore"):
            times = {
                "make": made / rows,
                "scan": _per_row(blocks, scan, family),
                "gradient": _per_row(blocks, kernels.gradient, family, beta),
                "hessian": _per_row(blocks, kernels.hessian, family, beta) if stream.columns <= 4000 else 0.0,
                "store": _touch(),
            }
    return times | (_disk() if disk else {})


def _per_row(blocks: list[Block], kernel: Callable[..., Any], *args: Any) -> float:
    for block in blocks:
        kernel(block, *args)
    seconds, rows = 0.0, 0
    while seconds < _LEAST_SECONDS:
        began = time.perf_counter()
        for block in blocks:
            kernel(block, *args)
            rows += len(block.y)
        seconds += time.perf_counter() - began
    return seconds / rows


def _touch() -> float:
    began = time.perf_counter()
    np.empty(_TOUCHED // 8).fill(1.0)
    return (time.perf_counter() - began) / _TOUCHED


def _disk() -> dict[str, float]:
    """Return the bytes a second at which this worker's disk writes, and reads what is not in memory."""
    folder = scratch()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"probe-{os.getpid()}-{time.time_ns():x}"
    data = np.random.default_rng(0).bytes(2**20)
    try:
        with path.open("xb") as file:
            began = time.perf_counter()
            for _ in range(_TOUCHED // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter() - began
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        path.read_bytes()
        read = time.perf_counter() - began
    finally:
        path.unlink(missing_ok=True)
    return {"read": _TOUCHED / read, "write": _TOUCHED / written}


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
