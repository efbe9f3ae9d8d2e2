"""clusterglm beside scikit-learn, glum and statsmodels: the same rows, the same objective, one run.

    python tests/bench/against_peers.py [--rows 8e6] [--columns 15] [--lamduh 1] [--design uniform|correlated|scaled]
                                        [--only auto,admm,glum] [--rounds 3]

Seconds are those of the fit alone: rows in memory, workers up, everything else counted. Ours have the first look in
them, the pass that checks the rows: a fit makes it as it loads them, so it is made again when they are loaded. Ours run
on an embedded cluster of one process a core and stop at a certified `--rel-gap 1e-8`; each peer runs in a process of
its own with its threads set to the number of cores, and with the tolerance that is named in the table. Every line is
the median of `--rounds` runs (of one where a run takes over a minute). A bare read is one dot product of every
micro-block with itself by one process a core (`passes.py`): the median of those before each of our fits, and of one
first and last. "off" is (objective - best) / best, all objectives evaluated by `clusterglm.bench.objectives`; peers
that have no L1 penalty fit without one and are measured beside their own optimum. The design is that of the reference
problem, or the same columns each with 0.95 of the one before it in it, or in units from 1e-4 to 1e4.
`against_dask_glm.py` is about dask-glm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np

from clusterglm import fit, fitting
from clusterglm.bench import objectives
from clusterglm.clusters.embedded import embedded
from clusterglm.clusters.settings import ONE_THREAD, cores
from clusterglm.data import synthetic
from clusterglm.data.chunk import block_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.units import parse_count

OURS = ("auto", "proximal_newton", "admm", "proximal_gradient")
LONG = 60.0  # seconds above which one run is enough


class Correlated(Synthetic):
    """Neighbouring columns have a correlation of about 0.95."""

    def block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        X, y = super().block(index)
        for j in range(1, self.columns):
            X[:, j] += 0.95 * X[:, j - 1]
        return X, y


class Scaled(Synthetic):
    """Columns in units of 1e-4 to 1e4."""

    def block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        X, y = super().block(index)
        return X * np.logspace(-4, 4, self.columns), y


DESIGNS = {"uniform": Synthetic, "correlated": Correlated, "scaled": Scaled}


@dataclass(frozen=True)
class Line:
    """What one contender took: ``lamduh`` is the strength of the L1 penalty that it fitted with."""

    name: str
    seconds: float
    coefficients: np.ndarray
    lamduh: float
    words: str


def glum(X: Any, y: Any, lamduh: float, order: str) -> np.ndarray:
    from glum import GeneralizedLinearRegressor

    model = GeneralizedLinearRegressor(
        family="binomial", alpha=lamduh / len(y), l1_ratio=1.0, fit_intercept=False, gradient_tol=1e-7, max_iter=1000
    )
    return np.asarray(model.fit(np.asarray(X, order=order), y).coef_)


def liblinear(X: Any, y: Any, lamduh: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=1 / lamduh, fit_intercept=False, tol=1e-4)
    return np.asarray(model.fit(X, y).coef_.ravel())


def newton_cholesky(X: Any, y: Any, lamduh: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=np.inf, solver="newton-cholesky", fit_intercept=False, tol=1e-8)
    return np.asarray(model.fit(X, y).coef_.ravel())


def logit(X: Any, y: Any, lamduh: float) -> np.ndarray:
    from statsmodels.discrete.discrete_model import Logit

    return np.asarray(Logit(y, X).fit(disp=False).params)


PEERS: dict[str, tuple[Callable[..., np.ndarray], tuple[Any, ...], bool, str]] = {
    "glum, columns contiguous": (glum, ("F",), True, "gradient_tol 1e-7"),
    "glum, rows contiguous": (glum, ("C",), True, "gradient_tol 1e-7"),
    "scikit-learn liblinear": (liblinear, (), True, "tol 1e-4"),
    "scikit-learn newton-cholesky": (newton_cholesky, (), False, "no penalty, tol 1e-8"),
    "statsmodels Logit": (logit, (), False, "no penalty, its own tolerance"),
}


def peer(name: str, source: Synthetic, lamduh: float, rounds: int, results: Any) -> None:
    """Put the seconds of every run and the coefficients into ``results``."""
    function, extra, _, _ = PEERS[name]
    held = source.chunk((0, source.rows), block_rows(source.columns, 8))
    X = np.asarray(held.X, order=extra[0] if extra else "C")  # in the order that the peer wants, before the clock
    seconds: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(X[:1000].copy(order="K"), held.y[:1000], 1.0, *extra)  # imports and compilations
        while len(seconds) < (1 if seconds and seconds[0] > LONG else rounds):
            began = time.perf_counter()
            beta = function(X, held.y, lamduh, *extra)
            seconds.append(time.perf_counter() - began)
    results.put((seconds, beta))


def in_a_process(target: Callable[..., None], *args: Any) -> Any:
    """Return what ``target`` puts into the queue that it gets last, in a process with as many threads as cores."""
    os.environ.update(dict.fromkeys(ONE_THREAD, str(cores())))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=target, args=(*args, results))
    process.start()
    found = results.get()
    process.join()
    return found


def read(source: Synthetic, results: Any) -> None:
    """Put the seconds of seven reads of one process's share into ``results``."""
    share = Synthetic(source.rows // cores() // 8192 * 8192, source.columns, source.seed)
    held = share.chunk((0, share.rows), block_rows(source.columns, 8))
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        for block in held.blocks():
            flat = block.X.ravel()
            flat @ flat
        seconds.append(time.perf_counter() - began)
    results.put(seconds)


def bare_read(source: Synthetic) -> float:
    """Return the seconds of a read of all rows by one process a core, all at once."""
    os.environ.update(ONE_THREAD)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=read, args=(source, results)) for _ in range(cores())]
    for process in processes:
        process.start()
    found = [statistics.median(results.get()) for _ in processes]
    for process in processes:
        process.join()
    return max(found)


