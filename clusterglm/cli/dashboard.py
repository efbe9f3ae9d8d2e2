"""``clusterglm dashboard NAME``: where the scheduler's dashboard listens."""

from __future__ import annotations

import typer

from clusterglm.cli import output
from clusterglm.clusters.lookup import check_alive, everything, lookup
from clusterglm.clusters.registry import not_known
from clusterglm.errors import ClusterError


def register(app: typer.Typer) -> None:
    """Add ``dashboard``."""

    @app.command()
    def dashboard(name: str = typer.Argument(metavar="NAME", help="The cluster.")) -> None:
        """Print the address of a cluster's dashboard, which listens on loopback only."""
        launcher, record = lookup(name)
        if record.state == "down":
            raise not_known(name, everything())
        check_alive(launcher, record)
        if not record.dashboard:
            raise ClusterError("cluster", name, "its scheduler has no dashboard: is bokeh installed where it runs?")
        output.data(record.dashboard)
