"""The workers of a running cluster as a fit wants them: as many as its user has left it, or between two numbers.

No process does this but the fit itself, between two passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clusterglm import config
from clusterglm.clusters import workers as of
from clusterglm.clusters.lookup import lookup
from clusterglm.clusters.registry import Registry
from clusterglm.errors import ClusterglmError

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Crew:
    """Asks for the workers of cluster ``name``: worker processes, of which a job of a batch system may bring several.

    Attributes
    ----------
    least, most : int, optional
        Their number at least and at most; without ``most`` it is what the cluster's user has left it.
    """

    name: str
    least: int | None = None
    most: int | None = None

    def ask_for(self, workers: int) -> None:
        """Bring the cluster to so many workers, as far as that is allowed.

        A queue that does not answer, or somebody who changes the cluster at this moment, is no end of a fit.
        """
        with contextlib.suppress(ClusterglmError):
            launcher, record = lookup(self.name)
            each = int(record.details.get("processes", 1))
            jobs = record.workers
            if self.most is not None:
                wanted = max(self.least or 1, min(workers, self.most))
                jobs = max(1, min(-(-wanted // each), self.most // each))
            registry = Registry()
            with registry.holding(self.name, "fit"):
                registry.save(launcher.scale(record, jobs, config.get("start-timeout")))

    def gather(self, client: Client, timeout: float | None, tell: Callable[[str], object]) -> None:
        """Wait until the first workers have come, in a batch system's own words for what the others wait for.

        Raises what ``await_workers`` raises.
        """
        least = self.least or 1
        if len(of.workers(client)) < least:
            self.ask_for(self.most or least)
        of.await_workers(client, least, timeout, tell, self._why)

    def _why(self) -> str:
        with contextlib.suppress(ClusterglmError):
            launcher, record = lookup(self.name)
            waiting = [member for member in launcher.members(record) if member.state in ("pending", "held")]
            if waiting:
                return f"{waiting[0].state}: {waiting[0].note}".removesuffix(": ")
        return ""

    def release(self) -> None:
        """Give back what only a fit needed."""
        if self.most is not None:
            self.ask_for(self.least or 1)
