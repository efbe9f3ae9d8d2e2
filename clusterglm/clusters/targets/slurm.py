"""``slurm``: the words of Slurm (22.05 and later; checked on a real one by the tests)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from clusterglm.clusters import words
from clusterglm.clusters.batch import site
from clusterglm.clusters.batch.commands import Commands
from clusterglm.clusters.batch.job import SCHEDULER, WORKER, Job, Queue, Tag, untag
from clusterglm.clusters.batch.options import Head, clock, mebibytes
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.errors import ClusterError

_UNCONFIGURED = "Could not establish a configuration source"
_FIELDS = "%i|%F|%K|%T|%N|%r|%L|%S|%k"  # the comment last: a foreign one may hold anything
_ALIVE = (
    "PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING,REQUEUED,REQUEUE_HOLD,RESIZING,SIGNALING,SPECIAL_EXIT,"
    "STAGE_OUT,STOPPED"
)
# Reasons for which a job waits for ever unless somebody does something.
_HELD = re.compile(
    "JobHeld(User|Admin)|JobHoldMaxRequeue|launch failed requeued held|DependencyNeverSatisfied|BadConstraints"
    "|Partition(Time|Node)Limit|Invalid(Account|QOS)|AccountNotAllowed|QOSNotAllowed|(Assoc|QOS)Max.*PerJob(Limit)?"
)
_UNSEEN = {"None", "PartitionConfig"}  # as long as Slurm has not looked at a job


class SlurmQueue(Commands):
    """The commands of Slurm."""

    system = "slurm"
    options = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_")
    # What a site or user has set for all jobs. Every other variable of the commands is for somebody else's.
    kept = frozenset(
        {
            *("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_CONSTRAINT", "SBATCH_RESERVATION"),
            *("SBATCH_TIMELIMIT", "SBATCH_CLUSTERS", "SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"),
        }
    )
    ended = re.compile("Invalid job id specified|already (completing|finished|completed)")
    number, task = "$SLURM_ARRAY_JOB_ID", "$SLURM_ARRAY_TASK_ID"
    forsake = 'scancel --state=PENDING "$SLURM_ARRAY_JOB_ID"'

    def here(self) -> bool:
        if shutil.which("squeue") is None:
            return False
        try:
            self.run(["scontrol", "show", "hostnames", "n1"])
        except ClusterError as error:
            return _UNCONFIGURED not in str(error)
        return True

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:
        words = ["sbatch", "--parsable"]
        if after:
            words += [f"--dependency=after:{after}", "--kill-on-invalid-dep=yes"]
        if tasks:
            words.append(f"--array=0-{tasks - 1}%{throttle}")
        return [*words, script]

    def most_tasks(self) -> int:
        """Return the site's MaxArraySize."""
        try:
            found = re.search(r"MaxArraySize\s*=\s*(\d+)", self.run(["scontrol", "show", "config"]))
        except ClusterError:  # where a plan is made far from any Slurm
            found = None
        return int(found[1]) if found else super().most_tasks()

    def submit(self, command: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        return self.run(command, folder, unset).strip().splitlines()[-1].split(";")[0]

    def jobs(self) -> list[Job]:
        found = []
        for line in self.run(["squeue", "-h", "-r", "-u", str(os.getuid()), "-t", _ALIVE, "-o", _FIELDS]).splitlines():
            fields = line.split("|", 8)
            tag = untag(fields[-1]) if len(fields) == 9 else None
            if tag is None:
                continue
            number, job, task, state, node, reason, left, starts, _ = fields
            known = {"job": job, "task": "" if task == "N/A" else task, "node": node, "left": left}
            starts = "" if starts == "N/A" else starts
            reason = "" if reason in _UNSEEN else reason
            # Of a task that it has requeued Slurm knows when it may start, and may name another reason for its wait.
            delayed = reason == "BeginTime" or bool(starts and reason in ("", "JobArrayTaskLimit"))
            known |= {"reason": reason, "starts": starts}
            found.append(Job(id=number, state=_state(state, reason), tag=tag, delayed=delayed, **known))
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self.run_on_jobs(["scancel", *jobs])

    def cancel_waiting(self, jobs: Sequence[Job]) -> None:
        # The arrays, because what waits now may run when the command comes to it.
        self.run_on_jobs(["scancel", "--state=PENDING", *sorted({job.job for job in jobs})])

    def throttle(self, job: str, tasks: int) -> None:
        try:
            self.run_on_jobs(["scontrol", "update", f"JobId={job}", f"ArrayTaskThrottle={tasks}"])
        except ClusterError as error:  # also where the array has taken it, and tells which of its tasks have ended
            if "No error" not in str(error):
                raise

    def epitaph(self, job: str) -> str:
        try:
            text = self.run(["scontrol", "show", "job", job, "-o"])
        except ClusterError:
            return ""  # forgotten after MinJobAge
        values = dict(word.split("=", 1) for word in text.split() if "=" in word)
        parts = [values.get("JobState", ""), f"exit code {values.get('ExitCode', '?')}"]
        if (reason := values.get("Reason", "None")) != "None":
            parts.append(reason)
        return ", ".join(parts)


@dataclass(frozen=True)
class Slurm(JobQueue):
    """Jobs of Slurm: the scheduler is one, the workers are an array of them."""

    target: ClassVar[str] = "slurm"
    section: ClassVar[str] = "slurm"
    redirects: ClassVar[bool] = False

    account: str | None = option(help="The account or project that pays.", parse=words.word)
    partition: str | None = option(help="The partition; by default the site's.", parse=words.word)
    qos: str | None = option(help="The quality of service.", parse=words.word)
    constraint: str | None = option(help="Features that the nodes must have.", parse=words.word)
    reservation: str | None = option(help="A reservation.", parse=words.word)

    @property
    def commands(self) -> Queue:
        return SlurmQueue()

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        of_site = site.directives(
            "SLURMJob",
            self.section,
            job_name=f"cglm-{tag.name}-{tag.role}",
            queue=self.partition,
            account=self.account,
            walltime=seconds and clock(seconds),
            cores=cores,
            processes=1,
            memory=memory and f"{memory}B",
            job_cpu=cores,
            job_mem=memory and f"{mebibytes(memory)}M",
            job_extra_directives=list(self.directive) or None,
        )
        number = "%A_%a" if tag.role == WORKER else "%j"
        own = ["-N 1", f"--comment={tag}", f"-o {tag.folder / 'logs'}/{tag.role}-{number}.log", "--open-mode=append"]
        own.append("--no-requeue" if tag.role == SCHEDULER else "--requeue")
        given = {"qos": self.qos, "constraint": self.constraint, "reservation": self.reservation}
        own += [f"--{name}={value}" for name, value in given.items() if value]
        return self.asked("#SBATCH", of_site, own)

    def unset(self) -> list[str]:
        given = {"PARTITION": self.partition, "ACCOUNT": self.account, "QOS": self.qos, "TIMELIMIT": self.walltime}
        given |= {"CONSTRAINT": self.constraint, "RESERVATION": self.reservation}
        return [f"SBATCH_{name}" for name, value in given.items() if value]


def _state(state: str, reason: str) -> Literal["pending", "held", "running", "ending"]:
    if state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"):
        return "held" if _HELD.fullmatch(reason) or state in ("REQUEUE_HOLD", "SPECIAL_EXIT") else "pending"
    return "ending" if state in ("COMPLETING", "STAGE_OUT", "SIGNALING") else "running"
