"""What every batch system's target has in common: the options, and the verbs in terms of its queue's commands.

The scheduler is a job, the workers are a throttled array of jobs; both carry the cluster's name and folder from their
submission on. So every verb but the first two asks the queue, and works from any machine that can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterglm.clusters import registry, settings, words
from clusterglm.clusters.batch import follow, script, site
from clusterglm.clusters.batch.folder import Folder, default_parent, new_uid
from clusterglm.clusters.batch.job import SCHEDULER, WORKER, Job, Queue, Role, Tag
from clusterglm.clusters.batch.scaling import moves
from clusterglm.clusters.connect import connect
from clusterglm.clusters.launcher import Member, Plan, Record, Size, State, option, repeated
from clusterglm.errors import ClusterError, UsageError
from clusterglm.units import parse_count, parse_duration, parse_memory

_SCRIPTS: dict[Role, str] = {SCHEDULER: "scheduler.sh", WORKER: "worker.sh"}
_MEMORY = 2 * 10**9  # bytes of a core's share where neither user nor site says, and of the scheduler's job
_MEMORY_SHARE = 0.95  # the system kills a job at all of what it asked for
_LONGEST_MARGIN = 300  # seconds before its job's end at which a worker hands over its data
_DEATH_SECONDS = 300  # many workers that start at once from a shared file system take minutes
_STOP_SECONDS = 300.0


def _cores(value: Any, what: str) -> int:
    return parse_count(value, what, of="cores")


def _switch(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(what, value, "must be true or false")
    return value


def seconds_of(value: Any, what: str = "--walltime") -> int:
    """Return seconds from ``02:00:00``, ``1-12:00:00`` or ``90min``; a bare number is minutes here and seconds there.

    Raises
    ------
    UsageError
        Not a time, or a number without a unit.
    """
    if isinstance(value, int):
        return value
    text = str(value).strip()
    if match := re.fullmatch(r"(\d{1,3})-(\d\d?)(?::(\d\d))?(?::(\d\d))?", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if text.isdigit():
        raise UsageError(what, text, "write 02:00:00, 1-12:00:00 or 90min")
    return parse_duration(text, what)


@dataclass(frozen=True)
class JobQueue:
    """Jobs of a batch system; what is not given here is the site's ``jobqueue.yaml`` to say."""

    target: ClassVar[str]
    parts: ClassVar[str] = "jobs"
    queue: ClassVar[Queue]
    section: ClassVar[str]  # of jobqueue.yaml

    cores: int | None = option(help="Cores of a worker's job; each becomes a worker process.", parse=_cores)
    memory: int | None = option(help="Memory of a worker's job, such as 8GB.", parse=parse_memory)
    walltime: int | None = option(help="A worker's job ends after it, such as 02:00:00.", parse=seconds_of)
    scheduler_walltime: int | None = option(
        help="The cluster ends after it; by default the workers' walltime. Workers that end earlier are replaced.",
        parse=seconds_of,
    )
    scheduler_memory: int | None = option(help="Memory of the scheduler's job, by default 2GB.", parse=parse_memory)
    account: str | None = option(help="The account or project that pays.", parse=words.word)
    interface: str | None = option(help="The network of the nodes, such as ib0.", parse=words.interface)
    scheduler_interface: str | None = option(
        help="The scheduler's network where it is another one, such as eth0.", parse=words.interface
    )
    scratch: str | None = option(help="A folder on the nodes' own disks; by default $TMPDIR.", parse=words.path)
    modules: tuple[str, ...] | None = option(help="To load first: 'gcc/13 python/3.12'.", parse=words.modules)
    prologue: tuple[str, ...] = repeated(
        help="A line of shell that each job runs first; may be repeated.", parse=words.prologue
    )
    python: str | None = option(help="The nodes' Python; by default the one that runs this.", parse=words.path)
    directive: tuple[str, ...] = repeated(
        help="An option of the batch system's own, such as --exclusive; may be repeated.", parse=words.directive
    )
    skip: tuple[str, ...] = repeated(
        help="Directives that begin so, such as --mem, are left out; may be repeated.", parse=words.directive
    )
    folder: str | None = option(
        help="A folder that all nodes see, for keys, scripts and logs; by default ~/.local/share/clusterglm/clusters.",
        parse=words.path,
    )
    idle_timeout: int = option(
        help="End the cluster after it has been idle for so long.", parse=parse_duration, setting="idle-timeout"
    )
    wait: bool | None = option(help="Return when the workers answer; by default at once.", parse=_switch, flag=True)

    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> tuple[str, list[str]]:
        """Return the first line and the directives of a job's script; None where the site is to say."""
        raise NotImplementedError

    def unset(self) -> list[str]:
        """Return the environment variables of the system that would win over options that were given."""
        return []

    def plan(self, name: str, size: Size) -> Plan:
        """Return both scripts, and the commands that submit them."""
        uid = new_uid()
        parent = Path(words.path(self.folder or default_parent(), "--folder"))
        folder = parent / f"{name}-{uid}"
        of_site = site.settings(self.section)
        steps = {
            "folder": str(folder),
            _SCRIPTS[SCHEDULER]: self._scheduler_script(Tag(name, uid, SCHEDULER, folder), of_site),
            _SCRIPTS[WORKER]: self._worker_script(Tag(name, uid, WORKER, folder), of_site),
        }
        tasks = self._tasks(size.workers, self._generations(of_site))
        commands = [self._submission(folder, SCHEDULER), self._submission(folder, WORKER, "JOB", tasks, size.workers)]
        steps["submit"] = "\n".join(map(shlex.join, commands))
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
        generations, processes = self._generations(of_site), self._shape(of_site)[1]
        details: dict[str, Any] = {"folder": str(folder.path), "keys": str(folder.path / "tls")}
        record = dataclasses.replace(record, options=plan.options, details=details)
        save(record)
        noted = {"name": plan.name, "target": self.target, "workers": plan.size.workers, "options": plan.options}
        noted |= {"generations": generations, "processes": processes}
        folder.make({name: plan.steps[name] for name in _SCRIPTS.values()}, noted)
        scheduler = self.queue.submit(self._submission(folder.path, SCHEDULER), self.unset())
        record = dataclasses.replace(record, details=details | {SCHEDULER: scheduler})
        save(record)
        array = self._submit_workers(folder, scheduler, plan.size.workers, generations)
        record = dataclasses.replace(record, state="up", details=record.details | {WORKER: [array]})
        save(record)
        tell(f"job {scheduler} is the scheduler, job {array} the workers, {folder.path} their folder")

        def jobs_of() -> list[Job]:
            return self._jobs(record)

        if not self.wait:
            follow.first_look(self.queue, jobs_of, record, folder, tell)
            return record
        workers = plan.size.workers * processes
        found = follow.until_usable(self.queue, jobs_of, record, folder, workers, timeout, tell)
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
        details: dict[str, Any] = {"folder": str(folder.path), "keys": str(folder.path / "tls")}
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
        return f"the scheduler's job {follow.epitaph(self.queue, job, self._folder(record), SCHEDULER)}"

    def members(self, record: Record) -> list[Member]:
        """Return the jobs, with the system's own reason where one waits."""
        return follow.members(self._jobs(record), record.workers)

    def scale(self, record: Record, workers: int, timeout: float) -> Record:
        """Let more tasks of the array run, or fewer: the newest hand over their data and are cancelled.

        More is a wish: the queue says when it is granted.
        """
        folder, jobs = self._folder(record), self._jobs(record)
        folder.want(workers)
        wanted = moves(jobs, workers)
        # First of all, lest every task that leaves is followed by the next of its array.
        for array, tasks in wanted.throttles.items():
            self.queue.throttle(array, tasks)
        self.queue.cancel(wanted.forsaken, waiting_only=True)
        if wanted.leaving:
            with contextlib.suppress(ClusterError):  # without a scheduler nothing is handed over, and nothing is lost
                self._retire(record, wanted.leaving, timeout)
            self.queue.cancel([job.id for job in wanted.leaving])
        record = dataclasses.replace(record, workers=workers)
        if wanted.more:
            noted = folder.plan()
            if not noted:
                raise ClusterError("cluster", record.name, f"its folder was removed: clusterglm down {record.name}")
            scheduler = next((job.id for job in jobs if job.role == SCHEDULER), "")
            array = self._submit_workers(folder, scheduler, wanted.more, int(noted["generations"]))
            record.details[WORKER] = [*record.details.get(WORKER, []), array]
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
        since, asked, pause = time.monotonic(), -math.inf, 0.1
        seen: set[str] = set()
        tags: set[Tag] = set()
        while jobs := [job for job in self.queue.jobs() if job.tag.name == record.name]:
            seen |= {job.id for job in jobs}
            tags |= {job.tag for job in jobs}
            if time.monotonic() - asked > 10:
                asked = time.monotonic()
                arrays = {job.job for job in jobs if job.role == WORKER}
                self.queue.cancel([*sorted(arrays), *(job.id for job in jobs if job.role == SCHEDULER)])
            elif time.monotonic() - since > _STOP_SECONDS:
                left = ", ".join(sorted(job.id for job in jobs))
                raise ClusterError(self.target, f"job {left}", f"still in the queue: run clusterglm down {record.name}")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        if known := record.details.get("folder"):
            tags |= {Tag(record.name, str(known).rpartition("-")[2], SCHEDULER, Path(known))}
        for tag in tags:
            Folder(tag.folder).remove(tag.name, tag.uid)
        return len(seen)

    def _visible_jobs(self) -> list[Job]:
        return self.queue.jobs() if self.queue.here() else []

    def _jobs(self, record: Record) -> list[Job]:
        folder = record.details.get("folder")
        return [
            job for job in self.queue.jobs() if job.tag.name == record.name and folder in (None, str(job.tag.folder))
        ]

    def _folder(self, record: Record) -> Folder:
        return Folder(Path(str(record.details.get("folder", os.devnull))))

    def _retire(self, record: Record, leaving: list[Job], timeout: float) -> None:
        """Let workers hand over what they hold to those that stay, and end."""
        address = self._folder(record).addresses().get("address", record.address)
        keys = Path(record.details["keys"])
        client = connect(address, what="cluster", value=record.name, timeout=timeout, keys=keys)
        try:
            heads = tuple(f"{record.name}-{job.job}-{job.task}" for job in leaving)
            found = [str(worker["name"]) for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
            # A job of several processes has several names behind its own.
            names = [n for n in found if n in heads or n.rpartition("-")[0] in heads]
            client.retire_workers(names=names, close_workers=True)
        finally:
            client.close()

    def _submission(self, folder: Path, role: Role, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:
        return self.queue.submission(str(folder / _SCRIPTS[role]), after, tasks, throttle)

    def _submit_workers(self, folder: Folder, scheduler: str, workers: int, generations: int) -> str:
        tasks = self._tasks(workers, generations)
        return self.queue.submit(self._submission(folder.path, WORKER, scheduler, tasks, workers), self.unset())

    def _tasks(self, workers: int, generations: int) -> int:
        return max(workers, min(workers * generations, self.queue.most_tasks))

    def _generations(self, of_site: dict[str, Any]) -> int:
        """Return how many workers follow one another in the life of the scheduler, one to spare."""
        own = self._seconds(of_site)
        life = self.scheduler_walltime or own
        return 2 if not own or not life else math.ceil(life / own) + 1

    def _seconds(self, of_site: dict[str, Any]) -> int | None:
        """Return the walltime of a worker's job, None where nobody says one that can be read."""
        with contextlib.suppress(UsageError):
            return self.walltime or (seconds_of(str(of_site["walltime"])) if of_site.get("walltime") else None)
        return None

    def _shape(self, of_site: dict[str, Any]) -> tuple[int, int, int]:
        """Return the cores, worker processes and bytes of a worker's job."""
        cores = self.cores or of_site.get("cores") or 1
        processes = cores if self.cores else of_site.get("processes") or cores
        memory = self.memory or (parse_memory(of_site["memory"]) if of_site.get("memory") else _MEMORY * cores)
        return int(cores), int(processes), int(memory)

    def _scheduler_script(self, tag: Tag, of_site: dict[str, Any]) -> str:
        seconds = self.scheduler_walltime or self.walltime
        head = self.directives_of(tag, 1, self.scheduler_memory or _MEMORY, seconds)
        interface = self.scheduler_interface or self.interface or of_site.get("interface")
        command = script.scheduler(self._python(of_site), self.idle_timeout, interface)
        return self._script(head, tag.folder, command, of_site)

    def _worker_script(self, tag: Tag, of_site: dict[str, Any]) -> str:
        cores, processes, memory = self._shape(of_site)
        own_memory = memory if self.memory or not of_site.get("memory") else None
        head = self.directives_of(tag, cores, own_memory, self.walltime)
        seconds = self._seconds(of_site)
        margin = min(_LONGEST_MARGIN, seconds // 4) if seconds else 0
        worker = script.Worker(
            name=tag.name,
            uid=tag.uid,
            processes=processes,
            threads=max(1, cores // processes),
            memory=int(_MEMORY_SHARE * memory / processes),
            life=seconds - margin if seconds else None,
            stagger=margin // 2,
            death_timeout=_DEATH_SECONDS,
            interface=self.interface or of_site.get("interface"),
            scratch=self.scratch or of_site.get("local-directory"),
            extra=[word for line in of_site.get("worker-extra-args") or [] for word in shlex.split(str(line))],
        )
        lines = worker.lines(self._python(of_site), self.queue.member, self.queue.forsake)
        return self._script(head, tag.folder, lines, of_site)

    def _script(self, head: tuple[str, list[str]], folder: Path, lines: list[str], of_site: dict[str, Any]) -> str:
        prologue = words.first_lines(self.modules, self.prologue)
        if not prologue:
            prologue = [str(line) for line in of_site.get("job-script-prologue") or []]
        variables = settings.WORKER_ENVIRONMENT | settings.dask_environment(settings.dask_settings())
        return str(script.Script(*head, prologue, variables, folder, lines))

    def _python(self, of_site: dict[str, Any]) -> str:
        return self.python or of_site.get("python") or sys.executable
