"""``clusterglm ssh NAME``: into a machine of a cluster in a cloud."""

from __future__ import annotations

from typing import Annotated

import typer

from clusterglm.clusters.launcher import Account
from clusterglm.clusters.lookup import check_alive, everything, lookup
from clusterglm.clusters.registry import not_known
from clusterglm.errors import ClusterError


def register(app: typer.Typer) -> None:
    """Add ``ssh``."""

    @app.command()
    def ssh(
        name: str = typer.Argument(metavar="NAME", help="The cluster."),
        words: Annotated[
            list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="What to run there; by default a shell.")
        ] = None,
        machine: str = typer.Option("scheduler", "--on", metavar="MACHINE", help="worker-0, worker-1, ..."),
    ) -> None:
        """Log in to a machine of a cluster in a cloud, with the cluster's own keys (ends with the command's code)."""
        launcher, record = lookup(name)
        if record.state == "down":
            raise not_known(name, everything())
        if not isinstance(launcher, Account):
            raise ClusterError("cluster", name, f"is on {launcher.target}, not in a cloud: use ssh itself")
        check_alive(launcher, record)
        from clusterglm.clusters.cloud import door

        with launcher.way_in(record, machine) as line:
            code = door.run([*line(), *(words or [])])
        raise typer.Exit(code)
