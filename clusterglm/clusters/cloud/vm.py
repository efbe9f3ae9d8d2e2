"""What every machine of dask-cloudprovider's is made to be here, whatever its cloud; mixed into the cloud's own class.

The objects may be forgotten when the call that made them returns: the state of a cluster is at the cloud. Importing
this module imports dask-cloudprovider, so it is imported inside functions only.
"""

from __future__ import annotations

import asyncio
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from unittest import mock

from clusterglm.clusters.cloud import boots
from clusterglm.clusters.cloud.provider import Order, Provider, Server
from clusterglm.errors import ClusterError

with mock.patch("dask.config.ensure_file"):  # its import would copy a template into the user's folder of settings
    from dask_cloudprovider.generic.vmcluster import SchedulerMixin, WorkerMixin

_LOOK_SECONDS = 1.0


class Cluster:
    """Goes before a cluster of dask-cloudprovider's: its machines outlive it, and run what we say."""

    order: Order
    provider: Provider
    _present: dict[str, Server]
    _looked = -_LOOK_SECONDS

    # The name under which dask-cloudprovider knows it is ours, and not a new one in each process.
    uuid = property(lambda self: self.order.name, lambda _, __: None)

    def __del__(self) -> None:
        """Say nothing: what is forgotten here is not to be closed."""

    def _log(self, log: str) -> None:
        """Print nothing: stdout is for results."""

    def render_process_cloud_init(self, process: Any) -> str:
        """Return the script of a machine."""
        return self.order.script(process.role, process.number, getattr(process, "scheduler", ""))

    @functools.cached_property
    def _looking(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def seen(self, name: str) -> Server | None:
        """Return a machine as its cloud shows it, None where it does not: one question for all that wait, because
        clouds count them."""
        async with self._looking:
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                found = await asyncio.to_thread(self.provider.servers, self.order.name)
                self._present = {server.name: server for server in found}
                self._looked = time.monotonic()
        return self._present.get(name)


# The keys are in our user data; given to VMCluster, they would end up in the configuration of this process.
OPTIONS: dict[str, Any] = {"security": False, "protocol": "tls", "asynchronous": True, "shutdown_on_close": False}


class Machine(ABC):
    """Goes before a machine of dask-cloudprovider's: it has a time limit, and is left to whoever ends the cluster."""

    role = "worker"
    number = -1
    cluster: Any
    name: str

    async def create_vm(self) -> tuple[str, str | None]:
        """Start the machine and return its private and its public address."""
        limit = self.cluster.order.boot_seconds
        try:
            return await asyncio.wait_for(self._born(), limit)
        except TimeoutError as error:
            raise ClusterError(self.name, None, f"no address after {limit:.0f} s") from error

    @abstractmethod
    def start_vm(self, script: str) -> None:
        """Send the request for the machine, which runs ``script``, and return when it is taken."""

    async def _born(self) -> tuple[str, str | None]:
        await asyncio.to_thread(self.start_vm, self.cluster.render_process_cloud_init(self))
        private, was_there = self.cluster.order.private, False
        while True:
            server: Server | None = await self.cluster.seen(self.name)
            if server is not None and server.alive and (server.private if private else server.public):
                # Workers dial the first, over the private network; we dial the second.
                return server.private or server.public, None if private else server.public
            if was_there if server is None else not server.alive:
                await asyncio.to_thread(check_boot, self.cluster.provider, self.cluster.order.name, self.name)
            was_there = was_there or server is not None
            await asyncio.sleep(_LOOK_SECONDS)

    async def destroy_vm(self) -> None:  # noqa: B027  to do nothing is what it is for
        """Leave the machine: whoever meets an error ends all that is the cluster's."""


class OfScheduler(SchedulerMixin):  # type: ignore[misc]
    """Goes before a cloud's machine: the scheduler's."""

    role = "scheduler"

    async def wait_for_scheduler(self) -> None:
        """Wait until the port answers, or the machine has ended, or the time is over."""
        order: Order = self.cluster.order
        address, limit = self.external_address or self.address, order.boot_seconds
        look = functools.partial(asyncio.to_thread, check_boot, self.cluster.provider, order.name, self.name)
        if not await boots.answers(address, limit, look):
            raise ClusterError(self.name, None, f"no scheduler at {address} after {limit:.0f} s")


class OfWorkers(WorkerMixin):  # type: ignore[misc]
    """Goes before a cloud's machine: one of workers."""

    def __init__(self, scheduler: str, *args: Any, number: int, **options: Any) -> None:
        super().__init__(scheduler, *args, **options)
        self.number = number
        self.name = f"dask-{self.cluster.order.name}-worker-{number}"


def check_boot(provider: Provider, cluster: str, name: str) -> None:
    """Raise ClusterError where a machine has ended, with what its cloud shows of why."""
    found = next((server for server in provider.servers(cluster) if server.name == name), None)
    if found is None or not found.alive:
        why = "it is gone" if found is None else found.note or found.status
        raise ClusterError(name, None, boots.failed(why, provider.console(found) if found else ""))


async def start_scheduler(provider: Provider, order: Order) -> tuple[str, str | None]:
    """Start the machine of the scheduler, wait until it listens, and return its private and its public address.

    Raises
    ------
    ClusterError
        The cloud refuses, or the boot failed.
    """
    cluster = provider.cluster(order)
    scheduler = cluster.scheduler_class(**cluster.scheduler_options)
    await scheduler.start()
    return scheduler.address, scheduler.external_address


async def start_workers(provider: Provider, order: Order, address: str, numbers: Sequence[int]) -> None:
    """Start machines of workers, all at the same time, and return when each has its addresses.

    Raises
    ------
    ClusterError
        The cloud has refused one of them; the others may have been started.
    """
    cluster = provider.cluster(order)
    workers = [cluster.worker_class(address, number=number, **cluster.worker_options) for number in numbers]
    done = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
    for outcome in done:  # after all of them: none may still be on its way when its cluster is ended
        if isinstance(outcome, BaseException):
            raise outcome
