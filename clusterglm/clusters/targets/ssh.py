"""``ssh``: machines without a batch system, over the system's OpenSSH, with nothing installed but Python."""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterglm import config
from clusterglm.clusters import registry, tls, words
from clusterglm.clusters.connect import connect
from clusterglm.clusters.hosts import commands, fitness, workers
from clusterglm.clusters.hosts.commands import SCHEDULER, WORKER
from clusterglm.clusters.hosts.host import Host, Hosts, parse_hosts
from clusterglm.clusters.launcher import Plan, Record, Size, option
from clusterglm.clusters.targets.onhosts import OnHosts
from clusterglm.errors import ClusterError, UsageError
from clusterglm.units import parse_count, parse_duration, parse_memory


def _count(value: Any, what: str) -> int:
    return parse_count(value, what, of=what.lstrip("-").replace("-", " "), most=10**4)


def _port(value: Any, what: str) -> int:
    return parse_count(value, what, of="ports", most=65535)


def _host_name(value: Any, what: str) -> str:
    return parse_hosts(value, what)


def _switch(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(what, value, "must be true or false")
    return value


@dataclass(frozen=True)
class Ssh(OnHosts):
    """Hosts that are reached over SSH: the scheduler on the first, a worker on each."""

    target: ClassVar[str] = "ssh"

    scheduler_host: str | None = option(help="The scheduler's host; by default the first.", parse=_host_name)
    min_workers: int | None = option(
        help="Start with so many hosts where others cannot take part; by default all must.", parse=_count
    )
    processes: int | None = option(help="Worker processes of a host; by default one, of a thread a core.", parse=_count)
    cores: int | None = option(help="Cores of a host that are used; by default all.", parse=_count)
    memory: int | None = option(
        help="Memory that the workers of a host may use; by default nine tenths of it.", parse=parse_memory
    )
    scratch: str | None = option(help="A folder on the hosts' own disks; by default $TMPDIR or /tmp.", parse=words.path)
    interface: str | None = option(help="The hosts' network interface, such as eth0.", parse=words.interface)
    port: int | None = option(help="The scheduler's port; by default a free one.", parse=_port)
    idle_timeout: int = option(
        help="End the cluster after it has been idle for so long.", parse=parse_duration, setting="idle-timeout"
    )
    allow_version_mismatch: bool | None = option(
        help="Go on where versions of Python, Dask or numpy differ.", parse=_switch, flag=True
    )

    def plan(self, name: str, size: Size) -> Plan:
        """Return the ways to the hosts and the two command lines; in braces what only a host knows."""
        hosts = self.inventory
        self._check_size(size.workers, "--workers")
        steps = {
            "cluster": f"{name}-{secrets.token_hex(4)}",
            "hosts": "\n".join(shlex.join(self.channel.command(host)) for host in hosts.every),
            f"scheduler on {self._heads(hosts)[0].name}": self._scheduler(),
            f"worker on {size.workers} of {', '.join(host.name for host in hosts.workers)}": self._worker(name),
        }
        return Plan(name, self.target, size, steps, options=dataclasses.asdict(self))

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],
    ) -> Record:
        """Look at all hosts, then start the scheduler and the workers, and wait until they answer.

        Raises
        ------
        ClusterError
            Too few hosts can take part, and which cannot and why; or a process died, with the last line of its log.
        """
        timeout = timeout or config.get("start-timeout")
        until = time.monotonic() + timeout
        wanted = plan.size.workers
        least = min(self.min_workers or wanted, wanted)
        head, chosen, why = self._choose(plan.name, wanted, least)
        self._tell(why, tell)
        keys = tls.make(registry.cluster_folder(plan.name) / "tls")
        details: dict[str, Any] = {"cluster": plan.steps["cluster"], "keys": str(keys), SCHEDULER: head.name}
        details |= {"hosts": {host.name: host.written for host in (head, *chosen)}, "processes": self.processes or 1}
        record = dataclasses.replace(record, host=head.name, options=plan.options, details=details)
        save(record)
        starter = self._starter(record, wanted)
        record = dataclasses.replace(record, workers=len(chosen), **starter.scheduler(head, self._scheduler()))
        save(record)
        client = connect(self.reached(record), what="--name", value=plan.name, timeout=timeout, keys=keys)
        try:
            lost = starter.workers(chosen, self._worker(plan.name), record.address)
            rest, seconds = [host for host in chosen if host not in lost], max(1.0, until - time.monotonic())
            lost |= starter.arrived(client, rest, self.processes or 1, seconds, tell)
        finally:
            client.close()
        if len(chosen) - len(lost) < least:
            raise fitness.refused(lost, len(chosen), f"--min-workers {max(1, len(chosen) - len(lost))} starts without")
        self._tell(lost, tell)
        return dataclasses.replace(record, state="up", workers=len(chosen) - len(lost))

    def scale(self, record: Record, workers_: int, timeout: float) -> Record:
        """Start workers on hosts without one, or retire those of the last hosts: what they hold moves on first.

        Raises
        ------
        ClusterError
            There are not so many hosts, or too few of them can take part.
        """
        self._check_size(workers_, "N")
        hosts, cluster = self.inventory.workers, record.details["cluster"]
        answers, errors = self.channel.ask_all(hosts, "look", name=record.name)
        present = [host for host, found in answers.items() if WORKER in found.get(cluster, {"roles": {}})["roles"]]
        coming = [host for host in answers if host not in present][: max(0, workers_ - len(present))]
        known = record.details["hosts"] | {host.name: host.written for host in coming}
        record = dataclasses.replace(record, workers=workers_, details=record.details | {"hosts": known})
        registry.Registry().save(record)  # before anything runs on a host that was not among them
        keys = Path(record.details["keys"])
        client = connect(self.reached(record), what="cluster", value=record.name, timeout=timeout, keys=keys)
        try:
            self._retire(client, record, present[workers_:])
            starter = self._starter(record, workers_)
            lost = starter.workers(coming, self._worker(record.name), record.address)
            rest = [host for host in [*present[:workers_], *coming] if host not in lost]
            lost |= starter.arrived(client, rest, self.processes or 1, timeout, lambda _: None)
        finally:
            client.close()
        if len(present) + len(coming) - len(lost) < workers_:
            lost |= {host: error.cure for host, error in errors.items()}
            raise fitness.refused(lost, len(hosts), f"the others work; see clusterglm logs {record.name}")
        return record

    def stop(self, record: Record) -> int:
        """End all processes of the cluster on all of its hosts, and remove its folders there and here.

        Raises
        ------
        ClusterError
            Some hosts are out of reach. On all others nothing is left.
        """
        hosts = self.of_cluster(record)
        # First the workers: they take their time to leave a scheduler that has gone.
        workers_, _ = self.channel.ask_all(hosts, "stop", name=record.name, roles=[WORKER])
        request = {"name": record.name, "cluster": record.details.get("cluster"), "scratch": self.scratch}
        answers, errors = self.channel.ask_all(hosts, "stop", **request)
        if self._head(record) in answers:
            shutil.rmtree(registry.run_folder(record.name), ignore_errors=True)
        if errors:
            cure = (
                f"workers end by themselves without a scheduler; clusterglm down {record.name} again removes the rest"
            )
            raise fitness.refused({host: error.cure for host, error in errors.items()}, len(hosts), cure)
        return sum(found["ended"] for found in [*workers_.values(), *answers.values()])

    def _choose(self, name: str, wanted: int, least: int) -> tuple[Host, list[Host], dict[Host, str]]:
        """Return the scheduler's host, those of the workers, and of those that cannot take part why."""
        hosts = self.inventory
        found, why = fitness.examine(self.channel, hosts.every, self.scratch, bool(self.allow_version_mismatch))
        for host, probe in found.items():
            if any(cluster.rpartition("-")[0] == name for cluster in probe["clusters"]):
                cure = f"in use on {host.name}: another name, or clusterglm down {name}"
                raise ClusterError("--name", name, cure)
        heads = [host for host in self._heads(hosts) if host not in why]
        chosen = [host for host in hosts.workers if host not in why][:wanted]
        if len(chosen) < least or not heads:
            cure = f"put them right, or --min-workers {len(chosen)}" if chosen and heads else "put them right"
            raise fitness.refused(why, len(hosts.every), cure)
        return heads[0], chosen, why

    @staticmethod
    def _tell(why: dict[Host, str], tell: Callable[[str], None]) -> None:
        for host, problem in why.items():
            tell(f"{host.name} is left out: {problem}")

    def _heads(self, hosts: Hosts) -> Sequence[Host]:
        """Return the hosts of which the first that can take part runs the scheduler."""
        if self.scheduler_host is None:
            return hosts.schedulers
        named = [host for host in hosts.every if self.scheduler_host in (host.name, host.written)]
        if not named:
            names = ", ".join(host.name for host in hosts.every)
            raise UsageError("--scheduler-host", self.scheduler_host, f"not among the hosts: {names}")
        return named

    def _check_size(self, count: int, what: str) -> None:
        hosts = len(self.inventory.workers)
        if count > hosts:
            raise UsageError(what, count, f"more than the {hosts} hosts: a host has one worker")

    def _starter(self, record: Record, wanted: int) -> workers.Starter:
        plan = {"name": record.name, "target": self.target, "workers": wanted, "created": record.created}
        plan |= {"options": record.options, "hosts": record.details["hosts"]}
        share = {"processes": self.processes or 1, "cores": self.cores, "memory": self.memory, "scratch": self.scratch}
        return workers.Starter(self.channel, record.details["cluster"], Path(record.details["keys"]), plan, share)

    def _retire(self, client: Any, record: Record, leaving: Sequence[Host]) -> None:
        if leaving:
            found = workers.names(client)
            names = [
                name for host in leaving for name in workers.of_host(found, record.name, host, self.processes or 1)
            ]
            client.retire_workers(names=names, close_workers=True)
            self.channel.ask_all(leaving, "stop", name=record.name, roles=[WORKER])

    def _scheduler(self) -> str:
        return commands.scheduler(self.port, self.interface, self.idle_timeout)

    def _worker(self, name: str) -> str:
        return commands.worker(name, self.processes or 1, self.interface)
