"""``clusterglm keys FOLDER``: the keys of one cluster, for scripts that start Dask's own commands."""

from __future__ import annotations

from pathlib import Path

import typer

from clusterglm.cli import output


def register(app: typer.Typer) -> None:
    """Add ``keys``."""
    app.command("keys")(keys)


def keys(folder: str = typer.Argument(..., help="A folder, which is made where it is not there.")) -> None:
    """Make a cluster's keys (TLS), and print for a shell's eval what Dask's commands need in order to use them."""
    from clusterglm.clusters import tls
    from clusterglm.clusters.words import shell

    for name, value in tls.variables(tls.make(Path(folder).absolute())).items():
        output.data(shell("export", f"{name}={value}"))
