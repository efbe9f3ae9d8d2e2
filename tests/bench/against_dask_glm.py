"""clusterglm beside dask-glm 0.4.0: the solvers of the same name on the same rows, on this machine, in one run.

In the root of the repository, with a virtual environment of its own, because dask-glm is no dependency:

    python3 -m venv ../against && ../against/bin/pip install . dask-glm==0.4.0
    ../against/bin/python tests/bench/against_dask_glm.py --rows 8e6

Both get the same embedded cluster (one process a core, one BLAS thread each), hold the rows in its memory before the
clock starts, and minimise sum of logistic losses + L1 norm without intercept. Ours is what `clusterglm fit SOLVER
--rows N --lamduh 1 --rel-gap 1e-8` runs, and `auto` beside it, the median of three fits after a first one. dask-glm
runs with its own defaults but two: `normalize=False`, without which it minimises another function, and caps: `--rounds`
on its iterations (its own are 250 for ADMM and 100 for proximal gradient) and `--seconds`. Its ADMM takes one local
problem a chunk, and whether its own test ever stops it hangs on their number: at 8e6 rows it stopped after 4 rounds on
4 chunks, and not at all on 8. `--chunks` is how many; by default as many as Dask itself makes of such an array, and one
a core at least.

Objectives are evaluated by `clusterglm.bench.objectives`; the reference is scikit-learn's liblinear or our proximal
Newton at tight tolerances, whichever found the lower one. Every iterate of dask-glm's is noted on its way (its
regulariser is asked once in each, or once a trial of its line search), so the table also has the seconds after which it
was within 1e-6 of the reference for good.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
import warnings
from typing import Any

import numpy as np

from clusterglm import fit
from clusterglm.bench import objectives
from clusterglm.clusters.embedded import embedded
from clusterglm.clusters.settings import cores
from clusterglm.data.chunk import block_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.units import parse_count

NEAR = 1e-6
DEFAULT_ROUNDS = {"admm": 250, "proximal_grad": 100}
OURS = {"admm": "admm", "proximal_grad": "proximal_gradient"}


def reference(source: Synthetic, liblinear: bool) -> tuple[np.ndarray, str]:
    """Return coefficients at a tight tolerance by two unrelated programs, the better ones, and how far they differ."""
    found = {"proximal newton": ours("auto", source, tol=1e-6).coefficients}
    if liblinear:
        from sklearn.linear_model import LogisticRegression

        held = source.chunk((0, source.rows), block_rows(source.columns, 8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the name of the penalty is deprecated since 1.8
            model = LogisticRegression(penalty="l1", solver="liblinear", C=1.0, fit_intercept=False, tol=1e-7)
            found["liblinear"] = model.fit(held.X, held.y).coef_.ravel()
    values = objectives(source, np.column_stack(list(found.values())), 1.0)
    best = int(np.argmin(values))
    spread = (max(values) - min(values)) / min(values)
    words = f"{' and '.join(found)}, {spread:.1e} apart" if liblinear else "proximal newton, its gap proven"
    return list(found.values())[best], words


def ours(solver: str, source: Synthetic, **options: Any) -> Any:
    """Return the result of ``clusterglm fit`` on these rows."""
    return fit(solver=solver, rows=source.rows, columns=source.columns, seed=source.seed, lamduh=1.0, **options)


def timed(solver: str, source: Synthetic) -> tuple[float, Any]:
    """Return the seconds of a fit to a proven 1e-8 on workers that have made one before, and its result."""
    with embedded() as (client, _):
        words = {"rows": source.rows, "columns": source.columns, "seed": source.seed, "lamduh": 1.0, "rel_gap": 1e-8}
        found = [fit(client, solver=solver, **words) for _ in range(4)][1:]
    return statistics.median(result.seconds["fit"] for result in found), found[-1]


class TooLong(Exception):
    """The seconds that dask-glm may take are over."""


def dask_glm(
    solver: str, source: Synthetic, chunks: int, rounds: int, most_seconds: float
) -> tuple[list[tuple[float, np.ndarray]], bool]:
    """Return (seconds, coefficients) of each iterate and of the end, and whether the fit came to its end."""
    import dask
    import dask.array as da
    from dask_glm import algorithms
    from dask_glm.regularizers import L1
    from distributed import wait

    notes: list[tuple[float, Any]] = []
    began = 0.0

    class Noting(L1):  # type: ignore[misc, valid-type]
        def proximal_operator(self, beta: Any, t: float) -> Any:
            result = super().proximal_operator(beta, t)
            notes.append((time.perf_counter() - began, result))
            if notes[-1][0] > most_seconds:
                raise TooLong
            return result

    cuts = [8192 * round(i * source.rows / 8192 / chunks) for i in range(chunks)] + [source.rows]
    ranges = [(a, b) for a, b in itertools.pairwise(cuts) if b > a]
    with embedded() as (_client, _):
        held = [dask.delayed(source.chunk)(bounds, block_rows(source.columns, 8)) for bounds in ranges]
        sizes = [b - a for a, b in ranges]
        X = da.concatenate([da.from_delayed(c.X, (n, source.columns), float) for c, n in zip(held, sizes, strict=True)])
        y = da.concatenate([da.from_delayed(c.y, (n,), float) for c, n in zip(held, sizes, strict=True)])
        X, y = dask.persist(X, y)
        wait([X, y])
        began = time.perf_counter()
        finished = True
        try:
            beta = getattr(algorithms, solver)(X, y, regularizer=Noting(), lamduh=1.0, normalize=False, max_iter=rounds)
            notes.append((time.perf_counter() - began, beta))
        except TooLong:
            finished = False
        values = dask.compute(*(value for _, value in notes))
    return [(when, np.asarray(value)) for (when, _), value in zip(notes, values, strict=True)], finished


def usual_chunks(source: Synthetic) -> int:
    """Return how many chunks Dask makes of such an array where it is left to choose, one a core at least."""
    from dask.array.core import normalize_chunks

    made = normalize_chunks(("auto", -1), shape=(source.rows, source.columns), dtype=float)
    return max(len(made[0]), cores())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="8e6")
    parser.add_argument("--columns", default=15, type=int)
    parser.add_argument("--chunks", type=int, help="local problems of dask-glm's ADMM  [default: Dask's choice]")
    parser.add_argument("--rounds", default=None, type=int, help="cap on dask-glm's iterations")
    parser.add_argument("--seconds", default=600.0, type=float, help="cap on dask-glm's seconds  [default: 600]")
    parser.add_argument("--solver", choices=OURS, help="one of the two  [default: both]")
    parser.add_argument("--no-liblinear", action="store_true", help="save the minutes that the second reference takes")
    options = parser.parse_args()
    source = Synthetic(parse_count(options.rows), options.columns)
    os.environ["PYTHONWARNINGS"] = "ignore::RuntimeWarning"  # on the workers: dask-glm's exp overflows on its way

    print(f"{source.rows:,} rows x {source.columns} columns, load average {os.getloadavg()[0]:.2f}", flush=True)
    optimum, words = reference(source, not options.no_liblinear)
    print(f"reference: {words}\n", flush=True)
    for solver in [options.solver] if options.solver else OURS:
        mine, result = timed(OURS[solver], source)
        quick, automatic = timed("auto", source)
        rounds = options.rounds or DEFAULT_ROUNDS[solver]
        chunks = options.chunks or usual_chunks(source)
        iterates, finished = dask_glm(solver, source, chunks, rounds, options.seconds)
        seconds = iterates[-1][0]
        shown = iterates[:: max(1, len(iterates) // 100)] + iterates[-1:]
        values = objectives(source, np.column_stack([optimum, result.coefficients, *(b for _, b in shown)]), 1.0)
        best = values[0]
        distance = [(value - best) / best for value in values]
        theirs = distance[2:]
        print(f"{solver}: load average {os.getloadavg()[0]:.2f}")
        print(f"  clusterglm {OURS[solver]}: {mine:.2f} s, {result.passes} passes, {result.status}, {distance[1]:.1e}")
        end = f"of at most {rounds} iterations" if finished else "and cut off by --seconds"
        steps = f"{len(iterates) - finished} steps {end}"
        print(f"  dask-glm {solver}: {seconds:.1f} s on {chunks} chunks, {steps}, {theirs[-1]:.1e}")
        more = "" if finished else "more than "
        print(f"  ratio of the seconds: {more}{seconds / mine:.1f}")
        proven = automatic.certificate["relative_gap"]
        print(f"  clusterglm auto: {quick:.2f} s, proven to {proven:.0e}: ratio {more}{seconds / quick:.1f}")
        far = [i for i, d in enumerate(theirs) if not d <= NEAR]
        if not far:
            print(f"  dask-glm was never farther than {NEAR:g}")
        elif far[-1] + 1 < len(theirs):
            near = shown[far[-1] + 1][0]
            print(f"  dask-glm was within {NEAR:g} after {near:.1f} s: {near / mine:.1f} times our whole fit")
        else:
            print(f"  dask-glm did not come within {NEAR:g}")
        print(flush=True)


if __name__ == "__main__":
    main()
