"""``sge``: the words of Grid Engine (checked on a real one, 8.1.9, by the tests)."""

from __future__ import annotations

import getpass
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal
from xml.etree import ElementTree

from clusterglm.clusters import words
from clusterglm.clusters.batch import site
from clusterglm.clusters.batch.commands import Commands
from clusterglm.clusters.batch.folder import default_parent
from clusterglm.clusters.batch.job import SCHEDULER, Job, Queue, Tag, named
from clusterglm.clusters.batch.options import Head, clock, mebibytes
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.errors import ClusterError

_PE, _MEMORY_RESOURCE = "smp", "mem_free"
_NO_REASON = "turned off"  # sites may not collect why jobs wait


class SGEQueue(Commands):
    """The commands of Grid Engine."""

    system = "sge"
    ended = re.compile("do(es)? not exist|already in deletion")
    number, task = "${JOB_ID}", "${SGE_TASK_ID}"
    forsake = 'qdel "$JOB_ID"'  # this task too, which has nothing left to do
    again = "exit 99"

    def here(self) -> bool:
        root = os.environ.get("SGE_ROOT", "/var/lib/gridengine")
        master = Path(root, os.environ.get("SGE_CELL", "default"), "common", "act_qmaster")
        return shutil.which("qconf") is not None and master.is_file() and bool(master.read_text().strip())

    def most_tasks(self) -> int:
        return 75000  # max_aj_tasks, unless a site says otherwise

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:  # noqa: ARG002
        # No condition: -hold_jid waits for the end of a job. Workers that come too early go back into the queue.
        array = ["-t", f"1-{tasks}", "-tc", str(throttle)] if tasks else []
        return ["qsub", "-terse", *array, script]

    def submit(self, command: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        return self.run(command, folder, unset).strip().splitlines()[-1].split(".")[0]

    def jobs(self) -> list[Job]:
        known = details(self.run_on_jobs(["qstat", "-j", "cglm-*"]))
        if not known:
            return []
        return listed(self.run(["qstat", "-g", "d", "-u", getpass.getuser(), "-xml"]), known)

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self.run_on_jobs(["qdel", *jobs])

    def throttle(self, job: str, tasks: int) -> None:
        self.run_on_jobs(["qalter", "-tc", str(tasks), job])

    def epitaph(self, job: str) -> str:
        try:
            text = self.run(["qacct", "-j", job])
        except ClusterError:
            return ""  # not written yet, or no accounting
        values = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
        failed = values.get("failed", "0").strip()
        return ", ".join([f"exit code {values.get('exit_status', '?').strip()}", *([failed] if failed != "0" else [])])


@dataclass(frozen=True)
class SGE(JobQueue):
    """Jobs of Grid Engine (SGE, UGE, Altair Grid Engine): the scheduler is one, the workers are an array of them."""

    target: ClassVar[str] = "sge"
    section: ClassVar[str] = "sge"

    queue: str | None = option(help="The queue; by default any.", parse=words.word)
    project: str | None = option(help="The project that pays.", parse=words.word)
    pe: str | None = option(
        help="The parallel environment of a job of several cores, all on one host.  [default: smp]", parse=words.word
    )
    memory_resource: str | None = option(
        help="What the site calls the memory of a slot.  [default: mem_free]", parse=words.word
    )

    @property
    def commands(self) -> Queue:
        return SGEQueue()

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        given = self.scheduler_memory if tag.role == SCHEDULER else self.memory
        spec = None
        if memory and (given or not site.settings(self.section).get("resource-spec")):
            spec = f"{self.memory_resource or _MEMORY_RESOURCE}={mebibytes(math.ceil(memory / cores))}M"
        of_site = site.directives(
            "SGEJob",
            self.section,
            job_name=tag.job_name,
            queue=self.queue,
            project=self.project,
            resource_spec=spec,
            walltime=seconds and clock(seconds),
            cores=cores,
            processes=1,
            memory=f"{memory or 1}B",
            job_extra_directives=list(self.directive) or None,
        )
        slots = [f"-pe {self.pe or _PE} {cores}"] if cores > 1 else []
        own = ["-S /bin/bash", f"-o {tag.folder}/logs/", f"-r {'n' if tag.role == SCHEDULER else 'y'}"]
        return self.asked("#$", of_site, [*slots, *own])


def details(text: str) -> dict[str, tuple[Tag, str]]:
    """Return the tag of each cluster's job in what ``qstat -j`` prints, and the reason for its waiting."""
    found = {}
    for block in re.split(r"^={10,}\n", text, flags=re.MULTILINE):
        lines = re.findall(r"^([\w ]+?):\s+(.*)$", block, flags=re.MULTILINE)
        values = {key: value.strip() for key, value in reversed(lines)}  # of several the first
        tag = named(values.get("job_name", ""), values.get("sge_o_workdir", ""), default_parent())
        if tag is None or values.get("owner") != getpass.getuser():
            continue
        reason = next((value for key, value in values.items() if key.startswith("error reason")), "")
        reason = re.sub(r"^\d+:\s*", "", reason) or values.get("scheduling info", "")
        found[values["job_number"]] = tag, "" if _NO_REASON in reason else reason
    return found


def listed(xml: str, known: dict[str, tuple[Tag, str]]) -> list[Job]:
    """Return the jobs and tasks in what ``qstat -g d -xml`` prints, of the jobs that are ``known``."""
    found = []
    for item in ElementTree.fromstring(xml).iter("job_list"):  # noqa: S314  the words of the site's own server
        job, task = item.findtext("JB_job_number", ""), item.findtext("tasks", "")
        if job not in known:
            continue
        tag, reason = known[job]
        said = item.findtext("state", "")
        state = _state(said)
        node = item.findtext("queue_name", "").rpartition("@")[2]
        waits = {"pending": reason, "held": reason or said}.get(state, "")
        found.append(Job(f"{job}.{task}" if task else job, job, task, state, tag, node, waits))
    return found


def _state(state: str) -> Literal["pending", "held", "running", "ending"]:
    if "d" in state:
        return "ending"
    if "E" in state or "h" in state:
        return "held"
    return "pending" if "q" in state else "running"
