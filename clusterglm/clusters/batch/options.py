"""What a user may say of a cluster's jobs on any batch system, and the scripts that are made of it.

A system's target adds its own options and says in what directives its jobs ask for what they need.
"""

from __future__ import annotations

import abc
import contextlib
import math
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import settings, words
from clusterglm.clusters.batch import script
from clusterglm.clusters.batch.job import SCHEDULER, Queue, Tag
from clusterglm.clusters.launcher import option, repeated
from clusterglm.errors import UsageError
from clusterglm.units import parse_count, parse_duration, parse_memory

_MEMORY = 2 * 10**9  # bytes of a core's share where neither user nor site says, and of the scheduler's job
_MEMORY_SHARE = 0.95  # the system kills a job at all of what it asked for
_LONGEST_MARGIN = 300  # seconds before its job's end at which a worker hands over its data
_DEATH_SECONDS = 300  # many workers that start at once from a shared file system take minutes
Head = tuple[str, list[str]]


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


def clock(seconds: int) -> str:
    """Return seconds as batch systems read them: ``HH:MM:SS``, any number of hours."""
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def mebibytes(count: int) -> int:
    """Return bytes in the unit of batch systems, rounded up."""
    return math.ceil(count / 2**20)


@dataclass(frozen=True)
class JobOptions(abc.ABC):
    """The options of jobs; what is not given here is the site's ``jobqueue.yaml`` to say."""

    target: ClassVar[str]
    section: ClassVar[str]  # of jobqueue.yaml
    redirects: ClassVar[bool] = True  # a job writes its own log; else a directive names it

    cores: int | None = option(help="Cores of a worker's job; each becomes a worker process.", parse=_cores)
    memory: int | None = option(help="Memory of a worker's job, such as 8GB.", parse=parse_memory)
    walltime: int | None = option(help="A worker's job ends after it, such as 02:00:00.", parse=seconds_of)
    scheduler_walltime: int | None = option(
        help="The cluster ends after it; by default the workers' walltime. Workers that end earlier are replaced.",
        parse=seconds_of,
    )
    scheduler_memory: int | None = option(help="Memory of the scheduler's job, by default 2GB.", parse=parse_memory)
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

    @property
    @abc.abstractmethod
    def commands(self) -> Queue:
        """Return the commands of the system."""

    @abc.abstractmethod
    def directives_of(self, tag: Tag, cores: int, memory: int | None, seconds: int | None) -> Head:
        """Return the first line and the directives of a job's script; None where the site is to say."""

    def unset(self) -> list[str]:
        """Return the environment variables of the system that would win over options that were given."""
        return []

    def asked(self, mark: str, site: Head, own: list[str]) -> Head:
        """Return a site's directives and our own behind ``mark``, without those that the user wants left out."""
        lines = [*site[1], *(f"{mark} {line}" for line in own)]
        return site[0], [line for line in lines if not line.startswith(tuple(f"{mark} {word}" for word in self.skip))]

    def generations(self, of_site: dict[str, Any]) -> int:
        """Return how many workers follow one another in the life of the scheduler, one to spare."""
        if not self.commands.throttles:
            return 1
        own = self._seconds(of_site)
        life = self.scheduler_walltime or own
        return 2 if not own or not life else math.ceil(life / own) + 1

    def _seconds(self, of_site: dict[str, Any]) -> int | None:
        """Return the walltime of a worker's job, None where nobody says one that can be read."""
        with contextlib.suppress(UsageError):
            return self.walltime or (seconds_of(str(of_site["walltime"])) if of_site.get("walltime") else None)
        return None

    def shape(self, of_site: dict[str, Any]) -> tuple[int, int, int]:
        """Return the cores, worker processes and bytes of a worker's job."""
        cores = self.cores or of_site.get("cores") or 1
        processes = cores if self.cores else of_site.get("processes") or cores
        memory = self.memory or (parse_memory(of_site["memory"]) if of_site.get("memory") else _MEMORY * cores)
        return int(cores), int(processes), int(memory)

    def scheduler_script(self, tag: Tag, of_site: dict[str, Any]) -> str:
        seconds = self.scheduler_walltime or self.walltime
        head = self.directives_of(tag, 1, self.scheduler_memory or _MEMORY, seconds)
        interface = self.scheduler_interface or self.interface or of_site.get("interface")
        command = script.scheduler(self._python(of_site), self.idle_timeout, interface)
        return self._script(head, tag, command, of_site)

    def worker_script(self, tag: Tag, of_site: dict[str, Any]) -> str:
        cores, processes, memory = self.shape(of_site)
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
        queue = self.commands
        lines = worker.lines(self._python(of_site), f"{queue.number}-{queue.task}", queue.forsake, queue.again)
        return self._script(head, tag, lines, of_site)

    def _script(self, head: Head, tag: Tag, lines: list[str], of_site: dict[str, Any]) -> str:
        prologue = words.first_lines(self.modules, self.prologue)
        if not prologue:
            prologue = [str(line) for line in of_site.get("job-script-prologue") or []]
        variables = settings.WORKER_ENVIRONMENT | settings.dask_environment(settings.dask_settings())
        log = None
        if self.redirects:
            number = self.commands.number if tag.role == SCHEDULER else f"{self.commands.number}_{self.commands.task}"
            log = f"{tag.folder}/logs/{tag.role}-{number}.log"
        return str(script.Script(*head, prologue, variables, tag.folder, lines, log))

    def _python(self, of_site: dict[str, Any]) -> str:
        return self.python or of_site.get("python") or sys.executable
