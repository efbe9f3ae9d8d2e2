"""``pbs``: the words of PBS Pro, OpenPBS and Torque.

The tests run them through Slurm's PBS commands, and hold the reading of ``qstat`` to what the manuals show. Many of
these systems know no limit on the tasks of an array that run at once, so none wait in reserve: a fit asks for those
that it misses.
"""

from __future__ import annotations

import getpass
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from clusterglm.clusters import words
from clusterglm.clusters.batch import site
from clusterglm.clusters.batch.commands import Commands
from clusterglm.clusters.batch.folder import default_parent
from clusterglm.clusters.batch.job import SCHEDULER, Job, Queue, Tag, named
from clusterglm.clusters.batch.options import Head, clock, mebibytes
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.errors import ClusterError, unknown

_DIALECTS = ("pro", "torque")
_TRIES = 5
_GONE = ("F", "C", "X", "M", "B")  # finished, of another server, or an array whose tasks are listed


def dialect(value: object, what: str) -> str:
    """Return ``pro`` or ``torque``, UsageError for any other word."""
    if value not in _DIALECTS:
        raise unknown(what, str(value), _DIALECTS)
    return str(value)


class PBSQueue(Commands):
    """The commands of PBS."""

    system = "pbs"
    ended = re.compile("Unknown Job|Job has finished|already completed|invalid state for job|qdel ended with")
    throttles = False
    number = "${PBS_JOBID%%[!0-9]*}"
    task = "${PBS_ARRAY_INDEX:-${PBS_ARRAYID:-0}}"
    forsake = 'qdel "${PBS_ARRAY_ID:-$PBS_JOBID}" || true'

    def __init__(self, submit: str = "qsub", array: str = "-J") -> None:
        self.program, self.array = submit, array

    def here(self) -> bool:
        return _beside_qstat("pbsnodes")  # Grid Engine has a qsub and a qstat too

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:  # noqa: ARG002
        condition = ["-W", f"depend=after:{after}"] if after else []
        array = [self.array, f"0-{tasks - 1}"] if tasks > 1 else []  # PBS Pro refuses an array of one
        return [self.program, *condition, *array, script]

    def submit(self, command: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        return self.run(command, folder, unset).strip().splitlines()[-1].strip()

    def jobs(self) -> list[Job]:
        for _ in range(_TRIES):
            which: list[str] = []
            if _beside_qstat("qselect"):  # lest everybody's jobs are described
                which = self.run(["qselect", "-u", getpass.getuser()]).split()
                if not which:
                    return []
            try:
                return listed(self._described(which))
            except ClusterError as error:
                if not self.ended.search(str(error)):
                    raise
                trouble = error  # one has ended between the two questions
        raise trouble

    def _described(self, which: Sequence[str]) -> str:
        try:
            return self.run(["qstat", "-t", "-f", *which])
        except ClusterError as error:
            if "qstat ended with 153" in str(error):  # no job at all
                return ""
            if "Unknown option: t" not in str(error):
                raise
        try:
            return self.run(["qstat", "-f"])  # Slurm's, which does not know the tasks of arrays
        except ClusterError as error:
            if "qstat ended with 153" not in str(error):
                raise
        return ""

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self.run_on_jobs(["qdel", *jobs])

    def epitaph(self, job: str) -> str:
        for words_ in (["qstat", "-x", "-f", job], ["qstat", "-f", job]):
            try:
                values = next(iter(records(self.run(words_))), {})
            except ClusterError:
                continue
            if not values:  # to Torque -x means XML
                continue
            code = values.get("Exit_status") or values.get("exit_status")
            said = [f"exit code {code}" if code else "", values.get("comment", "")]
            return ", ".join(filter(None, said))
        return ""  # forgotten


@dataclass(frozen=True)
class PBS(JobQueue):
    """Jobs of PBS Pro, OpenPBS or Torque: the scheduler is one, the workers are an array of them."""

    target: ClassVar[str] = "pbs"
    section: ClassVar[str] = "pbs"
    mark: ClassVar[str] = "#PBS"
    usual: ClassVar[str] = "pro"

    queue: str | None = option(help="The queue; by default the site's.", parse=words.word)
    account: str | None = option(help="The account that pays (-A).", parse=words.word)
    project: str | None = option(help="The project (-P).", parse=words.word)
    resource_spec: str | None = option(
        help="What a worker's job asks for, such as select=1:ncpus=4:mem=8gb; by default --cores and --memory.",
        parse=words.word,
    )
    dialect: str | None = option(
        help="pro (select=1:ncpus=K, arrays by -J) or torque (nodes=1:ppn=K, by -t).", parse=dialect
    )

    @property
    def commands(self) -> Queue:
        return PBSQueue(array="-t" if self.spoken == "torque" else "-J")

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        spec = self.resource_spec if tag.role != SCHEDULER else None
        given = self.scheduler_memory if tag.role == SCHEDULER else self.memory or self.cores
        if spec is None and (given or not site.settings(self.section).get("resource-spec")):
            spec = self._spec(cores, memory)
        of_site = site.directives(
            "PBSJob" if self.section == "pbs" else "MoabJob",
            self.section,
            job_name=tag.job_name,
            queue=self.queue,
            account=self.account,
            resource_spec=spec,
            walltime=seconds and clock(seconds),
            cores=cores,
            processes=1,
            memory=f"{memory or 1}B",
            job_extra_directives=list(self.directive) or None,
        )
        head = of_site[0], [line.replace("#PBS", self.mark, 1) for line in of_site[1]]
        own = [*([f"-P {self.project}"] if self.project else []), "-j oe", f"-o {tag.folder}/logs/"]
        own.append(f"-r {'n' if tag.role == SCHEDULER else 'y'}")
        return self.asked(self.mark, head, own)

    @property
    def spoken(self) -> str:
        """The dialect of PBS."""
        return self.dialect or self.usual

    def _spec(self, cores: int, memory: int | None) -> str:
        size = "" if memory is None else f"{mebibytes(memory)}mb"
        if self.spoken == "torque":
            return f"nodes=1:ppn={cores}" + (f",mem={size}" if size else "")
        return f"select=1:ncpus={cores}" + (f":mem={size}" if size else "")


def _beside_qstat(program: str) -> bool:
    paths = [shutil.which(name) for name in ("qstat", program)]
    return all(paths) and len({Path(path or "").parent for path in paths}) == 1


def records(text: str) -> list[dict[str, str]]:
    """Return the attributes of each job in what ``qstat -f`` prints; ``id`` is its number."""
    found: list[dict[str, str]] = []
    key = ""
    for line in text.splitlines():
        if line.startswith("Job Id:"):
            found.append({"id": line.partition(":")[2].strip()})
        elif found and (match := re.match(r"(?: {4}|\t)([A-Za-z_][\w.]*) = (.*)", line)):
            key = match[1]
            found[-1][key] = match[2]
        elif found and line.startswith("\t") and key:
            found[-1][key] += line[1:]  # a long value goes on
    return found


def listed(text: str) -> list[Job]:
    """Return this user's jobs and tasks in what ``qstat -t -f`` prints."""
    found = []
    for values in records(text):
        job, state = values["id"], values.get("job_state", "")
        owner = values.get("Job_Owner", "").partition("@")[0]
        variables = dict(pair.split("=", 1) for pair in values.get("Variable_List", "").split(",") if "=" in pair)
        name = re.sub(r"(\[\d*\]|-\d+)$", "", values.get("Job_Name", ""))  # Torque's tasks have names of their own
        tag = named(name, variables.get("PBS_O_WORKDIR", ""), default_parent())
        if tag is None or owner != getpass.getuser() or state in _GONE or re.search(r"\[\]", job):
            continue
        match = re.match(r"(\d+)\[(\d+)\](.*)", job)
        whole, task = (f"{match[1]}[]{match[3]}", match[2]) if match else (job, "")
        node = values.get("exec_host", "").partition("/")[0]
        held = state == "H" and bool(set("uo") & set(values.get("Hold_Types", "u")))
        reason = values.get("comment", "") or ("Hold_Types " + values.get("Hold_Types", "u") if held else "")
        starts = values.get("estimated.start_time", "")
        waits = (reason, starts) if state in "QHWT" else ("", "")
        found.append(Job(job, whole, task, _state(state, held), tag, node, *waits))
    return found


def _state(state: str, held: bool) -> Literal["pending", "held", "running", "ending"]:
    if held:
        return "held"
    if state in "QHWT":  # H: until the scheduler's job has started
        return "pending"
    return "ending" if state == "E" else "running"
