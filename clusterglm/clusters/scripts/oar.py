"""OAR: a node file names the nodes; ``oarsh`` starts workers there. Memory comes with the cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.launcher import option
from clusterglm.clusters.scripts.job import Job


@dataclass(frozen=True, kw_only=True)
class OAR(Job):
    """A job script for OAR's oarsub; --account is its project."""

    target: ClassVar[str] = "oar"
    template: ClassVar[str] = "oar.sh.j2"
    mark: ClassVar[str] = "#OAR"
    signal: ClassVar[str] = "USR2"
    remote: ClassVar[str] = "oarsh"

    queue: str | None = option(help="The queue.", parse=words.word)

    def directives(self) -> list[str]:
        given = {"-n": self.job_name, "--project": self.account, "-q": self.queue}
        return [
            *(f"{name} {value}" for name, value in given.items() if value is not None),
            f"-l nodes={self.nodes}/core={self.workers_per_node},walltime={self.clock}",
            "-O clusterglm-%jobid%.out",  # one a line: behind a name of a file all else is part of it
            "-E clusterglm-%jobid%.out",
            "--checkpoint 60",
        ]
