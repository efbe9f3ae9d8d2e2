"""A pass over rows on disk beside dd, and one over Parquet beside pyarrow's own scan.

    python tests/bench/disk.py --rows 2e8 --parquet-rows 2e7

Both readers find the cache cold: files are told to the disk (fsync) and out of memory (posix_fadvise, DONTNEED) before
each measurement. dd reads the very files with O_DIRECT in pieces of 8 MB, one dd a worker, all at the same time; a pass
is a gradient over all rows. The Parquet part has the cache warm, for it measures decoding.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from clusterglm.clusters.embedded import embedded
from clusterglm.data import chunks
from clusterglm.data.dask_rows import DaskRows
from clusterglm.data.sources import open_source
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import kernels
from clusterglm.glm.families import get_family
from clusterglm.units import parse_count


def files(dask_worker: Any) -> list[str]:
    return sorted(map(str, Path(dask_worker.local_directory).rglob("*.rows")))


def forget(paths: list[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def dd(of_worker: list[list[str]]) -> float:
    began = time.perf_counter()
    running = [
        subprocess.Popen(
            ["sh", "-c", 'for f in "$@"; do dd if="$f" of=/dev/null bs=8M iflag=direct status=none; done', "dd", *paths]
        )
        for paths in of_worker
    ]
    assert all(process.wait() == 0 for process in running)
    return time.perf_counter() - began


def a_pass(rows: DaskRows) -> float:
    began = time.perf_counter()
    rows.sum(kernels.gradient, get_family("binomial"), np.zeros(rows.columns))
    return time.perf_counter() - began


def on_disk(client: Any, rows: int, dtype: str, rounds: int) -> None:
    made = chunks.plan(
        solver="auto", rows=rows, columns=15, dtype=dtype, storage="disk", workers=2, threads=2, disk=10**15
    )
    source = Synthetic(rows)
    held = DaskRows(client, source.make(made, False), made, source.locate).load()
    began = time.perf_counter()
    a_pass(held)
    written = time.perf_counter() - began
    of_worker = list(client.run(files).values())
    size = sum(Path(path).stat().st_size for paths in of_worker for path in paths)
    seconds: dict[str, list[float]] = {"dd": [], "pass": []}
    for _ in range(rounds):
        for name, call in (("dd", lambda: dd(of_worker)), ("pass", lambda: a_pass(held))):
            forget([path for paths in of_worker for path in paths])
            seconds[name].append(call())
    rates = {name: size / statistics.median(times) / 1e9 for name, times in seconds.items()}
    each = ", ".join(f"{a / b:.2f}" for a, b in zip(seconds["dd"], seconds["pass"], strict=True))
    print(
        f"{rows:.0e} x 15 {dtype}: {size / 1e9:.1f} GB written and read in {written:.1f} s; dd {rates['dd']:.2f} GB/s, "
        f"a pass {rates['pass']:.2f} GB/s: {rates['pass'] / rates['dd']:.2f} of it (each round: {each})",
        flush=True,
    )
    held.close()
    for paths in of_worker:
        for path in paths:
            Path(path).unlink()


def scan(paths: list[str], columns: list[str]) -> float:
    """Return the seconds of pyarrow's scan, on as many threads as there are workers."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    pa.set_cpu_count(2)
    began = time.perf_counter()
    for _ in ds.dataset(paths).scanner(columns=columns, use_threads=True).to_batches():
        pass
    return time.perf_counter() - began


def from_parquet(client: Any, rows: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder, "made")
        command = [sys.executable, "-m", "clusterglm", "generate", "--rows", str(rows), "--to", str(to), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        source = open_source(str(to), "y")
        source.open(client)
        made = chunks.plan(
            solver="auto",
            rows=rows,
            columns=15,
            storage="stream",
            workers=2,
            threads=2,
            data=str(to),
            stored=source.stored,
        )
        held = DaskRows(client, source.make(made, False), made, source.locate).load()
        paths = sorted(map(str, to.rglob("*.parquet")))
        seconds: dict[str, list[float]] = {"scan": [], "pass": []}
        for _ in range(rounds + 1):
            seconds["scan"].append(scan(paths, [*source.names, "y"]))
            seconds["pass"].append(a_pass(held))
        scanned, passed = (statistics.median(times[1:]) for times in seconds.values())
        print(
            f"{rows:.0e} x 15 from Parquet (zstd): pyarrow's scan {scanned:.2f} s, a pass {passed:.2f} s: "
            f"{scanned / passed:.2f} of its rate"
        )
        held.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="2e7")
    parser.add_argument("--parquet-rows", default="4e6")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with embedded(2) as (client, _):
        for dtype in ("float32", "float64"):
            on_disk(client, parse_count(asked.rows), dtype, asked.rounds)
        from_parquet(client, parse_count(asked.parquet_rows), asked.rounds)


if __name__ == "__main__":
    main()
