"""Slurm: a task a worker; ``srun`` brings the workers to the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterglm.clusters import words
from clusterglm.clusters.launcher import option
from clusterglm.clusters.scripts.job import Job, count
from clusterglm.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Slurm(Job):
    """A job script for Slurm's sbatch."""

    target = "slurm"
    template = "slurm.sbatch.j2"
    mark = "#SBATCH"

    workers: int | None = option(help="Workers in all, on whatever nodes are free.", parse=count("workers"))
    partition: str | None = option(help="The partition.", parse=words.word)
    qos: str | None = option(help="The quality of service.", parse=words.word)
    constraint: str | None = option(help="What the nodes must have, such as avx512.", parse=words.word)
    reservation: str | None = option(help="The reservation.", parse=words.word)

    def defaults(self) -> dict[str, Any]:
        usual = super().defaults()
        if self.workers is not None:
            if self.workers_per_node is not None:
                raise UsageError("--workers", self.workers, "given together with --workers-per-node: give one of them")
            del usual["nodes"], usual["workers_per_node"]
        return usual

    def directives(self) -> list[str]:
        size = self.mebibytes
        given = {
            "job-name": self.job_name,
            "account": self.account,
            "partition": self.partition,
            "qos": self.qos,
            "constraint": self.constraint,
            "reservation": self.reservation,
            "nodes": self.nodes,
            "ntasks": self.workers,
            "ntasks-per-node": self.workers_per_node,
            "cpus-per-task": 1,
            "mem-per-cpu": f"{size // 1024}G" if size % 1024 == 0 else f"{size}M",
            "time": self.clock,
            "signal": "B:TERM@60",
        }
        return [f"--{name}={value}" for name, value in given.items() if value is not None]
