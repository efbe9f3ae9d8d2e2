"""The cluster that a fit without a cluster starts for itself, and that ends with it: processes on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clusterglm import config
from clusterglm.clusters import settings
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers
from clusterglm.units import parse_memory

if TYPE_CHECKING:
    from distributed import Client, LocalCluster
    from distributed.utils import LoopRunner

_CLOSE_SECONDS = 2.0
_BIRTH_SECONDS = 1.0  # between a nanny's decision to start a process and its number
_SCRATCH = "clusterglm-scratch"


class Shape(NamedTuple):
    """What an embedded cluster is going to be: worker processes, compute threads and bytes of memory of each."""

    workers: int
    threads: int
    memory: int


def shape(workers: int | None = None, threads_per_worker: int | None = None, memory: int | None = None) -> Shape:
    """Return the shape of the cluster that ``embedded`` starts for the same arguments; nothing is started.

    Raises
    ------
    UsageError
        Too little memory for a worker.
    """
    workers = workers or config.get("workers") or settings.cores()
    threads = threads_per_worker or config.get("threads-per-worker")
    memory = parse_memory(memory) if memory else memory
    return Shape(workers, threads, memory or config.get("memory") or settings.memory_share(workers))


@contextlib.contextmanager
def embedded(
    workers: int | None = None,
    threads_per_worker: int | None = None,
    memory: int | None = None,
    timeout: float | None = None,
) -> Iterator[tuple[Client, Callable[[int], None]]]:
    """Start a LocalCluster of worker processes for the length of a ``with`` block.

    Parameters
    ----------
    workers : int, optional
        Processes; by default the setting ``workers``, else one per core.
    threads_per_worker : int, optional
        By default the setting of that name (1).
    memory : int, optional
        Bytes of one worker; by default the setting ``memory``, else an equal share of 85 % of the machine's.
    timeout : float, optional
        Seconds until the workers must have arrived; by default the setting ``start-timeout``.

    Yields
    ------
    (distributed.Client, callable)
        The client, and ``ask_for(n)``, which brings the number of workers (back) to n.

    Raises
    ------
    ClusterError
        The workers did not arrive in time, or the limit on open files is too low for them.
    """
    workers, threads, memory = shape(workers, threads_per_worker, memory)
    limit = timeout or config.get("start-timeout")
    settings.check_open_files(workers, each=10)

    import dask.config
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        stack.enter_context(settings.quiet())
        # For as long as the cluster lives: nannies start new workers at any time.
        stack.enter_context(settings.environment(settings.WORKER_ENVIRONMENT | settings.silent_logs()))
        scratch = stack.enter_context(_scratch_folder())
        # The scheduler makes a folder too, and puts it on sys.path: not one with a name that anybody can guess.
        own = settings.dask_settings() | {"temporary-directory": str(scratch)}
        stack.enter_context(dask.config.set(own))
        runner = stack.enter_context(_sheltered_loop())
        # In a thread of its own, so that Ctrl-C cannot leave half a cluster or client: they are finished, then closed.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        starting = pool.submit(
            LocalCluster,
            n_workers=0,
            threads_per_worker=threads,
            memory_limit=memory,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(scratch),
            loop=runner.loop,
            silence_logs=False,
        )
        stack.callback(_close, starting)
        try:
            cluster = starting.result()
        except RuntimeError as error:  # no port left, or a setting that only Dask can judge
            raise ClusterError("embedded cluster", None, str(error).splitlines()[0]) from error
        try:
            cluster.scale(workers)
            # By address: a Client of the cluster waits for its workers, and Ctrl-C would then cancel them half born.
            connecting = pool.submit(Client, cluster.scheduler_address, timeout=limit, loop=runner.loop)
            stack.callback(_close_client, connecting)
            try:
                client = connecting.result()
            except OSError as error:  # TimeoutError is one
                raise _late(0, workers, limit) from error
            _await_workers(client, workers, limit)
            yield client, cluster.scale
        except BaseException:
            # Nobody waits for tasks whose results nobody wants: the kernels on the workers may run for minutes.
            _kill(cluster)
            raise


def _await_workers(client: Client, workers: int, seconds: float) -> None:
    try:
        client.wait_for_workers(workers, timeout=seconds)
    except TimeoutError as error:
        found = len(known_workers(client))
        raise _late(found, workers, seconds) from error


def _late(found: int, workers: int, seconds: float) -> ClusterError:
    cure = "raise start-timeout, or ask for fewer; a Python script must call fit under if __name__ == '__main__'"
    return ClusterError("workers", f"{found} of {workers} after {seconds:.0f} s", cure)


@contextlib.contextmanager
def _sheltered_loop() -> Iterator[LoopRunner]:
    """Run an event loop in a thread whose children never see the terminal's Ctrl-C or hang-up.

    Both signals go to every process of the terminal's foreground group. Blocked in this thread, they are blocked in
    the workers that it starts, from their first instruction on; this process's main thread alone answers them.
    """
    from multiprocessing import resource_tracker

    from distributed.utils import LoopRunner

    shelter = {signal.SIGINT, signal.SIGHUP}
    runner = LoopRunner()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, shelter)
    try:
        # Else the first worker's start does it, and unblocks SIGINT in its thread, as here.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, shelter)
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner
    finally:
        runner.stop()


def _kill(cluster: LocalCluster) -> None:
    """Kill the workers, those that are being born included, and let no nanny start another."""
    from distributed.core import Status

    over = {Status.closed, Status.failed}
    until = time.monotonic() + _BIRTH_SECONDS
    # Not `cluster.workers`, which lacks those that are still starting.
    nannies = [nanny for nanny in cluster._created if nanny.status not in over]
    while nannies and time.monotonic() < until:
        unborn = []
        for nanny in nannies:
            nanny.close_gracefully()  # only marks it
            if nanny.pid is None:
                unborn.append(nanny)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)
        nannies = unborn
        time.sleep(0.02)


def _close_client(connecting: Future[Client]) -> None:
    if connecting.exception() is None:
        connecting.result().close(timeout=_CLOSE_SECONDS)


def _close(starting: Future[LocalCluster]) -> None:
    from distributed.core import Status

    if starting.exception() is not None:
        return
    cluster = starting.result()
    for _ in range(2):
        try:
            cluster.close(timeout=_CLOSE_SECONDS)
            return
        except Exception:  # whatever a nanny says whose worker was killed while it started
            _kill(cluster)
            cluster.status = Status.failed  # else the second attempt waits for this one
    cluster.status = Status.closed  # else Dask tries again when the interpreter ends


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Make a private folder for what workers spill, and sweep those of owners that were killed."""
    import dask.config

    root = Path(dask.config.get("temporary-directory") or tempfile.gettempdir()).absolute()
    if root.name.startswith(_SCRATCH):  # another cluster of this process has set it, and may end before this one
        root = Path(tempfile.gettempdir())
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ClusterError(
            f"Dask's temporary-directory ({root})", reason, "name a folder that can be written"
        ) from error
    for left in root.glob(f"{_SCRATCH}-*-*"):
        owner = left.name.split("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}-{os.getpid()}-", dir=root))
    try:
        yield folder
    finally:
        until = time.monotonic() + _CLOSE_SECONDS
        while folder.exists() and time.monotonic() < until:  # a worker that dies may still be writing
            shutil.rmtree(folder, ignore_errors=True)
