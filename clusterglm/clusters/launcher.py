"""What every target offers: a plan that can be read, a launch, and four verbs that work from any later process.

A launcher is a frozen dataclass per target. Its fields, made with :func:`option`, are the target's options: one
declaration gives ``up TARGET --help``, the validation, the setting that is its default, and what the record keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol, Self, runtime_checkable

from clusterglm import config
from clusterglm.errors import ClusterError, unknown

if TYPE_CHECKING:
    from clusterglm.clusters.cloud.door import Way

SCHEMA = 1
State = Literal["pending", "held", "starting", "up", "gone", "down"]
Entrance = Callable[[Sequence[str]], NoReturn]  # runs a command line in another place than this


@dataclass(frozen=True)
class Size:
    """How many workers: processes on this machine, jobs on a batch system, machines in a cloud."""

    workers: int


@dataclass(frozen=True)
class Plan:
    """What ``launch`` would do, as ``--dry-run`` prints it: the very command lines, job scripts or requests."""

    name: str
    target: str
    size: Size
    steps: dict[str, str]
    options: dict[str, Any]

    def __str__(self) -> str:
        return "\n\n".join(f"# {step}\n{text}" for step, text in self.steps.items())


@dataclass(frozen=True)
class Record:
    """What is remembered of a cluster between commands. A cache: the system that runs the cluster is the truth.

    ``details`` belongs to the target: process numbers here, job numbers on a batch system.
    """

    name: str
    target: str
    workers: int
    host: str
    user: int
    created: str
    state: Literal["starting", "up", "down"] = "starting"
    address: str = ""
    dashboard: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True)
class Member:
    """A job or machine of a cluster, its state, place and what there is to say of it in the system's own words."""

    name: str
    state: str
    where: str = ""
    note: str = ""


class Elsewhere(ClusterError):
    """A cluster that can be used from another place alone: the command line runs again there, by ``enter``."""

    def __init__(self, what: str, value: object, cure: str, enter: Entrance) -> None:
        super().__init__(what, value, cure)
        self.enter = enter


class Launcher(Protocol):
    """The verbs of a target. All but the first two need no more than a record, which ``find`` can make up again."""

    target: ClassVar[str]
    parts: ClassVar[str]  # what a cluster consists of: processes, jobs, machines

    def default_workers(self) -> int:
        """Return the number of workers where nobody says one; UsageError where somebody must."""

    def plan(self, name: str, size: Size) -> Plan:
        """Return what would be started. Pure: nothing is touched."""

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],
    ) -> Record:
        """Start the cluster, ``save`` after each step, ``tell`` what it waits for, and return its record.

        Without a ``timeout`` (seconds) the target has a limit of its own.
        """

    def find(self, name: str) -> Record | None:
        """Return the record of a cluster from what the system itself says, None where there is none."""

    def names(self) -> list[str]:
        """Return the names of all clusters that the system itself knows of."""

    def state(self, record: Record) -> State:
        """Return what has become of the cluster."""

    def obituary(self, record: Record) -> str:
        """Return what happened to a cluster that is gone, in a few words."""

    def members(self, record: Record) -> list[Member]:
        """Return what the system itself says of each part, empty where the cluster's scheduler knows them all."""

    def scale(self, record: Record, workers: int, timeout: float) -> Record:
        """Bring the cluster to so many workers within ``timeout`` s; those that leave hand over their data first."""

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Yield (process, file) of every log, the scheduler's first."""

    def stop(self, record: Record) -> int:
        """End everything that belongs to the cluster and return how many things that were. Safe to repeat."""


@runtime_checkable
class Cloud(Launcher, Protocol):
    """The verb of a target that can be rehearsed, beside those of every other."""

    def entrance(self, begin: bool = False) -> Entrance | None:
        """Return the way to where its clusters can be used: a rehearsal. None where that is here.

        There is no way into a rehearsal that has ended, unless ``begin`` lets the way start another.
        """


@runtime_checkable
class Account(Cloud, Protocol):
    """The verbs of a cloud that tells of an account, region by region, and whose machines can be entered."""

    def hourly(self, record: Record) -> tuple[float, bool]:
        """Return the dollars of an hour of a cluster as it is, and whether that is all of it."""

    def way_in(self, record: Record) -> AbstractContextManager[Mapping[str, Way]]:
        """Keep the machines open to ssh from here, and yield the way into each by its role: scheduler, worker-0, ..."""

    def write_inventory(self, record: Record, path: Path | None = None) -> Path:
        """Write the machines as an inventory of Ansible's, and return the path of the file."""

    def shut_out(self, record: Record) -> str:
        """Return why the cluster's wall does not let the caller in, an empty string where it does."""

    def let_in(self, record: Record) -> str:
        """Open the wall to the address that the caller has now, close it to his former one; return what is open."""

    def everywhere(self) -> Mapping[str, Self]:
        """Return this launcher for each region, and for a rehearsal last; none where nobody has an account."""

    def expired(self, any_owner: bool) -> dict[str, str]:
        """Return the names of clusters of which something is left here that should be gone, and why it should."""

    def clear(self, name: str) -> int:
        """End whatever carries a cluster's name here, with no record of it, and return how many machines that were."""


def option(*, help: str, parse: Callable[[Any, str], Any], setting: str | None = None, flag: bool = False) -> Any:
    """Declare a launcher's option: its help text, its parser, the setting that is its default; a flag has no value."""
    return field(default=None, metadata={"help": help, "parse": parse, "setting": setting, "flag": flag})


def repeated(*, help: str, parse: Callable[[Any, str], Any]) -> Any:
    """Declare an option that may be given several times; ``parse`` reads one of its values."""

    def each(values: Any, what: str) -> tuple[Any, ...]:
        return tuple(parse(value, what) for value in values)

    return field(default=(), metadata={"help": help, "parse": each, "setting": None, "repeated": True})


def configured(launcher: type[Any], **given: Any) -> Any:
    """Return a launcher of this class: options as given, else from its settings; all of them parsed.

    Raises
    ------
    UsageError
        An option that the target does not have, or a value that its parser refuses.
    """
    options = {item.name: item for item in dataclasses.fields(launcher)}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in options:
            raise unknown(f"option of {launcher.target}", name, options)
    # What was given is refused before any setting is read, because reading them imports Dask.
    values = {
        name: options[name].metadata["parse"](value, f"--{name.replace('_', '-')}") for name, value in given.items()
    }
    for name, item in options.items():
        if name not in values:
            setting = item.metadata["setting"]
            value = config.get(setting) if setting else item.default
            values[name] = item.metadata["parse"](value, f"clusterglm.{setting}") if setting and value else value
    return launcher(**values)
