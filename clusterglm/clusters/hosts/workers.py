"""Processes of a cluster on its hosts: started there, and waited for at the scheduler."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm.clusters import tls
from clusterglm.clusters.hosts import commands
from clusterglm.clusters.hosts.channel import Channel
from clusterglm.clusters.hosts.host import Host
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers

if TYPE_CHECKING:
    from distributed import Client

_LISTEN_SECONDS = 60.0  # until a scheduler listens
_GLANCE_SECONDS, _LOOK_SECONDS = 0.1, 2.0


@dataclass(frozen=True)
class Starter:
    """What every start on a host needs: the way there, the cluster's name and keys, its plan, a host's share."""

    channel: Channel
    cluster: str  # NAME-UID
    keys: Path
    plan: Mapping[str, Any]
    share: Mapping[str, Any]  # processes, cores, memory, scratch

    def start(self, host: Host, role: str, line: str, **more: Any) -> Any:
        """Start a process, its keys and plan handed over first, and return what its folder then says."""
        files = {f"tls/{name}": (self.keys / name).read_text() for name in tls.FILES}
        files["plan.json"] = json.dumps({**self.plan, "here": host.name}, indent=1)
        request = {"cluster": self.cluster, "role": role, "line": line, "files": files, **self.share, **more}
        return self.channel.ask(host, "start", **request)

    def scheduler(self, host: Host, line: str) -> dict[str, Any]:
        """Start the scheduler and return its addresses."""
        seconds = _LISTEN_SECONDS
        return addresses(host, self.start(host, commands.SCHEDULER, line, awaits="scheduler.json", seconds=seconds))

    def workers(self, hosts: Sequence[Host], line: str, address: str) -> dict[Host, str]:
        """Start workers on hosts at once, and return what went wrong on which."""
        failed: dict[Host, str] = {}

        def one(host: Host) -> None:
            try:
                values = {"{address}": address, "{host}": host.name}
                self.start(host, commands.WORKER, line, values=values)
            except ClusterError as error:
                failed[host] = error.cure

        self.channel.at_once(one, hosts)
        return {host: failed[host] for host in hosts if host in failed}

    def arrived(
        self, client: Client, hosts: Sequence[Host], processes: int, timeout: float, tell: Callable[[str], object]
    ) -> dict[Host, str]:
        """Wait until the workers of these hosts answer, and return of those that do not why.

        A worker that has ended is given up at once, with the last line of its log; all others after ``timeout`` s.
        """
        name = self.cluster.rpartition("-")[0]
        until, looked, told = time.monotonic() + timeout, time.monotonic(), -1
        dead: dict[Host, str] = {}
        while True:
            here = names(client)
            late = [
                host for host in hosts if len(of_host(here, name, host, processes)) < processes and host not in dead
            ]
            if len(late) != told:
                told = len(late)
                tell(f"{len(hosts) - len(late) - len(dead)} of {len(hosts)} hosts have their worker")
            if not late:
                return dead
            if time.monotonic() > until:
                return dead | dict.fromkeys(late, f"its worker did not answer within {timeout:.0f} s: see its log")
            if time.monotonic() - looked > _LOOK_SECONDS:
                dead |= self._ended(late)
                looked = time.monotonic()
            time.sleep(_GLANCE_SECONDS)

    def _ended(self, hosts: Sequence[Host]) -> dict[Host, str]:
        answers, errors = self.channel.ask_all(hosts, "look")
        found = {host: error.cure for host, error in errors.items()}
        for host, clusters in answers.items():
            part = clusters.get(self.cluster, {"roles": {}})
            if commands.WORKER not in part["roles"]:
                found[host] = f"its worker has ended: {part.get('last', {}).get(commands.WORKER, 'without a word')}"
        return found


def names(client: Client) -> list[str]:
    """Return the names of all worker processes that the scheduler knows."""
    return [str(worker["name"]) for worker in known_workers(client).values()]


def of_host(found: Sequence[str], cluster: str, host: Host, processes: int) -> list[str]:
    """Return those names that are of a host's workers. One alone has no number, as in the name of a host ``gpu-1``."""
    pattern = re.escape(commands.worker_name(cluster, host.name)) + (r"-\d+" if processes > 1 else "")
    return [name for name in found if re.fullmatch(pattern, name)]


def addresses(host: Host, part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scheduler's address and the way to its dashboard, from what a host has of a cluster."""
    written = part.get("scheduler", {})
    port = written.get("services", {}).get("dashboard")
    way = f"http://127.0.0.1:{port}/status after: ssh -N -L {port}:127.0.0.1:{port} {host.written}" if port else ""
    return {"address": str(written.get("address", "")), "dashboard": way}
