"""``clusterglm plan SOLVER [TARGET]``: memory, chunks, passes and minutes of a fit, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import typer

from clusterglm.cli import output
from clusterglm.errors import UsageError, unknown
from clusterglm.units import format_duration, format_size, parse_count, parse_memory, parse_size

TARGETS = ("local", "ec2")
_INSTANCE_TYPE = "m4.2xlarge"
_WORTH_TELLING = 10**9  # bytes besides what every fit takes
_PRESET = ("target", "workers", "instance-type", "memory", "threads-per-worker", "disk")


def register(app: typer.Typer) -> None:
    """Add ``plan``."""
    app.command("plan")(plan)


class _Cluster(NamedTuple):
    """``workers`` of ``threads`` and ``memory`` bytes each, ``disk`` bytes on all local disks together; ``speed`` of a
    core, None for this machine's."""

    workers: int
    threads: int
    memory: int
    disk: int
    speed: float | None
    words: str
    machines: str | None = None  # their type, where there are any to be paid


def plan(
    solver: str = typer.Argument(..., help="A solver's name, or auto."),
    where: str | None = typer.Argument(None, metavar="[TARGET]", help="local (this machine) or ec2.  [default: local]"),
    rows: str = typer.Option(..., metavar="N", help="How many rows, such as 8e8."),
    columns: int | None = typer.Option(None, metavar="N", help="Columns of them.  [default: 15]"),
    family: str | None = typer.Option(None, metavar="F", help="gaussian, binomial or poisson.  [default: binomial]"),
    penalty: str | None = typer.Option(None, metavar="P", help="none, l1, l2, elastic-net or group."),
    intercept: bool | None = typer.Option(None, "--intercept/--no-intercept", help="[default: without]"),
    dtype: str | None = typer.Option(None, metavar="T", help="float64 or float32.  [default: float64]"),
    storage: str | None = typer.Option(None, metavar="S", help="memory, disk or stream.  [default: auto]"),
    chunk_rows: str | None = typer.Option(None, metavar="N", help="Rows of a chunk, or auto."),
    tol: float | None = typer.Option(None, metavar="T", help="As in fit.  [default: 0.01]"),
    rel_gap: float | None = typer.Option(None, metavar="G", help="As in fit."),
    start: str | None = typer.Option(None, metavar="S", help="auto or null, as in fit."),
    workers: str | None = typer.Option(None, metavar="N", help="Processes (local) or machines (ec2)."),
    threads_per_worker: str | None = typer.Option(None, metavar="N", help="Threads of each of them."),
    memory: str | None = typer.Option(None, metavar="SIZE", help="Memory of each of them, such as 30GB."),
    instance_type: str | None = typer.Option(None, metavar="T", help=f"On ec2.  [default: {_INSTANCE_TYPE}]"),
    disk: str | None = typer.Option(
        None, metavar="SIZE", help="Free on the local disk of each machine.  [default: what is free here; 40GB on ec2]"
    ),
    preset: str | None = typer.Option(None, metavar="FILE", help="A cluster from a file of launch/."),
    json_: bool = typer.Option(False, "--json", help="Print the plan as JSON."),
) -> None:
    """Say how a fit would hold its rows, and what memory and time it would take; nothing is started."""
    from clusterglm.request import OPTIONS, Request

    request = Request(**{name: value for name, value in locals().items() if name in OPTIONS and value is not None})
    asked: dict[str, Any] = {
        "target": where,
        "workers": workers,
        "threads-per-worker": threads_per_worker,
        "memory": memory,
        "instance-type": instance_type,
        "disk": disk,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    cluster = _cluster(_preset(preset) | given if preset is not None else given)
    made, speeds, expected = _planned(request, cluster)
    cost = _cost(cluster, expected)
    if json_:
        from dataclasses import asdict

        output.data_json(
            {"cluster": cluster.words} | made.as_dict() | asdict(expected) | {"speeds": speeds._asdict(), "cost": cost}
        )
        return
    _show(made, expected, cluster, cost)


def published(launcher: Any, workers: int) -> str:
    """Return the time and money that the fit of the published experiment would take on machines that are planned."""
    from clusterglm.clusters.machines import machine
    from clusterglm.request import Request

    asked = {"target": "ec2", "workers": workers, "instance-type": launcher.instance_type or _INSTANCE_TYPE}
    try:
        machine(str(asked["instance-type"]))
    except UsageError:
        return "unknown: nobody has told how fast these machines are"
    if launcher.disk:
        asked["disk"] = f"{launcher.disk}GB"
    cluster = _cluster(asked)
    made, _, expected = _planned(Request(solver="admm", rows="8e8"), cluster)
    total = expected.seconds_load + expected.seconds_fit
    return f"about {format_duration(total)}, rows in {made.storage}: {_dollars(launcher, workers, total)}"


def _dollars(launcher: Any, workers: int, seconds: float) -> str:
    """Return what a cluster costs from its boot to the end of a fit of so many seconds."""
    from clusterglm.clusters.cloud import prices

    dollars, complete = launcher.rate(workers)
    hours = (prices.BOOT_SECONDS + seconds) / 3600
    boot = f"{prices.BOOT_SECONDS / 60:.0f} min of boot included"
    return f"about {prices.words(dollars * hours, complete)} ({boot}; {prices.words(dollars, complete)} an hour)"


def _preset(path: str) -> dict[str, Any]:
    """Return what a file of launch/ says. Raises UsageError for what is none."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "not plain YAML"
        raise UsageError("--preset", path, f"{reason}: name a file such as launch/published-ec2.yaml") from error
    if not isinstance(content, dict):
        raise UsageError("--preset", path, f"must be a mapping with the keys {', '.join(_PRESET)}")
    for key in content:
        if key not in _PRESET:
            raise unknown(f"--preset {path}", str(key), _PRESET)
    return {str(key): str(value) for key, value in content.items()}


def _cluster(given: dict[str, Any]) -> _Cluster:
    """Return the cluster that these options describe. Raises UsageError for a wrong one."""
    target = given.get("target", "local")
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    count = parse_count(given["workers"], "--workers", of="workers") if "workers" in given else None
    threads = given.get("threads-per-worker")
    threads = parse_count(threads, "--threads-per-worker", of="threads") if threads is not None else None
    memory = parse_memory(given["memory"]) if "memory" in given else None
    disk = parse_size(given["disk"], "--disk") if "disk" in given else None
    if target == "local":
        if "instance-type" in given:
            raise UsageError("--instance-type", given["instance-type"], "belongs to ec2: name that target")
        from clusterglm.clusters.embedded import shape

        made = shape(count, threads, memory)
        free = _free_disk() if disk is None else disk  # one disk, whatever the processes
        return _Cluster(made.workers, made.threads, made.memory, free, None, "this machine")
    from clusterglm.clusters.machines import DISK, machine

    name = given.get("instance-type", _INSTANCE_TYPE)
    has = machine(name)
    workers = count or 8
    room = workers * (DISK if disk is None else disk)
    return _Cluster(workers, threads or has.cores, memory or has.memory, room, has.speed, f"{workers} x {name}", name)


def _planned(request: Any, cluster: _Cluster) -> tuple[Any, Any, Any]:
    from clusterglm import planning
    from clusterglm.data import chunks
    from clusterglm.data.forecast import typical
    from clusterglm.data.synthetic import Synthetic

    columns = request.columns + request.model.intercept
    chosen = request.chosen(columns)
    made = chunks.plan(
        solver=chosen.name,
        rows=request.row_count,
        columns=columns,
        dtype=request.dtype,
        storage=request.storage,
        workers=cluster.workers,
        threads=cluster.workers * cluster.threads,
        memory=cluster.memory,
        disk=cluster.disk,
        chunk_rows=request.rows_per_chunk,
    )
    if cluster.speed is None:
        source = Synthetic(request.row_count, request.columns, request.seed, request.family_used.name)
        speeds = planning.here(source, made, request.family_used, request.model.intercept)
    else:
        speeds = typical(columns, relative=cluster.speed, readers=cluster.threads)
    return made, speeds, planning.planned(request, chosen, made, speeds)


def _free_disk() -> int:
    import shutil
    import tempfile

    import dask.config

    # As clusters/embedded.py chooses; a folder that is not there yet will be on the disk of one that is.
    folder = Path(dask.config.get("temporary-directory") or tempfile.gettempdir()).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _cost(cluster: _Cluster, expected: Any) -> str | None:
    """Return what the fit would cost, None on this machine and where nobody knows how long it takes."""
    if cluster.machines is None or expected.seconds_fit is None:
        return None
    from clusterglm.clusters.launcher import configured
    from clusterglm.clusters.targets.ec2 import Ec2

    launcher = configured(Ec2, instance_type=cluster.machines)
    return _dollars(launcher, cluster.workers, expected.seconds_load + expected.seconds_fit)


def _show(made: Any, expected: Any, cluster: _Cluster, cost: str | None) -> None:
    total = None if expected.seconds_fit is None else expected.seconds_load + expected.seconds_fit
    needed = expected.client_memory
    at_home = f", and {format_size(needed)} where the fit is run from" if needed > _WORTH_TELLING else ""
    rows = [
        (
            "where",
            f"{cluster.words}: {made.workers} workers, {made.threads} threads, {format_size(cluster.memory)} each",
        ),
        ("rows", f"{made.rows:,} x {made.columns} {made.dtype}, {format_size(made.bytes)}"),
        ("storage", made.storage),
        ("chunks", f"{made.chunks} of {made.chunk_rows:,} rows, {made.tasks_per_pass} tasks a pass"),
        ("local problems", f"{made.local_problems} of {made.local_rows:,} rows"),
        (
            "passes",
            "unknown" if expected.passes is None else f"about {expected.passes}, the first of them while loading",
        ),
        ("a pass", f"about {format_duration(expected.seconds_per_pass)}"),
        ("loading", f"about {format_duration(expected.seconds_load)}"),
        ("in all", "unknown" if total is None else f"about {format_duration(total)}"),
        *([("cost", cost)] if cost is not None else []),
        ("peak memory", f"about {format_size(expected.peak_memory)} a worker{at_home}"),
        ("speeds", "measured on one core here" if cluster.speed is None else "typical of such cores, not measured"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.data(f"{name:<{width}}  {value}")
    output.data("")
    for reason in made.reasons:
        output.data(f"- {reason.removeprefix('note: ')}")
