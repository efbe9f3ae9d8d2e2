"""Clouds of which the requests are known and nothing has been rehearsed: ``--dry-run`` prints them, ``up`` refuses.

The requests are pure functions of the options, in the clouds' documented fields; what only an answer can tell (the id
of a network that was just made) stands there in capitals.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from clusterglm.clusters.cloud.provider import PLANNED, Order, Provider, Request
from clusterglm.clusters.cloud.userdata import PORT
from clusterglm.clusters.launcher import Record, State
from clusterglm.clusters.targets.oncloud import OnCloud
from clusterglm.errors import ClusterError


@dataclass(frozen=True)
class OnPaper(OnCloud):
    """Machines in a cloud that has not been rehearsed."""

    def here(self) -> bool:
        """Return that there is nothing to be asked."""
        return False

    def find(self, name: str) -> Record | None:  # noqa: ARG002
        """Return that nothing was started."""
        return None

    def names(self) -> list[str]:
        """Return that nothing was started."""
        return []

    def provider(self) -> Provider:
        """Refuse: nothing of it has been rehearsed."""
        cure = (
            "has not even been rehearsed: --dry-run prints its requests, and ec2, digitalocean and gcp start clusters"
        )
        raise ClusterError(self.target, None, cure)

    def everywhere(self) -> dict[str, OnCloud]:
        """Return that there is nowhere to look."""
        return {}

    def state(self, record: Record) -> State:  # noqa: ARG002
        """Return that nothing was started."""
        return "down"

    def stop(self, record: Record) -> int:  # noqa: ARG002
        """Return that nothing was there to be ended."""
        return 0

    def offline(self) -> OnPaper:
        """Return itself: it knows its requests."""
        return self

    def planned_wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> list[Request]:
        """Return the requests that let ``ranges`` reach the scheduler, and members each other."""
        return self.wall(order.name, list(ranges), [PORT, *([22] if ssh else [])])

    def planned(self, order: Order, role: str) -> list[Request]:
        """Return the requests that start a machine."""
        name = f"dask-{order.name}-" + ("scheduler" if role == "scheduler" else "worker-0")
        return self.machine(order, name, order.kinds[role != "scheduler"], order.script(role, 0, PLANNED))

    @abstractmethod
    def wall(self, name: str, ranges: list[str], ports: list[int]) -> list[Request]:
        """Return the requests for the cluster's firewall."""

    @abstractmethod
    def machine(self, order: Order, name: str, kind: str, script: str) -> list[Request]:
        """Return the requests for a machine of this name and type that runs a script."""


def labels(order: Order, name: str) -> dict[str, str]:
    """Return the labels of a machine, legal on every cloud."""
    role = "scheduler" if name.endswith("-scheduler") else "worker"
    own = {"cluster": order.name, "role": role, **order.tags}
    return {f"clusterglm-{key}": value for key, value in own.items()}
