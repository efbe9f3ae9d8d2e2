"""``clusterglm ls``: the clusters that are not down."""

from __future__ import annotations

import typer

from clusterglm.cli import output
from clusterglm.cli.up import summary
from clusterglm.cli.where import Hosts
from clusterglm.clusters.lookup import everything, lookup
from clusterglm.errors import ClusterError


def register(app: typer.Typer) -> None:
    """Add ``ls``."""

    @app.command()
    def ls(json_: bool = typer.Option(False, "--json", help="Print a list of objects."), hosts: Hosts = None) -> None:
        """List your clusters and what has become of them."""
        found = []
        troubles: list[ClusterError] = []
        for name in everything(troubles, hosts):
            try:
                launcher, record = lookup(name, hosts=hosts, look=True)
            except ClusterError as error:
                output.warning(str(error))
                continue
            try:
                state: str = launcher.state(record)
            except ClusterError:
                state = f"on {record.host}"
            found.append(summary(record, state))
        for trouble in troubles:
            output.warning(str(trouble))
        if json_:
            output.data_json(found)
        elif found:
            columns = ("name", "target", "state", "workers", "address", "created")
            output.table([column.upper() for column in columns], [[row[column] for column in columns] for row in found])
        else:
            output.note("no cluster is up: start one with clusterglm up local")
