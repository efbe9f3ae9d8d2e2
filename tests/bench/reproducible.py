"""What it costs that sums have the same bits everywhere.

    python tests/bench/reproducible.py [--columns 15,200] [--megabytes 400] [--rounds 9]

The same kernels on the same rows: through micro-blocks of the fixed size and the fixed tree (``subtotals`` and
``fold``, as in every fit), and in the plainest loop over blocks with running sums, which any change of the chunks would
give other bits. The plain loop runs with the fixed size, which leaves the price of the tree alone, and with the size
that is fastest here, which is the whole price. All ways take turns in every round, each round in another order; ratios
are medians over the rounds of seconds of this process's own CPU, one thread, on a machine that others may use.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clusterglm.data.chunk import Chunk, block_rows, one_blas_thread, subtotals
from clusterglm.data.synthetic import Synthetic
from clusterglm.data.tree import fold
from clusterglm.glm import kernels
from clusterglm.glm.families import FAMILIES

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
KERNELS = {"gradient": kernels.gradient, "gradient + Gram": kernels.hessian}


def tree(chunk: Chunk, kernel: Callable[..., Any], args: Sequence[Any]) -> Any:
    return fold(subtotals(chunk, kernel, tuple(args)))


def running(chunk: Chunk, kernel: Callable[..., Any], args: Sequence[Any], size: int) -> list[np.ndarray]:
    """Return the sums of ``kernel`` over blocks of ``size`` rows, one after the other."""
    totals: list[np.ndarray] = []
    for i in range(0, len(chunk), size):
        block = kernels.Piece(chunk.X[i : i + size], chunk.y[i : i + size], None, None, i)
        found = [np.asarray(s) for s in kernel(block, *args)]
        totals = [total + s for total, s in zip(totals, found, strict=True)] if totals else found
    return totals


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(source: Synthetic, rounds: int) -> None:
    fixed = block_rows(source.columns, 8)
    chunk = source.chunk((0, source.rows), fixed)
    sizes = sorted({*SIZES, fixed})
    for name, kernel in KERNELS.items():
        args = (FAMILIES["binomial"], source.truth)
        ways: list[Callable[[], Any]] = [lambda: tree(chunk, kernel, args)]  # noqa: B023
        ways += [lambda size=size: running(chunk, kernel, args, size) for size in sizes]  # type: ignore[misc]  # noqa: B023
        for one, other in zip(ways[0](), ways[1](), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-6)
        taken = np.zeros((rounds, len(ways)))
        for r in range(rounds):
            for k in np.roll(np.arange(len(ways)), r):
                taken[r, k] = seconds(ways[k])
        same = 1 + sizes.index(fixed)
        best = 1 + int(np.argmin(np.median(taken[:, 1:], axis=0)))
        ratios = [statistics.median(taken[:, 0] / taken[:, k]) for k in (same, best)]
        millis = 1e3 * statistics.median(taken[:, 0])
        print(
            f"{source.columns:7} {name:16} {fixed:6} {millis:8.1f} {ratios[0]:14.3f} {ratios[1]:14.3f}"
            f" ({sizes[best - 1]} rows)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", default="15,200")
    parser.add_argument("--megabytes", default=400.0, type=float)
    parser.add_argument("--rounds", default=9, type=int)
    options = parser.parse_args()
    print(f"binomial, {options.megabytes:g} MB of float64 rows, medians of {options.rounds} rounds\n")
    print(f"{'columns':>7} {'pass':16} {'block':>6} {'CPU ms':>8} {'x running sums':>14} {'x fastest block':>14}")
    with one_blas_thread():
        for columns in map(int, options.columns.split(",")):
            measure(Synthetic(int(options.megabytes * 1e6 / 8 / columns), columns), options.rounds)


if __name__ == "__main__":
    main()
