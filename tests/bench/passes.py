"""What a pass costs beside a bare read of the rows.

    python tests/bench/passes.py [rows] [columns]        (by default 2e6 and 15)

Times each kernel over rows in this process, on one core and one BLAS thread, and prints the best of some rounds: in
nanoseconds a row, in bytes of X a second, and as a multiple of a bare read, which is one dot product of every
micro-block with itself. Ratios can be compared between machines; the seconds cannot.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from clusterglm.data.chunk import one_blas_thread
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import kernels
from clusterglm.glm.families import FAMILIES
from clusterglm.units import parse_count

ROUNDS = 7


def read(block: kernels.Block) -> tuple[float]:
    """Return the sum of squares of X: every number of the block is read once, and little else is done."""
    flat = block.X.ravel()
    return (float(flat @ flat),)


def best(call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of some calls."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main(rows: str = "2e6", columns: str = "15") -> None:
    source = Synthetic(parse_count(rows), parse_count(columns, "columns", of="columns"))
    held = local_rows(source)
    beta, near = source.truth, source.truth * 1.01
    candidates = np.column_stack([beta, near])
    passes: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
        ("loss", kernels.loss, (beta,)),
        ("gradient", kernels.gradient, (beta,)),
        ("gradient at two points", kernels.gradient, (candidates,)),
        ("Hessian", kernels.hessian, (beta,)),
        ("consensus", kernels.consensus, (beta, near)),
    ]
    print(f"{source.rows:,} rows x {source.columns} columns, {held.nbytes / 1e6:,.0f} MB, one core\n")
    print(f"{'family':10} {'pass':24} {'ns/row':>8} {'GB/s':>7} {'x read':>7}")

    def line(family: str, name: str, seconds: float) -> None:
        speed = source.rows * source.columns * 8 / seconds / 1e9
        print(
            f"{family:10} {name:24} {1e9 * seconds / source.rows:8.1f} {speed:7.2f} {seconds / bare:7.1f}", flush=True
        )

    with one_blas_thread():
        bare = best(partial(held.sum, read))
        line("", "bare read", bare)
        for family in FAMILIES.values():
            for name, kernel, args in passes:
                line(family.name, name, best(partial(held.sum, kernel, family, *args)))


if __name__ == "__main__":
    main(*sys.argv[1:])
