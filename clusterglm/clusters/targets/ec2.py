"""``ec2``: machines of Amazon's, found by their tags from anywhere, that end by themselves.

No process of ours stays behind. What a machine needs to know is in its user data, what a later command needs to know
in its tags and there; so every verb but the first two works from any machine that may ask EC2.
"""

from __future__ import annotations

import contextlib
import dataclasses
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

from clusterglm import __version__, signals
from clusterglm.clusters import registry, tls
from clusterglm.clusters.cloud import boots, door, fleet, notice, prices, rehearsal, userdata
from clusterglm.clusters.cloud.caller import own_address
from clusterglm.clusters.cloud.ec2 import api, policy, preflight
from clusterglm.clusters.cloud.ec2.options import Ec2Options
from clusterglm.clusters.cloud.handover import hand_over
from clusterglm.clusters.cloud.rented import Rented
from clusterglm.clusters.cloud.workers import live_logs, retire
from clusterglm.clusters.connect import check_versions, connect, moved
from clusterglm.clusters.launcher import Elsewhere, Member, Plan, Record, Size, State
from clusterglm.errors import ClusterError
from clusterglm.units import format_size

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.clusters.cloud.ec2.cluster import Order

_BOOT_SECONDS = 600


@dataclass(frozen=True)
class Ec2(Ec2Options, Rented):
    """Machines on Amazon EC2: one for the scheduler, and as many as asked for with a worker on each core."""

    target: ClassVar[str] = "ec2"

    def plan(self, name: str, size: Size) -> Plan:
        """Return the machines, the rules, and what the machines run, the keys blanked."""
        types, disk = self.kinds(), self.gigabytes()
        machines = f"scheduler: {types[0]}, {disk} GB\nworkers: {size.workers} x {types[1]}, {disk} GB each"
        allowed = ", ".join(self.allow_cidr) or "your own address"
        rules = f"tcp {userdata.PORT} from {allowed}\neverything between the machines"
        rules += f"\ntcp {userdata.SSH_PORT} from your own address, while ssh or dashboard use it"
        rules += f"\ntcp 22 from {allowed}" if self.key_name else ""
        region = self.priced_in()
        dollars, complete = self.rate(size.workers)
        cost = f"{prices.words(dollars, complete)} an hour in {region}"
        cost += f", {prices.words(dollars * self.life(size.workers) / 3600, complete)} at most\n{self.source()}"
        steps = {"machines": machines, "cost": cost, api.group_name(name): rules, "end": self.end_words(size.workers)}
        for role in (fleet.SCHEDULER, "worker"):
            text = userdata.script(
                self._boot(name, role, 0, f"tls://PRIVATE-ADDRESS:{userdata.PORT}", self.life(size.workers))
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
        ranges = self.ranges()
        subnets, image = self.place(ec2)
        preflight.check(self, ec2, subnets[0], image, plan.size.workers, tell)
        shutil.rmtree(registry.run_folder(plan.name), ignore_errors=True)
        keys = tls.make(_keys_folder(plan.name))
        options = plan.options | {"region": ec2.meta.region_name}
        record = dataclasses.replace(record, options=options, details={"keys": str(keys)})
        save(record)
        tags = {
            api.CLUSTER: plan.name,
            api.CREATED: fleet.stamp(),
            api.EXPIRES: fleet.stamp(self.life(plan.size.workers)),
            api.VERSION: __version__,
        }
        tags[api.OWNER] = self.whose()
        network = subnets[0]["VpcId"]
        group = api.open_group(ec2, plan.name, network, ranges, tags, ssh=self.key_name is not None)
        tell(f"{subnets[0]['AvailabilityZone']}, image {image['ImageId']}, {image['Name']}")
        place = {"image": image, "network": network, "subnets": subnets, "group": group}
        order = self._order(ec2, plan.name, keys, tags, **place, boot_seconds=limit, tell=tell)

        from clusterglm.clusters.cloud.ec2.cluster import start_scheduler, start_workers

        private, public, subnet = signals.run(start_scheduler(order))
        record = dataclasses.replace(record, address=public or private)
        save(record)
        order = dataclasses.replace(order, subnets=fleet.nearest(subnets, subnet))
        signals.run(start_workers(order, private, range(plan.size.workers)))
        client = self._connected(record, max(1.0, until - time.monotonic()), allow_version_mismatch=True)
        try:
            hand_over(client)
            if self.spot:
                client.register_plugin(notice.watch(self.target))
            boots.wait(ec2, client, plan.name, plan.size.workers, until)
            check_versions(client)
        finally:
            client.close()
        tell(f"{self.write_inventory(record)} lists the machines for Ansible")
        return dataclasses.replace(record, state="up")

    def find(self, name: str) -> Record | None:
        """Return the record of a cluster from its machines' tags, their addresses and the scheduler's user data."""
        for place in self._places():
            if found := place._resources(name):
                return place._found(name, fleet.machines(found))
        return None

    def names(self) -> list[str]:
        """Return the names of all clusters of which there is anything in the region or a rehearsal."""
        return sorted({api.tags(item)[api.CLUSTER] for place in self._places() for item in place._resources()})

    def state(self, record: Record) -> State:
        """Return ``gone`` where there is no machine of a scheduler."""
        if record.state == "down":
            return "down"
        found = next((item for item in self._machines(record.name) if fleet.role(item) == fleet.SCHEDULER), None)
        if found is None or found["State"]["Name"] not in ("pending", "running"):
            return "gone"
        return "starting" if found["State"]["Name"] == "pending" else record.state

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
                retire(client, record.name, leaving)
                api.terminate(ec2, [present[number] for number in leaving])
            free = (number for number in range(workers + len(present)) if number not in present)
            new = [number for number, _ in zip(free, range(workers - len(present)), strict=False)]
            if new:
                begun = min(datetime.fromisoformat(str(item["LaunchTime"])) for item in found)
                ends = fleet.time_of(api.tags(found[0])[api.EXPIRES]) or begun
                self._check_money(begun, ends, len(found) - 1, workers)
                preflight.enough(self, ec2, [], len(new), lambda _: None)
                scheduler = next(item for item in found if fleet.role(item) == fleet.SCHEDULER)
                self._grow(ec2, record, scheduler, new)
            boots.wait(ec2, client, record.name, workers, until)
        finally:
            client.close()
        self.write_inventory(record)
        return dataclasses.replace(record, workers=workers)

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Yield (machine, file) of what its processes have logged, else of what it has printed on its console."""
        ec2 = self._ec2()
        folder = _keys_folder(record.name).parent
        live = live_logs(record)
        for item in sorted(self._machines(record.name), key=fleet.order_of):
            role = fleet.part(item)
            path = folder / f"{role}.log"
            path.write_text(live.get(role) or api.console(ec2, item["InstanceId"]), encoding="utf-8")
            yield role, path

    def clear(self, name: str) -> int:
        """End whatever carries the cluster's tag in the region, and wait until it is gone."""
        return api.end(self._ec2(), name)

    def everywhere(self) -> dict[str, Ec2]:
        """Return a launcher for each region of the account, and for a rehearsal that is seen from outside."""
        regions = api.regions(self._ec2()) if self._here() else []
        fake = {} if rehearsal.inside() or rehearsal.process() is None else {"rehearsal": Ec2(fake=True)}
        return {region: dataclasses.replace(self, region=region) for region in regions} | fake

    def admitted(self, name: str) -> list[str]:
        """Return the addresses that may reach a cluster's scheduler."""
        return [each for group in api.groups(self._ec2(), name) for each in api.let_in(group, userdata.PORT)]

    def let_in(self, record: Record) -> str:
        """Open the scheduler's port to the caller's address and to those that were named, and to no others."""
        ec2, wanted = self._ec2(), sorted({own_address(), *self.allow_cidr})
        for group in api.groups(ec2, record.name):
            for port in (userdata.PORT, *([22] if self.key_name else [])):
                for each in wanted:
                    api.allow(ec2, group["GroupId"], port, each)
                for each in set(api.let_in(group, port)) - set(wanted):
                    api.forbid(ec2, group["GroupId"], port, each)
        return ", ".join(wanted)

    def ways(self, record: Record) -> dict[str, door.Way]:
        """Return the way into each machine that starts or runs, by its role."""
        keys = Path(record.details["keys"])
        alive = [item for item in self._machines(record.name) if item["State"]["Name"] in fleet.BORN]
        return {
            fleet.part(item): door.Way(keys, item.get("PublicIpAddress") or item["PrivateIpAddress"]) for item in alive
        }

    @contextlib.contextmanager
    def way_in(self, record: Record) -> Iterator[dict[str, door.Way]]:
        """Keep the machines open to ssh from the caller's address alone, and yield the way into each, by its role."""
        ways = self.ways(record)
        with door.opened(self._ec2(), record.name, self.ranges()):
            yield ways

    def expired(self, any_owner: bool) -> dict[str, str]:
        """Return clusters whose life is over by their tags, and those that have lost their scheduler, or never had it.

        Without ``any_owner`` only the user's own.
        """
        by_name: dict[str, list[dict[str, Any]]] = {}
        for item in self._resources():
            if any_owner or api.tags(item).get(api.OWNER) == self.whose():
                by_name.setdefault(api.tags(item)[api.CLUSTER], []).append(item)
        return {name: why for name, found in sorted(by_name.items()) if (why := fleet.overdue(found))}

    def _places(self) -> list[Ec2]:
        """Return where to look for a cluster of which nothing is known: in a rehearsal, and in the user's region."""
        if self._outside():
            return [self]
        fake = [] if self.region or rehearsal.inside() else [Ec2(fake=True)]
        return [*fake, *([self] if self._here() else [])]

    def _resources(self, name: str | None = None) -> list[dict[str, Any]]:
        return fleet.rehearsed(name) if self._outside() else api.resources(self._ec2(), name)

    def _found(self, name: str, machines: Sequence[Mapping[str, Any]]) -> Record:
        """Return the record of a cluster that is found by its tags; its keys are kept."""
        if self._outside():
            return self._record(name, machines, {"fake": True}, {})
        scheduler = next((item for item in machines if fleet.role(item) == fleet.SCHEDULER), None)
        where = {"region": self._ec2().meta.region_name}
        if scheduler is None:
            return self._record(name, machines, where, {})
        text = api.boot_script(self._ec2(), scheduler["InstanceId"])
        keys = tls.keep(_keys_folder(name), userdata.keys(text))
        return self._record(name, machines, userdata.noted(text).get("options", {}) | where, {"keys": str(keys)})

    def _here(self) -> bool:
        """Return whether there is an EC2 to be asked: its user names a region."""
        if rehearsal.inside():
            return rehearsal.inside(self.target)
        return api.region_of(self.region, self.profile) is not None

    def place(self, ec2: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the subnets where the machines may be, and their image, as EC2 shows them."""
        return api.subnets(ec2, self.zone, self.subnet), api.image(ec2, self.client("ssm"), self.kinds()[1], self.image)

    def policy(self) -> dict[str, Any]:
        """Return the least rights that it needs, as a policy of IAM."""
        return policy.least(bool(self.spot), self.instance_profile is not None)

    def client(self, service: str) -> Any:
        """Return botocore's client of a service in the region."""
        if self._outside():
            raise Elsewhere("cluster", None, "is a rehearsal: only commands can enter it", rehearsal.enter)
        return api.client(self.region, self.profile, service)

    def _ec2(self) -> Any:
        return self.client("ec2")

    def _machines(self, name: str) -> Sequence[Mapping[str, Any]]:
        return fleet.machines(fleet.rehearsed(name)) if self._outside() else api.machines(self._ec2(), name)

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

    def _order(self, ec2: Any, name: str, keys: Path, tags: Mapping[str, str], **given: Any) -> Order:
        from clusterglm.clusters.cloud.ec2.cluster import Order

        content = {file: (keys / file).read_text() for file in tls.FILES}
        ends = fleet.time_of(tags[api.EXPIRES]) or datetime.now(UTC)

        def script(role: str, number: int, address: str) -> str:
            left = (ends - datetime.now(UTC)).total_seconds()
            return userdata.script(self._boot(name, role, number, address, left), content)

        types = self.kinds()
        return Order(
            name=name,
            region=ec2.meta.region_name,
            profile=self.profile,
            tags=tags,
            disk=self.gigabytes(),
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

        from clusterglm.clusters.cloud.ec2.cluster import start_workers

        tags = {key: value for key, value in api.tags(scheduler).items() if key.startswith("clusterglm:")}
        with api.told("--image", scheduler["ImageId"]):
            image = ec2.describe_images(ImageIds=[scheduler["ImageId"]])["Images"][0]
        group = api.group(ec2, record.name)
        subnets = api.subnets(ec2, self.zone, self.subnet)
        place = {"image": image, "network": scheduler["VpcId"], "group": group}
        place["subnets"] = fleet.nearest(subnets, scheduler["SubnetId"])
        order = self._order(ec2, record.name, Path(record.details["keys"]), tags, **place)
        address = f"tls://{scheduler['PrivateIpAddress']}:{userdata.PORT}"
        try:
            signals.run(start_workers(order, address, numbers))
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
        try:
            return connect(record.address, **known)
        except ClusterError as error:
            if why := self.shut_out(record):
                raise moved(record, why) from error
            raise


def _keys_folder(name: str) -> Path:
    registry.private_folder(registry.state_folder() / "clusters")
    return registry.private_folder(registry.run_folder(name)) / "tls"
