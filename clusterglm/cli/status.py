"""``clusterglm status NAME``: what a cluster says of itself."""

from __future__ import annotations

import dataclasses

import typer

from clusterglm.cli import output
from clusterglm.cli.up import summary
from clusterglm.cli.where import Hosts
from clusterglm.clusters.cloud import fleet
from clusterglm.clusters.connect import disconnect
from clusterglm.clusters.launcher import Account, Member, Record
from clusterglm.clusters.lookup import connect_cluster, lookup
from clusterglm.errors import UsageError
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
        reopen: bool = typer.Option(
            False, "--reopen", help="Of a cluster in a cloud: let in your present address in place of your former one."
        ),
        hosts: Hosts = None,
    ) -> None:
        """Ask a cluster for its workers and their memory (exit code 4 when it does not answer)."""
        launcher, record = lookup(name, hosts=hosts)
        if reopen:
            if not isinstance(launcher, Account):
                raise UsageError("--reopen", None, f"belongs to clouds, and {name} is on {launcher.target}")
            output.note(f"{name}: open to {launcher.let_in(record)}")
        members = launcher.members(record) if record.state == "up" else []
        if members and not record.address:
            show_waiting(record, launcher.state(record), members, json_)
            return
        client = connect_cluster(name, what="cluster", allow_version_mismatch=allow_version_mismatch)
        try:
            from clusterglm.clusters import workers as of

            found = of.workers(client)
            tasks, used = of.load(client)
        finally:
            disconnect(client)
        workers = len(found)
        if isinstance(launcher, Account):  # where each machine has several, and may have been taken back
            workers = len({fleet.machine_of(worker.name, name) for worker in found})
            if workers < record.workers:
                cure = f"clusterglm scale {name} {record.workers}"
                output.note(f"{name}: {workers} of {record.workers} machines have workers: {cure}")
        record = dataclasses.replace(record, workers=workers)
        if json_:
            rows = [dataclasses.asdict(worker) | {"memory_used": used[worker.address]} for worker in found]
            shown = {"tasks": tasks, "worker": rows, "member": [dataclasses.asdict(member) for member in members]}
            output.data_json(summary(record) | shown)
            return
        for key, value in summary(record).items():
            if key != "options":
                output.data(f"{key:10} {value}")
        output.data(f"{'tasks':10} {tasks}\n")
        output.table(
            ("WORKER", "ADDRESS", "THREADS", "MEMORY", "OF"),
            [(w.name, w.address, w.threads, format_size(used[w.address]), format_size(w.memory)) for w in found],
        )
        if members:
            output.data("")
            show_members(members)


def show_waiting(record: Record, state: str, members: list[Member], json_: bool) -> None:
    """Print what a cluster waits for whose scheduler has no address yet."""
    if json_:
        rows = [dataclasses.asdict(member) for member in members]
        output.data_json(summary(record, state) | {"tasks": 0, "worker": [], "member": rows})
        return
    for key, value in summary(record, state).items():
        if key != "options" and value != "":
            output.data(f"{key:10} {value}")
    output.data("")
    show_members(members)


def show_members(members: list[Member]) -> None:
    """Print the parts of a cluster as the system that runs them sees them."""
    output.table(("PART", "STATE", "WHERE", ""), [(m.name, m.state, m.where, m.note) for m in members])
