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
    from clusterglm.clusters.settings import dask_environment
    from clusterglm.clusters.words import shell

    made = tls.make(Path(folder).absolute())
    # Not the options --tls-cert and so on: `dask scheduler` refuses them together with --interface.
    settings = {"require-encryption": "True", "tls.ca-file": made / tls.CA}
    for role in ("client", "scheduler", "worker"):
        settings |= {f"tls.{role}.cert": made / tls.CERT, f"tls.{role}.key": made / tls.KEY}
    for name, value in dask_environment({f"distributed.comm.{key}": value for key, value in settings.items()}).items():
        output.data(shell("export", f"{name}={value}"))
