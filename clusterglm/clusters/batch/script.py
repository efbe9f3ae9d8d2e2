"""The scripts of a cluster's two kinds of jobs: one pure function each of what the jobs shall be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterglm.clusters import tls
from clusterglm.clusters.batch.folder import SCHEDULER_FILE
from clusterglm.clusters.batch.reach import NOT_YET
from clusterglm.clusters.words import shell

_NOT_YET_SECONDS = 60  # in a place that the scheduler may be waiting for


@dataclass(frozen=True)
class Script:
    """What a job's script consists of: directives, the user's own lines, exported variables, and one command."""

    shebang: str
    directives: Sequence[str]
    prologue: Sequence[str]
    variables: dict[str, str]
    folder: Path
    command: Sequence[str]
    log: str | None = None  # shell, for the text between double quotes

    def __str__(self) -> str:
        log = [f'exec >>"{self.log}" 2>&1'] if self.log else []
        lines = [self.shebang, *self.directives, *log, *self.prologue, "set -eu"]
        # After the user's lines: modules set such variables too. A worker's nanny keeps whatever it inherits.
        lines += [
            shell("export", f"{name}={value}")
            for name, value in sorted((self.variables | tls.variables(self.folder / "tls")).items())
        ]
        return "\n".join([*lines, shell("cd", self.folder), *self.command, ""])


def scheduler(python: str, idle_timeout: int, interface: str | None) -> list[str]:
    """Return the lines that become a scheduler, whose only listener beyond loopback speaks TLS."""
    words = [python, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
    words += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", SCHEDULER_FILE]
    words += ["--idle-timeout", f"{idle_timeout}s", *_interface(interface)]
    return [_exec(words)]


@dataclass(frozen=True)
class Worker:
    """A worker's job: ``processes`` of ``threads`` threads and ``memory`` bytes each, that leave after ``life`` s."""

    name: str
    uid: str
    processes: int
    threads: int
    memory: int
    life: int | None
    stagger: int
    death_timeout: int
    interface: str | None
    scratch: str | None
    extra: Sequence[str] = ()

    def lines(self, python: str, member: str, forsake: str, again: str = "") -> list[str]:
        """Return the lines that wait for the scheduler and become a worker.

        ``member``, ``forsake`` and ``again`` are shell: the number of job and task, what takes away the tasks that
        wait, and what puts this one back into the queue. With it a worker leaves its place to a scheduler that waits.
        """
        reach = shell(
            python, "-m", "clusterglm.clusters.batch.reach", _NOT_YET_SECONDS if again else self.death_timeout
        )
        back = f"[ $? != {NOT_YET} ] || {again}; " if again else ""
        words = [python, "-m", "distributed.cli.dask_worker", "--scheduler-file", SCHEDULER_FILE]
        words += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--nanny"]
        words += ["--nworkers", f"{self.processes}", "--nthreads", f"{self.threads}"]
        words += ["--memory-limit", f"{self.memory}"]
        words += ["--death-timeout", f"{self.death_timeout}s", *self._life(), *_interface(self.interface), *self.extra]
        # Not 20_0, which Dask reads as the number 200.
        place = f'"{self.scratch or "${TMPDIR:-/tmp}"}/cglm-{self.uid}-{member}"'
        return [
            f"{reach} || {{ {back}{forsake}; exit 1; }}",
            f'{_exec(words)} --name "{self.name}-{member}" --local-directory {place}',
        ]

    def _life(self) -> list[str]:
        if self.life is None:
            return []
        return ["--lifetime", f"{self.life}s", "--lifetime-stagger", f"{self.stagger}s", "--no-lifetime-restart"]


def _interface(name: str | None) -> list[str]:
    return [] if name is None else ["--interface", name]


def _exec(words: Sequence[object]) -> str:
    # exec: the batch system's SIGTERM reaches Python, and the job's exit code is Python's.
    return f"exec {shell(*words)}"
