"""``clusterglm ls``: the clusters that are not down."""

from __future__ import annotations

import typer

from clusterglm.cli import output
from clusterglm.cli.up import summary
from clusterglm.cli.where import Hosts
from clusterglm.clusters.lookup import everything, everywhere, lookup
from clusterglm.clusters.registry import Registry
from clusterglm.errors import ClusterError


def register(app: typer.Typer) -> None:
    """Add ``ls``."""

    @app.command()
    def ls(
        json_: bool = typer.Option(False, "--json", help="Print a list of objects."),
        all_regions: bool = typer.Option(False, "--all-regions", help="Look in all regions of clouds, and remember."),
        hosts: Hosts = None,
    ) -> None:
        """List your clusters and what has become of them."""
        found = []
        troubles: list[ClusterError] = []
        if all_regions:
            _remember(troubles)
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
            columns = ["name", "target", "state", "workers", "address", "created"]
            if all_regions:
                columns.insert(2, "region")
            rows = [{"region": row["options"].get("region") or "", **row} for row in found]
            output.table([column.upper() for column in columns], [[row[column] for column in columns] for row in rows])
        else:
            output.note("no cluster is up: start one with clusterglm up local")


def _remember(troubles: list[ClusterError]) -> None:
    """Make records of the clusters in all regions, so that later commands find them wherever they are."""
    registry = Registry()
    for region, cloud, names in everywhere(lambda cloud: cloud.names(), troubles):
        for name in names if cloud.entrance() is None else ():
            known = registry.read(name)
            if known is None or known.state == "down":
                if (record := cloud.find(name)) is not None:
                    registry.save(record)
            elif getattr(cloud, "region", None) not in (None, known.options.get("region")):
                output.warning(f"{name} ({region}): another cluster of that name is known here")
