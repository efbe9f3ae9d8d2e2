"""``clusterglm ssh NAME``: into a machine of a cluster in a cloud, or into all of them with Ansible."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clusterglm.clusters.launcher import Account
from clusterglm.clusters.lookup import check_alive, everything, lookup
from clusterglm.clusters.registry import not_known
from clusterglm.errors import ClusterError, UsageError, quoted


def register(app: typer.Typer) -> None:
    """Add ``ssh``."""

    @app.command()
    def ssh(
        name: str = typer.Argument(metavar="NAME", help="The cluster."),
        words: Annotated[
            list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="What to run there; by default a shell.")
        ] = None,
        machine: str | None = typer.Option(
            None, "--on", metavar="MACHINE", help="worker-0, worker-1, ...  [default: scheduler]"
        ),
        inventory: str | None = typer.Option(
            None, metavar="FILE", help="Write an Ansible inventory of all machines, and run COMMAND here meanwhile."
        ),
    ) -> None:
        """Log in to a machine of a cluster in a cloud, with the cluster's own keys (ends with the command's code)."""
        file = None if inventory is None else _free(inventory, machine)
        launcher, record = lookup(name)
        if record.state == "down":
            raise not_known(name, everything())
        if not isinstance(launcher, Account):
            raise ClusterError("cluster", name, f"is on {launcher.target}, not in a cloud: use ssh itself")
        check_alive(launcher, record)
        from clusterglm.clusters.cloud import door

        with launcher.way_in(record) as ways:
            if file is None:
                line = [*door.into(ways, machine or "scheduler").line(), *(words or [])]
            else:
                launcher.write_inventory(record, file)
                line = words or [os.environ.get("SHELL", "/bin/sh")]
            code = door.run(line)
        raise typer.Exit(code)


def _free(inventory: str, machine: str | None) -> Path:
    """Return the path of an inventory that may be written; what somebody else has written there stays."""
    if machine is not None:
        raise UsageError("--on", machine, "given together with --inventory, which is of all machines: give one of them")
    from clusterglm.clusters.cloud.door import INVENTORY

    path = Path(inventory).expanduser().absolute()
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError("--inventory", quoted(inventory), "not in a folder that can be written to")
    if path.exists() and not (path.is_file() and path.read_text(errors="replace").startswith(INVENTORY)):
        raise UsageError("--inventory", quoted(inventory), "is there, and not of clusterglm's making: name another")
    return path
