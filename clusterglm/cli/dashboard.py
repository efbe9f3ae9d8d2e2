"""``clusterglm dashboard NAME``: where the scheduler's dashboard listens, or the way to it."""

from __future__ import annotations

import contextlib
import signal

import typer

from clusterglm.cli import output
from clusterglm.clusters.launcher import Account, Record
from clusterglm.clusters.lookup import check_alive, everything, lookup
from clusterglm.clusters.registry import not_known
from clusterglm.errors import ClusterError


def register(app: typer.Typer) -> None:
    """Add ``dashboard``."""

    @app.command()
    def dashboard(name: str = typer.Argument(metavar="NAME", help="The cluster.")) -> None:
        """Print the address of a cluster's dashboard, which listens on loopback; in a cloud, keep a tunnel to it."""
        launcher, record = lookup(name)
        if record.state == "down":
            raise not_known(name, everything())
        check_alive(launcher, record)
        if isinstance(launcher, Account):
            _keep_tunnel(launcher, record)
            return
        if not record.dashboard:
            raise ClusterError("cluster", name, "its scheduler has no dashboard: is bokeh installed where it runs?")
        output.data(record.dashboard)


def _keep_tunnel(launcher: Account, record: Record) -> None:
    """Print an address on loopback that leads to the dashboard, until a signal ends this."""
    from clusterglm.clusters.cloud import door
    from clusterglm.clusters.hosts.tunnel import tunnel

    with launcher.way_in(record) as ways:
        output.data(f"{tunnel(door.into(ways, 'scheduler').line, record.name, 'http://127.0.0.1:8787')}/status")
        output.flush()
        output.note("the way is open until this command ends: Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
