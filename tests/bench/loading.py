"""What loading costs beside pyarrow's own read of the same columns.

    python tests/bench/loading.py [rows] [columns]        (by default 8e6 and 15)

Two processes of one thread each, as on a cluster, each with a file of half the rows in a warm page cache, and both at
the same time. pyarrow reads the columns into a table, then batch by batch and keeps none; ours turns them into chunks,
X row by row. In every round one follows the other, and the table has the medians over the rounds of seconds and of ours
over each of pyarrow's; the last two columns are of processor time, which says more where other programs run. Ratios can
be compared between machines; the seconds cannot. Rows of csv are an eighth as many.

Row groups are as pyarrow writes them, 2^20 rows. By default a chunk is as long; where a group is cut, every chunk
decodes it from its first row.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clusterglm.data.chunks import plan
from clusterglm.data.sources import open_source
from clusterglm.units import parse_count

PROCESSES, ROUNDS = 2, 9
# format, compression, dtype in the file, dtype of X
CASES = [
    ("parquet", "zstd", "float64", "float64"),
    ("parquet", "snappy", "float64", "float64"),
    ("parquet", "zstd", "float64", "float32"),
    ("parquet", "snappy", "float64", "float32"),
    ("parquet", "zstd", "float32", "float32"),
    ("parquet", "snappy", "float32", "float32"),
    ("parquet", "zstd", "float32", "float64"),
    ("parquet", "snappy", "float32", "float64"),
    ("csv", "none", "6 digits", "float64"),
]


def write(folder: Path, i: int, rows: int, columns: int) -> None:
    """Write the files of process ``i``."""
    random = np.random.default_rng(i)
    features = {f"x{j}": random.random(rows) for j in range(columns)}
    target = {"y": (random.random(rows) < 0.5).astype(np.float64)}
    for dtype in ("float64", "float32"):
        table = pa.table({name: x.astype(dtype) for name, x in features.items()} | target)
        for compression in ("zstd", "snappy"):
            pq.write_table(table, folder / f"{dtype}-{compression}-{i}.parquet", compression=compression)
    few = {name: x[: rows // 8].round(6) for name, x in (features | target).items()}
    pyarrow.csv.write_csv(pa.table(few), folder / f"6 digits-none-{i}.csv")


def readers(path: Path, dtype: str, rows: int) -> tuple[Callable[[], Any], ...]:
    """Return pyarrow's own two ways to read a file, and ours."""
    source = open_source(str(path), "y")
    source.open(None)
    sizes = plan(
        solver="",
        rows=rows,
        columns=len(source.names),
        dtype=dtype,
        workers=PROCESSES,
        threads=PROCESSES,
        data="",
        stored=source.stored,
    )
    cuts = [*range(0, source.rows, sizes.chunk_rows), source.rows]

    def theirs() -> Any:
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path, pyarrow.csv.ReadOptions(use_threads=False))
        return pq.ParquetFile(path).read(use_threads=False)

    def batches() -> Any:
        if path.suffix == ".csv":
            with pyarrow.csv.open_csv(path, pyarrow.csv.ReadOptions(use_threads=False)) as opened:
                return sum(len(batch) for batch in opened)
        opened = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
        return sum(len(batch) for batch in opened.iter_batches(use_threads=False))

    def ours() -> Any:
        return [source.part(b).chunk(b, sizes.block_rows, sizes.dtype) for b in itertools.pairwise(cuts)]

    return theirs, batches, ours


def work(folder: Path, i: int, rows: int, barrier: Any, results: Any) -> None:
    """Time all cases over one process's files, in step with the others; put [case][round][who][clock] seconds."""
    pa.set_cpu_count(1)
    found = []
    for form, compression, stored, dtype in CASES:
        ways = readers(folder / f"{stored}-{compression}-{i}.{form}", dtype, rows)
        found.append([])
        for _ in range(ROUNDS):
            found[-1].append([])
            for read in ways:
                barrier.wait()
                began = time.perf_counter(), time.process_time()
                held = read()
                found[-1][-1].append((time.perf_counter() - began[0], time.process_time() - began[1]))
                del held
    results.put(found)


def main(rows: str = "8e6", columns: str = "15") -> None:
    number, width = parse_count(rows), parse_count(columns, "columns", of="columns")
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    with tempfile.TemporaryDirectory() as name:
        for i in range(PROCESSES):
            write(Path(name), i, number // PROCESSES, width)
        processes = [
            context.Process(target=work, args=(Path(name), i, number, barrier, results)) for i in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        slowest = np.max([results.get() for _ in processes], axis=0)  # [case][round][who][clock]
        for process in processes:
            process.join()
    print(f"{number:,} rows x {width} columns, {PROCESSES} processes of one thread, medians of {ROUNDS} rounds\n")
    heads = f"{'table s':>8} {'batches s':>9} {'ours s':>7} {'/table':>7} {'/batches':>9} {'cpu':>5} {'cpu':>5}"
    print(f"{'format':8} {'compressed':10} {'in the file':12} {'X':8} {heads}")
    for case, rounds in zip(CASES, slowest, strict=True):
        table, batches, ours = (statistics.median(rounds[:, k, 0]) for k in range(3))
        ratios = [statistics.median(rounds[:, 2, clock] / rounds[:, k, clock]) for clock in (0, 1) for k in (0, 1)]
        times = f"{table:8.2f} {batches:9.2f} {ours:7.2f} {ratios[0]:7.2f} {ratios[1]:9.2f}"
        print(f"{case[0]:8} {case[1]:10} {case[2]:12} {case[3]:8} {times} {ratios[2]:5.2f} {ratios[3]:5.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
