"""``clusterglm fit SOLVER``: load, solve, certify, report."""

from __future__ import annotations

import contextlib
import math
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clusterglm.cli import output
from clusterglm.cli.down import take_down
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
from clusterglm.errors import UsageError, redact
from clusterglm.signals import one_interruption
from clusterglm.units import parse_count, rounded_up

if TYPE_CHECKING:
    from clusterglm.result import Result


def register(app: typer.Typer) -> None:
    """Add ``fit``."""
    app.command("fit")(fit)


def fit(
    solver: str | None = typer.Argument(None, help="A solver's name, auto, or FILE.py:FUNCTION."),
    rows: str | None = typer.Option(None, metavar="N", help="Make this many rows on the workers, such as 8e6."),
    columns: int | None = typer.Option(None, metavar="N", help="Columns of generated rows.  [default: 15]"),
    seed: int | None = typer.Option(None, metavar="N", help="Seed of generated rows.  [default: 20009]"),
    data: str | None = typer.Option(None, metavar="PATH_OR_URL", help="Read a file, a folder or a pattern."),
    target: str | None = typer.Option(None, metavar="COL", help="The column to explain."),
    features: str | None = typer.Option(None, metavar="A,B,...", help="Columns to use.  [default: numbers and text]"),
    categorical: str | None = typer.Option(
        None, metavar="A,B,...", help="Columns whose numbers are levels, as text always is."
    ),
    weights: str | None = typer.Option(None, metavar="COL", help="The column of the rows' weights."),
    offset: str | None = typer.Option(None, metavar="COL", help="The column added to the linear predictor."),
    missing: str | None = typer.Option(
        None, metavar="P", help="Rows with a missing value: raise an error, or drop them.  [default: raise]"
    ),
    family: str | None = typer.Option(None, metavar="F", help="gaussian, binomial, poisson, gamma, tweedie, ..."),
    link: str | None = typer.Option(None, metavar="L", help="Another link than the family's own, such as probit."),
    power: float | None = typer.Option(None, metavar="P", help="Of tweedie's variance, 1 to 2.  [default: 1.5]"),
    theta: str | None = typer.Option(
        None, metavar="T", help="Of negative-binomial, variance mu + mu^2 / theta: a number, or estimate."
    ),
    penalty: str | None = typer.Option(None, metavar="P", help="none, l1, l2, elastic-net or group."),
    alpha: float | None = typer.Option(None, metavar="A", help="Strength: mean loss + alpha x penalty."),
    lamduh: float | None = typer.Option(None, metavar="L", help="Strength: sum of losses + lamduh x penalty."),
    l1_ratio: float | None = typer.Option(
        None, metavar="R", help="Share of L1 in elastic-net (default 0.5), of the norms in group (1)."
    ),
    penalty_factors: str | None = typer.Option(
        None, metavar="A=F,...", help="Factors on the penalty of single columns; 0 takes them out of it."
    ),
    bounds: str | None = typer.Option(
        None, metavar="A=L:U,...", help="Bounds of single coefficients; age=0: is not negative."
    ),
    penalty_groups: str | None = typer.Option(
        None,
        metavar="A+B,C*,...",
        help="Groups of --penalty group, by names or their beginnings.  [default: each text column]",
    ),
    summary: bool = typer.Option(False, "--summary", help="Standard errors, tests and intervals, as statsmodels has."),
    covariance: str | None = typer.Option(
        None, metavar="C", help="nonrobust, HC0, HC1 or cluster.  [default: nonrobust]"
    ),
    groups: str | None = typer.Option(None, metavar="COL", help="The column of the groups of --covariance cluster."),
    weights_are: str | None = typer.Option(
        None, metavar="W", help="What weights count: frequency or analytic.  [default: frequency]"
    ),
    level: float | None = typer.Option(None, metavar="P", help="Of the intervals.  [default: 0.95]"),
    intercept: bool | None = typer.Option(None, "--intercept/--no-intercept", help="[default: with --data]"),
    standardize: bool | None = typer.Option(
        None, "--standardize/--no-standardize", help="Penalise the coefficients of standardised columns."
    ),
    cluster: Cluster = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    allow_version_mismatch: AllowMismatch = False,
    workers: Workers = None,
    threads_per_worker: Threads = None,
    memory: Memory = None,
    min_workers: str | None = typer.Option(
        None, metavar="K", help="Begin when so many workers of a running cluster have come; others join later."
    ),
    max_workers: str | None = typer.Option(
        None, metavar="K", help="Ask a cluster of --cluster for as many, where there is work, and give them back."
    ),
    then_down: bool = typer.Option(
        False, "--then-down", help="Take the cluster down when the fit has ended, well or not."
    ),
    timeout: Timeout = None,
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
        None, metavar="S", help="Begin at a sample's fit (auto), the null model (null), or an earlier run's folder."
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
    given = given if summary else {name: value for name, value in given.items() if name != "summary"}
    least = parse_count(min_workers, "--min-workers", of="workers") if min_workers is not None else None
    most = parse_count(max_workers, "--max-workers", of="workers") if max_workers is not None else None
    where = Where(cluster, scheduler, scheduler_file, timeout, allow_version_mismatch, least, most)
    own = where.own_cluster(workers, threads_per_worker, memory)
    if least is not None and not where.named:
        cure = "belongs to a running cluster: name one, or give --workers alone"
        raise UsageError("--min-workers", min_workers, cure)
    if most is not None and cluster is None:
        raise UsageError(
            "--max-workers", max_workers, "belongs to a cluster that `clusterglm up` started: --cluster NAME"
        )
    if most is not None and most < (least or 1):
        raise UsageError("--max-workers", max_workers, f"fewer than --min-workers {least}")
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
    from clusterglm.run_folder import CHECKPOINT, shell_word

    display = Display(quiet)
    checkpoint = Path(resume or out or "", CHECKPOINT)
    if then_down and cluster is None:
        raise UsageError("--then-down", None, "belongs to a cluster that `clusterglm up` started: --cluster NAME")
    last = contextlib.ExitStack()
    if then_down:
        last.callback(take_down, cluster)
    with last, one_interruption(checkpoint), where.client(display.phase) as (client, crew), display:
        if client is not None and crew is not None:
            crew.gather(client, where.seconds, display.phase)
        elif client is not None and least is not None:
            from clusterglm.clusters.workers import await_workers

            await_workers(client, least, where.seconds, display.phase)
        result = run(
            client,
            out=out,
            resume=resume,
            overwrite=overwrite,
            ask_for=None if crew is None else crew.ask_for,
            hourly=where.hourly(),
            most_workers=most,
            progress=display,
            timeout=where.seconds,
            command=redact(" ".join(["clusterglm", *map(shell_word, sys.argv[1:])])),
            **own,
            **given,
        )
    try:
        show(result, json_)
        output.flush()
    except BrokenPipeError:  # the reader has what it wanted; how the fit ended is no matter of the pipe
        output.forget(sys.stdout)
    raise typer.Exit(result.exit_code)


def show(result: Result, json_: bool) -> None:
    """Print the result: a table for people, ``result.json`` for machines."""
    if json_:
        from clusterglm.run_folder import plain

        output.data_json(plain(result.as_dict()))
        return
    certificate = result.certificate
    gap, error = rounded_up(certificate["gap"]), rounded_up(certificate["error_in_se"])
    output.data(f"status      {result.status} ({result.iterations} iterations, {result.passes} passes)")
    bound = f"within {gap:.1e} of the optimum" if certificate["method"] != "none" else "no bound"
    output.data(f"objective   {result.objective:.12g} ({bound})")
    if math.isfinite(error):  # a bound on the objective alone says nothing of coefficients
        output.data(f"certified   every coefficient within {error:.1e} standard errors of the exact one")
    if result.truth_error is not None:
        output.data(f"truth       within {result.truth_error:.2e} of the generating coefficients")
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in result.seconds.items())
    output.data(f"seconds     {seconds}")
    if result.cost is not None:
        output.data(f"cost        ${result.cost:.4f} at list prices")
    if result.folder is not None:
        output.data(f"report      {result.folder / 'report.html'}")
    if result.inference is not None:
        output.data("")
        for line in result.summary().splitlines():
            output.data(line)
        return
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
