"""``clusterglm prices``: what machines cost, by a dated table, and how to bring it up to date."""

from __future__ import annotations

import typer

from clusterglm.cli import output
from clusterglm.clusters.cloud import prices as known
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.clusters.cloud.fakes.ec2 import REGION
from clusterglm.clusters.cloud.options import region as checked


def register(app: typer.Typer) -> None:
    """Add ``prices``."""

    @app.command()
    def prices(
        region: str | None = typer.Option(None, metavar="REGION", help="Of EC2; by default as AWS's settings say."),
        profile: str | None = typer.Option(None, metavar="NAME", help="The profile in AWS's own settings."),
        update: bool = typer.Option(False, "--update", help="Ask Amazon for the prices of today, and keep them."),
        json_: bool = typer.Option(False, "--json", help="Print an object."),
    ) -> None:
        """Print what an hour of a machine costs, of the size large; all sizes are multiples of it."""
        chosen = checked(region, "--region") if region else api.region_of(None, profile) or REGION
        if update:
            from clusterglm.clusters.cloud.prices import amazon

            found = amazon.large(api.client(amazon.REGION, profile, "pricing"), chosen)
            output.note(f"{len(found)} prices of {chosen} kept in {known.keep(chosen, found)}")
        table = known.table(chosen)
        if json_:
            output.data_json(table | {"region": chosen})
            return
        rows = [(f"{family}.large", f"{dollars:.4f}") for family, dollars in sorted(table["large"].items())]
        output.table(("MACHINE", "$ AN HOUR"), rows)
        output.note(f"{chosen}: {known.source(chosen)}")
