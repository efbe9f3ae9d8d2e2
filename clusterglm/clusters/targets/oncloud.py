"""What every cloud's target but EC2's has in common: the options, and the verbs in terms of its provider's calls.

A machine's name and tags say what it is; what it runs ends it, or at least its work. No process of ours stays behind,
so every verb but the first two works from any machine with the cloud's credentials. A cloud is its options' own words
(``own_words``), their defaults, and a provider (clusters/cloud/providers).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hmac
import json
import os
import re
import shutil
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterglm import __version__, signals
from clusterglm.clusters import registry, tls
from clusterglm.clusters.cloud import door, fleet, notice, prices, rehearsal, userdata, workers
from clusterglm.clusters.cloud.caller import own_address
from clusterglm.clusters.cloud.handover import hand_over
from clusterglm.clusters.cloud.provider import PLANNED, Order, Provider, Request, Server, overdue
from clusterglm.clusters.cloud.rented import Rented
from clusterglm.clusters.connect import check_versions
from clusterglm.clusters.launcher import Member, Plan, Record, Size, State, configured
from clusterglm.errors import ClusterError
from clusterglm.units import format_size

_BOOT_SECONDS = 600
_END_SECONDS = 300.0
_OWN_ADDRESS = "YOUR-ADDRESS/32"  # as plans show it


@dataclass(frozen=True)
class OnCloud(Rented):
    """Machines in a cloud that its provider's calls make."""

    @abstractmethod
    def provider(self) -> Provider:
        """Return the cloud, as the user's credentials open it. Raises ClusterError where there are none."""

    @abstractmethod
    def here(self) -> bool:
        """Return whether there is a cloud to be asked: its user has credentials for it."""

    def plan(self, name: str, size: Size) -> Plan:
        """Return the machines, the guards, the requests, and what the machines run, the keys blanked."""
        scheduler, worker = self.kinds()
        life, rate = self.life(size.workers), self.rate(size.workers)
        steps = {
            "machines": f"scheduler: {scheduler}\nworkers: {size.workers} x {worker}",
            "cost": f"{prices.words(*rate)} an hour\n{self.source()}",
            "end": f"{self.end_words(size.workers)}\n{self.halted}",
        }
        order, provider = self._order(name, {}, None, float(life)), self.offline()
        ranges = self.allow_cidr or (() if self.private else (_OWN_ADDRESS,))
        steps["wall: requests"] = _text(provider.planned_wall(order, ranges, self.ssh()))
        for role in (fleet.SCHEDULER, "worker"):
            text = order.script(role, 0, PLANNED)
            each = "requests" if role == fleet.SCHEDULER else "requests for each"
            steps[f"{role}: {each}"] = _text(provider.planned(order, role), text)
            steps[f"{role}: user data, {format_size(len(text))}"] = text
        return Plan(name, self.target, size, steps, options=dataclasses.asdict(self))

    @abstractmethod
    def offline(self) -> Any:
        """Return what makes up requests, for which no credentials are needed."""

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],
    ) -> Record:
        """Make the wall, start the scheduler's machine, then all others, and wait until each has workers.

        Raises
        ------
        ClusterError
            The cloud refuses, or a boot failed. Whoever meets it calls ``stop``, which leaves nothing.
        """
        limit = timeout or _BOOT_SECONDS
        until = time.monotonic() + limit
        provider = self.provider()
        provider.check()
        ranges = self.ranges()
        life = self.life(plan.size.workers)
        tags = {"expires": fleet.stamp(life), "owner": self.whose(), "version": __version__}
        shutil.rmtree(registry.run_folder(plan.name), ignore_errors=True)
        keys = _keys(provider, plan.name, tags)
        record = dataclasses.replace(record, options=plan.options, details={"keys": str(keys)})
        save(record)
        order = self._order(plan.name, tags, keys, life, limit)
        provider.wall(order, ranges, self.ssh())
        tell(self.halted)

        from clusterglm.clusters.cloud import vm

        private, public = signals.run(vm.start_scheduler(provider, order))
        record = dataclasses.replace(record, address=private if self.private else public or private)
        save(record)
        signals.run(vm.start_workers(provider, order, private, range(plan.size.workers)))
        client = workers.connected(record, max(1.0, until - time.monotonic()), allow_version_mismatch=True)
        try:
            hand_over(client)
            if getattr(self, "spot", None):
                client.register_plugin(notice.watch(self.target))
            self._await(provider, client, plan.name, plan.size.workers, until)
            check_versions(client)
        finally:
            client.close()
        tell(f"{self.write_inventory(record)} lists the machines for Ansible")
        return dataclasses.replace(record, state="up")

    def find(self, name: str) -> Record | None:
        """Return the record of a cluster from its machines' names, addresses and tags."""
        if name not in self.names():
            return None
        machines, names = self._seen()
        seen = name in names
        found = [server for server in machines if server.cluster == name] if seen else self._servers(name)
        scheduler = next((server for server in found if server.role == fleet.SCHEDULER), None)
        details: dict[str, Any] = {}
        if scheduler is not None and not seen:
            details["keys"] = str(_keys(self.provider(), name, scheduler.tags, scheduler))
        address = (scheduler.public or scheduler.private) if scheduler else ""
        return Record(
            name=name,
            target=self.target,
            workers=sum(server.role != fleet.SCHEDULER for server in found),
            host=socket.gethostname(),
            user=os.getuid(),
            created=min((server.born for server in found if server.born), default=""),
            state="up",
            address=f"tls://{address}:{userdata.PORT}" if address else "",
            options={"fake": True} if seen or rehearsal.inside(self.target) else {},
            details=details,
        )

    def names(self) -> list[str]:
        """Return the names of all clusters with machines or a wall, in the cloud or in a rehearsal."""
        found = self._seen()[1]
        if self._answers():
            provider = self.provider()
            found |= {server.cluster for server in provider.servers() if server.cluster} | set(provider.walls())
        return sorted(found)

    def state(self, record: Record) -> State:
        """Return ``gone`` where there is no machine of a scheduler that starts or runs."""
        if record.state == "down":
            return "down"
        found = next((server for server in self._servers(record.name) if server.role == fleet.SCHEDULER), None)
        if found is None or not found.alive:
            return "gone"
        return record.state if found.private or found.public else "starting"

    def members(self, record: Record) -> list[Member]:
        """Return the machines, with the cloud's own word for the state of each."""
        return [
            Member(server.name, server.status, f"{server.id} {server.kind} {server.place}", server.note)
            for server in self._servers(record.name)
        ]

    def scale(self, record: Record, count: int, timeout: float) -> Record:
        """Start machines for what is left of the cluster's life, or retire those with the highest numbers."""
        provider, until = self.provider(), time.monotonic() + max(timeout, _BOOT_SECONDS)
        found = self._servers(record.name)
        machines = [server for server in found if server.role != fleet.SCHEDULER]
        present = {server.number: server for server in machines if server.alive}
        client = workers.connected(record)
        try:
            # What has ended by itself is still paid for, and has the name of the one that will take its place.
            provider.delete([server for server in machines if not server.alive])
            if leaving := sorted(present)[count:]:
                workers.retire(client, record.name, leaving)
                provider.delete([present[number] for number in leaving])
            free = (number for number in range(count + len(present)) if number not in present)
            if new := [number for number, _ in zip(free, range(count - len(present)), strict=False)]:
                scheduler = next(server for server in found if server.role == fleet.SCHEDULER)
                whole: OnCloud = configured(type(self), **workers.options(client))
                begun = min(datetime.fromisoformat(server.born) for server in found)
                known = filter(None, (fleet.time_of(server.tags.get("expires", "")) for server in found))
                whole._check_money(begun, max(known, default=datetime.now(UTC)), len(found) - 1, count)
                whole._grow(provider, record, scheduler, new)
            self._await(provider, client, record.name, count, until)
        finally:
            client.close()
        self.write_inventory(record)
        return dataclasses.replace(record, workers=count)

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Yield (machine, file) of what its processes have logged, else of what it has printed on its console."""
        folder = registry.private_folder(registry.run_folder(record.name))
        live = workers.live_logs(record)
        for server in self._servers(record.name):
            path = folder / f"{server.part}.log"
            path.write_text(live.get(server.part) or self.provider().console(server), encoding="utf-8")
            yield server.part, path

    def clear(self, name: str) -> int:
        """End every machine of a cluster, and its wall, with no record of it, and wait until they are gone."""
        return _end(self.provider(), name)

    def everywhere(self) -> dict[str, OnCloud]:
        """Return this launcher, which sees all regions at once, and one for a rehearsal that is seen from outside."""
        fake = {"rehearsal": type(self)(fake=True)} if self._seen()[1] else {}
        return ({self.target: self} if self._answers() else {}) | fake

    def expired(self, any_owner: bool) -> dict[str, str]:
        """Return clusters whose life is over, whose scheduler has ended, or that never had one, and which it is.

        Without ``any_owner`` only the user's own.
        """
        by_name: dict[str, list[Server]] = {}
        for server in self._seen()[0] if self._outside() else self.provider().servers():
            if server.cluster and (any_owner or self._is_own(server)):
                by_name.setdefault(server.cluster, []).append(server)
        return {name: why for name, found in sorted(by_name.items()) if (why := overdue(found))}

    def admitted(self, name: str) -> list[str]:
        """Return the addresses that may reach a cluster's scheduler."""
        return list(self.provider().admitted(name, userdata.PORT))

    def let_in(self, record: Record) -> str:
        """Open the scheduler's port to the caller's address and to those that were named, and to no others."""
        provider, wanted = self.provider(), sorted({own_address(), *self.allow_cidr})
        for port in (userdata.PORT, *([22] if self.ssh() else [])):
            provider.admit(record.name, port, wanted)
        return ", ".join(wanted)

    def ways(self, record: Record) -> dict[str, door.Way]:
        """Return the way into each machine that starts or runs, by its role."""
        keys = Path(record.details["keys"])
        alive = [server for server in self._servers(record.name) if server.alive]
        return {each.part: door.Way(keys, str(each.private if self.private else each.public)) for each in alive}

    @contextlib.contextmanager
    def way_in(self, record: Record) -> Iterator[dict[str, door.Way]]:
        """Keep the machines open to ssh from the caller's address alone, and yield the way into each, by its role."""
        provider, port, ways = self.provider(), userdata.SSH_PORT, self.ways(record)
        before = provider.admitted(record.name, port)
        mine = set(self.ranges()) - set(before)
        provider.admit(record.name, port, [*before, *mine])
        try:
            yield ways
        finally:
            provider.admit(record.name, port, sorted(set(provider.admitted(record.name, port)) - mine))

    def _answers(self) -> bool:
        """Return whether there is a cloud to be asked: a fake in a rehearsal, or the user's own."""
        return rehearsal.inside(self.target) if rehearsal.inside() else self.here()

    def _is_own(self, server: Server) -> bool:
        owner = self.whose()  # clouds allow other letters in tags than people in their names
        return re.sub("[^a-z0-9]", "_", server.tags.get("owner", "").lower()) == re.sub("[^a-z0-9]", "_", owner.lower())

    def _seen(self) -> tuple[list[Server], set[str]]:
        """Return the machines in a rehearsal that is looked at from outside, and the names of the clusters in it."""
        shown = {} if rehearsal.inside() else rehearsal.shown(self.target)
        found = [Server(**item) for item in shown.get("servers", [])]
        return found, {server.cluster for server in found if server.cluster} | set(shown.get("walls", []))

    def _servers(self, name: str) -> list[Server]:
        """Return a cluster's machines, the scheduler's first."""
        found = self._seen()[0] if self._outside() else self.provider().servers(name)
        return sorted((server for server in found if server.cluster == name), key=lambda server: server.number)

    def _order(
        self, name: str, tags: Mapping[str, str], keys: Path | None, life: float, boot_seconds: float = _BOOT_SECONDS
    ) -> Order:
        content = None if keys is None else {file: (keys / file).read_text() for file in tls.FILES}
        ends = time.monotonic() + life

        def script(role: str, number: int, address: str) -> str:
            return userdata.script(self._boot(name, role, number, address, ends - time.monotonic()), content)

        return Order(name, self.asked(), self.kinds(), tags, script, life, boot_seconds, bool(self.private))

    def _grow(self, provider: Provider, record: Record, scheduler: Server, numbers: Sequence[int]) -> None:
        """Start machines like those that are there; on any error end them again."""

        from clusterglm.clusters.cloud import vm

        ends = fleet.time_of(scheduler.tags.get("expires", "")) or datetime.now(UTC)
        left = (ends - datetime.now(UTC)).total_seconds()
        order = self._order(record.name, scheduler.tags, Path(record.details["keys"]), left)
        address = f"tls://{scheduler.private or scheduler.public}:{userdata.PORT}"
        try:
            signals.run(vm.start_workers(provider, order, address, numbers))
        except BaseException:
            provider.delete([server for server in provider.servers(record.name) if server.number in numbers])
            raise

    def _await(self, provider: Provider, client: Any, name: str, machines: int, until: float) -> None:
        """Wait until as many machines as asked for have workers; a machine that ends meanwhile is an error."""

        def look(come: set[int]) -> None:
            from clusterglm.clusters.cloud.vm import check_boot

            found = [server for server in provider.servers(name) if server.role != fleet.SCHEDULER]
            alive = {server.number for server in found if server.alive}
            if len(come | alive) < machines:
                for server in found:
                    if server.number not in come | alive:
                        check_boot(provider, name, server.name)
                raise ClusterError("machines", f"{len(come | alive)} of {machines}", "the others are gone")

        workers.await_machines(client, name, machines, until, look)


