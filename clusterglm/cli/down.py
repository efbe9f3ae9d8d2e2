"""``clusterglm down``: end clusters and everything that belongs to them."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from clusterglm.cli import output
from clusterglm.cli.where import Hosts
from clusterglm.clusters.launcher import Launcher, Record
from clusterglm.clusters.lookup import everything, lookup
from clusterglm.clusters.registry import Registry, checked_name
from clusterglm.errors import ClusterError, Interrupted, UsageError


def register(app: typer.Typer) -> None:
    """Add ``down``."""

    @app.command()
    def down(
        names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="The clusters.")] = None,
        all_: bool = typer.Option(False, "--all", help="All of them."),
        expired: bool = typer.Option(False, "--expired", help="Those that have ended by themselves."),
        if_exists: bool = typer.Option(False, "--if-exists", help="An unknown name is no error."),
        hosts: Hosts = None,
    ) -> None:
        """End clusters, and whatever an interrupted command has left of them."""
        if bool(names) + all_ + expired != 1:
            raise UsageError("down", None, "give names, or --all, or --expired")
        troubles: list[ClusterError] = []
        chosen = [checked_name(name, "cluster") for name in names or everything(troubles, hosts)]
        found = []
        for name in chosen:
            try:
                found.append(lookup(name, hosts=hosts))
            except UsageError:
                if not if_exists:
                    raise
                output.note(f"{name}: not known")
            except ClusterError as error:
                if names:
                    raise
                output.warning(str(error))
        for launcher, record in found:
            if not expired or launcher.state(record) == "gone":
                _end(launcher, record)
        if troubles:
            raise troubles[0]
        if len(found) < len(chosen) and not names:
            raise ClusterError("down", f"{len(found)} of {len(chosen)}", "see the warnings for the others")


def take_down(name: str | None) -> None:
    """End one cluster that is up."""
    _end(*lookup(checked_name(name or "", "--cluster")))


def _end(launcher: Launcher, record: Record) -> None:
    name = record.name
    if record.state == "down" and launcher.find(name) is None:
        output.note(f"{name}: already down")
        return
    launcher.state(record)  # raises where another machine alone can tell
    registry = Registry()
    try:
        with registry.holding(name, "down"):
            ended = launcher.stop(record)
            registry.update(name, state="down")
    except ClusterError:
        with contextlib.suppress(ClusterError):
            if launcher.state(record) == "gone":  # what is left of it ends by itself
                registry.update(name, state="down")
        raise
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted", None, f"not all of {name} removed: run clusterglm down {name}") from error
    how = "found by tag and ended" if record.state == "starting" else "ended"
    output.note(f"{name}: {ended} {launcher.parts} {how}")
