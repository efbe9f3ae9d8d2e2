"""``clusterglm generate``: rows with known coefficients as files, for those who want to read them again."""

from __future__ import annotations

import time
from typing import Any

import typer

from clusterglm.cli import output
from clusterglm.cli.where import (
    AllowMismatch,
    Cluster,
    Memory,
    Scheduler,
    SchedulerFile,
    Threads,
    Timeout,
    Where,
    Workers,
)
from clusterglm.errors import UsageError, unknown
from clusterglm.signals import one_interruption
from clusterglm.units import format_size

_CLEANING_SECONDS = 60.0  # there may be terabytes to remove


def register(app: typer.Typer) -> None:
    """Add ``generate``."""
    app.command("generate")(generate)


def generate(
    rows: str = typer.Option(..., metavar="N", help="Make this many rows, such as 8e6."),
    to: str = typer.Option(..., metavar="DIR_OR_URL", help="The folder, or the prefix of objects, to write."),
    columns: int = typer.Option(15, metavar="N", help="Columns x0, x1, ... beside the target y."),
    seed: int = typer.Option(20009, metavar="N", help="Seed: the same as of fit --rows."),
    family: str = typer.Option("binomial", metavar="F", help="What the target is drawn from."),
    format: str | None = typer.Option(
        None, metavar="F", help="parquet, zarr or npy.  [default: what --to ends in, else parquet]"
    ),
    dtype: str = typer.Option("float64", metavar="T", help="float64 or float32; the target is float64."),
    cluster: Cluster = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    allow_version_mismatch: AllowMismatch = False,
    workers: Workers = None,
    threads_per_worker: Threads = None,
    memory: Memory = None,
    timeout: Timeout = None,
    overwrite: bool = typer.Option(False, help="Replace the data files in --to."),
    json_: bool = typer.Option(False, "--json", help="Print what was written as JSON."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress and no notes."),
) -> None:
    """Write generated rows as Parquet, Zarr or .npy, in parallel; fit --data has the bits of fit --rows with them."""
    from clusterglm.request import Request

    where = Where(cluster, scheduler, scheduler_file, timeout, allow_version_mismatch)
    own = where.own_cluster(workers, threads_per_worker, memory)
    request = Request(rows=rows, columns=columns, seed=seed, family=family, dtype=dtype)
    from clusterglm.data.files import state
    from clusterglm.data.target import Target

    target = Target.of(to)
    from clusterglm.data.generate import Parts, format_of, write
    from clusterglm.data.synthetic import FAMILIES, Synthetic

    if family not in FAMILIES:
        raise unknown("--family", family, FAMILIES)
    assert request.row_count is not None
    parts = Parts.of(Synthetic(request.row_count, columns, seed, family), format_of(to, format), dtype)
    _check_package(parts.format)
    target.check(parts.bytes, overwrite)
    from clusterglm.cli.progress import Display

    with one_interruption(seconds=_CLEANING_SECONDS), Display(quiet) as display, target.staged():
        began = time.perf_counter()
        with where.client_or_own(own, display.phase) as client:
            display.phase(f"writing {parts.source.rows:,} rows, {parts.rows:,} a part")
            since = time.perf_counter()

            def tell(done: int) -> None:
                display.rows(done, parts.source.rows, time.perf_counter() - since)

            write(client, parts, target, tell)
            target.publish(overwrite)
            seconds = time.perf_counter() - since
    found = {
        "to": to,
        "format": parts.format,
        "rows": parts.source.rows,
        "columns": columns,
        "seed": seed,
        "family": family,
        "dtype": dtype,
        "parts": parts.count,
        "bytes": state(target.path)[0],
        "seconds": {"write": seconds, "all": time.perf_counter() - began},
    }
    _show(found, json_)


def _check_package(format: str) -> None:
    from importlib.util import find_spec

    if format == "zarr" and find_spec("zarr") is None:
        raise UsageError("--format", "zarr", "needs the package zarr: pip install zarr")


def _show(found: dict[str, Any], json_: bool) -> None:
    if json_:
        output.data_json(found)
        return
    seconds = found["seconds"]["write"]
    output.data(f"written     {found['to']}")
    parts = f"{found['parts']} part{'' if found['parts'] == 1 else 's'}"
    output.data(f"rows        {found['rows']:,} in {parts} ({found['format']})")
    output.data(f"size        {format_size(found['bytes'])}")
    output.data(f"seconds     {seconds:.2f} ({found['rows'] / seconds:.2g} rows/s)")


__all__ = ["generate", "register"]
