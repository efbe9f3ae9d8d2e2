"""What a cluster's instances, as DescribeInstances shows them, say of it: by their tags, and by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from clusterglm.clusters.cloud import api, rehearsal

SCHEDULER = "scheduler"
BORN = ("pending", "running")


def rehearsed(name: str | None = None) -> list[dict[str, Any]]:
    """Return the machines of a cluster, or of all, in a rehearsal that is looked at from outside."""
    if rehearsal.inside():
        return []
    return [
        item
        for item in rehearsal.shown("ec2").get("instances", [])
        if item["State"]["Name"] in BORN and _is_of(item, name)
    ]


def rehearsed_groups(name: str | None = None) -> list[dict[str, Any]]:
    """Return the security groups of a cluster, or of all, in a rehearsal that is looked at from outside."""
    return (
        [] if rehearsal.inside() else [item for item in rehearsal.shown("ec2").get("groups", []) if _is_of(item, name)]
    )


def _is_of(item: Mapping[str, Any], name: str | None) -> bool:
    found = api.tags(item).get(api.CLUSTER)
    return found is not None and name in (None, found)


def role(item: Mapping[str, Any]) -> str:
    """Return what a machine is: scheduler or worker."""
    return api.tags(item).get(api.ROLE, "")


def number(item: Mapping[str, Any]) -> int:
    """Return the number of a worker's machine."""
    return int(api.tags(item)["Name"].rpartition("-")[2])


def order_of(item: Mapping[str, Any]) -> tuple[bool, int]:
    """Return the key that puts the scheduler first."""
    return (False, 0) if role(item) == SCHEDULER else (True, number(item))


def machine_of(worker: object, name: str) -> int:
    """Return the number of the machine of a worker: ``demo-3`` alone on it, ``demo-3-0`` where there are several."""
    return int(str(worker).removeprefix(f"{name}-").partition("-")[0])


def expires(seconds: float) -> str:
    """Return the tag of a cluster that ends in so many seconds."""
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y%m%dt%H%M%Sz}"


def time_of(text: str) -> datetime:
    """Return the time in the tag of a cluster's end."""
    return datetime.strptime(text, "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC)


def lines(logged: Sequence[tuple[str, str]]) -> str:
    """Return the lines of a log as Dask gives them, the latest last."""
    return "".join(f"{text}\n" for _, text in reversed(logged))
