"""What clusters on machines that are reached over SSH have in common: all that is asked of the hosts.

Nothing of clusterglm stays there between two commands but the scheduler, the workers and their folders. So every verb
works from any machine that reaches the hosts, by ``--hosts`` or an inventory where there is no record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterglm.clusters import registry, tls, words
from clusterglm.clusters.hosts.channel import Channel
from clusterglm.clusters.hosts.commands import SCHEDULER, WORKER
from clusterglm.clusters.hosts.host import Host, Hosts, parse_hosts, read_host, read_hosts
from clusterglm.clusters.hosts.tunnel import tunnel
from clusterglm.clusters.hosts.workers import addresses
from clusterglm.clusters.launcher import Member, Record, State, option
from clusterglm.errors import UsageError

_KNOCK_SECONDS = 3.0
_OF_HERE = ("hosts", "ssh_config", "known_hosts")  # options that mean nothing on another machine


def _file(value: Any, what: str) -> str:
    path = Path(str(value)).expanduser().absolute()
    if not path.is_file() or any(c in str(path) for c in '"\n\r%'):
        raise UsageError(what, value, "no such file")
    return str(path)


@dataclass(frozen=True)
class OnHosts:
    """The options that lead to the hosts, and the verbs that ask them."""

    target: ClassVar[str]
    parts: ClassVar[str] = "processes"

    hosts: str | None = option(
        help="Hosts, a,b,user@c:2222, or an Ansible inventory (INI or YAML).", parse=parse_hosts, setting="hosts"
    )
    ssh_config: str | None = option(help="A file in place of ~/.ssh/config.", parse=_file, setting="ssh-config")
    known_hosts: str | None = option(help="A file in place of ~/.ssh/known_hosts.", parse=_file, setting="known-hosts")
    python: str | None = option(
        help="Python on the hosts; by default what ansible/ has provisioned, or else the path of this one.",
        parse=words.path,
    )

    def default_workers(self) -> int:
        """Return the number of hosts that may run a worker."""
        return len(self.inventory.workers)

    def find(self, name: str) -> Record | None:
        """Return the record of a cluster from what is on the hosts, its keys fetched from there."""
        cluster, parts = self._newest(name)
        if not parts:
            return None
        asked = dataclasses.replace(self, hosts=self._united(parts))
        if asked != self:  # the cluster's plan knows of more hosts
            cluster, parts = asked._newest(name)
        head = next((host for host, part in parts.items() if SCHEDULER in part["roles"]), next(iter(parts)))
        plan = parts[head]["plan"]
        given = {key: value for key, value in plan.get("options", {}).items() if key not in _OF_HERE}
        options = dataclasses.asdict(asked) | given
        folder = registry.cluster_folder(name)
        files = asked.channel.ask(head, "read", cluster=cluster, names=[f"tls/{file}" for file in tls.FILES])
        if files:
            tls.keep(folder / "tls", {path.removeprefix("tls/"): text.encode() for path, text in files.items()})
        known = {host.name: host.written for host in asked.inventory.every}
        return Record(
            name=name,
            target=self.target,
            workers=int(plan.get("workers", sum(WORKER in part["roles"] for part in parts.values()))),
            host=head.name,
            user=os.getuid(),
            created=str(plan.get("created", "")),
            state="up",
            options=options,
            details={
                "cluster": cluster,
                SCHEDULER: head.name,
                "keys": str(folder / "tls"),
                "hosts": known,
                "processes": int(given.get("processes") or 1),
            },
            **addresses(head, parts[head]),
        )

    def names(self) -> list[str]:
        """Return the names of the clusters on the hosts."""
        return sorted({cluster.rpartition("-")[0] for cluster in self._clusters()})

    def state(self, record: Record) -> State:
        """Return ``gone`` where the scheduler's process has ended.

        Raises
        ------
        ClusterError
            The scheduler's host is out of reach: it alone can tell.
        """
        if record.state == "down":
            return "down"
        found = self.channel.ask(self._head(record), "look", name=record.name)
        alive = any(SCHEDULER in part["roles"] for part in found.values())
        return record.state if alive else "gone"

    def obituary(self, record: Record) -> str:
        """Return the last line of the scheduler's log."""
        head = self._head(record)
        found = self.channel.ask(head, "look", name=record.name).get(record.details.get("cluster"), {})
        said = found.get("last", {}).get(SCHEDULER, "its folder was removed")
        return f"the scheduler on {head.name} has ended: {said}"

    def members(self, record: Record) -> list[Member]:
        """Return what each host says of its processes."""
        hosts = self.of_cluster(record)
        answers, errors = self.channel.ask_all(hosts, "look", name=record.name)
        found = []
        for host in hosts:
            if host in errors:
                found.append(Member(host.name, "unreachable", host.address, errors[host].cure))
                continue
            part = answers[host].get(record.details.get("cluster"), {"roles": {}})
            running, last = part["roles"], part.get("last", {})
            expected = [role for role in (SCHEDULER, WORKER) if role in running or role in last]
            states = [f"{role} {'runs' if role in running else 'ended'}" for role in expected]
            said = "; ".join(last[role] for role in expected if role not in running)
            found.append(Member(host.name, ", ".join(states) or "idle", host.address, said))
        return found

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Fetch the end of each log from the hosts, and yield (process, file), the scheduler's first."""
        names = [f"{role}.log" for role in (SCHEDULER, WORKER)]
        request = {"cluster": record.details["cluster"], "names": names}
        answers, errors = self.channel.ask_all(self.of_cluster(record), "read", **request)
        if errors and not answers:
            raise next(iter(errors.values()))
        folder = registry.private_folder(registry.cluster_folder(record.name) / "logs")
        for name in names:
            for host, found in answers.items():
                if name in found:
                    path = folder / f"{Path(name).stem}-{host.name}.log"
                    path.write_text(found[name], encoding="utf-8")
                    yield path.stem, path

    def reached(self, record: Record) -> str:
        """Return an address of the scheduler that this machine reaches: its own, or else one through SSH.

        Raises
        ------
        ClusterError
            There is neither.
        """
        host, _, port = record.address.rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
        except OSError:
            head = self._head(record)
            return tunnel(functools.partial(self.channel.command, head), head.name, record.address)
        return record.address

    @property
    def channel(self) -> Channel:
        """The way to the hosts."""
        return Channel(self.ssh_config, self.known_hosts, self.python)

    @property
    def inventory(self) -> Hosts:
        """The hosts; UsageError where none are given."""
        if self.hosts is None:
            raise UsageError("--hosts", None, "missing: name hosts a,b,c or an inventory")
        return read_hosts(self.hosts)

    def of_cluster(self, record: Record) -> list[Host]:
        """Return the hosts on which something of a cluster was started, or may have been."""
        try:
            listed = {host.name: host for host in self.inventory.every}
        except UsageError:  # an inventory that was removed since
            listed = {}
        known: dict[str, str] = record.details.get("hosts", {})
        return [listed[name] if name in listed else read_host(written) for name, written in known.items()]

    def _head(self, record: Record) -> Host:
        """Return the scheduler's host. Before it is chosen the record tells of none."""
        hosts = self.of_cluster(record) or list(self.inventory.every)
        return next((host for host in hosts if host.name == record.details.get(SCHEDULER)), hosts[0])

    def _clusters(self, name: str | None = None) -> dict[str, dict[Host, Any]]:
        """Return what each host has of each cluster of this target; no matter those out of reach if one answers."""
        if self.hosts is None:
            return {}
        answers, errors = self.channel.ask_all(self.inventory.every, "look", name=name)
        if errors and not answers:
            raise next(iter(errors.values()))
        found: dict[str, dict[Host, Any]] = {}
        for host, clusters in answers.items():
            for cluster, part in clusters.items():
                with contextlib.suppress(UsageError):  # what merely looks like ours
                    registry.checked_name(cluster.rpartition("-")[0])
                    if part["plan"].get("target", self.target) == self.target:
                        found.setdefault(cluster, {})[host] = part
        return found

    def _newest(self, name: str) -> tuple[str, dict[Host, Any]]:
        """Return what the hosts have of a cluster; of several of its name that which runs, else the newest."""
        found = self._clusters(name)
        return max(found.items(), key=lambda item: _standing(item[1])) if found else ("", {})

    def _united(self, parts: Mapping[Host, Any]) -> str:
        """Return the hosts that were given, and those of the cluster's plan that are not among them."""
        every, plans = self.inventory.every, [part["plan"] for part in parts.values() if part["plan"]]
        here = {plan["here"] for plan in plans} | {host.name for host in every}
        missing = {name: written for plan in plans for name, written in plan["hosts"].items() if name not in here}
        if not missing and self.hosts is not None:
            return self.hosts
        return ",".join([*(host.written for host in every), *missing.values()])


def _standing(parts: Mapping[Host, Any]) -> tuple[bool, str]:
    """Return what tells, of several clusters of a name, the one that is meant: it runs, and is the newest."""
    runs = any(SCHEDULER in part["roles"] for part in parts.values())
    return runs, max((str(part["plan"].get("created", "")) for part in parts.values()), default="")
