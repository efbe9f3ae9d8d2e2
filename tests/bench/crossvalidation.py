"""What a cross-validated path costs beside one fit of the same rows.

    python tests/bench/crossvalidation.py [rows] [columns] [strengths] [folds]     (by default 5e5, 15, 50 and 5)

In one process, on generated rows with L1. Seconds are of the processor, the least of three runs, so that other work on
the machine hardly counts; passes are those over all rows, the look at them among them. One fit is made as by default,
from the fit of a sample, and from the null model too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from clusterglm.data.chunk import one_blas_thread
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.paths.path import Grid, fit_path
from clusterglm.glm.solvers import get_solver
from clusterglm.units import parse_count

ROUNDS = 3


def least(make: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``make`` makes, and the least seconds of the processor that it took."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        found = make()
        seconds.append(time.process_time() - began)
    return found, min(seconds)


def main(rows: str = "5e5", columns: str = "15", strengths: str = "50", folds: str = "5") -> None:
    shape = parse_count(rows), parse_count(columns, "columns", of="columns")
    grid, parts = Grid(int(strengths)), int(folds)
    print(f"{shape[0]:,} rows x {shape[1]} columns, {grid.count} strengths x {parts} folds\n")
    print(f"{'family':10} {'one fit':>12} {'s':>7} {'cv s':>7} {'times':>6} {'passes':>7} {'of one':>7}")
    for name in ("binomial", "poisson", "gaussian"):
        source = Synthetic(*shape, family=name)
        held, family, names = local_rows(source), FAMILIES[name], source.names
        own = Model(family, "l1", lamduh=1.0, intercept=False)
        with one_blas_thread():
            path, long = least(lambda: fit_path(held, names, Model(family, "l1", intercept=False), grid, parts))  # noqa: B023
            for start in ("auto", "null"):
                limits = Limits(start=start)
                one, short = least(lambda: fit(held, names, own, get_solver("auto"), limits))  # noqa: B023
                print(
                    f"{name:10} {start:>12} {short:7.3f} {long:7.3f} {long / short:6.1f} {path.passes:7} "
                    f"{path.passes / one.passes:7.1f}"
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