def _keys(provider: Provider, name: str, tags: Mapping[str, str], scheduler: Server | None = None) -> Path:
    """Return the folder of a cluster's keys: made for a new one, or again for one whose ``scheduler`` is there.

    What a machine runs holds its keys. A cloud that shows that to nobody has keys made from the user's credentials:
    whoever has these can make others that are taken.
    """
    registry.private_folder(registry.state_folder() / "clusters")
    folder = registry.private_folder(registry.run_folder(name)) / "tls"
    if (secret := provider.secret()) is not None:
        shutil.rmtree(folder, ignore_errors=True)  # of a former cluster of that name
        of_it = f"clusterglm {name} {tags.get('expires', '')}"
        return tls.make(folder, hmac.digest(secret, of_it.encode(), "sha256"))
    if scheduler is None:
        return tls.make(folder)
    return tls.keep(folder, userdata.keys(provider.script(scheduler)))


def _end(provider: Provider, name: str) -> int:
    """End everything that is a cluster's, wait until it is gone, and return how many machines there were.

    Raises
    ------
    ClusterError
        The cloud refuses, or something is left after five minutes.
    """
    until, pause, ended = time.monotonic() + _END_SECONDS, 0.1, set[str]()
    while True:
        found = provider.servers(name)
        if new := [server for server in found if server.id not in ended]:
            provider.delete(new)
        ended |= {server.id for server in found}
        if provider.clear(name) and not found and name not in provider.walls():
            return len(ended)
        if time.monotonic() > until:
            left = ", ".join(server.name for server in found) or "its wall"
            raise ClusterError(
                "down", left, f"still there after {_END_SECONDS:.0f} s: run clusterglm down {name} again"
            )
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _text(requests: Sequence[Request], script: str = "") -> str:
    """Return requests as they are sent, but for the script, which is shown beside them."""
    words = "(the user data below)"
    known = {script: words, base64.b64encode(script.encode()).decode(): f"{words[:-1]}, in base64)"} if script else {}

    def shown(body: Any) -> Any:
        if isinstance(body, Mapping):
            return {key: shown(value) for key, value in body.items()}
        if isinstance(body, list | tuple):
            return [shown(value) for value in body]
        return known.get(body, body) if isinstance(body, str) else body

    return "\n".join(f"{each.method} {each.path}\n{json.dumps(shown(each.body), indent=2)}" for each in requests)
