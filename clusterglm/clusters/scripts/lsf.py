"""LSF: a host file names the nodes; ``blaunch`` starts workers there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.launcher import option
from clusterglm.clusters.scripts.job import Job


@dataclass(frozen=True, kw_only=True)
class LSF(Job):
    """A job script for LSF's bsub."""

    target: ClassVar[str] = "lsf"
    template: ClassVar[str] = "lsf.sh.j2"
    mark: ClassVar[str] = "#BSUB"
    signal: ClassVar[str] = "USR2"  # at the limit of -W too, some time before the job is killed
    remote: ClassVar[str] = "blaunch"

    queue: str | None = option(help="The queue.", parse=words.word)

    def directives(self) -> list[str]:
        assert self.nodes is not None and self.workers_per_node is not None and self.walltime is not None  # noqa: PT018
        minutes = -(-self.walltime // 60)
        given = {"-J": self.job_name, "-P": self.account, "-q": self.queue}
        return [
            *(f"{name} {value}" for name, value in given.items() if value is not None),
            f"-n {self.nodes * self.workers_per_node}",
            f'-R "span[ptile={self.workers_per_node}] rusage[mem={self.mebibytes * self.workers_per_node}]"',
            f"-W {minutes // 60:02d}:{minutes % 60:02d}",
            "-o clusterglm-%J.out -wa USR2 -wt 2",
        ]
