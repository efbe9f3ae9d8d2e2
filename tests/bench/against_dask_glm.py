"""clusterglm beside dask-glm 0.4.0: the solvers of the same name on the same rows, on this machine, in one run.

In the root of the repository, with a virtual environment of its own, because dask-glm is no dependency:

    python3 -m venv /tmp/against && /tmp/against/bin/pip install . dask-glm==0.4.0
    /tmp/against/bin/python tests/bench/against_dask_glm.py --rows 8e6

Both get the same embedded cluster (one process a core, one BLAS thread each), hold the rows in its memory before the
clock starts, and minimise  sum of logistic losses + L1 norm  without intercept. Ours is what `clusterglm fit SOLVER
--rows N --lamduh 1` runs, with its default tolerance. dask-glm runs with its own defaults but two: `normalize=False`,
without which it minimises another function, and `--rounds`, a cap on its iterations (its own caps are 250 for ADMM and
100 for proximal gradient). Its ADMM takes one local problem a chunk; `--chunks` is how many.

Objectives are evaluated by `clusterglm.bench.objectives`; the reference is scikit-learn's liblinear or our proximal
Newton at tight tolerances, whichever found the lower one. Every iterate of dask-glm's is noted on its way (its
regulariser is asked once an iteration, and its clock is stopped then), so the table also has the seconds after which it
was within 1e-6 of the reference for good.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import warnings
from typing import Any

import numpy as np

from clusterglm import fit
from clusterglm.bench import objectives
from clusterglm.clusters.embedded import embedded
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


def dask_glm(solver: str, source: Synthetic, chunks: int, rounds: int) -> tuple[float, list[tuple[float, np.ndarray]]]:
    """Return the seconds of the fit and (seconds, coefficients) of each iterate."""
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
        beta = getattr(algorithms, solver)(X, y, regularizer=Noting(), lamduh=1.0, normalize=False, max_iter=rounds)
        seconds = time.perf_counter() - began
        iterates = [(when, np.asarray(value)) for when, value in zip(*_computed(notes), strict=True)]
    return seconds, [*iterates, (seconds, np.asarray(beta))]


def _computed(notes: list[tuple[float, Any]]) -> tuple[list[float], list[np.ndarray]]:
    import dask

    return [when for when, _ in notes], list(dask.compute(*(value for _, value in notes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="8e6")
    parser.add_argument("--columns", default=15, type=int)
    parser.add_argument("--chunks", default=4, type=int, help="local problems of dask-glm's ADMM  [default: 4]")
    parser.add_argument("--rounds", default=None, type=int, help="cap on dask-glm's iterations")
    parser.add_argument("--solver", choices=OURS, help="one of the two  [default: both]")
    parser.add_argument("--no-liblinear", action="store_true", help="save the minutes that the second reference takes")
    options = parser.parse_args()
    source = Synthetic(parse_count(options.rows), options.columns)
    os.environ["PYTHONWARNINGS"] = "ignore::RuntimeWarning"  # on the workers: dask-glm's exp overflows on its way

    print(f"{source.rows:,} rows x {source.columns} columns, load average {os.getloadavg()[0]:.2f}", flush=True)
    optimum, words = reference(source, not options.no_liblinear)
    print(f"reference: {words}\n", flush=True)
    for solver in [options.solver] if options.solver else OURS:
        result = ours(OURS[solver], source)
        rounds = options.rounds or DEFAULT_ROUNDS[solver]
        seconds, iterates = dask_glm(solver, source, options.chunks, rounds)
        shown = iterates[:: max(1, len(iterates) // 100)] + iterates[-1:]
        values = objectives(source, np.column_stack([optimum, result.coefficients, *(b for _, b in shown)]), 1.0)
        best = values[0]
        distance = [(value - best) / best for value in values]
        theirs, mine = distance[2:], result.seconds["fit"]
        print(f"{solver}: load average {os.getloadavg()[0]:.2f}")
        print(f"  clusterglm {OURS[solver]}: {mine:.2f} s, {result.passes} passes, {result.status}, {distance[1]:.1e}")
        asked = f"{len(iterates) - 1} proximal steps, at most {rounds} iterations allowed"
        print(f"  dask-glm {solver}: {seconds:.1f} s, {asked}, {theirs[-1]:.1e}")
        print(f"  ratio of the seconds: {seconds / mine:.0f}")
        far = [i for i, d in enumerate(theirs) if not d <= NEAR]
        if not far:
            print(f"  dask-glm was never farther than {NEAR:g}")
        elif far[-1] + 1 < len(theirs):
            near = shown[far[-1] + 1][0]
            print(f"  dask-glm was within {NEAR:g} after {near:.1f} s: {near / mine:.0f} times our whole fit")
        else:
            print(f"  dask-glm did not come within {NEAR:g}")
        print(flush=True)


if __name__ == "__main__":
    main()
