"""``ec2``: machines of Amazon's, found by their tags from anywhere, that end by themselves.

No process of ours stays behind. What a machine needs to know is in its user data, what a later command needs to know
in its tags and there; so every verb but the first two works from any machine that may ask EC2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clusterglm import __version__, config
from clusterglm.clusters import registry, tls, words
from clusterglm.clusters.cloud import api, fleet, prices, rehearsal, userdata
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud.fakes.ec2 import REGION
from clusterglm.clusters.cloud.handover import hand_over
from clusterglm.clusters.connect import check_versions, connect
from clusterglm.clusters.launcher import Member, Plan, Record, Size, State, option, repeated
from clusterglm.errors import ClusterError, UsageError
from clusterglm.units import format_size, parse_duration

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.clusters.cloud.ec2_cluster import Order

INSTANCE_TYPE = "m4.2xlarge"
DISK = 40  # GB
LIFETIME = 8 * 3600  # s
_BOOT_SECONDS = 600
_LEAST_LIFE = 600  # s, below which a cluster is down before it is of any use
_LOOK_SECONDS = 3.0  # between two looks at machines that have not come yet


@dataclass(frozen=True)
class Ec2:
    """Machines on Amazon EC2: one for the scheduler, and as many as asked for with a worker on each core."""

    target: ClassVar[str] = "ec2"
    parts: ClassVar[str] = "machines"

    instance_type: str | None = option(
        help=f"Of the workers' machines, such as m6i.4xlarge.  [default: {INSTANCE_TYPE}]", parse=of.instance_type
    )
    scheduler_instance_type: str | None = option(
        help="Of the scheduler's; by default the workers'.", parse=of.instance_type
    )
    region: str | None = option(help="The region; by default as AWS's own settings say.", parse=words.word)
    profile: str | None = option(help="The profile in AWS's own settings.", parse=words.word)
    zone: str | None = option(help="The availability zone, such as us-east-1b.", parse=words.word)
    subnet: str | None = option(help="The subnet; by default the zone's own of the default network.", parse=words.word)
    image: str | None = option(help="The machine image; by default the newest Ubuntu 24.04.", parse=words.word)
    disk: int | None = option(help=f"Disk of each machine, such as 100GB.  [default: {DISK}GB]", parse=of.gigabytes)
    instance_profile: str | None = option(help="The role of the machines, to read data with.", parse=words.word)
    key_name: str | None = option(help="A key pair of yours, to log in with; opens port 22 to you.", parse=words.word)
    allow_cidr: tuple[str, ...] = repeated(
        help="Addresses that may reach the scheduler; by default your own; may be repeated.",
        parse=of.address_range,
    )
    spot: bool | None = option(
        help="Workers on spot machines, on ordinary ones where there are none.", parse=of.switch, flag=True
    )
    private: bool | None = option(help="No public addresses: you are in the network.", parse=of.switch, flag=True)
    installed: bool | None = option(
        help="The image has Python and all packages: install nothing.", parse=of.switch, flag=True
    )
    first: tuple[str, ...] = repeated(help="A line of shell that machines run first; may be repeated.", parse=of.line)
    idle_timeout: int = option(
        help="End the cluster after it has been idle for so long.", parse=parse_duration, setting="idle-timeout"
    )
    max_lifetime: int | None = option(help="End the cluster after so long.  [default: 8h]", parse=parse_duration)
    max_cost: float | None = option(
        help="End the cluster before its machines have cost so many dollars.", parse=of.dollars
    )
    owner: str | None = option(help="Whose it is; by default your user name.", parse=words.word)
    fake: bool | None = option(
        help="Rehearse on this machine: no account, no network, no cost.", parse=of.switch, flag=True
    )

    def default_workers(self) -> int:
        """Return nothing: machines are paid for, so somebody must say how many."""
        raise UsageError("--workers", None, f"missing: say how many {self.parts}")

    def plan(self, name: str, size: Size) -> Plan:
        """Return the machines, the rules, and what the machines run, the keys blanked."""
        types, disk = self._types(), self.disk or DISK
        machines = f"scheduler: {types[0]}, {disk} GB\nworkers: {size.workers} x {types[1]}, {disk} GB each"
        allowed = ", ".join(self.allow_cidr) or "your own address"
        rules = f"tcp {userdata.PORT} from {allowed}\neverything between the machines"
        rules += f"\ntcp 22 from {allowed}" if self.key_name else ""
        idle = self.idle_timeout or config.get("idle-timeout")
        guards = (
            f"idle for {idle // 60} min, or {self._life(size.workers) // 60} min after the start, whatever comes first"
        )
        region = self._region()
        dollars, complete = self._rate(size.workers, region)
        cost = f"{prices.words(dollars, complete)} an hour in {region}"
        cost += f", {prices.words(dollars * self._life(size.workers) / 3600, complete)} at most\n{prices.source()}"
        steps = {"machines": machines, "cost": cost, api.group_name(name): rules, "end": guards}
        for role in (fleet.SCHEDULER, "worker"):
            text = userdata.script(
                self._boot(name, role, 0, f"tls://PRIVATE-ADDRESS:{userdata.PORT}", self._life(size.workers))
            )
            packed = format_size(len(userdata.packed(text)))
            steps[f"{role}: user data, {packed} packed of {format_size(userdata.MOST_BYTES)}"] = text
        return Plan(name, self.target, size, steps, options=dataclasses.asdict(self))

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],
    ) -> Record:
        """Make the group, start the scheduler's machine, then all others, and wait until each has workers.

        Raises
        ------
        ClusterError
            EC2 refuses, or a boot failed: with EC2's own words and the end of the console. Whoever meets it calls
            ``stop``, which leaves nothing.
        """
        limit = timeout or _BOOT_SECONDS
        until = time.monotonic() + limit
        ec2 = self._ec2()
        ranges = self.allow_cidr or (() if self.private else (api.own_address(),))
        shutil.rmtree(registry.run_folder(plan.name), ignore_errors=True)
        keys = tls.make(_keys_folder(plan.name))
        record = dataclasses.replace(record, options=plan.options, details={"keys": str(keys)})
        save(record)
        subnet = api.subnet(ec2, self.zone, self.subnet)
        image = api.image(ec2, self._client("ssm"), self._types()[1], self.image)
        tags = {
            api.CLUSTER: plan.name,
            api.EXPIRES: fleet.expires(self._life(plan.size.workers)),
            api.VERSION: __version__,
        }
        tags[api.OWNER] = self.owner or getpass.getuser()
        group = api.open_group(ec2, plan.name, subnet["VpcId"], ranges, tags, ssh=self.key_name is not None)
        tell(f"{subnet['AvailabilityZone']}, image {image['ImageId']}, {image['Name']}")
        place = {"image": image, "network": subnet["VpcId"], "subnet": subnet["SubnetId"], "group": group}
        order = self._order(ec2, plan.name, keys, tags, **place, boot_seconds=limit, tell=tell)
        import asyncio  # not needed to refuse a command line

        from clusterglm.clusters.cloud import ec2_cluster

        private, public = asyncio.run(ec2_cluster.start_scheduler(order))
        record = dataclasses.replace(record, address=public or private)
        save(record)
        asyncio.run(ec2_cluster.start_workers(order, private, range(plan.size.workers)))
        client = self._connected(record, max(1.0, until - time.monotonic()), allow_version_mismatch=True)
        try:
            hand_over(client)
            self._await(ec2, client, plan.name, plan.size.workers, until)
            check_versions(client)
        finally:
            client.close()
        return dataclasses.replace(record, state="up")

    def find(self, name: str) -> Record | None:
        """Return the record of a cluster from its machines' tags, their addresses and the scheduler's user data."""
        if (found := fleet.rehearsed(name)) or fleet.rehearsed_groups(name):
            return self._record(name, found, {"fake": True}, {})
        if not self._here():
            return None
        found = api.machines(self._ec2(), name)
        if not found and not api.groups(self._ec2(), name):
            return None
        scheduler = next((item for item in found if fleet.role(item) == fleet.SCHEDULER), None)
        if scheduler is None:
            return self._record(name, found, {"region": self.region}, {})
        text = api.boot_script(self._ec2(), scheduler["InstanceId"])
        keys = tls.keep(_keys_folder(name), userdata.keys(text))
        return self._record(name, found, userdata.noted(text).get("options", {}), {"keys": str(keys)})

    def names(self) -> list[str]:
        """Return the names of all clusters with machines or a group in the region or a rehearsal."""
        found = fleet.rehearsed() + fleet.rehearsed_groups()
        if self._here():
            found += api.machines(self._ec2()) + api.groups(self._ec2())
        return sorted({api.tags(item)[api.CLUSTER] for item in found})

    def state(self, record: Record) -> State:
        """Return ``gone`` where there is no machine of a scheduler."""
        if record.state == "down":
            return "down"
        found = next((item for item in self._machines(record.name) if fleet.role(item) == fleet.SCHEDULER), None)
        if found is None or found["State"]["Name"] not in ("pending", "running"):
            return "gone"
        return "starting" if found["State"]["Name"] == "pending" else record.state

    def obituary(self, record: Record) -> str:  # noqa: ARG002
        """Return what ends a cluster by itself."""
        return "its machines have ended, idle or at the end of their life"

    def members(self, record: Record) -> list[Member]:
        """Return the machines, with EC2's own reason where one is not well."""
        return [
            Member(
                name=api.tags(item).get("Name", item["InstanceId"]),
                state=item["State"]["Name"],
                where=f"{item['InstanceId']} {item['InstanceType']} {item['Placement']['AvailabilityZone']}",
                note=item.get("StateReason", {}).get("Message", ""),
            )
            for item in sorted(self._machines(record.name), key=fleet.order_of)
        ]

    def scale(self, record: Record, workers: int, timeout: float) -> Record:
        """Start machines for what is left of the cluster's life, or retire those with the highest numbers."""
        ec2, until = self._ec2(), time.monotonic() + max(timeout, _BOOT_SECONDS)
        found = api.machines(ec2, record.name)
        present = {fleet.number(item): item["InstanceId"] for item in found if fleet.role(item) == "worker"}
        client = self._connected(record)
        try:
            if leaving := sorted(present)[workers:]:
                named = client.scheduler_info(n_workers=-1)["workers"].values()
                names = [str(each["name"]) for each in named if fleet.machine_of(each["name"], record.name) in leaving]
                client.retire_workers(names=names, close_workers=True)
                api.terminate(ec2, [present[number] for number in leaving])
            free = (number for number in range(workers + len(present)) if number not in present)
            new = [number for number, _ in zip(free, range(workers - len(present)), strict=False)]
            if new:
                self._check_money(found, workers)
                scheduler = next(item for item in found if fleet.role(item) == fleet.SCHEDULER)
                self._grow(ec2, record, scheduler, new)
            self._await(ec2, client, record.name, workers, until)
        finally:
            client.close()
        return dataclasses.replace(record, workers=workers)

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Yield (machine, file) of what its processes have logged, else of what it has printed on its console."""
        ec2 = self._ec2()
        folder = _keys_folder(record.name).parent
        live = self._live_logs(record)
        for item in sorted(self._machines(record.name), key=fleet.order_of):
            role = fleet.SCHEDULER if fleet.role(item) == fleet.SCHEDULER else f"worker-{fleet.number(item)}"
            path = folder / f"{role}.log"
            path.write_text(live.get(role) or api.console(ec2, item["InstanceId"]), encoding="utf-8")
            yield role, path

    def stop(self, record: Record) -> int:
        """End every machine that carries the cluster's tag, and its group, and wait until they are gone."""
        ended = 0
        if not self.fake or rehearsal.inside():
            ended = api.end(self._ec2(), record.name)
        shutil.rmtree(registry.run_folder(record.name), ignore_errors=True)
        return ended

    def _here(self) -> bool:
        """Return whether there is an EC2 to be asked: its user names a region."""
        if rehearsal.inside():
            return rehearsal.inside(self.target)
        return api.region_of(self.region, self.profile) is not None

    def _client(self, service: str) -> Any:
        if self.fake and not rehearsal.inside():
            raise rehearsal.Elsewhere("cluster", None, "is a rehearsal: only commands can enter it")
        return api.client(self.region, self.profile, service)

    def _ec2(self) -> Any:
        return self._client("ec2")

    def _machines(self, name: str) -> list[dict[str, Any]]:
        if self.fake and not rehearsal.inside():
            return fleet.rehearsed(name)
        return api.machines(self._ec2(), name)

    def _check_money(self, found: Sequence[Mapping[str, Any]], workers: int) -> None:
        """Refuse to grow where the machines, which know only when to end, would then cost more than allowed."""
        if self.max_cost is None:
            return
        begun = min(datetime.fromisoformat(str(item["LaunchTime"])) for item in found)
        now, ends = datetime.now(UTC), fleet.time_of(api.tags(found[0])[api.EXPIRES])
        spent = self.rate(len(found) - 1)[0] * (now - begun).total_seconds() / 3600
        total = spent + self.rate(workers)[0] * (ends - now).total_seconds() / 3600
        if total > self.max_cost:
            cure = f"{workers} workers until {ends:%H:%M} UTC would come to ${total:.2f}: fewer, or a new cluster"
            raise UsageError("--max-cost", f"${self.max_cost:.2f}", cure)

    def rate(self, workers: int) -> tuple[float, bool]:
        """Return the dollars of an hour of so many workers' machines and a scheduler's, and whether that is all."""
        return self._rate(workers, self._region())

    def hourly(self, record: Record) -> tuple[float, bool]:
        """Return the dollars of an hour of a cluster as it is, and whether that is all of it."""
        return self._rate(record.workers, self._region())

    def _rate(self, workers: int, region: str) -> tuple[float, bool]:
        scheduler, worker = self._types()
        return prices.rate([scheduler, *[worker] * workers], region, self.disk or DISK, public=not self.private)

    def _region(self) -> str:
        return REGION if self.fake else api.region_of(self.region, self.profile) or REGION

    def _life(self, workers: int) -> int:
        """Return the seconds that so many workers may live: as long as allowed, and as the money lasts."""
        life = self.max_lifetime or LIFETIME
        if self.max_cost is None:
            return int(life)
        dollars, complete = self._rate(workers, self._region())
        if not complete:
            raise UsageError("--max-cost", self.max_cost, "the price of these machines is unknown: use --max-lifetime")
        affordable = int(3600 * self.max_cost / dollars)
        if affordable < _LEAST_LIFE:
            cure = f"lasts for {affordable / 60:.0f} minutes of ${dollars:.2f} an hour: allow more, or fewer machines"
            raise UsageError("--max-cost", f"${self.max_cost:.2f}", cure)
        return min(int(life), affordable)

    def _types(self) -> tuple[str, str]:
        of_workers = self.instance_type or INSTANCE_TYPE
        return self.scheduler_instance_type or of_workers, of_workers

    def _record(
        self, name: str, found: Sequence[Mapping[str, Any]], options: Mapping[str, Any], details: Mapping[str, Any]
    ) -> Record:
        scheduler = next((item for item in found if fleet.role(item) == fleet.SCHEDULER), {})
        address = scheduler.get("PublicIpAddress") or scheduler.get("PrivateIpAddress")
        return Record(
            name=name,
            target=self.target,
            workers=sum(fleet.role(item) == "worker" for item in found),
            host=socket.gethostname(),
            user=os.getuid(),
            created=str(next((item["LaunchTime"] for item in [scheduler, *found] if item), "")).replace(" ", "T"),
            state="up",
            address=f"tls://{address}:{userdata.PORT}" if address else "",
            options=dict(options),
            details=dict(details),
        )

    def _boot(self, name: str, role: Any, number: int, address: str, seconds: float) -> userdata.Boot:
        from clusterglm.clusters.cloud import environment

        return userdata.Boot(
            cluster=name,
            role=role,
            number=number,
            minutes=max(1, math.ceil(seconds / 60)),
            idle=self.idle_timeout or config.get("idle-timeout"),
            address=address,
            python=environment.python(),
            packages=() if self.installed else environment.packages(),
            first=self.first,
            noted={"cluster": name, "options": _given(self)} if role == fleet.SCHEDULER else {"cluster": name},
        )

    def _order(self, ec2: Any, name: str, keys: Path, tags: Mapping[str, str], **given: Any) -> Order:
        from clusterglm.clusters.cloud.ec2_cluster import Order

        content = {file: (keys / file).read_text() for file in tls.FILES}
        ends = fleet.time_of(tags[api.EXPIRES])

        def script(role: str, number: int, address: str) -> str:
            left = (ends - datetime.now(UTC)).total_seconds()
            return userdata.script(self._boot(name, role, number, address, left), content)

        types = self._types()
        return Order(
            name=name,
            region=ec2.meta.region_name,
            profile=self.profile,
            tags=tags,
            disk=self.disk or DISK,
            scheduler_type=types[0],
            worker_type=types[1],
            script=script,
            nonce=secrets.token_hex(8),
            private=bool(self.private),
            spot=bool(self.spot),
            key_name=self.key_name,
            instance_profile=self.instance_profile,
            **given,
        )

    def _grow(self, ec2: Any, record: Record, scheduler: Mapping[str, Any], numbers: Sequence[int]) -> None:
        """Start machines like those that are there; on any error end them again."""
        import asyncio  # not needed to refuse a command line

        from clusterglm.clusters.cloud import ec2_cluster

        tags = {key: value for key, value in api.tags(scheduler).items() if key.startswith("clusterglm:")}
        with api.told("--image", scheduler["ImageId"]):
            image = ec2.describe_images(ImageIds=[scheduler["ImageId"]])["Images"][0]
        group = api.groups(ec2, record.name)[0]["GroupId"]
        place = {"image": image, "network": scheduler["VpcId"], "subnet": scheduler["SubnetId"], "group": group}
        order = self._order(ec2, record.name, Path(record.details["keys"]), tags, **place)
        address = f"tls://{scheduler['PrivateIpAddress']}:{userdata.PORT}"
        try:
            asyncio.run(ec2_cluster.start_workers(order, address, numbers))
        except BaseException:
            found = api.machines(ec2, record.name)
            new = [
                item["InstanceId"] for item in found if fleet.role(item) == "worker" and fleet.number(item) in numbers
            ]
            if new:
                api.terminate(ec2, new)
            raise

    def _connected(self, record: Record, timeout: float | None = None, **given: Any) -> Client:
        cure = f"clusterglm down {record.name}"
        keys = Path(record.details["keys"])
        known = {"what": "cluster", "value": record.name, "cure": cure, "timeout": timeout, "keys": keys, **given}
        return connect(record.address, **known)

    def _await(self, ec2: Any, client: Client, name: str, machines: int, until: float) -> None:
        """Wait until as many machines as asked for have workers; a machine that ends meanwhile is an error."""
        looked = time.monotonic()
        while True:
            named = client.scheduler_info(n_workers=-1)["workers"].values()
            come = {fleet.machine_of(each["name"], name) for each in named}
            if len(come) == machines:
                return
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                self._check_boots(ec2, name, machines, come)
            if looked > until:
                cure = f"see clusterglm logs {name}, or raise --timeout"
                raise ClusterError("machines", f"{len(come)} of {machines} have workers", cure)
            time.sleep(0.2)

    def _check_boots(self, ec2: Any, name: str, machines: int, come: set[int]) -> None:
        from clusterglm.clusters.cloud.ec2_cluster import failed_boot

        with api.told("cluster", name):
            wanted = [{"Name": f"tag:{api.CLUSTER}", "Values": [name]}]
            pages = ec2.get_paginator("describe_instances").paginate(Filters=wanted)
            found = [item for page in pages for r in page["Reservations"] for item in r["Instances"]]
        alive = {
            fleet.number(item) for item in found if fleet.role(item) == "worker" and item["State"]["Name"] in fleet.BORN
        }
        if len(come | alive) >= machines:
            return
        for item in found:
            if (
                fleet.role(item) == "worker"
                and item["State"]["Name"] not in fleet.BORN
                and fleet.number(item) not in come | alive
            ):
                why = item.get("StateReason", {}).get("Message", "") or item["State"]["Name"]
                words = failed_boot(why, api.console(ec2, item["InstanceId"]))
                raise ClusterError(api.tags(item)["Name"], item["InstanceId"], words)

    def _live_logs(self, record: Record) -> dict[str, str]:
        """Return what the scheduler and the workers of each machine have logged, nothing where they do not answer."""
        logs: dict[str, str] = {}
        with contextlib.suppress(ClusterError, KeyError, OSError):
            client = self._connected(record, timeout=5)
            try:
                names = {a: each["name"] for a, each in client.scheduler_info(n_workers=-1)["workers"].items()}
                logs[fleet.SCHEDULER] = fleet.lines(client.get_scheduler_logs())
                for address, lines in client.get_worker_logs().items():
                    role = f"worker-{fleet.machine_of(names[address], record.name)}"
                    logs[role] = logs.get(role, "") + fleet.lines(lines)
            finally:
                client.close()
        return logs


def _given(launcher: Ec2) -> dict[str, Any]:
    """Return the options that were given: what the machines note for later commands."""
    return {key: value for key, value in dataclasses.asdict(launcher).items() if value not in (None, ())}


def _keys_folder(name: str) -> Path:
    registry.private_folder(registry.state_folder() / "clusters")
    return registry.private_folder(registry.run_folder(name)) / "tls"
