"""``clusterglm down``: end clusters and everything that belongs to them."""

from __future__ import annotations

import contextlib
import shutil
from typing import Annotated

import typer

from clusterglm.cli import output
from clusterglm.cli.where import Hosts
from clusterglm.clusters.launcher import Account, Launcher, Record
from clusterglm.clusters.lookup import check_place, everything, everywhere, lookup
from clusterglm.clusters.registry import Registry, checked_name, state_folder
from clusterglm.errors import ClusterError, Interrupted, UsageError


def register(app: typer.Typer) -> None:
    """Add ``down``."""

    @app.command()
    def down(
        names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="The clusters.")] = None,
        all_: bool = typer.Option(False, "--all", help="All of them."),
        expired: bool = typer.Option(
            False, "--expired", help="Those that have ended by themselves, and what is left of them in any region."
        ),
        any_owner: bool = typer.Option(False, "--any-owner", help="With --expired: also what others have left."),
        if_exists: bool = typer.Option(False, "--if-exists", help="An unknown name is no error."),
        hosts: Hosts = None,
    ) -> None:
        """End clusters, and whatever an interrupted command has left of them."""
        if bool(names) + all_ + expired != 1:
            raise UsageError("down", None, "give names, or --all, or --expired")
        if any_owner and not expired:
            raise UsageError("--any-owner", None, "belongs to --expired")
        troubles: list[ClusterError] = []
        if expired:
            _clear(any_owner, troubles)
        chosen = [checked_name(name, "cluster") for name in names or everything(troubles, hosts)]
        found = []
        for name in chosen:
            try:
                found.append(lookup(name, hosts=hosts, look=True))
            except UsageError:
                if not if_exists:
                    raise
                output.note(f"{name}: not known")
            except ClusterError as error:
                if names:
                    raise
                output.warning(str(error))
        ending = [(launcher, record) for launcher, record in found if not expired or _has_ended(launcher, record)]
        # What has to be entered comes last, for the command runs there from its beginning.
        for launcher, record in sorted(ending, key=lambda pair: not check_place(pair[0], pair[1].name, look=True)):
            check_place(launcher, record.name)
            _end(launcher, record)
        if expired and not troubles:
            _forget_keys(set(chosen))
        if troubles:
            raise troubles[0]
        if len(found) < len(chosen) and not names:
            raise ClusterError("down", f"{len(found)} of {len(chosen)}", "see the warnings for the others")


def _clear(any_owner: bool, troubles: list[ClusterError]) -> None:
    """End what clouds hold of clusters that should be gone, by its tags: from any machine, with no record of it."""
    for where, cloud, found in everywhere(lambda cloud: cloud.expired(any_owner), troubles):
        for name, why in found.items():
            check_place(cloud, name)
            ended = cloud.clear(name)
            output.note(f"{name}: {why}: {ended} {cloud.parts} and all that belongs to it removed ({where})")


def _has_ended(launcher: Launcher, record: Record) -> bool:
    """Return whether a cluster has ended by itself, and nothing is left of it that tells more."""
    try:
        if launcher.state(record) != "gone" or Registry().busy(record.name):
            return False
        return not isinstance(launcher, Account) or launcher.find(record.name) is None
    except ClusterError as error:  # another machine alone can tell, or its system does not answer
        output.warning(str(error))
        return False


def _forget_keys(running: set[str]) -> None:
    """Remove the keys of clusters that are no more."""
    open_names = running | set(Registry().open_names())
    for folder in (state_folder() / "clusters").glob("*/tls"):
        if folder.parent.name not in open_names:
            shutil.rmtree(folder, ignore_errors=True)


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
