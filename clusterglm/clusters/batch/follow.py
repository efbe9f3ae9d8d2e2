"""What a cluster's jobs are doing, in lines that people read, and the wait until its workers answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from clusterglm import config
from clusterglm.clusters.batch.folder import Folder
from clusterglm.clusters.batch.job import SCHEDULER, WORKER, Job, Queue, number
from clusterglm.clusters.connect import connect
from clusterglm.clusters.launcher import Member, Record
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers

_LOOK_SECONDS = 2.5  # Slurm looks at its queue every other second
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds between two questions to the system


def members(jobs: Sequence[Job], wanted: int) -> list[Member]:
    """Return the scheduler and the workers; tasks beyond the number wanted are a reserve that waits for its turn."""
    found = []
    order = sorted(jobs, key=lambda job: (job.role != SCHEDULER, number(job.job), number(job.task)))
    active = sum(job.role == WORKER and job.state == "running" for job in jobs)
    due, reserve = max(0, wanted - active), 0
    for job in order:
        if job.role == WORKER and job.state == "pending":
            if not due:
                reserve += 1
                continue
            due -= 1
        note = job.reason if job.state in ("pending", "held") else f"{job.left} left" if job.state == "running" else ""
        if job.state == "pending" and job.starts:
            note += f", expected {job.starts}"
        found.append(Member(job.member, job.state, job.node, note.strip(", ")))
    if reserve:
        found.append(Member("workers", "reserve", "", f"{reserve} in turn for those that end"))
    return found


def summary(jobs: Sequence[Job], wanted: int) -> str:
    """Return one line: what the scheduler does, and how many workers do what."""
    found = members(jobs, wanted)
    words = []
    for member in found:
        if member.name.startswith(SCHEDULER):
            words.append(f"scheduler {member.state}{_in_parentheses(member)}")
    workers = [m for m in found if m.name.startswith(WORKER) and m.state != "reserve"]
    counts = Counter((m.state, _in_parentheses(m)) for m in workers)
    words += [f"{count} workers {state}{note}" for (state, note), count in counts.items()]
    return ", ".join(words) or "no job in the queue"


def _in_parentheses(member: Member) -> str:
    return f" ({member.note})" if member.note and member.state != "running" else ""


def check(jobs: Sequence[Job], queue: Queue, record: Record, folder: Folder) -> None:
    """Raise ClusterError for a cluster that can never be usable: held or ended, in the system's own words."""
    for job in sorted(jobs, key=lambda job: job.role):  # the scheduler first
        if job.state == "held":
            raise ClusterError(record.target, f"job {job.id}, {job.role}", f"held: {job.reason}")
    if not any(job.role == SCHEDULER for job in jobs):
        job_id = str(record.details.get(SCHEDULER, ""))
        raise ClusterError(record.target, f"job {job_id}, scheduler", epitaph(queue, job_id, folder, SCHEDULER))
    if not any(job.role == WORKER and job.state != "ending" for job in jobs):
        raise ClusterError(record.target, "workers", epitaph(queue, _last_array(record), folder, WORKER))


def epitaph(queue: Queue, job: str, folder: Folder, role: str) -> str:
    """Return what became of a job: the system's word for it, and the last line that it wrote."""
    own = f"{role}-{number(job)}"
    logs = [name for name, _ in folder.logs() if f"{name}_".startswith(f"{own}_")]
    said = folder.last_words(logs[-1]) if logs else ""
    return "ended: " + ": ".join(filter(None, (queue.epitaph(job) if job else "", said or "without a word")))


def first_look(
    queue: Queue, jobs_of: Callable[[], list[Job]], record: Record, folder: Folder, tell: Callable[[str], None]
) -> None:
    """Tell what has become of jobs just submitted, once the system has looked at them; raise as :func:`check` does."""
    until = time.monotonic() + _LOOK_SECONDS
    while True:
        jobs = jobs_of()
        check(jobs, queue, record, folder)
        seen = all(job.reason or job.state != "pending" for job in jobs)
        if seen or time.monotonic() > until:
            tell(summary(jobs, record.workers))
            return
        time.sleep(_FIRST_PAUSE)


def until_usable(
    queue: Queue,
    jobs_of: Callable[[], list[Job]],
    record: Record,
    folder: Folder,
    processes: int,
    timeout: float | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Wait until ``processes`` workers answer, and return the scheduler's addresses.

    Every change in the queue is told. Without a ``timeout`` the time in the queue does not count against the setting
    ``start-timeout``.

    Raises
    ------
    ClusterError
        A job is held or has ended, or the workers do not answer in time.
    """
    limit = timeout or config.get("start-timeout")
    since, pause, told, arrived = time.monotonic(), _FIRST_PAUSE, "", 0
    while True:
        jobs = jobs_of()
        check(jobs, queue, record, folder)
        line = summary(jobs, record.workers)
        if line != told:
            tell(line)
            told, pause = line, _FIRST_PAUSE
        waits = any(member.state == "pending" for member in members(jobs, record.workers))
        if waits and timeout is None:
            since = time.monotonic()
        if not waits and (found := folder.addresses()):
            arrived = _arrived(record, folder, found["address"], processes, pause)
            if arrived >= processes:
                return found
        if time.monotonic() - since > limit:
            cure = "raise --timeout, or ask for fewer"
            raise ClusterError("workers", f"{arrived} of {processes} after {limit:.0f} s", f"{line}: {cure}")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE) if waits else _FIRST_PAUSE


def _arrived(record: Record, folder: Folder, address: str, processes: int, seconds: float) -> int:
    """Return how many of ``processes`` workers there are, having waited for them a while."""
    client = connect(address, what="--name", value=record.name, keys=folder.path / "tls")
    try:
        client.wait_for_workers(processes, timeout=max(2.0, seconds))
        return processes
    except TimeoutError:
        return len(known_workers(client))
    finally:
        client.close()


def _last_array(record: Record) -> str:
    arrays = record.details.get(WORKER) or [""]
    return str(arrays[-1])
