"""What launchers of rented machines have in common: they are paid for, walled in, and may be rehearsed."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterglm.clusters import registry
from clusterglm.clusters.cloud import door, fleet, rehearsal, userdata
from clusterglm.clusters.cloud.caller import own_address
from clusterglm.clusters.cloud.cloud_options import CloudOptions
from clusterglm.clusters.files import write_whole
from clusterglm.clusters.launcher import Entrance, Record
from clusterglm.errors import UsageError


@dataclass(frozen=True)
class Rented(CloudOptions, ABC):
    """Machines in a cloud: one for the scheduler, and as many as asked for with a worker on each core."""

    @abstractmethod
    def clear(self, name: str) -> int:
        """End all that is a cluster's, with no record of it, wait until it is gone; return the number of machines."""

    @abstractmethod
    def admitted(self, name: str) -> list[str]:
        """Return the addresses that may reach a cluster's scheduler."""

    @abstractmethod
    def ways(self, record: Record) -> dict[str, door.Way]:
        """Return the way into each machine that starts or runs, by its role: scheduler, worker-0, ..."""

    def write_inventory(self, record: Record, path: Path | None = None) -> Path:
        """Write the machines for Ansible, unless told otherwise beside the cluster's keys; return the file's path."""
        path = path or registry.cluster_folder(record.name) / "inventory.yml"
        lines = f"{door.INVENTORY}{record.name}; clusterglm ssh {record.name} --inventory lets you in to them.\n"
        write_whole(path, lines + door.inventory(self.ways(record)))
        return path

    def stop(self, record: Record) -> int:
        """End all that is the cluster's, and wait until it is gone."""
        ended = 0 if self._outside() else self.clear(record.name)
        shutil.rmtree(registry.run_folder(record.name), ignore_errors=True)
        return ended

    def obituary(self, record: Record) -> str:  # noqa: ARG002
        """Return what ends a cluster by itself."""
        return "its machines have ended, idle or at the end of their life"

    def entrance(self, begin: bool = False) -> Entrance | None:
        """Return the way into the rehearsal, for commands outside of it."""
        return rehearsal.entrance(self.target, begin) if self.fake else None

    def hourly(self, record: Record) -> tuple[float, bool]:
        """Return the dollars of an hour of a cluster as it is, and whether that is all of it."""
        return self.rate(record.workers)

    def shut_out(self, record: Record) -> str:
        """Return the caller's address and those that may reach the scheduler, where his is not among them."""
        if self.private or self._outside():
            return ""
        here, open_to = ipaddress.IPv4Network(own_address()), self.admitted(record.name)
        if any(here.subnet_of(ipaddress.IPv4Network(each)) for each in open_to):
            return ""
        return f"its wall is open to {', '.join(open_to) or 'nobody'}, and your address is {here.network_address} now"

    def end_words(self, workers: int) -> str:
        """Return when so many workers end by themselves."""
        life = self.life(workers)
        return f"idle for {self.idle() // 60} min, or {life // 60} min after the start, whatever comes first"

    def given(self) -> dict[str, Any]:
        """Return the options that were given: what the machines note for later commands."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, ())}

    def _outside(self) -> bool:
        """Return whether it is rehearsed, and this is not the rehearsal."""
        return bool(self.fake) and not rehearsal.inside()

    def _check_money(self, begun: datetime, ends: datetime, present: int, count: int) -> None:
        """Refuse to grow from ``present`` to ``count`` workers where their machines, which know only when to end, would
        then cost more than allowed."""
        if self.max_cost is None:
            return
        now = datetime.now(UTC)
        spent = self.rate(present)[0] * (now - begun).total_seconds() / 3600
        total = spent + self.rate(count)[0] * (ends - now).total_seconds() / 3600
        if total > self.max_cost:
            cure = f"{count} workers until {ends:%H:%M} UTC would come to ${total:.2f}: fewer, or a new cluster"
            raise UsageError("--max-cost", f"${self.max_cost:.2f}", cure)

    def _boot(self, name: str, role: Any, number: int, address: str, seconds: float) -> userdata.Boot:
        from clusterglm.clusters.cloud import environment

        return userdata.Boot(
            cluster=name,
            role=role,
            number=number,
            minutes=max(1, math.ceil(seconds / 60)),
            idle=self.idle(),
            address=address,
            python=environment.python(),
            packages=() if self.installed or self.docker_image else environment.packages(),
            container=self.docker_image or "",
            first=self.first,
            noted={"cluster": name, "options": self.given()} if role == fleet.SCHEDULER else {"cluster": name},
        )
