"""Machines that come up: waiting for a scheduler's port, for EC2's until each has workers, and what is said of those
that never do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from clusterglm.clusters.cloud import fleet, workers
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

_CONSOLE_LINES = 15
_LOOK_SECONDS = 2.0


async def answers(address: str, seconds: float, look: Callable[[], Awaitable[object]]) -> bool:
    """Return whether the port of ``tls://HOST:PORT`` answers within so many ``seconds``.

    Meanwhile ``look`` is called every two seconds, and raises where there is nothing left to wait for.
    """
    import asyncio  # not needed to refuse a command line

    host, port = address.split("://")[1].rsplit(":", 1)
    until, looked = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < until:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 3)
            writer.close()
            return True
        except (OSError, TimeoutError):
            await asyncio.sleep(0.2)
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            await look()
    return False


def wait(ec2: Any, client: Client, name: str, machines: int, until: float) -> None:
    """Wait until as many machines as asked for have workers.

    Raises
    ------
    ClusterError
        A machine has ended meanwhile, or the time is over.
    """
    workers.await_machines(client, name, machines, until, lambda come: _check(ec2, name, machines, come))


def _check(ec2: Any, name: str, machines: int, come: set[int]) -> None:
    with api.told("cluster", name):
        wanted = [{"Name": f"tag:{api.CLUSTER}", "Values": [name]}]
        pages = ec2.get_paginator("describe_instances").paginate(Filters=wanted)
        found = [item for page in pages for r in page["Reservations"] for item in r["Instances"]]
    present = [item for item in found if fleet.role(item) == "worker"]
    alive = {fleet.number(item) for item in present if item["State"]["Name"] in fleet.BORN}
    if len(come | alive) >= machines:
        return
    for item in present:
        if item["State"]["Name"] not in fleet.BORN and fleet.number(item) not in come | alive:
            why = item.get("StateReason", {}).get("Message", "") or item["State"]["Name"]
            words = failed(why, api.console(ec2, item["InstanceId"]))
            raise ClusterError(api.tags(item)["Name"], item["InstanceId"], words)


def failed(why: str, console: str) -> str:
    """Return the words for a machine that did not come up: the cause, and the end of its console."""
    tail = [line.rstrip() for line in console.splitlines() if line.strip()][-_CONSOLE_LINES:]
    return "\n".join([f"its boot failed: {why}", *(f"  {line}" for line in tail)])
