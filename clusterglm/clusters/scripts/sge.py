"""Grid Engine: slots in a parallel environment; a host file names the nodes, ``qrsh -inherit`` starts workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.launcher import option
from clusterglm.clusters.scripts.job import Job, count
from clusterglm.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SGE(Job):
    """A job script for the qsub of Grid Engine (SGE, UGE, Altair Grid Engine)."""

    target: ClassVar[str] = "sge"
    template: ClassVar[str] = "sge.sh.j2"
    mark: ClassVar[str] = "#$"
    remote: ClassVar[str] = "qrsh -inherit -nostdin"

    workers: int | None = option(help="Workers in all; else nodes times workers per node.", parse=count("workers"))
    pe: str | None = option(help="The parallel environment, see qconf -spl.  [default: mpi]", parse=words.word)
    queue: str | None = option(help="The queue.", parse=words.word)
    project: str | None = option(help="The project.", parse=words.word)
    memory_resource: str | None = option(
        help="What the site calls the memory of a slot.  [default: mem_free]", parse=words.word
    )

    def defaults(self) -> dict[str, Any]:
        if self.workers is not None and (self.workers_per_node is not None or self.nodes is not None):
            raise UsageError(
                "--workers", self.workers, "given together with --nodes or --workers-per-node: leave it out"
            )
        return super().defaults() | {"pe": "mpi", "memory_resource": "mem_free"}

    def directives(self) -> list[str]:
        assert self.nodes is not None and self.workers_per_node is not None  # noqa: PT018
        slots = self.workers or self.nodes * self.workers_per_node
        given = {"-N": self.job_name, "-A": self.account, "-P": self.project, "-q": self.queue}
        return [
            *(f"{name} {value}" for name, value in given.items() if value is not None),
            f"-pe {self.pe} {slots}",
            # Without s_rt: where a job has several hosts, Grid Engine kills it at its soft limit.
            f"-l h_rt={self.clock}",
            f"-l {self.memory_resource}={self.mebibytes}M",
            # Without -w e, which refuses every wish for a resource that hosts report and nobody counts.
            "-V -cwd -j y -S /bin/bash",
        ]
