"""``lsf``: the words of IBM Spectrum LSF, as its manual has them: none has been at hand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from clusterglm.clusters import words
from clusterglm.clusters.batch import site
from clusterglm.clusters.batch.commands import Commands
from clusterglm.clusters.batch.job import WORKER, Job, Queue, Tag, untag
from clusterglm.clusters.batch.options import Head, mebibytes
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.errors import ClusterError

# The description last but one, and the reason at the end: it may hold anything.
_FIELDS = "jobid jobindex stat exec_host estimated_start_time time_left job_description pend_reason delimiter='^'"
_NONE = "No unfinished job found"


class LSFQueue(Commands):
    """The commands of LSF. ``bsub`` reads directives from a script that it is given as its input."""

    system = "lsf"
    by_stdin = True
    ended = re.compile("Job has already finished|No matching job found|Job not found|No unfinished job found")
    number, task = "${LSB_JOBID}", "${LSB_JOBINDEX}"
    forsake = 'bkill "$LSB_JOBID" || true'

    def here(self) -> bool:
        return shutil.which("bjobs") is not None

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:
        # -ti: a job whose condition can never be met ends.
        condition = ["-w", f"started({after})", "-ti"] if after else []
        array = ["-J", f"{Path(script).parent.name}[1-{tasks}]%{throttle}"] if tasks else []
        return ["bsub", *condition, *array, script]

    def submit(self, command: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        said = self.run(command, folder, unset)
        if match := re.search(r"Job <(\d+)> is submitted", said):
            return match[1]
        raise ClusterError(self.system, None, f"no number of a job in what bsub said: {said.strip()}")

    def jobs(self) -> list[Job]:
        return listed(self.run_on_jobs(["bjobs", "-noheader", "-o", _FIELDS]))

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self.run_on_jobs(["bkill", *jobs])

    def throttle(self, job: str, tasks: int) -> None:
        self.run_on_jobs(["bmod", "-J", f"%{tasks}", job])

    def epitaph(self, job: str) -> str:
        try:
            said = self.run(["bjobs", "-a", "-noheader", "-o", "stat exit_code exit_reason delimiter='^'", job])
        except ClusterError:
            return ""  # forgotten after CLEAN_PERIOD
        state, code, reason = [*["", *said.strip().splitlines()][-1].split("^"), "-", "-"][:3]
        known = {"": state, "exit code ": code, "because of ": reason}
        return ", ".join(f"{what}{value}" for what, value in known.items() if value not in ("", "-"))


@dataclass(frozen=True)
class LSF(JobQueue):
    """Jobs of LSF: the scheduler is one, the workers are an array of them."""

    target: ClassVar[str] = "lsf"
    section: ClassVar[str] = "lsf"

    queue: str | None = option(help="The queue; by default the site's.", parse=words.word)
    project: str | None = option(help="The project that pays.", parse=words.word)

    @property
    def commands(self) -> Queue:
        return LSFQueue()

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        minutes = None if seconds is None else -(-seconds // 60)
        of_site = site.directives(
            "LSFJob",
            self.section,
            job_name=tag.job_name,
            queue=self.queue,
            project=self.project,
            ncpus=cores,
            walltime=minutes and f"{minutes // 60:02d}:{minutes % 60:02d}",
            cores=cores,
            processes=1,
            mem=memory,
            memory=f"{memory or 1}B",
            job_extra_directives=list(self.directive) or None,
        )
        number = "%J_%I" if tag.role == WORKER else "%J"
        own = [f'-R "rusage[mem={mebibytes(memory)}]"'] if memory else []
        own += [f'-Jd "{tag}"', f"-o {tag.folder}/logs/{tag.role}-{number}.lsf", "-rn" if tag.role != WORKER else "-r"]
        return self.asked("#BSUB", of_site, own)


def listed(text: str) -> list[Job]:
    """Return the jobs and tasks of clusters in what ``bjobs -o`` prints with our fields."""
    found = []
    for line in text.splitlines():
        fields = line.split("^", 7)
        tag = untag(fields[6]) if len(fields) == 8 else None
        if tag is None or (state := _state(fields[2])) is None:
            continue
        job, index, _, host, starts, left, _, reason = ("" if field == "-" else field.strip() for field in fields)
        task = "" if index in ("", "0") else index
        node = host.split(":")[0].rpartition("*")[2]
        reason = reason if state in ("pending", "held") else ""
        starts = starts if state == "pending" else ""
        found.append(Job(f"{job}[{task}]" if task else job, job, task, state, tag, node, reason, starts, left))
    return found


def _state(state: str) -> Literal["pending", "held", "running", "ending"] | None:
    if state in ("DONE", "EXIT"):
        return None
    if state == "PSUSP":
        return "held"
    return "pending" if state in ("PEND", "WAIT") else "ending" if state == "ZOMBI" else "running"
