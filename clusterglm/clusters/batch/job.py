"""A job as its queue shows it, and how the jobs of a cluster are known: by a tag, or by their name and folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

Role = Literal["scheduler", "worker"]
SCHEDULER: Final = "scheduler"
WORKER: Final = "worker"
_MARK = "clusterglm"
_NAMED = re.compile(r"cglm-([a-z][a-z0-9-]{0,30})-([0-9a-f]{8})-(scheduler|worker)")


@dataclass(frozen=True)
class Tag:
    """What every job of a cluster carries from its submission on: whose it is, and where its folder lies."""

    name: str
    uid: str
    role: Role
    folder: Path

    def __str__(self) -> str:
        return f"{_MARK};name={self.name};uid={self.uid};role={self.role};dir={self.folder}"

    @property
    def job_name(self) -> str:
        """The tag, but for its folder, as the name of a job of which the queue shows no comment."""
        return f"cglm-{self.name}-{self.uid}-{self.role}"


def untag(text: str) -> Tag | None:
    """Return the tag in a job's comment; None for a comment of somebody else's."""
    mark, *fields = text.strip().split(";")
    values = dict(field.split("=", 1) for field in fields if "=" in field)
    role = values.get("role")
    if mark != _MARK or not {"name", "uid", "dir"} <= values.keys() or (role != SCHEDULER and role != WORKER):
        return None
    return Tag(values["name"], values["uid"], role, Path(values["dir"]))  # type: ignore[arg-type]


def named(job_name: str, folder: str, parent: Path) -> Tag | None:
    """Return the tag of a job from its name and the folder it was submitted from; None for somebody else's.

    Where the queue shows no folder (or another one), it is the one of that name under ``parent``.
    """
    if not (match := _NAMED.fullmatch(job_name)):
        return None
    name, uid, role = match.groups()
    own = f"{name}-{uid}"
    return Tag(name, uid, role, Path(folder) if folder.endswith(f"/{own}") else parent / own)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Job:
    """A job, or one task of an array of jobs.

    ``job`` is the number of the whole, ``id`` what the system's cancel command calls this one. ``reason`` says why it
    waits, ``starts`` when it is expected to start, ``left`` how long it may still run, all in the system's own words.
    One that is ``delayed`` waits for a time: systems let minutes pass before they start again what they have requeued.
    """

    id: str
    job: str
    task: str
    state: Literal["pending", "held", "running", "ending"]
    tag: Tag
    node: str = ""
    reason: str = ""
    starts: str = ""
    left: str = ""
    delayed: bool = False

    @property
    def role(self) -> Role:
        return self.tag.role

    @property
    def member(self) -> str:
        """The name of its log."""
        return f"{self.role}-" + "_".join(filter(None, (str(number(self.job)), self.task)))

    @property
    def worker(self) -> str:
        """The name of what it brings to the cluster; behind it stands more where it brings several."""
        return "-".join(filter(None, (self.tag.name, str(number(self.job)), self.task)))


def number(text: str) -> int:
    """Return the number at the head of a job's id, such as ``17[].server``."""
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits or 0)


class Queue(Protocol):
    """The commands of a batch system. Each raises ClusterError with the system's own words where it is refused."""

    # Shell within a job's script: the numbers of the array and of its task, what takes the waiting tasks away, and
    # where workers may come before their scheduler what puts one of them back into the queue.
    number: str
    task: str
    forsake: str
    again: str
    # Whether an array has a limit on the tasks that run at once, so that some wait in reserve for those that end.
    throttles: bool

    def here(self) -> bool:
        """Return whether this machine belongs to such a system. One that does not answer is here all the same."""

    def most_tasks(self) -> int:
        """Return how many tasks an array may have."""

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:
        """Return the command that submits a script: alone, or as an array of which ``throttle`` run at once.

        It may start when the job ``after`` has started, where the system knows such a condition.
        """

    def text(self, command: Sequence[str]) -> str:
        """Return that command as people would type it."""

    def submit(self, command: Sequence[str], folder: Path, unset: Sequence[str] = ()) -> str:
        """Run that command in the cluster's folder without these environment variables; return the job's number."""

    def jobs(self) -> list[Job]:
        """Return this user's jobs that are a cluster's, by one question to the system, or two."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """End jobs, arrays or tasks; those that are no more are no error."""

    def cancel_waiting(self, jobs: Sequence[Job]) -> None:
        """End tasks of arrays before they start."""

    def throttle(self, job: str, tasks: int) -> None:
        """Let this many tasks of an array run at once."""

    def epitaph(self, job: str) -> str:
        """Return what became of a job that has left the queue, empty where the system has forgotten it."""
