"""``clusterglm scale NAME N``: more workers, or fewer."""

from __future__ import annotations

import typer

from clusterglm import config
from clusterglm.cli import output
from clusterglm.cli.where import Hosts
from clusterglm.clusters.lookup import check_alive, lookup
from clusterglm.clusters.registry import Registry, not_known
from clusterglm.errors import UsageError
from clusterglm.units import parse_count, parse_duration


def register(app: typer.Typer) -> None:
    """Add ``scale``."""

    @app.command()
    def scale(
        name: str = typer.Argument(metavar="NAME", help="The cluster."),
        workers: str = typer.Argument(metavar="N", help="Workers that it shall have."),
        timeout: str | None = typer.Option(None, metavar="TIME", help="Give up when it takes longer than this."),
        yes: bool = typer.Option(False, "--yes", help="Mean it, even with N above the configured limit."),
        hosts: Hosts = None,
    ) -> None:
        """Start workers, or retire some: what they hold moves to the others first."""
        count = parse_count(workers, "N", of="workers")
        seconds = parse_duration(timeout) if timeout is not None else config.get("start-timeout")
        if count > (limit := config.get("worker-limit")) and not yes:
            raise UsageError("N", workers, f"more than the configured limit of {limit}: lower it, or --yes")
        launcher, record = lookup(name, hosts=hosts)
        if record.state == "down":
            raise not_known(name, Registry().open_names())
        registry = Registry()
        with registry.holding(name, "scale"):
            check_alive(launcher, record)
            registry.save(launcher.scale(record, count, seconds))
        output.note(f"{name}: {count} workers")
