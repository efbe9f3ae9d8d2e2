"""What a pass costs beside a bare read of the rows.

    python tests/bench/passes.py [rows] [columns]        (by default 8e6 and 15)

One process a core and one BLAS thread each, as on a cluster, every process with its share of the rows and all passing
over them at the same time. A bare read is one dot product of every micro-block with itself; in every round all kernels
run beside it, and the table has the medians over the rounds: nanoseconds a row of all cores together, bytes of X a
second, multiples of the bare read of the same round, and of one BLAS syrk of all rows. Ratios can be compared between
machines; the seconds cannot.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from typing import Any

import numpy as np

from clusterglm.clusters.settings import WORKER_ENVIRONMENT, cores
from clusterglm.data.chunk import GENERATOR_ROWS, block_rows, one_blas_thread
from clusterglm.data.rows import LocalRows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import kernels
from clusterglm.glm.families import FAMILIES
from clusterglm.units import parse_count

ROUNDS = 9


def read(block: kernels.Block) -> tuple[np.ndarray]:
    """Return the sum of squares of X: every number of the block is read once, and little else is done."""
    flat = block.X.ravel()
    return (np.asarray(flat @ flat),)


def syrk(block: kernels.Block) -> tuple[np.ndarray]:
    """Return X'X, of which numpy's BLAS forms one triangle."""
    return (block.X.T @ block.X,)


def passes(source: Synthetic) -> list[tuple[str, str, Any, tuple[Any, ...]]]:
    """Return (family, name, kernel, arguments) of every pass."""
    beta, near = source.truth, source.truth * 1.01
    candidates = np.column_stack([beta, near])
    found: list[tuple[str, str, Any, tuple[Any, ...]]] = [("", "bare read", read, ()), ("", "syrk", syrk, ())]
    for family in FAMILIES.values():
        for name, kernel, args in (
            ("loss", kernels.loss, (beta,)),
            ("gradient", kernels.gradient, (beta,)),
            ("gradient at two points", kernels.gradient, (candidates,)),
            ("gradient + Gram", kernels.hessian, (beta,)),
        ):
            found.append((family.name, name, kernel, (family, *args)))
    return found


def work(source: Synthetic, bounds: tuple[int, int], barrier: Any, results: Any) -> None:
    """Time every pass over one process's share, in step with the others; put [round][pass] seconds into ``results``."""
    rows = LocalRows(source.chunk(bounds, block_rows(source.columns, 8)))
    seconds = []
    with one_blas_thread():
        for _ in range(ROUNDS):
            seconds.append([])
            for _, _, kernel, args in passes(source):
                barrier.wait()
                began = time.perf_counter()
                rows.sum(kernel, *args)
                seconds[-1].append(time.perf_counter() - began)
    results.put(seconds)


def main(rows: str = "8e6", columns: str = "15") -> None:
    source = Synthetic(parse_count(rows), parse_count(columns, "columns", of="columns"))
    os.environ.update(WORKER_ENVIRONMENT)  # before any process is started
    count = cores()
    cuts = [GENERATOR_ROWS * round(i * source.rows / GENERATOR_ROWS / count) for i in range(count)] + [source.rows]
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=work, args=(source, (cuts[i], cuts[i + 1]), barrier, results)) for i in range(count)
    ]
    for process in processes:
        process.start()
    slowest = np.max([results.get() for _ in processes], axis=0)  # [round][pass]
    for process in processes:
        process.join()
    print(f"{source.rows:,} rows x {source.columns} columns, {count} processes, medians of {ROUNDS} rounds\n")
    print(f"{'family':10} {'pass':24} {'ns/row':>8} {'GB/s':>7} {'x read':>7} {'x syrk':>7}")
    for k, (family, name, _, _) in enumerate(passes(source)):
        each = slowest[:, k]
        middle = statistics.median(each)
        reads, grams = (statistics.median(each / slowest[:, j]) for j in (0, 1))
        speed = source.rows * source.columns * 8 / middle / 1e9
        print(f"{family:10} {name:24} {1e9 * middle / source.rows:8.2f} {speed:7.1f} {reads:7.2f} {grams:7.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
