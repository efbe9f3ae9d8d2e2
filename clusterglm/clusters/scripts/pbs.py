"""PBS Pro, OpenPBS and Torque: a node file names the nodes, and a program of the system's own starts workers there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.launcher import option
from clusterglm.clusters.scripts.job import Job
from clusterglm.errors import unknown

# How a command is started on another node. Those of the batch system itself end it with the job.
REMOTES = {"pbs_tmrsh": "pbs_tmrsh", "pbsdsh": "pbsdsh -h", "ssh": "ssh -o BatchMode=yes"}
DIALECTS = {"pro": "pbs_tmrsh", "torque": "pbsdsh"}


def _one_of(choices: dict[str, str]) -> Any:
    def parse(value: Any, what: str) -> str:
        if value not in choices:
            raise unknown(what, str(value), choices)
        return str(value)

    return parse


@dataclass(frozen=True, kw_only=True)
class PBS(Job):
    """A job script for the qsub of PBS Pro, OpenPBS or Torque."""

    target: ClassVar[str] = "pbs"
    template: ClassVar[str] = "pbs.sh.j2"
    mark: ClassVar[str] = "#PBS"
    submit: ClassVar[str] = "qsub"
    usual: ClassVar[str] = "pro"  # of DIALECTS

    queue: str | None = option(help="The queue.", parse=words.word)
    dialect: str | None = option(
        help="pro (select=N:ncpus=K) or torque (nodes=N:ppn=K).  [default: pro; moab: torque]", parse=_one_of(DIALECTS)
    )
    starter: str | None = option(
        help="What starts workers on other nodes: pbs_tmrsh, pbsdsh or ssh.  [default: the dialect's]",
        parse=_one_of(REMOTES),
    )

    def directives(self) -> list[str]:
        assert self.workers_per_node is not None
        each, megabytes = self.workers_per_node, self.workers_per_node * self.mebibytes
        select = f"select={self.nodes}:ncpus={each}:mpiprocs={each}:mem={megabytes}mb"
        nodes = f"nodes={self.nodes}:ppn={each},pmem={self.mebibytes}mb"
        given = {"-N": self.job_name, "-A": self.account, "-q": self.queue}
        asked = [f"{name} {value}" for name, value in given.items() if value is not None]
        return [*asked, f"-l {nodes if self._spoken == 'torque' else select}", f"-l walltime={self.clock}", "-V -j oe"]

    @property
    def remote(self) -> str:
        """The words before a node's name and a command."""
        return REMOTES[self.starter or DIALECTS[self._spoken]]

    @property
    def _spoken(self) -> str:
        return self.dialect or self.usual


@dataclass(frozen=True, kw_only=True)
class Moab(PBS):
    """A job script for Moab's msub over Torque."""

    target: ClassVar[str] = "moab"
    mark: ClassVar[str] = "#MSUB"
    submit: ClassVar[str] = "msub"
    usual: ClassVar[str] = "torque"
