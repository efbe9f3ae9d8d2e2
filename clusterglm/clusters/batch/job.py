"""A job as its queue shows it, and the tag by which a cluster's jobs are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

Role = Literal["scheduler", "worker"]
SCHEDULER: Final = "scheduler"
WORKER: Final = "worker"
_MARK = "clusterglm"


@dataclass(frozen=True)
class Tag:
    """What every job of a cluster carries from its submission on: whose it is, and where its folder lies."""

    name: str
    uid: str
    role: Role
    folder: Path

    def __str__(self) -> str:
        return f"{_MARK};name={self.name};uid={self.uid};role={self.role};dir={self.folder}"


def untag(text: str) -> Tag | None:
    """Return the tag in a job's comment; None for a comment of somebody else's."""
    mark, *fields = text.strip().split(";")
    values = dict(field.split("=", 1) for field in fields if "=" in field)
    role = values.get("role")
    if mark != _MARK or not {"name", "uid", "dir"} <= values.keys() or (role != SCHEDULER and role != WORKER):
        return None
    return Tag(values["name"], values["uid"], role, Path(values["dir"]))  # type: ignore[arg-type]


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
        """The name of its log, and of what it brings to the cluster."""
        return f"{self.role}-{self.id}"


class Queue(Protocol):
    """The commands of a batch system. Each raises ClusterError with the system's own words where it is refused."""

    submit_command: str
    # Within a job's script: the number of the array and of its task, and what takes the waiting tasks away.
    member: str
    forsake: str
    most_tasks: int

    def here(self) -> bool:
        """Return whether this machine belongs to such a system. One that does not answer is here all the same."""

    def submission(self, script: str, after: str = "", tasks: int = 0, throttle: int = 0) -> list[str]:
        """Return the command that submits a script: alone, or as an array of which ``throttle`` run at once.

        It may start when the job ``after`` has started.
        """

    def submit(self, command: Sequence[str], unset: Sequence[str] = ()) -> str:
        """Run that command without these environment variables, and return the job's number."""

    def jobs(self) -> list[Job]:
        """Return this user's jobs that carry a cluster's tag, by one question to the system."""

    def cancel(self, jobs: Sequence[str], waiting_only: bool = False) -> None:
        """End jobs, arrays or tasks; those that are no more are no error."""

    def throttle(self, job: str, tasks: int) -> None:
        """Let this many tasks of an array run at once."""

    def epitaph(self, job: str) -> str:
        """Return what became of a job that has left the queue, empty where the system has forgotten it."""
