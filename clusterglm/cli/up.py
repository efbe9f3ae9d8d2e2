"""``clusterglm up TARGET``: start a cluster that outlives the shell."""

from __future__ import annotations

import dataclasses
import inspect
import os
import socket
from collections.abc import Callable
from typing import Any

import typer

from clusterglm import config
from clusterglm.cli import options, output
from clusterglm.clusters.launcher import Account, Launcher, Record, Size, configured
from clusterglm.clusters.lookup import enter_rehearsal, launcher_of
from clusterglm.clusters.registry import Registry, checked_name, now
from clusterglm.clusters.targets import TARGETS
from clusterglm.errors import ClusterError, Interrupted, Taken, UsageError
from clusterglm.units import parse_count, parse_duration

_COMMON = {
    "workers": typer.Option(
        None, "--workers", metavar="N", help="Workers: jobs of a batch system; processes here, by default one per core."
    ),
    "name": typer.Option(None, "--name", metavar="NAME", help="The cluster's name; by default the target's."),
    "timeout": typer.Option(None, "--timeout", metavar="TIME", help="Give up when the workers take longer than this."),
    "dry_run": typer.Option(False, "--dry-run", help="Print what would be started, and start nothing."),
    "json_": typer.Option(False, "--json", help="Print the result as JSON."),
    "yes": typer.Option(False, "--yes", help="Mean it, even with a number of workers above the configured limit."),
}


def register(app: typer.Typer) -> None:
    """Add ``up``, with one sub-command per target."""
    targets = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @targets.callback()
    def up() -> None:
        """Start a cluster that outlives the shell."""

    for name, launcher in TARGETS.items():
        targets.command(name, help=inspect.getdoc(launcher))(_command(launcher))
    app.add_typer(targets, name="up")


def _command(launcher: type[Any]) -> Callable[..., None]:
    """Return the command of a target: its signature is the common options and the launcher's fields."""

    def command(**given: Any) -> None:
        common = {name: given.pop(name) for name in _COMMON}
        start(launcher, with_inventory(given), **common)

    common = {
        name: options.Parameter(bool if option.default is False else str | None, option)
        for name, option in _COMMON.items()
    }
    return options.give(command, common | options.of_target(launcher))


def with_inventory(given: dict[str, Any]) -> dict[str, Any]:
    """Return a target's options as given, hosts named by an argument among them."""
    if (inventory := given.pop("inventory", None)) is not None:
        if given["hosts"] is not None:
            raise UsageError("--hosts", given["hosts"], f"given together with {inventory}: give one of them")
        given["hosts"] = inventory
    return given


def start(
    target: type[Any],
    options: dict[str, Any],
    *,
    workers: str | None,
    name: str | None,
    timeout: str | None,
    dry_run: bool,
    json_: bool,
    yes: bool,
) -> None:
    """Start a cluster of this target, or print its plan."""
    if name is not None:
        checked_name(name)
    seconds = parse_duration(timeout) if timeout is not None else None
    count = parse_count(workers, "--workers", of="workers") if workers is not None else None
    launcher: Launcher = configured(target, **options)
    count = count or launcher.default_workers()
    limit = config.get("worker-limit")
    if count > limit and not yes:
        raise UsageError(
            "--workers", workers or count, f"more than the configured limit of {limit}: lower it, or --yes"
        )
    if dry_run:
        plan = launcher.plan(name or target.target, Size(count))
        if target.target == "ec2":
            from clusterglm.cli.plan import published

            plan.steps["fit admm --rows 8e8"] = published(launcher, count)
        output.data_json(dataclasses.asdict(plan)) if json_ else output.data(str(plan))
        return
    enter_rehearsal(launcher)
    record = _launch(launcher, name, Size(count), seconds)
    if json_:
        output.data_json(summary(record))
    else:
        for key in ("name", "address", "dashboard", "workers"):
            if value := getattr(record, key):  # a cluster that waits in a queue has no address yet
                output.data(f"{key:10} {value}")


def summary(record: Record, state: str | None = None) -> dict[str, Any]:
    """Return a record as ``--json`` shows it."""
    keys = ("name", "target", "state", "workers", "address", "dashboard", "created", "host", "options")
    return {key: getattr(record, key) for key in keys} | {"state": state or record.state}


def _launch(launcher: Launcher, name: str | None, size: Size, seconds: float | None) -> Record:
    registry = Registry()
    name = name or _free_name(registry, launcher)
    with registry.holding(name, "up"):
        _make_room(registry, launcher, name)
        plan = launcher.plan(name, size)
        record = Record(
            name=name,
            target=launcher.target,
            workers=size.workers,
            host=socket.gethostname(),
            user=os.getuid(),
            created=now(),
            options=plan.options,
        )
        # A cloud's launcher saves before it makes anything. What carries the name before that is somebody else's.
        begun = not isinstance(launcher, Account)

        def save(record: Record) -> None:
            nonlocal begun
            registry.save(record)
            begun = True

        try:
            registry.create(record)
            record = launcher.launch(plan, record, save, seconds, output.note)
            registry.save(record)
            return record
        except BaseException as error:
            found = registry.read(name)
            if found is None or found.created != record.created:
                raise  # the name is another's, or the interrupt came first
            try:
                ours = begun and not isinstance(error, Taken)
                removed = _remove(registry, launcher, name) if ours else 0
                registry.update(name, state="down")
            except ClusterError as left:
                output.warning(str(left))
                raise error from left
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("interrupted", None, f"removed {removed} {launcher.parts}") from error
            raise


def _remove(registry: Registry, launcher: Launcher, name: str) -> int:
    try:
        return launcher.stop(registry.load(name))  # with all that was noted on the way
    except KeyboardInterrupt as error:
        cure = f"not all of its {launcher.parts} removed: run clusterglm down {name}"
        raise Interrupted("interrupted", None, cure) from error


def _free_name(registry: Registry, launcher: Launcher) -> str:
    """Return the target's name, or the first of local-2, local-3, ... that is free."""
    taken = set(registry.open_names()) | set(launcher.names())
    number = 1
    while (name := launcher.target if number == 1 else f"{launcher.target}-{number}") in taken:
        number += 1
    return name


def _make_room(registry: Registry, launcher: Launcher, name: str) -> None:
    """Close the record of a cluster that has ended by itself; refuse the name of one that has not."""
    old = registry.read(name)
    if old is not None and old.state != "down" and launcher_of(old).state(old) == "gone":
        launcher_of(old).stop(old)
        registry.update(name, state="down")
        output.note(f"{name}: the cluster of {old.created} has ended: its record is replaced")
    elif (old is None or old.state == "down") and launcher.find(name) is not None:
        cure = f"its {launcher.parts} still run: another name, or clusterglm down {name}"
        raise ClusterError("--name", name, cure)
