"""What is asked of a cloud that is not EC2: machines as it shows them, and the few calls that a cluster's life takes.

A machine's name says which cluster it belongs to and what it is there, on every cloud; what else a later command needs
to know is in its tags where the cloud has any. Neither holds a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from clusterglm.clusters.cloud.fleet import SCHEDULER, time_of
from clusterglm.clusters.cloud.userdata import PORT

PLANNED = f"tls://PRIVATE-ADDRESS:{PORT}"  # the scheduler's address in what plans show
_FIRST_SECONDS = 600.0  # from a machine to its cluster's scheduler, and much more than that takes
_NAME = re.compile(r"dask-([a-z][a-z0-9-]{0,30})-(?:(scheduler)|worker-([0-9]{1,6}))")


@dataclass(frozen=True)
class Server:
    """A machine as its cloud shows it.

    ``status`` is the cloud's own word, ``alive`` whether that means that it starts or runs: one that does not may still
    be paid for. ``kind`` is its instance type, ``place`` its region or zone, ``born`` a time in ISO 8601, ``note``
    what the cloud has to say of it.
    """

    id: str
    name: str
    status: str
    alive: bool
    private: str = ""
    public: str = ""
    kind: str = ""
    place: str = ""
    born: str = ""
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str | None:
        """The cluster that it belongs to, None where its name is not one of ours."""
        found = _NAME.fullmatch(self.name)
        return found[1] if found else None

    @property
    def role(self) -> str:
        """What it is in the cluster: scheduler or worker."""
        found = _NAME.fullmatch(self.name)
        return SCHEDULER if found and found[2] else "worker"

    @property
    def part(self) -> str:
        """What commands call it: ``scheduler`` or ``worker-0``."""
        return SCHEDULER if self.role == SCHEDULER else f"worker-{self.number}"

    @property
    def number(self) -> int:
        """The number of a worker's machine, -1 for the scheduler's."""
        return -1 if self.role == SCHEDULER else int(self.name.rpartition("-")[2])


def overdue(servers: Sequence[Server]) -> str:
    """Return why a cluster's machines should be gone, an empty string where they should not."""
    now = datetime.now(UTC)
    ends = [time for server in servers if (time := time_of(server.tags.get("expires", "")))]
    if ends and max(ends) < now:
        return f"its life ended at {max(ends):%Y-%m-%d %H:%M} UTC"
    schedulers = [server for server in servers if server.role == SCHEDULER]
    if schedulers:
        return "" if any(server.alive for server in schedulers) else "its scheduler has ended"
    born = max(datetime.fromisoformat(server.born) for server in servers)
    old = (now - born).total_seconds() > _FIRST_SECONDS
    return f"it was started at {born:%Y-%m-%d %H:%M} UTC and has no scheduler" if old else ""


class Request(NamedTuple):
    """A request as it is sent: its method, the path or address, and its body."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Order:
    """What the machines of one command have in common.

    ``options`` are a cloud's own words for what its user asked for; ``kinds`` the instance types of a scheduler's
    machine and of a worker's; ``script`` makes what a machine runs, of role, number and the scheduler's address.
    """

    name: str
    options: Mapping[str, Any]
    kinds: tuple[str, str]
    tags: Mapping[str, str]
    script: Callable[[str, int, str], str]
    seconds: float  # of life
    boot_seconds: float = 600.0
    private: bool = False


class Provider(Protocol):
    """A cloud, as its user's credentials open it. All that it raises is ClusterError, with the cloud's own words."""

    def check(self) -> None:
        """Ask something that costs nothing, to find out whether the credentials are taken."""

    def servers(self, name: str | None = None) -> list[Server]:
        """Return the machines of a cluster, or of all, whatever their state."""

    def script(self, server: Server) -> str:
        """Return what a machine was given to run, an empty string where the cloud shows that to nobody."""

    def secret(self) -> bytes | None:
        """Return what only those who may use the cluster know, where ``script`` returns nothing; else None."""

    def console(self, server: Server) -> str:
        """Return what a machine has printed, an empty string where the cloud does not show it."""

    def wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> None:
        """Let ``ranges`` reach the scheduler's port, the members each other, and nobody anything else.

        Made before the first machine, under a name that can be had only once: the lock between two ``up``. Raises
        Taken for the one that comes second.
        """

    def walls(self) -> list[str]:
        """Return the names of the clusters that have a wall."""

    def admitted(self, name: str, port: int) -> list[str]:
        """Return the addresses that a cluster's wall lets reach a port."""

    def admit(self, name: str, port: int, ranges: Sequence[str]) -> None:
        """Let these addresses, and no others, reach a port; without any, nobody but the members."""

    def delete(self, servers: Sequence[Server]) -> None:
        """End machines; those that are gone count as ended."""

    def clear(self, name: str) -> bool:
        """Remove the cluster's wall and whatever else it leaves; False where that has to wait for its machines."""

    def cluster(self, order: Order) -> Any:
        """Return dask-cloudprovider's cluster, with ``scheduler_class`` and ``worker_class`` of our own (vm.py)."""

    def planned_wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> list[Request]:
        """Return what ``wall`` would send. Pure: nothing is asked, nothing is started."""

    def planned(self, order: Order, role: str) -> list[Request]:
        """Return what would be sent to start a machine. Pure too."""
