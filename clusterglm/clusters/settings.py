"""What every process of a cluster is told at birth: one BLAS thread, Dask settings that survive faults, silence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from clusterglm import config
from clusterglm.errors import ClusterError, UsageError
from clusterglm.units import LEAST_MEMORY, format_size

# Set by name, because a value inherited from the user's shell wins over the nanny's own configuration.
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)
# Dask's nanny tells glibc to give freed memory back above 64 kB. Kernels free and take that much with every
# micro-block, and the page faults double the cost of a pass. Threads have arenas of their own, of pieces of 64 MB which
# are given back at once when they are empty, whatever the threshold: hence one arena for all of them.
KEEP_FREED_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}
WORKER_ENVIRONMENT = ONE_THREAD | KEEP_FREED_MEMORY
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "bokeh", "tornado", "tornado.application", "asyncio")


def dask_settings() -> dict[str, Any]:
    """Return the settings of ``clusterglm.distributed`` as dotted keys of ``dask.config``."""

    def flat(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            name = f"{prefix}.{key.replace('_', '-')}"  # the environment knows no hyphens
            if isinstance(value, Mapping):
                yield from flat(name, value)
            else:
                yield name, value

    return dict(flat("distributed", config.get("distributed")))


def dask_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return dotted keys of ``dask.config`` as the environment variables that a new process reads."""
    return {f"DASK_{key.upper().replace('.', '__').replace('-', '_')}": str(value) for key, value in settings.items()}


def silent_logs() -> dict[str, str]:
    """Return the variables under which a process of Dask's writes no log line (a dict: logger names hold dots).

    Python's tracker of shared resources is silenced too: it complains when its owner was killed.
    """
    warnings = [os.environ.get("PYTHONWARNINGS", ""), "ignore::UserWarning:multiprocessing.resource_tracker"]
    return {
        "DASK_DISTRIBUTED__LOGGING": repr(dict.fromkeys(_LOGGERS, "critical")),
        "PYTHONWARNINGS": ",".join(filter(None, warnings)),
    }


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process for a while; children started meanwhile inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the loggers of Dask, Tornado and Bokeh in this process: a closing cluster is no news to its user."""
    import logging

    import distributed  # noqa: F401  its import sets the levels that are put aside here

    # Tells at the very end of this process, long after any ``with``, that it has ended a worker which took its time.
    logging.getLogger("distributed.process").setLevel(logging.CRITICAL + 1)
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in before:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def check_open_files(workers: int, each: int) -> None:
    """Raise this process's limit on open files as far as needed and allowed; ``each`` is what one worker takes.

    Raises
    ------
    ClusterError
        The hard limit is too low for so many workers.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 200 + each * workers
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        if limit < needed:
            raise ClusterError("open files", hard, f"{workers} workers need about {needed}: ulimit -n {needed}")


def cores() -> int:
    """Return the cores that this process may use (affinity and container limits count)."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def memory_share(workers: int) -> int:
    """Return the bytes of one of ``workers`` workers: an equal share of 85 % of this machine's memory.

    Raises
    ------
    UsageError
        They are too many to live on that.
    """
    from distributed.system import MEMORY_LIMIT

    share = int(0.85 * MEMORY_LIMIT / workers)
    if share < LEAST_MEMORY:
        most = int(0.85 * MEMORY_LIMIT / LEAST_MEMORY)
        raise UsageError(
            "--workers", workers, f"leaves {format_size(share)} of memory to each: at most {max(most, 1)} here"
        )
    return share
