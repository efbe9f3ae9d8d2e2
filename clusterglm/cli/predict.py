"""``clusterglm predict MODEL DATA``: score the rows of files where they are."""

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
from clusterglm.signals import one_interruption

_CLEANING_SECONDS = 60.0  # there may be terabytes to remove


def register(app: typer.Typer) -> None:
    """Add ``predict``."""
    app.command("predict")(predict)


def predict(
    model: str = typer.Argument(..., metavar="MODEL", help="A run folder, or its model.json."),
    data: str = typer.Argument(..., metavar="DATA", help="A file, folder or pattern, as a path or a URL."),
    to: str = typer.Option(..., metavar="DIR_OR_URL", help="The folder, or the prefix of objects, to write."),
    keep: str | None = typer.Option(None, metavar="A,B,...", help="Columns to copy beside mean and eta."),
    unseen: str = typer.Option(
        "error", metavar="P", help="What a level is that the model does not know: error, reference or missing."
    ),
    offset: str | None = typer.Option(None, metavar="COL", help="The column of the offset.  [default: the model's]"),
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
    """Write the mean and the linear predictor of every row as Parquet, null where a value is missing."""
    from clusterglm.request import split_names

    where = Where(cluster, scheduler, scheduler_file, timeout, allow_version_mismatch)
    own = where.own_cluster(workers, threads_per_worker, memory)
    kept = split_names(keep, "--keep") if keep is not None else ()
    from clusterglm.model import load_model

    loaded = load_model(model)
    from clusterglm.data.files import state
    from clusterglm.data.target import Target
    from clusterglm.scoring import Scoring

    target = Target.of(to)
    scoring = Scoring(loaded, data, target, kept, unseen, offset)
    target.check(0, overwrite)
    from clusterglm.cli.progress import Display

    with one_interruption(seconds=_CLEANING_SECONDS), Display(quiet) as display, target.staged():
        if loaded.status not in ("optimal", "converged"):
            display.note(f"warning: MODEL ({model}): its fit ended as {loaded.status}")
        with where.client_or_own(own, display.phase) as client:
            display.phase(f"predicting {data}")
            since = time.perf_counter()
            written, parts = scoring.run(
                client, display.note, lambda done, rows: display.rows(done, rows, time.perf_counter() - since)
            )
            target.publish(overwrite)
            seconds = time.perf_counter() - since
    found: dict[str, Any] = {
        "to": to,
        "rows": written.rows,
        "missing": written.missing,
        "unseen": dict(written.unseen),
        "parts": parts,
        "bytes": state(target.path)[0],
        "seconds": seconds,
    }
    if json_:
        output.data_json(found)
        return
    output.data(f"written     {to}")
    output.data(f"rows        {written.rows:,} in {parts} part{'s' if parts > 1 else ''}")
    output.data(f"seconds     {seconds:.2f} ({written.rows / seconds:.2g} rows/s)")


__all__ = ["predict", "register"]
