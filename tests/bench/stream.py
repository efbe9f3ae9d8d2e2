"""Fits of streamed rows beside one bare generation of the same rows on all cores.

    python tests/bench/stream.py --rows 8e8 --rounds 1

The bare generation makes every block of rows with its target, on the same workers, and does nothing with it. Memory is
the peak of each process, the client's among them; seconds are those of the fit with its first look at the rows, which
``result.json`` counts as loading.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any

import clusterglm
from clusterglm.clusters import workers as measured
from clusterglm.clusters.embedded import embedded
from clusterglm.data import chunks
from clusterglm.data.stream import Stream
from clusterglm.data.synthetic import Synthetic
from clusterglm.data.tasks import map_where
from clusterglm.units import format_size, parse_count

SOLVERS = ("auto", "admm", "proximal_gradient")


def generate(stream: Stream) -> int:
    return sum(len(window) for window in stream.windows(stream.window_rows))


def bare(client: Any, rows: int, columns: int) -> float:
    """Return the seconds of making all rows once, an equal part on every worker thread."""
    source = Synthetic(rows, columns)
    found = client.scheduler_info(n_workers=-1)["workers"]
    seats = [address for address in sorted(found) for _ in range(found[address]["nthreads"])]
    made = chunks.plan(solver="auto", rows=rows, columns=columns, storage="stream", threads=len(seats))
    cuts = [i * rows // len(seats) // 8192 * 8192 for i in range(len(seats))] + [rows]
    streams = [Stream.of(source, bounds, made, False) for bounds in itertools.pairwise(cuts)]
    began = time.perf_counter()
    keys = [f"bare-{began}-{i}" for i in range(len(seats))]
    assert sum(client.gather(map_where(client, generate, streams, keys, seats))) == rows
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="8e7")
    parser.add_argument("--columns", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    asked = parser.parse_args()
    rows = parse_count(asked.rows)
    with embedded() as (client, _):
        clusterglm.fit(client, rows=10**6, columns=asked.columns, storage="stream")  # imports and first pages
        times: dict[str, list[float]] = {"bare": []}
        results: dict[str, Any] = {}
        for _ in range(asked.rounds):
            times["bare"].append(bare(client, rows, asked.columns))
            for solver in asked.solvers.split(","):
                found = clusterglm.fit(
                    client, rows=rows, columns=asked.columns, solver=solver, storage="stream", rel_gap=1e-8
                )
                times.setdefault(solver, []).append(found.seconds["load"] + found.seconds["fit"])
                results[solver] = found
                print(f"  {solver} {times[solver][-1]:.1f} s, bare {times['bare'][-1]:.1f} s", flush=True)
        peaks = [*measured.peak_memory(client).values(), measured.own_peak()]
    base = statistics.median(times["bare"])
    print(
        f"{rows:,} rows x {asked.columns}; bare generation {base:.2f} s, {base / rows * 1e9 * 2:.1f} ns a row and core"
    )
    for solver, found in results.items():
        seconds = statistics.median(times[solver])
        per_pass = found.seconds["fit"] / (found.passes - 1)
        print(
            f"{solver:18} {seconds:8.2f} s  {seconds / base:5.2f} bare generations  {found.passes} passes, "
            f"{per_pass:.2f} s each after the first  {found.status}, relative gap "
            f"{found.certificate['gap'] / found.null_objective:.1e}"
        )
    print(f"peak memory: {' + '.join(map(format_size, peaks))} = {format_size(sum(peaks))}")


if __name__ == "__main__":
    main()
