"""The same fits by 1, 2, 4, ... workers of one thread: how a fit gets faster as workers come.

    python tests/bench/scaling.py --rows 4e7 --workers 1,2,4,8,16

Every fit runs on a cluster of its own of that many processes. Seconds of a pass are those after the first look;
speed-ups are relative to the smallest number of workers of the same run.
The coefficients are the same bits in every row of the table, or the benchmark fails.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import clusterglm
from clusterglm.clusters.embedded import embedded
from clusterglm.units import parse_count

FITS = (("auto", "memory"), ("proximal_gradient", "memory"), ("admm", "memory"), ("auto", "stream"))


def fits(rows: int, columns: int, workers: int, asked: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    with embedded(workers, 1) as (client, _):
        clusterglm.fit(client, rows=10**5 * workers, columns=columns)  # imports and first pages
        return {
            (solver, storage): clusterglm.fit(
                client, rows=rows, columns=columns, solver=solver, storage=storage, rel_gap=1e-8
            )
            for solver, storage in asked
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="4e7")
    parser.add_argument("--columns", type=int, default=15)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--storage", default="memory,stream")
    asked = parser.parse_args()
    rows, ways = parse_count(asked.rows), asked.storage.split(",")
    wanted = [(solver, storage) for solver, storage in FITS if storage in ways]
    first: dict[tuple[str, str], Any] = {}
    print(f"{rows:,} rows x {asked.columns}")
    print(f"{'solver':18} {'rows in':8} {'workers':>7} {'load':>8} {'fit':>8} passes {'a pass':>8} {'faster':>7}")
    for workers in map(int, asked.workers.split(",")):
        for what, found in fits(rows, asked.columns, workers, wanted).items():
            per_pass = found.seconds["fit"] / (found.passes - 1)
            base, bits = first.setdefault(what, (per_pass, found.coefficients))
            assert np.array_equal(bits, found.coefficients), "other bits with another number of workers"
            print(
                f"{what[0]:18} {what[1]:8} {workers:7} {found.seconds['load']:6.2f} s {found.seconds['fit']:6.2f} s "
                f"{found.passes:6} {per_pass:6.3f} s {base / per_pass:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