def ours(
    source: Synthetic, lamduh: float, rounds: int, wanted: Callable[[str], bool], reads: list[float]
) -> list[Line]:
    """Return our lines; put the seconds of a bare read into ``reads`` before each fit."""
    lines = []
    words = {"rows": source.rows, "columns": source.columns, "seed": source.seed, "lamduh": lamduh, "rel_gap": 1e-8}
    looks: list[float] = []
    first = fitting._Fitting.look

    def twice(fitted: Any, *given: Any) -> Any:
        first(fitted, *given)
        began = time.perf_counter()
        seen = first(fitted, *given)
        looks.append(time.perf_counter() - began)
        return seen

    with embedded() as (client, _), mock.patch.object(fitting._Fitting, "look", twice):
        for solver in filter(wanted, OURS):
            looks.clear()
            found = []
            for _ in range(rounds):
                reads.append(bare_read(source))
                found.append(fit(client, solver=solver, **words))
            seconds = statistics.median(result.seconds["fit"] + look for result, look in zip(found, looks, strict=True))
            last = found[-1]
            told = f"{last.status}, {last.passes} passes, gap {last.certificate['relative_gap']:.0e}, "
            told += f"{statistics.median(looks):.3f} s the first look"
            lines.append(Line(solver, seconds, last.coefficients, lamduh, told))
    return lines


def theirs(source: Synthetic, lamduh: float, rounds: int, wanted: Callable[[str], bool]) -> list[Line]:
    lines = []
    for name in filter(wanted, PEERS):
        if not find_spec(
            {"glum": "glum", "scikit-learn": "sklearn", "statsmodels": "statsmodels"}[name.split()[0].strip(",")]
        ):
            continue
        seconds, beta = in_a_process(peer, name, source, lamduh, rounds)
        _, _, penalised, words = PEERS[name]
        lines.append(Line(name, statistics.median(seconds), beta, lamduh if penalised else 0.0, words))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="8e6")
    parser.add_argument("--columns", default=15, type=int)
    parser.add_argument("--lamduh", default=1.0, type=float)
    parser.add_argument("--design", default="uniform", choices=DESIGNS)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--only", help="contenders whose names contain one of these words, separated by commas")
    options = parser.parse_args()
    synthetic.Synthetic = DESIGNS[options.design]  # type: ignore[misc]  # which is what a fit of --rows looks up
    source = DESIGNS[options.design](parse_count(options.rows), options.columns)
    words = options.only.split(",") if options.only else [""]

    def wanted(name: str) -> bool:
        return any(word in name for word in words)

    print(
        f"{source.rows:,} rows x {source.columns}, {options.design}, lamduh {options.lamduh:g}, "
        f"load {os.getloadavg()[0]:.2f}",
        flush=True,
    )
    reads = [bare_read(source)]
    lines = ours(source, options.lamduh, options.rounds, wanted, reads)
    lines += theirs(source, options.lamduh, options.rounds, wanted)
    reads.append(bare_read(source))
    bare = statistics.median(reads)
    print(f"bare read {bare:.4f} s, {min(reads):.4f} to {max(reads):.4f}, load {os.getloadavg()[0]:.2f}\n")
    fastest = min(line.seconds for line in lines)
    free = fit(solver="newton", rows=source.rows, columns=source.columns, seed=source.seed, tol=1e-4).coefficients
    tight = fit(
        rows=source.rows, columns=source.columns, seed=source.seed, lamduh=options.lamduh, tol=1e-4
    ).coefficients
    print(f"{'who':30} {'seconds':>8} {'reads':>7} {'x fastest':>9} {'off':>8}  words")
    for line in lines:
        best, value = objectives(
            source, np.column_stack([tight if line.lamduh else free, line.coefficients]), line.lamduh
        )
        off = (value - best) / best
        print(
            f"{line.name:30} {line.seconds:8.3f} {line.seconds / bare:7.1f} {line.seconds / fastest:9.1f} {off:8.0e}  "
            f"{line.words}",
            flush=True,
        )


if __name__ == "__main__":
    main()
