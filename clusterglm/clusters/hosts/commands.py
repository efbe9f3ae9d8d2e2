"""The command lines of a cluster's two kinds of processes; in braces what only the host knows (hosts/agent.py)."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from clusterglm.clusters import settings, tls

SCHEDULER, WORKER = "scheduler", "worker"
_DEATH_SECONDS = 60  # a worker without a scheduler gives up


def scheduler(port: int | None, interface: str | None, idle_timeout: int) -> str:
    """Return the command of a scheduler, whose only listener beyond loopback speaks TLS."""
    words = ["--port", str(port or 0), "--dashboard-address", "127.0.0.1:0", *_interface(interface)]
    words += ["--scheduler-file", "{folder}/scheduler.json", "--pid-file", "{folder}/scheduler.pid"]
    return _line("distributed.cli.dask_scheduler", *words, "--idle-timeout", f"{idle_timeout}s")


def worker(name: str, processes: int, interface: str | None) -> str:
    """Return the command of a host's worker: ``processes`` that share its threads and its memory."""
    words = ["{address}", "--name", worker_name(name, "{host}"), "--nworkers", str(processes)]
    words += ["--nthreads", "{threads}", "--memory-limit", "{memory}", "--nanny", *_interface(interface)]
    words += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--pid-file", "{folder}/worker.pid"]
    words += ["--local-directory", "{scratch}", "--death-timeout", f"{_DEATH_SECONDS}s"]
    return _line("distributed.cli.dask_worker", *words)


def worker_name(cluster: str, host: str) -> str:
    """Return the name of a host's worker; those of several processes have a number behind it."""
    return f"{cluster}-{host}"


def _interface(name: str | None) -> list[str]:
    return ["--interface", name] if name else []


def _line(module: str, *words: str) -> str:
    variables = settings.WORKER_ENVIRONMENT | settings.dask_environment(settings.dask_settings())
    variables |= tls.variables(PurePosixPath("{folder}/tls"))
    return shlex.join(
        ["env", *(f"{name}={value}" for name, value in variables.items()), "{python}", "-m", module, *words]
    )
