"""``clusterglm fit SOLVER``: load, solve, certify, report."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clusterglm import config
from clusterglm.cli import output
from clusterglm.errors import INTERRUPTED, RESUMABLE, UsageError, redact
from clusterglm.units import parse_count, parse_duration, parse_memory

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.result import Result

_CLEANING_SECONDS = 4.0  # after a signal


def register(app: typer.Typer) -> None:
    """Add ``fit``."""
    app.command("fit")(fit)


def fit(
    solver: str | None = typer.Argument(None, help="A solver's name, auto, or FILE.py:FUNCTION."),
    rows: str | None = typer.Option(None, metavar="N", help="Make this many rows on the workers, such as 8e6."),
    columns: int | None = typer.Option(None, metavar="N", help="Columns of generated rows.  [default: 15]"),
    seed: int | None = typer.Option(None, metavar="N", help="Seed of generated rows.  [default: 20009]"),
    data: str | None = typer.Option(None, metavar="PATH", help="Read a file, folder or pattern of parquet or csv."),
    target: str | None = typer.Option(None, metavar="COL", help="The column to explain."),
    features: str | None = typer.Option(None, metavar="A,B,...", help="Columns to use.  [default: all numbers]"),
    weights: str | None = typer.Option(None, metavar="COL", help="The column of the rows' weights."),
    offset: str | None = typer.Option(None, metavar="COL", help="The column added to the linear predictor."),
    family: str | None = typer.Option(None, metavar="F", help="gaussian, binomial or poisson."),
    link: str | None = typer.Option(None, metavar="L", help="The family's canonical link, and no other yet."),
    penalty: str | None = typer.Option(None, metavar="P", help="none, l1, l2 or elastic-net."),
    alpha: float | None = typer.Option(None, metavar="A", help="Strength: mean loss + alpha x penalty."),
    lamduh: float | None = typer.Option(None, metavar="L", help="Strength: sum of losses + lamduh x penalty."),
    l1_ratio: float | None = typer.Option(None, metavar="R", help="Share of L1 in elastic-net.  [default: 0.5]"),
    intercept: bool | None = typer.Option(None, "--intercept/--no-intercept", help="[default: with --data]"),
    standardize: bool | None = typer.Option(
        None, "--standardize/--no-standardize", help="Penalise the coefficients of standardised columns."
    ),
    cluster: str | None = typer.Option(None, metavar="NAME", help="A cluster that `clusterglm up` started."),
    scheduler: str | None = typer.Option(None, metavar="ADDRESS", help="A Dask scheduler that runs already."),
    scheduler_file: str | None = typer.Option(None, metavar="FILE", help="Where a Dask scheduler wrote its address."),
    allow_version_mismatch: bool = typer.Option(False, help="Go on where the cluster's versions differ."),
    workers: str | None = typer.Option(None, metavar="N", help="Processes of the cluster that this fit starts."),
    threads_per_worker: str | None = typer.Option(None, metavar="N", help="Threads of each of them.  [default: 1]"),
    memory: str | None = typer.Option(None, metavar="SIZE", help="Memory of each of them, such as 4GB."),
    timeout: str | None = typer.Option(None, metavar="TIME", help="Give up when the cluster takes longer to answer."),
    dtype: str | None = typer.Option(None, metavar="T", help="float64 or float32.  [default: float64]"),
    storage: str | None = typer.Option(
        None,
        metavar="S",
        help="Hold the rows in memory, on disk, or as a stream made anew in each pass.  [auto]",
    ),
    chunk_rows: str | None = typer.Option(None, metavar="N", help="Rows of a chunk, or auto."),
    tol: float | None = typer.Option(
        None, metavar="T", help="Certified error of the coefficients in standard errors.  [default: 0.01]"
    ),
    rel_gap: float | None = typer.Option(
        None, metavar="G", help="Instead: certified gap over the null model's objective."
    ),
    max_passes: int | None = typer.Option(None, metavar="N", help="Passes over the data at most.  [default: 1000]"),
    start: str | None = typer.Option(
        None, metavar="S", help="Begin at the fit of a sample (auto) or at the null model (null).  [default: auto]"
    ),
    out: str | None = typer.Option(None, metavar="DIR", help="The run folder.  [default: runs/<date-time>-<solver>]"),
    overwrite: bool = typer.Option(False, help="Replace the run in --out."),
    resume: str | None = typer.Option(None, metavar="DIR", help="Finish the interrupted run in this folder."),
    json_: bool = typer.Option(False, "--json", help="Print result.json."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress and no notes."),
) -> None:
    """Fit a generalized linear model on all rows; with no cluster named, on this machine."""
    from clusterglm.request import OPTIONS, Request

    given = {name: value for name, value in locals().items() if name in OPTIONS and value is not None}
    places = {"--cluster": cluster, "--scheduler": scheduler, "--scheduler-file": scheduler_file}
    where = [option for option, value in places.items() if value is not None]
    if len(where) > 1:
        raise UsageError(where[1], None, f"given together with {where[0]}: give one of them")
    own = _own_cluster(workers, threads_per_worker, memory)
    if where and own:
        option = f"--{next(iter(own)).replace('_', '-')}"
        raise UsageError(option, None, f"belongs to a cluster that the fit starts itself: leave it out with {where[0]}")
    seconds = parse_duration(timeout) if timeout is not None else None
    if resume is not None and out is not None:
        raise UsageError("--out", out, "given together with --resume: the run goes on in its own folder")
    if resume is None:
        if solver is None:
            raise UsageError("SOLVER", None, "missing: name one, or auto")
        request = Request(**given)
        if out is None:
            out = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{request.method.name}"
    from clusterglm.cli.progress import Display
    from clusterglm.fitting import fit as run
    from clusterglm.run_folder import shell_word

    display = Display(quiet)
    where_to = (cluster, scheduler, scheduler_file, seconds, allow_version_mismatch)
    with _one_interruption(Path(resume or out or "")), _client(*where_to) as (client, ask_for), display:
        result = run(
            client,
            out=out,
            resume=resume,
            overwrite=overwrite,
            ask_for=ask_for,
            progress=display,
            timeout=seconds,
            command=redact(" ".join(["clusterglm", *map(shell_word, sys.argv[1:])])),
            **own,  # type: ignore[arg-type]
            **given,
        )
    try:
        show(result, json_)
        output.flush()
    except BrokenPipeError:  # the reader has what it wanted; how the fit ended is no matter of the pipe
        output.forget(sys.stdout)
    raise typer.Exit(result.exit_code)


@contextlib.contextmanager
def _one_interruption(folder: Path) -> Iterator[None]:
    """Let the first signal end the fit, and no second one the cleaning up after it, which has a time limit instead."""
    from clusterglm.run_folder import CHECKPOINT

    def leave() -> None:
        os._exit(RESUMABLE if (folder / CHECKPOINT).exists() else INTERRUPTED)

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        for name in ours:
            signal.signal(name, signal.SIG_IGN)
        watch = threading.Timer(_CLEANING_SECONDS, leave)
        watch.daemon = True
        watch.start()
        raise KeyboardInterrupt

    def swallowed(event: Any) -> None:
        if event.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(event)
            return
        # The signal met a callback of the garbage collector, say, out of which nothing is raised: once more, later.
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ours = [name for name in signals if signal.getsignal(name) is signal.default_int_handler]  # not under nohup
    for name in ours:
        signal.signal(name, interrupt)
    sys.unraisablehook = swallowed
    try:
        yield
    finally:
        sys.unraisablehook = sys.__unraisablehook__
    for name in ours:
        signal.signal(name, signal.default_int_handler)


def _own_cluster(workers: str | None, threads_per_worker: str | None, memory: str | None) -> dict[str, int]:
    own = {}
    if workers is not None:
        own["workers"] = parse_count(workers, "--workers", of="workers")
    if threads_per_worker is not None:
        own["threads_per_worker"] = parse_count(threads_per_worker, "--threads-per-worker", of="threads")
    if memory is not None:
        own["memory"] = parse_memory(memory)
    return own


@contextlib.contextmanager
def _client(
    cluster: str | None, scheduler: str | None, scheduler_file: str | None, timeout: float | None, mismatch: bool
) -> Iterator[tuple[Client | None, Callable[[int], object] | None]]:
    """Yield the client of a running cluster and how to ask it for workers; None where the fit starts its own."""
    if cluster is None and scheduler is None and scheduler_file is None:
        yield None, None
        return
    ask_for = None
    if cluster is not None:
        from clusterglm.clusters.lookup import connect_cluster, lookup

        client = connect_cluster(cluster, timeout=timeout, allow_version_mismatch=mismatch)
        launcher, record = lookup(cluster)

        def ask_for(n: int) -> object:
            return launcher.scale(record, n, config.get("start-timeout"))

    else:
        from clusterglm.clusters.connect import connect, read_scheduler_file

        address = read_scheduler_file(Path(scheduler_file or ""), timeout) if scheduler is None else scheduler
        client = connect(address, timeout=timeout, allow_version_mismatch=mismatch)
    from clusterglm.clusters.settings import quiet

    with quiet():  # a scheduler that goes is told in one line, by the fit
        try:
            yield client, ask_for
        finally:
            with contextlib.suppress(Exception):  # nothing is left to close where the scheduler is gone
                client.close(timeout=2)


def show(result: Result, json_: bool) -> None:
    """Print the result: a table for people, ``result.json`` for machines."""
    if json_:
        from clusterglm.run_folder import plain

        output.data_json(plain(result.as_dict()))
        return
    certificate = result.certificate
    output.data(f"status      {result.status} ({result.iterations} iterations, {result.passes} passes)")
    bound = f"within {certificate['gap']:.1e} of the optimum" if certificate["method"] != "none" else "no bound"
    output.data(f"objective   {result.objective:.12g} ({bound})")
    if math.isfinite(certificate["error_in_se"]):  # a bound on the objective alone says nothing of coefficients
        output.data(
            f"certified   every coefficient within {certificate['error_in_se']:.1e} standard errors of the exact one"
        )
    if result.truth_error is not None:
        output.data(f"truth       within {result.truth_error:.2e} of the generating coefficients")
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in result.seconds.items())
    output.data(f"seconds     {seconds}")
    if result.folder is not None:
        output.data(f"report      {result.folder / 'report.html'}")
    head, rows = (
        ["name", "coefficient"],
        [[n, f"{c: .8g}"] for n, c in zip(result.feature_names, result.coefficients, strict=True)],
    )
    if result.truth is not None:
        head.append("generating")
        rows = [[*row, f"{t: .8g}"] for row, t in zip(rows, result.truth, strict=True)]
    if result.intercept is not None:
        rows.insert(0, ["intercept", f"{result.intercept: .8g}", *([""] if result.truth is not None else [])])
    output.data("")
    output.table(head, rows)


__all__ = ["fit", "register", "show"]
