"""``clusterglm script SCHEDULER``: a batch job that starts a scheduler, workers and a fit in one allocation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import typer

from clusterglm.cli import fit, options, output
from clusterglm.clusters.launcher import configured
from clusterglm.clusters.scripts import SCRIPTS
from clusterglm.errors import UsageError

_FIT = "fit_line"
_ELSEWHERE = ("cluster", "scheduler", "scheduler_file", "workers", "threads_per_worker", "memory")


def register(app: typer.Typer) -> None:
    """Add ``script``, with one sub-command per batch system."""
    systems = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @systems.callback()
    def script() -> None:
        """Print a batch job that fits in one allocation: a scheduler, workers, and the fit whose exit code it has."""

    for name, job in SCRIPTS.items():
        systems.command(name, help=inspect.getdoc(job))(_command(job))
    app.add_typer(systems, name="script")


def _command(job: type[Any]) -> Callable[..., None]:
    """Return the command of a batch system: its signature is the fields of the job, and a fit's command line."""

    def command(**given: Any) -> None:
        line = given.pop(_FIT) or []
        check_fit(line)
        output.data(configured(job, **given).script(line).removesuffix("\n"))

    line = options.Parameter(
        list[str] | None, typer.Argument(None, metavar="[-- SOLVER ...]", help="The fit, if it is known.")
    )
    return options.give(command, {_FIT: line} | options.of_fields(job))


def check_fit(line: Sequence[str]) -> None:
    """Refuse a command line that ``clusterglm fit`` would refuse in the job.

    Raises
    ------
    UsageError
        An option or a value of it is wrong, or names a cluster, which is the job's own.
    """
    if not line:
        return
    from clusterglm.request import OPTIONS, Request

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    fit.register(app)
    with typer.main.get_command(app).make_context("clusterglm fit", list(line)) as context:
        given = {name: value for name, value in context.params.items() if value is not None}
    for name in _ELSEWHERE:
        if name in given:
            raise UsageError(
                f"--{name.replace('_', '-')}", given[name], "the job has a cluster of its own: leave it out"
            )
    if "resume" not in given:
        if "solver" not in given:
            raise UsageError("SOLVER", None, "missing: name one, or auto")
        Request(**{name: value for name, value in given.items() if name in OPTIONS})
