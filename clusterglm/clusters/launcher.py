"""What every target offers: a plan that can be read, a launch, and four verbs that work from any later process.

A launcher is a frozen dataclass per target. Its fields, made with :func:`option`, are the target's options: one
declaration gives ``up TARGET --help``, the validation, the setting that is its default, and what the record keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from clusterglm import config
from clusterglm.errors import unknown

SCHEMA = 1
State = Literal["pending", "held", "starting", "up", "gone", "down"]


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
