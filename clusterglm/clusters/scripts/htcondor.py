"""HTCondor: on one machine an ordinary job, on several one of the parallel universe, whose first node leads.

The parallel universe is there where a site has given machines to a dedicated scheduler; the vanilla one is everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.launcher import option, repeated
from clusterglm.clusters.scripts.job import Job, count


@dataclass(frozen=True, kw_only=True)
class HTCondor(Job):
    """A job script for HTCondor, which submits itself; --account is its accounting group."""

    target: ClassVar[str] = "htcondor"
    template: ClassVar[str] = "htcondor.sh.j2"
    mark: ClassVar[str] = "#CONDOR"

    nodes: int | None = option(
        help="Machines; more than one by the parallel universe.  [default: 1]", parse=count("nodes")
    )
    disk: str | None = option(help="Disk of each machine, such as 4GB.  [default: the site's]", parse=words.word)
    directive: tuple[str, ...] = repeated(
        help="A command of the submit description, such as 'request_gpus = 1'; may be repeated.", parse=words.command
    )
    skip: tuple[str, ...] = repeated(help="Commands that begin so are left out; may be repeated.", parse=words.word)

    def defaults(self) -> dict[str, Any]:
        return super().defaults() | {"nodes": 1}

    def directives(self) -> list[str]:
        assert self.nodes is not None and self.workers_per_node is not None  # noqa: PT018
        universe, log = ["universe = vanilla"], "clusterglm-$(ClusterId).out"
        if self.nodes > 1:
            universe = ["universe = parallel", f"machine_count = {self.nodes}"]
            log = "clusterglm-$(ClusterId)-$(Node).out"
        account = [f"accounting_group = {self.account}"] if self.account else []
        disk = [f"request_disk = {self.disk}"] if self.disk else []
        return [
            f"batch_name = {self.job_name}",
            *universe,
            *account,
            f"request_cpus = {self.workers_per_node}",
            f"request_memory = {self.workers_per_node * self.mebibytes}",
            *disk,
            f"periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > {self.walltime}",
            f"output = {log}",
            f"error = {log}",
            "executable = /bin/bash",
            "should_transfer_files = NO",
            "getenv = True",
            'environment = "CLUSTERGLM_JOB=$(ClusterId)"',
        ]
