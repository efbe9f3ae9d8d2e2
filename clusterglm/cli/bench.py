"""``clusterglm bench``: the reference experiment side by side, our solvers and scikit-learn's on the same rows."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clusterglm.cli import output
from clusterglm.errors import redact
from clusterglm.units import format_size, parse_count

if TYPE_CHECKING:
    from collections.abc import Sequence


def register(app: typer.Typer) -> None:
    """Add ``bench``."""
    app.command("bench")(bench)


def bench(
    rows: str = typer.Option("8e6", metavar="N", help="Generated rows."),
    columns: int = typer.Option(15, metavar="N", help="Columns of generated rows."),
    seed: int = typer.Option(20009, metavar="N", help="Seed of generated rows."),
    lamduh: float = typer.Option(1.0, metavar="L", help="Strength: sum of losses + lamduh x L1 norm."),
    solvers: str = typer.Option("proximal_gradient,admm,auto", metavar="A,B,...", help="Our solvers."),
    peers: bool = typer.Option(True, help="scikit-learn's solvers beside ours."),
    workers: str | None = typer.Option(None, metavar="N", help="Processes of our clusters.  [default: one per core]"),
    out: str | None = typer.Option(None, metavar="DIR", help="The folder.  [default: runs/<date-time>-bench]"),
    overwrite: bool = typer.Option(False, help="Replace what is in --out."),
    json_: bool = typer.Option(False, "--json", help="Print bench.json."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress and no notes."),
) -> None:
    """Compare solvers on the same rows: distance to the truth and to the optimum, passes, seconds, memory."""
    from clusterglm.experiment import Experiment
    from clusterglm.request import split_names

    experiment = Experiment(
        rows=rows,
        columns=columns,
        seed=seed,
        lamduh=lamduh,
        solvers=split_names(solvers, "--solvers"),
        peers=peers,
        workers=None if workers is None else parse_count(workers, "--workers", of="workers"),
    )
    from clusterglm.bench import bench as run
    from clusterglm.bench import exit_code
    from clusterglm.cli.progress import Display
    from clusterglm.run_folder import plain, shell_word

    folder = Path(out if out is not None else f"runs/{datetime.now():%Y%m%d-%H%M%S}-bench")
    with Display(quiet) as display:
        found = run(
            experiment,
            out=folder,
            overwrite=overwrite,
            progress=display,
            command=redact(" ".join(["clusterglm", *map(shell_word, sys.argv[1:])])),
        )
    try:
        if json_:
            output.data_json(plain(found))
        else:
            show(found, folder)
        output.flush()
    except BrokenPipeError:  # the reader has what it wanted; how the solvers ended is no matter of the pipe
        output.forget(sys.stdout)
    raise typer.Exit(exit_code(found))


def show(found: dict[str, Any], folder: Path) -> None:
    """Print the table, what a reader must know to judge it, and the published figures as such."""
    problem = found["problem"]
    output.data(
        f"{problem['rows']:,} rows x {problem['columns']} columns, seed {problem['seed']}: logistic, L1 with lamduh "
        f"{problem['lamduh']:g}, no intercept\n"
    )
    head = ("solver", "by", "to the truth", "to the best objective", "passes", "seconds", "load", "peak memory")
    output.table(head, [_line(contender) for contender in found["contenders"]])
    output.data("")
    for note in found["notes"]:
        output.data(f"- {note}")
    output.data("\nPublished elsewhere in 2017, on other machines and with other software (not measured here):")
    for setting in found["published"]:
        output.data(
            f"- {setting['where']}: "
            + ", ".join(f"{f['name']} {f['truth_error']:g} / {f['seconds']:g} s" for f in setting["figures"])
        )
    output.data(f"\npage  {folder / 'bench.html'}")


def _line(contender: dict[str, Any]) -> Sequence[object]:
    return (
        contender["name"],
        contender["by"],
        f"{contender['truth_error']:.4g}",
        f"{contender['relative_distance']:.1e}" if contender["relative_distance"] else "best",
        "" if contender["passes"] is None else contender["passes"],
        f"{contender['seconds']['fit']:.2f}",
        f"{contender['seconds']['load']:.2f}",
        format_size(contender["peak_memory"]),
    )


__all__ = ["bench", "register", "show"]
