"""What the scripts of all batch systems have in common: the options, and how text becomes a script.

A user's words get into a script in two ways only. In a directive they are of an alphabet (``words``); in the body they
are quoted for the shell. The lines of ``--prologue`` are shell by their nature, and stand as they are.
"""

from __future__ import annotations

import abc
import math
import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from clusterglm.clusters import settings, words
from clusterglm.clusters.launcher import option, repeated
from clusterglm.errors import UsageError
from clusterglm.units import parse_count, parse_duration, parse_memory

NODES, WORKERS_PER_NODE, MEMORY, WALLTIME = 8, 8, 4 * 2**30, 2 * 3600
# Of `distributed`: what makes a scheduler outlive faults, and end where it is forgotten.
_SCHEDULER = "distributed.scheduler."


def count(of: str) -> Callable[[Any, str], int]:
    return lambda value, what: parse_count(value, what, of=of, most=100_000)


@dataclass(frozen=True, kw_only=True)
class Job(abc.ABC):
    """The options of a job on every batch system. What was left out has the defaults above, or is not asked for.

    Attributes
    ----------
    walltime : int
        Seconds.
    memory : int
        Bytes of one worker.
    """

    target: ClassVar[str]
    template: ClassVar[str]
    mark: ClassVar[str]  # what begins a directive
    signal: ClassVar[str] = ""  # what is sent to all processes of a job before it is killed

    nodes: int | None = option(help=f"Nodes.  [default: {NODES}]", parse=count("nodes"))
    workers_per_node: int | None = option(
        help=f"Worker processes of each, a core each.  [default: {WORKERS_PER_NODE}]", parse=count("workers")
    )
    memory: int | None = option(help="Memory of one worker.  [default: 4GiB]", parse=parse_memory)
    walltime: int | None = option(help="Limit of the whole job.  [default: 02:00:00]", parse=parse_duration)
    job_name: str | None = option(help="The job's name.  [default: clusterglm]", parse=words.word)
    account: str | None = option(help="Who pays.", parse=words.word)
    interface: str | None = option(help="The nodes' network, such as ib0.", parse=words.interface)
    scratch: str | None = option(help="A folder on the disk of each node.  [default: $TMPDIR]", parse=words.path)
    python: str | None = option(help="The Python that has clusterglm.  [default: that of PATH]", parse=words.path)
    modules: tuple[str, ...] | None = option(help="To load first: 'gcc/13 python/3.12'.", parse=words.modules)
    prologue: tuple[str, ...] = repeated(help="A line of shell to run first; may be repeated.", parse=words.prologue)
    directive: tuple[str, ...] = repeated(
        help="An option of the batch system's own, as it is; may be repeated.", parse=words.directive
    )
    skip: tuple[str, ...] = repeated(
        help="Directives that begin so are left out; may be repeated.", parse=words.directive
    )

    def __post_init__(self) -> None:
        for name, default in self.defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    def defaults(self) -> dict[str, Any]:
        """Return the values of options that were left out."""
        return {
            "nodes": NODES,
            "workers_per_node": WORKERS_PER_NODE,
            "memory": MEMORY,
            "walltime": WALLTIME,
            "job_name": "clusterglm",
            "prologue": (),
            "directive": (),
            "skip": (),
        }

    @abc.abstractmethod
    def directives(self) -> list[str]:
        """Return what the job asks for, in the words of its batch system."""

    def script(self, fit: Sequence[str] = ()) -> str:
        """Return the job script; ``fit`` is the command line of ``clusterglm fit`` that it runs, if any.

        Raises
        ------
        UsageError
            A word of ``fit`` that no script can hold.
        """
        import jinja2

        if any("\0" in word or "\n" in word for word in fit):
            raise UsageError("SOLVER", None, "a line end in an option cannot stand in a script")
        environment = jinja2.Environment(  # noqa: S701  shell, not HTML: what is quoted is quoted below
            loader=jinja2.PackageLoader("clusterglm.clusters.scripts", "."),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        asked = [line for line in self.directives() if not any(line.startswith(skipped) for skipped in self.skip)]
        return environment.get_template(self.template).render(
            directives=[*asked, *self.directive],
            prologue="\n".join(self._first_lines()),
            fit=words.shell(*fit),
            settings=textwrap.wrap(words.shell(*_environment()), 112, break_on_hyphens=False, break_long_words=False),
            interface=f" --interface {shlex.quote(self.interface)}" if self.interface else "",
            scratch=f" --local-directory {shlex.quote(self.scratch)}" if self.scratch else "",
            job=self,
        )

    @property
    def mebibytes(self) -> int:
        """Memory of one worker in the unit of batch systems, rounded up."""
        assert self.memory is not None
        return math.ceil(self.memory / 2**20)

    @property
    def clock(self) -> str:
        """The walltime as HH:MM:SS."""
        assert self.walltime is not None
        return f"{self.walltime // 3600:02d}:{self.walltime // 60 % 60:02d}:{self.walltime % 60:02d}"

    def _first_lines(self) -> list[str]:
        lines = words.first_lines(self.modules, self.prologue)
        if self.python is not None:
            lines.append(f"export PATH={shlex.quote(str(PurePosixPath(self.python).parent))}:$PATH")
        return lines


def _environment() -> list[str]:
    """Return assignments of what the job's processes are told, on top of one thread for every library."""
    own = {key: value for key, value in settings.dask_settings().items() if key.startswith(_SCHEDULER)}
    told = settings.KEEP_FREED_MEMORY | settings.dask_environment(own)
    return [f"{name}={value}" for name, value in told.items()]
