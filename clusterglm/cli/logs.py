"""``clusterglm logs NAME``: the last lines that the processes of a cluster wrote."""

from __future__ import annotations

from collections import deque

import typer

from clusterglm.cli import output
from clusterglm.cli.where import Hosts
from clusterglm.clusters.lookup import everything, lookup
from clusterglm.clusters.registry import not_known
from clusterglm.errors import redact, unknown
from clusterglm.units import parse_count


def register(app: typer.Typer) -> None:
    """Add ``logs``."""

    @app.command()
    def logs(
        name: str = typer.Argument(metavar="NAME", help="The cluster."),
        process: str | None = typer.Argument(
            None, metavar="[PROCESS]", help="scheduler, worker-0, ...: one log alone."
        ),
        lines: str = typer.Option("40", metavar="N", help="Lines from the end of each log."),
        hosts: Hosts = None,
    ) -> None:
        """Print the end of every log of a cluster, or of one."""
        count = parse_count(lines, "--lines", of="lines")
        launcher, record = lookup(name, hosts=hosts)
        if record.state == "down":
            raise not_known(name, everything(hosts=hosts))
        files = dict(launcher.logs(record))
        if process is not None and process not in files:
            raise unknown("PROCESS", process, files)
        for role, path in files.items():
            if process in {None, role}:
                if process is None:
                    output.data(f"==> {role} ({path})")
                with path.open(encoding="utf-8", errors="replace") as file:
                    output.data(redact("".join(deque(file, maxlen=count)).rstrip("\n")))
