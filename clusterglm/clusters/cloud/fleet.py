"""What a cluster's machines, groups and disks, as EC2 shows them, say of it: by their tags, and by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from clusterglm.clusters.cloud import rehearsal
from clusterglm.clusters.cloud.ec2 import api

SCHEDULER = "scheduler"
BORN = ("pending", "running")
_FIRST_SECONDS = 600.0  # from a cluster's group to its scheduler's machine, and much more than that takes


def rehearsed(name: str | None = None) -> list[dict[str, Any]]:
    """Return the resources of a cluster, or of all, in a rehearsal that is looked at from outside."""
    shown = rehearsal.shown("ec2")
    born = [item for item in shown.get("instances", []) if item["State"]["Name"] in BORN]
    found = born + shown.get("groups", []) + shown.get("volumes", [])
    return [item for item in found if (of := api.tags(item).get(api.CLUSTER)) is not None and name in (None, of)]


def machines(resources: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the machines among resources."""
    return [item for item in resources if "InstanceId" in item]


def overdue(resources: Iterable[Mapping[str, Any]]) -> str:
    """Return why what there is of a cluster should be gone, an empty string where it should not."""
    found, now = list(resources), datetime.now(UTC)
    ends = [time for item in found if (time := time_of(api.tags(item).get(api.EXPIRES, "")))]
    if ends and max(ends) < now:
        return f"its life ended at {max(ends):%Y-%m-%d %H:%M} UTC"
    born = [time for item in found if (time := time_of(api.tags(item).get(api.CREATED, "")))]
    if any(role(item) == SCHEDULER for item in machines(found)) or not born:
        return ""
    old = (now - max(born)).total_seconds() > _FIRST_SECONDS
    return f"it was started at {min(born):%Y-%m-%d %H:%M} UTC and has no scheduler" if old else ""


def role(item: Mapping[str, Any]) -> str:
    """Return what a machine is: scheduler or worker."""
    return api.tags(item).get(api.ROLE, "")


def number(item: Mapping[str, Any]) -> int:
    """Return the number of a worker's machine, -1 where somebody has given it another name."""
    found = re.search("-worker-([0-9]+)$", api.tags(item).get("Name", ""))
    return int(found[1]) if found else -1


def part(item: Mapping[str, Any]) -> str:
    """Return what commands call a machine: ``scheduler`` or ``worker-0``."""
    return SCHEDULER if role(item) == SCHEDULER else f"worker-{number(item)}"


def order_of(item: Mapping[str, Any]) -> tuple[bool, int]:
    """Return the key that puts the scheduler first."""
    return (False, 0) if role(item) == SCHEDULER else (True, number(item))


def nearest(subnets: Iterable[Mapping[str, Any]], identity: str) -> list[Mapping[str, Any]]:
    """Return subnets with the one of this id first: what travels between zones is paid for."""
    return sorted(subnets, key=lambda item: item["SubnetId"] != identity)


def machine_of(worker: object, name: str) -> int:
    """Return the number of the machine of a worker: ``demo-3`` alone on it, ``demo-3-0`` where there are several."""
    return int(str(worker).removeprefix(f"{name}-").partition("-")[0])


def stamp(seconds: float = 0.0) -> str:
    """Return the time so many seconds from now as tags have it."""
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y%m%dt%H%M%Sz}"


def time_of(text: str) -> datetime | None:
    """Return the time in a tag, None where it holds none."""
    try:
        return datetime.strptime(text, "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC)
    except ValueError:
        return None


def lines(logged: Sequence[tuple[str, str]]) -> str:
    """Return the lines of a log as Dask gives them, the latest last."""
    return "".join(f"{text}\n" for _, text in reversed(logged))
