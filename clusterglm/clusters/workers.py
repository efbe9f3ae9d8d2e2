"""What the workers really are, as measured on them: BLAS threads, memory, names."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from clusterglm.clusters.settings import ONE_THREAD
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
_PATIENCE = 10.0
_GLANCE = 0.25
_TRIES = 5
_ASK_WHY = 10.0  # seconds between two questions to a queue


@dataclass(frozen=True)
class Worker:
    """One worker process: its address and name, compute threads, and memory limit in bytes (0: none set)."""

    address: str
    name: str
    host: str
    threads: int
    memory: int


def workers(client: Client) -> list[Worker]:
    """Return the workers that the scheduler knows, ordered by name."""
    found = known_workers(client)
    listed = [
        Worker(address, str(info["name"]), str(info["host"]), int(info["nthreads"]), int(info["memory_limit"] or 0))
        for address, info in found.items()
    ]
    return sorted(listed, key=lambda worker: (len(worker.name), worker.name))


def await_workers(
    client: Client,
    count: int,
    timeout: float | None,
    tell: Callable[[str], object],
    why: Callable[[], str] = lambda: "",
) -> None:
    """Wait until ``count`` workers have come, and keep their scheduler from ending as idle meanwhile.

    ``timeout`` is in seconds, None for as long as it takes: jobs may wait in a queue. ``tell`` is called with words
    whenever some have come, or ``why`` has another word for what the others wait for; that is asked now and then.

    Raises
    ------
    ClusterError
        They are too few after ``timeout`` seconds, or the scheduler has gone.
    """
    until = math.inf if timeout is None else time.monotonic() + timeout
    address, told, reason, asked = client.scheduler.address, "", "", -math.inf
    while True:
        try:
            come = len(known_workers(client))
            if come >= count:
                return
            client.run_on_scheduler(_stay_awake)
        except Exception as error:  # each call has its own words for a scheduler that went meanwhile
            if client.status == "running":
                raise
            raise ClusterError("cluster", address, "the scheduler is gone") from error
        if time.monotonic() - asked > _ASK_WHY:
            reason, asked = why(), time.monotonic()
        text = f"waiting for workers: {come} of {count} have come" + (f" ({reason})" if reason else "")
        if text != told:
            tell(text)
            told = text
        if time.monotonic() > until:
            cure = "see their logs, raise --timeout, or lower --min-workers"
            raise ClusterError("workers", f"{come} of {count} after {timeout:.0f} s", cure)
        time.sleep(_GLANCE)


def _stay_awake(dask_scheduler: Any) -> None:
    dask_scheduler.idle_since = None  # it counts its idle time from its next look on


def blas_threads(client: Client) -> dict[str, int]:
    """Return the largest number of BLAS or OpenMP threads found on each worker, by address (threadpoolctl).

    Measured in a thread that computes tasks: OpenMP keeps the number per thread. It waits for a free one for 10 s.
    """
    return _on_all(client, _measure)


def limit_blas(client: Client) -> dict[str, int]:
    """Set BLAS to one thread wherever it has more, also on workers to come; return what was found, by address.

    Several threads per library would fight over the cores that Dask has already handed out, and the last bits of a
    sum would depend on their number.
    """
    found = blas_threads(client)
    if any(threads != 1 for threads in found.values()):
        client.register_plugin(_one_thread_plugin())
    return found


def peak_memory(client: Client) -> dict[str, int]:
    """Return the peak resident memory of each worker process since its start, in bytes, by address."""
    return _on_all(client, own_peak)


def free_disk(client: Client, folder: str) -> int:
    """Return the bytes that are free on the workers' local disks, each disk counted once, or can be made free: by the
    removal of what each worker has in ``folder`` of its local directory."""
    found: list[tuple[str, int, int, int]] = list(_on_all(client, _own_disk, folder).values())
    largest = {(host, device): free for host, device, free, _ in sorted(found)}
    return sum(largest.values()) + sum(held for *_, held in found)


def _own_disk(folder: str, dask_worker: Any) -> tuple[str, int, int, int]:
    import shutil
    import socket
    from pathlib import Path

    here = Path(dask_worker.local_directory)
    held = 0
    for path in (here / folder).rglob("*"):
        with suppress(FileNotFoundError):  # another fit removes what it wrote
            held += path.stat().st_size if path.is_file() else 0
    return socket.gethostname(), here.stat().st_dev, shutil.disk_usage(here).free, held


def _on_all(client: Client, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Return what a function returns on every worker, by address; again where one of them goes meanwhile."""
    for attempt in range(_TRIES):
        try:
            return dict(client.run(function, *arguments))
        except OSError:
            if client.status != "running" or attempt == _TRIES - 1:
                raise
            time.sleep(_GLANCE * (attempt + 1))
    raise AssertionError


def load(client: Client) -> tuple[int, dict[str, int]]:
    """Return the tasks that the scheduler holds, and the bytes that each worker process uses now, by address."""
    found = known_workers(client)
    used = {address: int(info["metrics"].get("memory", 0)) for address, info in found.items()}
    return int(client.run_on_scheduler(_tasks)), used


def _tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def own_peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    import resource

    try:
        # Not ru_maxrss, which Linux lets a child inherit from the process that started it.
        with open("/proc/self/status") as status:
            return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _loaded_threads() -> int:
    # threadpoolctl sees libraries that are loaded: these two bring every BLAS that kernels use.
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    return max((int(pool["num_threads"]) for pool in threadpool_info()), default=1)


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits

    _loaded_threads()
    threadpool_limits(1)  # without `with`: it stays


async def _measure(dask_worker: Any) -> int:
    return max(await _in_task_threads(dask_worker, _loaded_threads, 1))


async def _in_task_threads(worker: Any, call: Callable[[], T], threads: int) -> list[T]:
    """Run ``call`` once in each of ``threads`` threads of the pool that computes a worker's tasks."""
    together = threading.Barrier(threads)

    def meet() -> T:
        together.wait(_PATIENCE)  # so that no thread takes two of these calls
        return call()

    pool = worker.executors["default"]
    return list(await asyncio.gather(*(asyncio.wrap_future(pool.submit(meet)) for _ in range(threads))))


def _one_thread_plugin() -> Any:
    from distributed import WorkerPlugin

    class OneThread(WorkerPlugin):  # type: ignore[misc]
        """Runs on every worker, and on each that joins later."""

        name = "clusterglm-one-thread"

        async def setup(self, worker: Any) -> None:
            os.environ.update(ONE_THREAD)  # for libraries that are loaded later
            _one_thread()  # a pool shared by the process: threadpoolctl lets the first thread that asks rule it
            await _in_task_threads(worker, _one_thread, worker.state.nthreads)  # OpenMP: a number per thread

    return OneThread()
