"""The workers on a cloud's machines, as the scheduler knows them: waiting for them, retiring them, what they log."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm.clusters.cloud import fleet
from clusterglm.clusters.cloud.userdata import NOTED
from clusterglm.clusters.connect import connect
from clusterglm.clusters.launcher import Record
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers

if TYPE_CHECKING:
    from distributed import Client

_LOOK_SECONDS = 3.0  # between two looks at machines that have not come yet


def connected(record: Record, timeout: float | None = None, **given: Any) -> Client:
    """Return a client of a cluster's scheduler; ``given`` goes to clusters/connect.py."""
    cure, keys = f"clusterglm down {record.name}", Path(record.details["keys"])
    return connect(record.address, what="cluster", value=record.name, cure=cure, timeout=timeout, keys=keys, **given)


def await_machines(client: Client, name: str, machines: int, until: float, look: Callable[[set[int]], None]) -> None:
    """Wait until as many machines as asked for have workers.

    ``look`` is called with the numbers of those that have come; it raises ClusterError where one has ended meanwhile.

    Raises
    ------
    ClusterError
        They have not all come by ``until``.
    """
    looked = time.monotonic()
    while True:
        named = known_workers(client).values()
        come = {fleet.machine_of(each["name"], name) for each in named}
        if len(come) == machines:
            return
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            look(come)
        if looked > until:
            cure = f"see clusterglm logs {name}, or raise --timeout"
            raise ClusterError("machines", f"{len(come)} of {machines} have workers", cure)
        time.sleep(0.2)


def retire(client: Client, name: str, leaving: Collection[int]) -> None:
    """Have the workers of some machines hand over what they hold, and close."""
    named = known_workers(client).values()
    names = [str(each["name"]) for each in named if fleet.machine_of(each["name"], name) in leaving]
    client.retire_workers(names=names, close_workers=True)


def live_logs(record: Record) -> dict[str, str]:
    """Return what the scheduler and the workers of each machine have logged, nothing where they do not answer."""
    logs: dict[str, str] = {}
    with contextlib.suppress(ClusterError, KeyError, OSError):
        client = connected(record, timeout=5)
        try:
            names = {a: each["name"] for a, each in known_workers(client).items()}
            logs[fleet.SCHEDULER] = fleet.lines(client.get_scheduler_logs())
            for address, lines in client.get_worker_logs().items():
                role = f"worker-{fleet.machine_of(names[address], record.name)}"
                logs[role] = logs.get(role, "") + fleet.lines(lines)
        finally:
            client.close()
    return logs


def options(client: Client) -> dict[str, Any]:
    """Return the options with which a cluster was started, as its scheduler was told them at its boot."""
    return dict(client.run_on_scheduler(_noted)["options"])


def _noted() -> dict[str, Any]:
    return dict(json.loads(os.environ[NOTED]))
