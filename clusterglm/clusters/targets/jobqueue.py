"""What every batch system's target has in common: the options, and the verbs in terms of its queue's commands.

The scheduler is a job, the workers are a throttled array of jobs; both carry the cluster's name and folder from their
submission on. So every verb but the first two asks the queue, and works from any machine that can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterglm import config
from clusterglm.clusters import registry, words
from clusterglm.clusters.batch import follow, site
from clusterglm.clusters.batch.folder import Folder, default_parent, new_uid
from clusterglm.clusters.batch.job import SCHEDULER, WORKER, Job, Role, Tag
from clusterglm.clusters.batch.options import JobOptions
from clusterglm.clusters.batch.scaling import moves, shares
from clusterglm.clusters.connect import connect
from clusterglm.clusters.launcher import Member, Plan, Record, Size, State
from clusterglm.errors import ClusterError, UsageError
from clusterglm.scheduler import known_workers

_SCRIPTS: dict[Role, str] = {SCHEDULER: "scheduler.sh", WORKER: "worker.sh"}
_STOP_SECONDS = 300.0


@dataclass(frozen=True)
class JobQueue(JobOptions):
    """Jobs of a batch system."""

    parts: ClassVar[str] = "jobs"

    def default_workers(self) -> int:
        """Return the setting ``workers``; without it somebody must say."""
        if workers := config.get("workers"):
            return int(workers)
        raise UsageError("--workers", None, f"missing: say how many {self.parts}")

    def plan(self, name: str, size: Size) -> Plan:
        """Return both scripts, and the commands that submit them."""
        uid = new_uid()
        parent = Path(words.path(self.folder or default_parent(), "--folder"))
        folder = parent / f"{name}-{uid}"
        of_site = site.settings(self.section)
        steps = {
            "folder": str(folder),
            _SCRIPTS[SCHEDULER]: self.scheduler_script(Tag(name, uid, SCHEDULER, folder), of_site),
            _SCRIPTS[WORKER]: self.worker_script(Tag(name, uid, WORKER, folder), of_site),
        }
        submissions = [
            self.commands.submission(str(folder / _SCRIPTS[SCHEDULER])),
            *self._workers_submissions(folder, "JOB", size.workers, self.generations(of_site)),
        ]
        steps["submit"] = "\n".join(map(self.commands.text, submissions))
        return Plan(name, self.target, size, steps, options=dataclasses.asdict(self))

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],
    ) -> Record:
        """Submit both jobs and, with ``wait``, follow them until the workers answer.

        Raises
        ------
        ClusterError
            A job was refused or held, in the system's own words, or the workers did not answer in time.
        """
        folder = Folder(Path(plan.steps["folder"]))
        of_site = site.settings(self.section)
        generations, processes = self.generations(of_site), self.shape(of_site)[1]
        details = self._details(folder, processes)
        record = dataclasses.replace(record, options=plan.options, details=details)
        save(record)
        noted = {"name": plan.name, "target": self.target, "workers": plan.size.workers, "options": plan.options}
        noted |= {"generations": generations, "processes": processes}
        folder.make({name: plan.steps[name] for name in _SCRIPTS.values()}, noted)
        submission = self.commands.submission(str(folder.path / _SCRIPTS[SCHEDULER]))
        scheduler = self.commands.submit(submission, folder.path, self.unset())
        details |= {SCHEDULER: scheduler, WORKER: []}
        save(dataclasses.replace(record, details=details))
        for submission in self._workers_submissions(folder.path, scheduler, plan.size.workers, generations):
            details[WORKER].append(self.commands.submit(submission, folder.path, self.unset()))
            save(dataclasses.replace(record, details=details))
        record = dataclasses.replace(record, state="up", details=details)
        save(record)
        arrays = " and ".join(details[WORKER])
        tell(f"job {scheduler} is the scheduler, job {arrays} the workers, {folder.path} their folder")

        def jobs_of() -> list[Job]:
            return self._jobs(record)

        if not self.wait:
            follow.first_look(self.commands, jobs_of, record, folder, tell)
            return record
        workers = plan.size.workers * processes
        found = follow.until_usable(self.commands, jobs_of, record, folder, workers, timeout, tell)
        return dataclasses.replace(record, **found)

    def find(self, name: str) -> Record | None:
        """Return the record of a cluster from the tags of its jobs and the plan in its folder."""
        jobs = [job for job in self._visible_jobs() if job.tag.name == name]
        if not jobs:
            return None
        tag = max(jobs, key=lambda job: job.role == SCHEDULER).tag
        folder = Folder(tag.folder)
        noted = folder.plan()
        running = sum(job.role == WORKER and job.state == "running" for job in jobs)
        details = self._details(folder, int(noted.get("processes", 1)))
        details |= {SCHEDULER: next((job.id for job in jobs if job.role == SCHEDULER), "")}
        return Record(
            name=name,
            target=self.target,
            workers=int(noted.get("workers", running)),
            host=socket.gethostname(),
            user=os.getuid(),
            created=str(noted.get("created", "")),
            state="up",
            options=dict(noted.get("options", {})),
            details=details | {WORKER: sorted({job.job for job in jobs if job.role == WORKER})},
            **folder.addresses(),
        )

    def names(self) -> list[str]:
        """Return the names of the clusters whose jobs are in the queue."""
        found = set()
        for job in self._visible_jobs():
            with contextlib.suppress(UsageError):  # a comment that merely looks like ours
                found.add(registry.checked_name(job.tag.name))
        return sorted(found)

    def state(self, record: Record) -> State:
        """Return ``pending`` or ``held`` as the scheduler's job is, ``starting`` before it listens."""
        if record.state == "down":
            return "down"
        job = next((job for job in self._jobs(record) if job.role == SCHEDULER), None)
        if job is None or job.state == "ending":
            return "gone"
        if job.state != "running":
            return job.state
        return "up" if self._folder(record).addresses() else "starting"

    def obituary(self, record: Record) -> str:
        """Return how the scheduler's job ended."""
        job = str(record.details.get(SCHEDULER, ""))
        return f"the scheduler's job {follow.epitaph(self.commands, job, self._folder(record), SCHEDULER)}"

    def members(self, record: Record) -> list[Member]:
        """Return the jobs, with the system's own reason where one waits."""
        return follow.members(self._jobs(record), record.workers)

    def scale(self, record: Record, workers: int, timeout: float) -> Record:
        """Let more tasks of the array run, or fewer: the newest hand over their data and are cancelled.

        More is a wish: the queue says when it is granted.
        """
        folder, jobs = self._folder(record), self._jobs(record)
        folder.want(workers)
        wanted = moves(jobs, workers, self.commands.throttles)
        # First of all, lest every task that leaves is followed by the next of its array.
        for array, tasks in wanted.throttles.items():
            self.commands.throttle(array, tasks)
        if wanted.forsaken:
            self.commands.cancel_waiting(wanted.forsaken)
        if wanted.leaving:
            with contextlib.suppress(ClusterError):  # without a scheduler nothing is handed over, and nothing is lost
                self._retire(record, wanted.leaving, timeout)
            self.commands.cancel([job.id for job in wanted.leaving])
        record = dataclasses.replace(record, workers=workers)
        if wanted.more:
            noted = folder.plan()
            if not noted:
                raise ClusterError("cluster", record.name, f"its folder was removed: clusterglm down {record.name}")
            scheduler = next((job.id for job in jobs if job.role == SCHEDULER), "")
            record.details[WORKER] = list(record.details.get(WORKER, []))
            for command in self._workers_submissions(folder.path, scheduler, wanted.more, int(noted["generations"])):
                record.details[WORKER].append(self.commands.submit(command, folder.path, self.unset()))
        return record

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Yield (job, file) of each log, the scheduler's first."""
        return self._folder(record).logs()

    def stop(self, record: Record) -> int:
        """Cancel the workers, then the scheduler, wait until the queue holds none, and remove the folder.

        Raises
        ------
        ClusterError
            The queue still holds some after five minutes.
        """
        ended = self._empty(record)
        folders = {Folder(tag.folder): tag for tag in ended.values()}
        if known := record.details.get("folder"):
            uid = str(known).rpartition("-")[2]
            folders[Folder(Path(known))] = Tag(record.name, uid, SCHEDULER, Path(known))
        for folder, tag in folders.items():
            folder.remove(tag.name, tag.uid)
        # A submission that has outlived a killed ``up`` had read its script, or can read it no more.
        ended |= self._empty(record)
        return len(ended)

    def _empty(self, record: Record) -> dict[str, Tag]:
        """Cancel jobs until the queue holds none, and return the tag of each."""
        since, asked, pause = time.monotonic(), -math.inf, 0.1
        seen: dict[str, Tag] = {}
        while jobs := [job for job in self.commands.jobs() if job.tag.name == record.name]:
            seen |= {job.id: job.tag for job in jobs}
            if time.monotonic() - asked > 10:
                asked = time.monotonic()
                arrays = {job.job for job in jobs if job.role == WORKER}
                self.commands.cancel([*sorted(arrays), *(job.id for job in jobs if job.role == SCHEDULER)])
            elif time.monotonic() - since > _STOP_SECONDS:
                left = ", ".join(sorted(job.id for job in jobs))
                raise ClusterError(self.target, f"job {left}", f"still in the queue: run clusterglm down {record.name}")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        return seen

    def _visible_jobs(self) -> list[Job]:
        return self.commands.jobs() if self.commands.here() else []

    def _jobs(self, record: Record) -> list[Job]:
        folder = record.details.get("folder")
        uid = str(folder).rpartition("-")[2]  # not the path, which the system may know by another name
        return [
            job
            for job in self.commands.jobs()
            if job.tag.name == record.name and (folder is None or job.tag.uid == uid)
        ]

    def _details(self, folder: Folder, processes: int) -> dict[str, Any]:
        return {"folder": str(folder.path), "keys": str(folder.path / "tls"), "processes": processes}

    def _folder(self, record: Record) -> Folder:
        return Folder(Path(str(record.details.get("folder", os.devnull))))

    def _retire(self, record: Record, leaving: list[Job], timeout: float) -> None:
        """Let workers hand over what they hold to those that stay, and end."""
        address = self._folder(record).addresses().get("address", record.address)
        keys = Path(record.details["keys"])
        client = connect(address, what="cluster", value=record.name, timeout=timeout, keys=keys)
        try:
            heads = [job.worker for job in leaving]
            found = [str(worker["name"]) for worker in known_workers(client).values()]
            names = [name for name in found if any(f"{name}-".startswith(f"{head}-") for head in heads)]
            client.retire_workers(names=names, close_workers=True)
        finally:
            client.close()

    def _workers_submissions(self, folder: Path, after: str, workers: int, generations: int) -> list[list[str]]:
        script, most = str(folder / _SCRIPTS[WORKER]), self.commands.most_tasks()
        return [self.commands.submission(script, after, *share) for share in shares(workers, generations, most)]
