"""A thin subclass of dask-cloudprovider's EC2Cluster: its machines, with our user data, tags, group and guards.

Only the machines are its: the state of a cluster is in their tags, so the object may be forgotten when the call that
made it returns. What is worked round is named at each place (dask-cloudprovider 2025.9.0). Importing this module
imports dask-cloudprovider, so it is imported inside functions only.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from clusterglm.clusters.cloud import boots, userdata
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.errors import ClusterError

with mock.patch("dask.config.ensure_file"):  # its import would copy a template into the user's folder of settings
    from dask_cloudprovider.aws import EC2Cluster
    from dask_cloudprovider.aws.ec2 import EC2Instance
    from dask_cloudprovider.generic.vmcluster import SchedulerMixin, WorkerMixin

_ADDRESS_SECONDS = 120.0


@dataclass(frozen=True)
class Order:
    """What the machines of one command have in common; ``nonce`` tells its requests from those of any other."""

    name: str
    region: str
    profile: str | None
    image: Mapping[str, Any]
    network: str
    subnets: Sequence[Mapping[str, Any]]  # each in a zone of its own, the preferred one first
    group: str
    tags: Mapping[str, str]
    disk: int  # GB
    scheduler_type: str
    worker_type: str
    script: Callable[[str, int, str], str]  # of role, number, the scheduler's address
    nonce: str
    private: bool = False
    key_name: str | None = None
    instance_profile: str | None = None
    spot: bool = False
    boot_seconds: float = 600.0
    tell: Callable[[str], None] = field(default=lambda _: None)


class Machine(EC2Instance):  # type: ignore[misc]
    """A machine that is tagged when it is born and knows both of its addresses."""

    role = "worker"
    number = 0
    instance: dict[str, Any]
    instance_tags: dict[str, str]
    volume_tags: dict[str, str]

    async def create_vm(self) -> tuple[str, str | None]:
        """Start the machine and return its private and its public address."""
        import botocore.exceptions

        order: Order = self.cluster.order
        # After the library has laid its own configuration over ours.
        own = {"Name": self.name, "Dask Cluster": order.name, api.ROLE: self.role}
        self.instance_tags = {**self.instance_tags, **order.tags, **own}
        self.volume_tags = {**self.volume_tags, **order.tags, **own}
        kinds = ("spot", "ordinary") if order.spot and self.role == "worker" else ("ordinary",)
        places = [(kind, subnet) for kind in kinds for subnet in order.subnets]
        while True:
            kind, subnet = places.pop(0)
            self.spot, self.subnet_id = kind == "spot", subnet["SubnetId"]
            try:
                return await super().create_vm()  # type: ignore[no-any-return]
            except botocore.exceptions.ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _NO_SPOT:
                    places = [place for place in places if place[0] != "spot"]
                if not places or code not in (*_FULL, *_NO_SPOT):
                    raise api.refusal(error, self.name) from error
                then = f"{places[0][0]} one in {places[0][1]['AvailabilityZone']}"
                order.tell(f"{self.name}: no {kind} machine in {subnet['AvailabilityZone']} ({code}), trying an {then}")
            except botocore.exceptions.BotoCoreError as error:
                raise ClusterError(self.name, None, f"AWS: {str(error).rstrip('.')}") from error

    async def configure_vm(self, client: Any) -> tuple[str, str | None]:
        """Wait for the addresses. The tags came with the request: there is no moment without them."""
        until = time.monotonic() + _ADDRESS_SECONDS
        while not self._addressed():
            if time.monotonic() > until:
                raise ClusterError(self.name, None, f"no address after {_ADDRESS_SECONDS:.0f} s")
            await asyncio.sleep(0.5)
            await self.look(client)
        # Workers dial the first, over the private network; we dial the second.
        return self.instance["PrivateIpAddress"], None if self.use_private_ip else self.instance["PublicIpAddress"]

    def _addressed(self) -> bool:
        public = self.use_private_ip or self.instance.get("PublicIpAddress")
        return bool(self.instance.get("PrivateIpAddress") and public)

    async def look(self, client: Any) -> None:
        """Look at the machine again. Raises ClusterError where it has ended, with the end of its console."""
        import botocore.exceptions

        identity = self.instance["InstanceId"]
        try:
            found = await client.describe_instances(InstanceIds=[identity])
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "InvalidInstanceID.NotFound":  # EC2 does not know it yet
                return
            raise
        self.instance = found["Reservations"][0]["Instances"][0]
        if self.instance["State"]["Name"] not in ("pending", "running"):
            raise ClusterError(self.name, None, await self.failure(client))

    async def failure(self, client: Any) -> str:
        """Return why the machine's boot failed, as far as EC2 and its console tell."""
        why = self.instance.get("StateReason", {}).get("Message", "") or self.instance["State"]["Name"]
        console = ""
        with api.told(self.name):
            found = await client.get_console_output(InstanceId=self.instance["InstanceId"])
            console = str(found.get("Output", ""))
        return boots.failed(why, console)

    async def destroy_vm(self) -> None:
        """Leave the machine: whoever meets an error ends all that carries the cluster's tag."""


