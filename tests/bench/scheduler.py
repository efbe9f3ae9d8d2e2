"""What a pass costs the scheduler: CPU per task, and the time beside the work itself.

    python tests/bench/scheduler.py [--processes 4]

A cluster of worker processes holds small chunks, and one pass after another sums next to nothing over them: with one
task a chunk, at 64 and at 256 chunks, and with the package's own one task a worker thread, at 64 to 1,024. Beside
them, without chunks, are as many tasks that Dask maps over nothing: what it takes by itself. CPU is that of the
scheduler, in a process of its own; the overhead of a pass is its wall time, for there is no work in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from distributed import Client, SpecCluster
from distributed.deploy.subprocess import SubprocessScheduler, SubprocessWorker

from clusterglm.clusters.settings import dask_environment, dask_settings, environment, silent_logs
from clusterglm.data.chunks import plan
from clusterglm.data.dask_rows import DaskRows, Share
from clusterglm.data.synthetic import Synthetic

PASSES = 20


def nothing(block: Any) -> tuple[np.ndarray]:
    """Return the number of rows."""
    return (np.array(float(len(block.y))),)


def measure(client: Client, chunks: int, grouped: bool) -> tuple[int, float, float]:
    """Return tasks a pass, microseconds of the scheduler's CPU a task, and the median milliseconds of a pass."""
    source = Synthetic(8192 * chunks, 2)
    planned = plan(solver="", rows=source.rows, columns=2, workers=1, threads=1, chunk_rows=8192)
    # Chunks are whole local problems; here they are as small as blocks of the generator can be.
    small = type(planned)(**{**vars(planned), "chunk_rows": 8192, "chunks": chunks, "local_rows": 8192})
    rows = DaskRows(client, source.make(small, False), small, source.locate).load()
    rows.sum(nothing)
    if not grouped:
        rows._shares = [Share(share.worker, (i,), share.lies) for share in rows._shares for i in share.chunks]
    tasks = len(rows._shares)
    found = timed(client, tasks, lambda: rows.sum(nothing))
    rows.close()
    return found


def bare(client: Client, tasks: int) -> tuple[int, float, float]:
    """Return the same of tasks that Dask maps over nothing: what it takes by itself."""
    return timed(client, tasks, lambda: client.gather(client.map(len, [()] * tasks, pure=False)))


def timed(client: Client, tasks: int, call: Callable[[], Any]) -> tuple[int, float, float]:
    call()
    process = psutil.Process(client.run_on_scheduler(lambda: __import__("os").getpid()))
    before, seconds = process.cpu_times(), []
    for _ in range(PASSES):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return tasks, 1e6 * used / PASSES / tasks, 1e3 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default=4, type=int)
    options = parser.parse_args()
    spec = {"cls": SubprocessWorker, "options": {"worker_kwargs": {"nthreads": 1, "host": "127.0.0.1"}}}
    scheduler = {
        "cls": SubprocessScheduler,
        "options": {"scheduler_kwargs": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}},
    }
    workers = dict.fromkeys(range(options.processes), spec)
    with (
        environment(dask_environment(dask_settings()) | silent_logs()),
        SpecCluster(workers=workers, scheduler=scheduler) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(options.processes)
        print(f"{options.processes} worker processes, medians of {PASSES} passes\n")
        print(f"{'chunks':>6} {'tasks a pass':>12} {'scheduler us a task':>20} {'ms a pass':>10}")
        for chunks, grouped in ((64, False), (256, False), (64, True), (256, True), (1024, True)):
            tasks, micros, millis = measure(client, chunks, grouped)
            print(f"{chunks:6} {tasks:12} {micros:20.0f} {millis:10.1f}", flush=True)
        for count in (4, 64, 256):
            tasks, micros, millis = bare(client, count)
            print(f"{'none':>6} {tasks:12} {micros:20.0f} {millis:10.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
