"""``htcondor``: the words of HTCondor (checked on a real one, 23.9, by the tests).

A job's description stands in the lines of its script that begin with ``#CONDOR``. None of its jobs wait in reserve: a
worker's that ends goes back into the queue by itself.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from clusterglm.clusters import words
from clusterglm.clusters.batch import site
from clusterglm.clusters.batch.commands import Commands
from clusterglm.clusters.batch.job import WORKER, Job, Queue, Tag, untag
from clusterglm.clusters.batch.options import Head, mebibytes
from clusterglm.clusters.launcher import option, repeated
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.errors import ClusterError

_MARK = "#CONDOR"
_ATTRIBUTES = "ClusterId,ProcId,JobStatus,HoldReason,LastRejMatchReason,RemoteHost,ClusterGLM"
_STATES: dict[int, Literal["pending", "held", "running", "ending"]] = {
    **{1: "pending", 2: "running", 3: "ending", 5: "held", 6: "ending", 7: "running"}
}


class HTCondorQueue(Commands):
    """The commands of HTCondor."""

    system = "htcondor"
    ended = re.compile("Couldn't find|not found")
    throttles = False
    number, task = "$1", "$2"  # which the description hands to the script
    forsake = "true"  # each job of a submission finds out by itself
    again = "exit 0"  # see on_exit_remove below

    def here(self) -> bool:
        return shutil.which("condor_q") is not None

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:  # noqa: ARG002
        # No condition: workers that come too early go back into the queue.
        return ["condor_submit", "-terse", "-queue", str(tasks or 1), script]

    def text(self, submission: Sequence[str]) -> str:
        script = shlex.quote(submission[-1])
        return f"sed -n 's/^{_MARK} //p' {script} | {shlex.join([*submission[:2], '-', *submission[2:-1]])}"

    def submit(self, submission: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        script = Path(submission[-1])
        lines = [line.removeprefix(f"{_MARK} ") for line in script.read_text().splitlines() if line.startswith(_MARK)]
        description = script.with_suffix(".sub")
        description.write_text("\n".join([*lines, ""]))
        said = self.run([*submission[:2], str(description), *submission[2:-1]], folder, unset)
        return said.strip().splitlines()[-1].split(".")[0]

    def jobs(self) -> list[Job]:
        ours = ["-constraint", "ClusterGLM =!= undefined"]
        return listed(self.run(["condor_q", *ours, "-json", "-attributes", _ATTRIBUTES]))

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self.run_on_jobs(["condor_rm", *jobs])

    def epitaph(self, job: str) -> str:
        attributes = "ExitCode,ExitBySignal,RemoveReason,HoldReason"
        try:
            found = _read(self.run(["condor_history", "-limit", "1", "-json", "-attributes", attributes, job]))
        except ClusterError:
            return ""
        values = found[0] if found else {}
        code = [f"exit code {values['ExitCode']}"] if "ExitCode" in values else []
        return ", ".join([*code, *(values[name] for name in ("RemoveReason", "HoldReason") if values.get(name))])


@dataclass(frozen=True)
class HTCondor(JobQueue):
    """Jobs of HTCondor on a shared file system: one for the scheduler, and a submission of many for the workers."""

    target: ClassVar[str] = "htcondor"
    section: ClassVar[str] = "htcondor"

    accounting_group: str | None = option(help="The accounting group that pays.", parse=words.word)
    disk: str | None = option(help="Disk of a worker's job, such as 4GB.", parse=words.word)
    directive: tuple[str, ...] = repeated(
        help="A command of the submit description, such as 'request_gpus = 1'; may be repeated.", parse=words.command
    )
    skip: tuple[str, ...] = repeated(help="Commands that begin so are left out; may be repeated.", parse=words.word)

    @property
    def commands(self) -> Queue:
        return HTCondorQueue()

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        of_site = site.settings(self.section)
        script = f"{tag.folder}/{tag.role}.sh"
        lines = [
            f"batch_name = {tag.job_name}",
            f'+ClusterGLM = "{tag}"',
            "universe = vanilla",
            "executable = /bin/bash",
            f'arguments = "{script} $(ClusterId) $(ProcId)"',
            "transfer_executable = False",
            "should_transfer_files = IF_NEEDED",
            f"initialdir = {tag.folder}",
            f"request_cpus = {cores}",
        ]
        disk = self.disk or of_site.get("disk")
        limit = f"JobStatus == 2 && time() - EnteredCurrentStatus > {seconds}" if seconds else None
        given = {"request_memory": memory and mebibytes(memory), "request_disk": disk, "periodic_remove": limit}
        given |= {"accounting_group": self.accounting_group, **(of_site.get("job-extra-directives") or {})}
        if tag.role == WORKER:
            # One that has left in good order, or was killed, starts again for as long as there is a scheduler.
            lines.append("on_exit_remove = ExitBySignal == False && ExitCode != 0")
        lines += [f"{name} = {value}" for name, value in given.items() if value is not None]
        return self.asked(_MARK, ("#!/bin/bash", []), [*lines, *self.directive])


def listed(text: str) -> list[Job]:
    """Return the jobs of clusters in what ``condor_q -json`` prints with our attributes."""
    found = []
    for values in _read(text):
        tag, state = untag(str(values.get("ClusterGLM", ""))), _STATES.get(int(values.get("JobStatus", 0)))
        if tag is None or state is None:
            continue
        job, task = str(values["ClusterId"]), str(values["ProcId"])
        reasons = {"held": values.get("HoldReason"), "pending": values.get("LastRejMatchReason")}
        node = str(values.get("RemoteHost", "")).rpartition("@")[2]
        reason = str(reasons.get(state) or "").strip()
        found.append(Job(f"{job}.{task}", job, task, state, tag, node, reason))
    return found


def _read(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text or "[]")
    except ValueError as error:
        raise ClusterError("htcondor", None, f"not JSON: {text.strip().splitlines()[0]}") from error
    return found if isinstance(found, list) else []
