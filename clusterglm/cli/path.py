"""``clusterglm path`` and ``clusterglm cv``: all strengths of a penalty at once, and the choice among them."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from clusterglm.cli import output
from clusterglm.cli.fit import fit
from clusterglm.cli.options import Parameter, give
from clusterglm.cli.where import Where
from clusterglm.errors import UsageError, redact
from clusterglm.signals import one_interruption
from clusterglm.units import parse_count, rounded_up

if TYPE_CHECKING:
    from clusterglm.paths import PathResult

_OF_ONE_FIT = {"alpha", "lamduh", "resume", "summary", "covariance", "groups", "weights_are", "level"}
_NOT_HERE = {*_OF_ONE_FIT, "min_workers", "max_workers"}
_SHOWN = 12  # strengths in the table on the terminal
_OWN = {
    "strengths": Parameter(int | None, typer.Option(None, metavar="N", help="How many strengths.  [default: 50]")),
    "smallest": Parameter(
        float | None, typer.Option(None, metavar="R", help="The weakest beside the strongest.  [default: 0.001]")
    ),
    "alphas": Parameter(str | None, typer.Option(None, metavar="A,B,...", help="The strengths themselves, instead.")),
}
_FOLDS = {"folds": Parameter(int | None, typer.Option(None, metavar="K", help="Parts held out in turn.  [default: 5]"))}


def register(app: typer.Typer) -> None:
    """Add ``path`` and ``cv``."""
    app.command("path", help="Fit all strengths of a penalty in passes that they share.")(_command("path", {}))
    app.command("cv", help="Choose the strength of a penalty by cross-validation, in shared passes, and fit it.")(
        _command("cv", _FOLDS)
    )


def _command(name: str, more: dict[str, Parameter]) -> Callable[..., None]:
    def command(**words: Any) -> None:
        _run(name, words)

    known = inspect.signature(fit, eval_str=True).parameters
    shared = {k: Parameter(p.annotation, p.default) for k, p in known.items() if k not in _NOT_HERE}
    return give(command, shared | _OWN | more)


def _run(name: str, words: dict[str, Any]) -> None:
    from clusterglm.cli.progress import Display
    from clusterglm.glm.paths.path import FOLDS, SMALLEST, STRENGTHS, Grid
    from clusterglm.paths import cv, path
    from clusterglm.request import OPTIONS
    from clusterglm.run_folder import plain, shell_word

    given = {key: value for key, value in words.items() if key in OPTIONS and value is not None}
    where = Where(
        words["cluster"], words["scheduler"], words["scheduler_file"], words["timeout"], words["allow_version_mismatch"]
    )
    own = where.own_cluster(words["workers"], words["threads_per_worker"], words["memory"])
    alphas = _numbers(words["alphas"])
    count, smallest = STRENGTHS if words["strengths"] is None else words["strengths"], words["smallest"]
    if alphas and (words["strengths"] is not None or smallest is not None):
        raise UsageError("--alphas", words["alphas"], "given together with --strengths or --smallest: give one of them")
    grid = Grid(parse_count(count, "--strengths", of="strengths"), SMALLEST if smallest is None else smallest, alphas)
    out = words["out"] or f"runs/{datetime.now():%Y%m%d-%H%M%S}-{name}"
    display = Display(words["quiet"])
    with one_interruption(None), where.client(display.phase) as (client, ask_for), display:
        told = {
            "out": out,
            "overwrite": words["overwrite"],
            "ask_for": ask_for,
            "progress": display,
            "timeout": where.seconds,
            "command": redact(" ".join(["clusterglm", *map(shell_word, sys.argv[1:])])),
        }
        if name == "path":
            found = path(client, grid=grid, **told, **own, **given)
        else:
            folds = FOLDS if words["folds"] is None else words["folds"]
            found = cv(client, grid=grid, folds=folds, **told, **own, **given)
    if words["json_"]:
        output.data_json(plain(found.as_dict()))
    else:
        show(found)
    raise typer.Exit(found.fit.exit_code)


def show(found: PathResult) -> None:
    """Print a table of some strengths, what was chosen, and what it took."""
    table, path, one = found.table(), found.path, found.fit
    proofs = [c for own in (path.certificates, *(path.fold_certificates or [])) for c in own]
    # Where a Hessian is singular coefficients have no standard errors, and the bound is that on the objective.
    errors = [min(c.error_in_se, c.gap_in_se) for c in proofs]
    proven = f"every coefficient certified within {rounded_up(max(errors)):.1e} standard errors"
    if unproven := sum(not math.isfinite(error) for error in errors):
        proven = f"{unproven} of {len(errors)} models have no bound on their error"
    output.data(f"strengths   {len(path.alphas)}, {proven}")
    output.data(f"passes      {path.passes} (one fit: {one.passes})")
    output.data(f"seconds     {found.seconds:.2f} (one fit: {one.seconds['fit']:.2f})")
    if path.best is not None and path.simplest is not None:
        output.data(f"best        alpha {path.alphas[path.best]:.6g}")
        output.data(f"simplest    alpha {path.alphas[path.simplest]:.6g} (within one standard error of the best)")
    if found.folder is not None:
        output.data(f"report      {found.folder / 'path.html'}")
    output.data("")
    head = ["alpha", "not zero", "deviance explained"] + (["held out", "std err"] if path.best is not None else [])
    L = len(path.alphas)
    shown = sorted({*range(0, L, max(L // _SHOWN, 1)), L - 1} | ({path.best} if path.best is not None else set()))
    rows = []
    for k in shown:
        row = [f"{path.alphas[k]:.5g}", str(table["nonzero"][k]), f"{path.deviance_explained[k]:.4f}"]
        if path.best is not None:
            row += [f"{table['cv_mean'][k]:.6g}", f"{table['cv_error'][k]:.2g}"]
        rows.append(row)
    output.table(head, rows)


def _numbers(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError("--alphas", text, "write numbers separated by commas") from None
