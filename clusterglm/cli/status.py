"""``clusterglm status NAME``: what a cluster says of itself."""

from __future__ import annotations

import dataclasses

import typer

from clusterglm.cli import output
from clusterglm.cli.up import summary
from clusterglm.clusters.lookup import connect_cluster, lookup
from clusterglm.units import format_size


def register(app: typer.Typer) -> None:
    """Add ``status``."""

    @app.command()
    def status(
        name: str = typer.Argument(metavar="NAME", help="The cluster."),
        json_: bool = typer.Option(False, "--json", help="Print an object."),
        allow_version_mismatch: bool = typer.Option(
            False, "--allow-version-mismatch", help="Go on where versions of Python, Dask or numpy differ."
        ),
    ) -> None:
        """Ask a cluster for its workers and their memory (exit code 4 when it does not answer)."""
        _, record = lookup(name)
        client = connect_cluster(name, what="cluster", allow_version_mismatch=allow_version_mismatch)
        try:
            from clusterglm.clusters import workers as of

            found = of.workers(client)
            tasks, used = of.load(client)
        finally:
            client.close()
        record = dataclasses.replace(record, workers=len(found))
        if json_:
            rows = [dataclasses.asdict(worker) | {"memory_used": used[worker.address]} for worker in found]
            output.data_json(summary(record) | {"tasks": tasks, "worker": rows})
            return
        for key, value in summary(record).items():
            if key != "options":
                output.data(f"{key:10} {value}")
        output.data(f"{'tasks':10} {tasks}\n")
        output.table(
            ("WORKER", "ADDRESS", "THREADS", "MEMORY", "OF"),
            [(w.name, w.address, w.threads, format_size(used[w.address]), format_size(w.memory)) for w in found],
        )