class Scheduler(SchedulerMixin, Machine):  # type: ignore[misc]
    """The machine of the scheduler."""

    role = "scheduler"

    async def wait_for_scheduler(self) -> None:
        """Wait until the port answers, or the machine has ended, or the time is over."""
        order: Order = self.cluster.order
        address, limit = self.external_address or self.address, order.boot_seconds
        async with self.cluster.boto_session.create_client("ec2", region_name=self.region) as client:
            if not await boots.answers(address, limit, functools.partial(self.look, client)):
                words = f"no scheduler at {address} after {limit:.0f} s"
                raise ClusterError(
                    self.name, None, boots.failed(words, (await self.failure(client)).partition("\n")[2])
                )


class Worker(WorkerMixin, Machine):  # type: ignore[misc]
    """A machine of workers."""

    def __init__(self, scheduler: str, *args: Any, number: int, **options: Any) -> None:
        super().__init__(scheduler, *args, **options)
        self.number = number
        self.name = machine_name(self.cluster.order.name, number)


class Cluster(EC2Cluster):  # type: ignore[misc]
    """An EC2Cluster whose machines outlive it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        super().__init__(
            region=order.region,
            ami=order.image["ImageId"],
            scheduler_instance_type=order.scheduler_type,
            worker_instance_type=order.worker_type,
            vpc=order.network,  # or it asks for the default one, which there may not be
            subnet_id=order.subnets[0]["SubnetId"],
            security_groups=[order.group],  # its own default group cannot be made (issue 481 there)
            filesystem_size=order.disk,
            key_name=order.key_name,
            iam_instance_profile={"Name": order.instance_profile} if order.instance_profile else None,
            use_private_ip=order.private,
            # The keys are in our user data; given here, they would end up in the configuration of this process.
            security=False,
            protocol="tls",
            asynchronous=True,
            shutdown_on_close=False,
        )
        if order.profile:
            self.boto_session.set_config_variable("profile", order.profile)
        handler = self.boto_session.get_component("event_emitter")
        handler.register("provide-client-params.ec2.RunInstances", self._requested)

    # The name under which dask-cloudprovider knows it is ours, and not a new one in each process.
    uuid = property(lambda self: self.order.name, lambda _, __: None)

    def _log(self, log: str) -> None:
        """Print nothing: stdout is for results."""

    def render_process_cloud_init(self, process: Machine) -> str:
        """Return the script of a machine; ``_requested`` packs it."""
        return self.order.script(process.role, process.number, getattr(process, "scheduler", ""))

    def _requested(self, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Complete a request by what ``create_vm`` does not offer."""
        specifications = list(params["TagSpecifications"])
        mine = {tag["Key"]: tag["Value"] for tag in specifications[0]["Tags"]}
        specifications.append({"ResourceType": "network-interface", "Tags": specifications[0]["Tags"]})
        if "InstanceMarketOptions" in params:
            specifications.append({"ResourceType": "spot-instances-request", "Tags": specifications[0]["Tags"]})
        disk = params["BlockDeviceMappings"][0]
        spot = "spot" if "InstanceMarketOptions" in params else ""
        where = params["NetworkInterfaces"][0]["SubnetId"]
        token = hashlib.sha256(f"{mine['Name']} {self.order.nonce} {spot} {where}".encode()).hexdigest()[:48]
        return params | {
            "UserData": userdata.packed(params["UserData"]),
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
            "ClientToken": token,  # a request that is repeated because its answer was lost starts no second machine
            "TagSpecifications": specifications,
            # The image's own root: any other name would be a second disk.
            "BlockDeviceMappings": [
                {"DeviceName": self.order.image["RootDeviceName"], "Ebs": disk["Ebs"] | {"Encrypted": True}}
            ],
        }


_FULL = ("InsufficientInstanceCapacity", "InsufficientCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported")
_NO_SPOT = ("MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow")  # in no zone


def machine_name(name: str, number: int) -> str:
    """Return the name of a worker's machine."""
    return f"dask-{name}-worker-{number}"


def number_of(machine: str) -> int:
    """Return the number in the name of a worker's machine."""
    return int(machine.rpartition("-")[2])


async def start_scheduler(order: Order) -> tuple[str, str | None, str]:
    """Start the machine of the scheduler, wait until it listens, and return (private, public address, subnet).

    Raises
    ------
    ClusterError
        EC2 refuses, or the boot failed.
    """
    cluster = Cluster(order)
    scheduler = Scheduler(**cluster.scheduler_options)
    await scheduler.start()
    return scheduler.address, scheduler.external_address, str(scheduler.subnet_id)


async def start_workers(order: Order, address: str, numbers: Sequence[int]) -> None:
    """Start machines of workers, all at the same time, and return when each has its addresses.

    Raises
    ------
    ClusterError
        EC2 has refused one of them; the others may have been started.
    """
    cluster = Cluster(order)
    workers = [Worker(address, number=number, **cluster.worker_options) for number in numbers]
    done = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
    for outcome in done:  # after all of them: none may still be on its way when its cluster is ended
        if isinstance(outcome, BaseException):
            raise outcome
