"""``oar``: the words of OAR (checked on a real one, 2.6, by the tests).

The jobs of an array have numbers of their own, and no limit on those that run at once.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from clusterglm.clusters import words
from clusterglm.clusters.batch import site
from clusterglm.clusters.batch.commands import Commands
from clusterglm.clusters.batch.folder import default_parent
from clusterglm.clusters.batch.job import Job, Queue, Tag, named
from clusterglm.clusters.batch.options import Head, clock
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.errors import ClusterError


class OARQueue(Commands):
    """The commands of OAR."""

    system = "oar"
    ended = re.compile("already (killed|terminated)|job was not found|cannot be deleted|unknown job", re.IGNORECASE)
    throttles = False
    number, task = "${OAR_JOB_ID}", "0"
    forsake = "true"  # each job of an array finds out by itself

    def here(self) -> bool:
        return shutil.which("oarstat") is not None

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:  # noqa: ARG002
        # No condition: -a waits for the end of a job. Workers wait for their scheduler by themselves.
        return ["oarsub", *(["--array", str(tasks)] if tasks > 1 else []), "-S", script]

    def submit(self, command: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        Path(command[-1]).chmod(0o700)  # -S runs it
        said = self.run(command, folder, unset)
        if found := re.findall(r"OAR_JOB_ID=(\d+)", said):
            return str(found[0])
        raise ClusterError(self.system, None, f"no number of a job in what oarsub said: {said.strip()}")

    def jobs(self) -> list[Job]:
        return listed(self.run(["oarstat", "-u", "-J"]))

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self.run_on_jobs(["oardel", *jobs])

    def epitaph(self, job: str) -> str:
        try:
            values = next(iter(_read(self.run(["oarstat", "-f", "-J", "-j", job])).values()), {})
        except ClusterError:
            return ""
        status = values.get("exit_code")  # as of waitpid
        parts = [values.get("state"), None if status is None else f"exit code {os.waitstatus_to_exitcode(int(status))}"]
        said = values.get("message") if values.get("state") == "Error" else None  # else what the job has asked for
        return ", ".join(str(part) for part in [*parts, said] if part)


@dataclass(frozen=True)
class OAR(JobQueue):
    """Jobs of OAR: the scheduler is one, the workers are an array of them. Memory comes with the cores."""

    target: ClassVar[str] = "oar"
    section: ClassVar[str] = "oar"

    queue: str | None = option(help="The queue; by default the site's.", parse=words.word)
    project: str | None = option(help="The project that pays.", parse=words.word)

    @property
    def commands(self) -> Queue:
        return OARQueue()

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of memory, which OAR gives with cores unless a site says more
            of_site = site.directives(
                "OARJob",
                self.section,
                job_name=tag.job_name,
                queue=self.queue,
                project=self.project,
                walltime=seconds and clock(seconds),
                cores=cores,
                processes=1,
                memory=f"{memory or 1}B",
                job_extra_directives=list(self.directive) or None,
            )
        logs = f"{tag.folder}/logs/{tag.role}-%jobid%.oar"
        return self.asked("#OAR", of_site, [f"-d {tag.folder}", f"-O {logs}", f"-E {logs}"])


def listed(text: str) -> list[Job]:
    """Return this user's jobs of clusters in what ``oarstat -J`` prints."""
    found = []
    for values in _read(text).values():
        tag = named(str(values.get("name") or ""), str(values.get("launchingDirectory") or ""), default_parent())
        state = _state(str(values.get("state")))
        if tag is None or state is None or values.get("owner") != getpass.getuser():
            continue
        job, nodes = str(values["Job_Id"]), values.get("assigned_network_address") or [""]
        reason = str(values.get("message") or "") if state in ("pending", "held") else ""
        start = int(values.get("scheduledStart") or 0) if state == "pending" else 0
        starts = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(start)) if start else ""
        found.append(Job(job, job, "", state, tag, str(nodes[0]), reason, starts))
    return found


def _read(text: str) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ClusterError("oar", None, f"oarstat said: {text.strip().splitlines()[0]}") from error
    return found if isinstance(found, dict) else {}


def _state(state: str) -> Literal["pending", "held", "running", "ending"] | None:
    if state in ("Terminated", "Error"):
        return None
    if state == "Hold":
        return "held"
    if state in ("Waiting", "toAckReservation", "toLaunch"):
        return "pending"
    return "ending" if state in ("Finishing", "toError") else "running"
