"""A run folder as a fit leaves it, with every figure made up but plausible, and the edge cases of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "$$x^2$$",
    "a'b\"c&d",
    "\\(y\\)",
]


def history_table(iterations: int, certified: bool, objective: float) -> pa.Table:
    gap = 0.3 * np.exp(-1.1 * np.arange(iterations))
    return pa.table(
        {
            "iteration": pa.array(range(1, iterations + 1), pa.int64()),
            "passes": pa.array([2 * (i + 1) for i in range(iterations)], pa.int64()),
            "read": pa.array([2 * (i + 1) - 1 for i in range(iterations)], pa.int64()),
            "seconds": 0.4 * np.arange(1, iterations + 1) + 0.03 * np.sin(np.arange(iterations)),
            "objective": objective + gap / 1.3 - (gap / 1.3)[-1] if iterations else np.empty(0),
            "gap": np.where((np.arange(iterations) > 3) & certified, gap, np.inf),
            "relative_gap": np.where((np.arange(iterations) > 3) & certified, gap / 0.69, np.inf),
            "error_in_se": np.where((np.arange(iterations) > 3) & certified, 900 * np.sqrt(gap), np.inf),
            "kkt": 700 * np.sqrt(gap),
            "step": np.full(iterations, np.nan),
        }
    )


def tasks_table(workers: list[str], rounds: int, chunks: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    clock = dict.fromkeys(workers, 1.7e9)
    for r in range(rounds + 1):
        name = "chunk" if r == 0 else "each" if r % 2 else "sums"
        for i in range(chunks):
            worker = workers[i * len(workers) // chunks]
            if r == 0 and i % 3 == 0:
                rows.append(
                    (name, f"{name}-{r}-{i}", worker, 140000, clock[worker], clock[worker] + 0.02, "transfer", 0)
                )
                clock[worker] += 0.02
            length = (0.12 if r == 0 else 0.03) * random.uniform(0.8, 1.3)
            rows.append(
                (name, f"{name}-{r}-{i}", worker, 140000, clock[worker], clock[worker] + length, "compute", 2048)
            )
            clock[worker] += length
        clock = dict.fromkeys(workers, max(clock.values()) + 0.01)
    names = ("name", "key", "worker", "thread", "start", "stop", "action", "nbytes")
    kinds = (pa.string(), pa.string(), pa.string(), pa.int64(), pa.float64(), pa.float64(), pa.string(), pa.int64())
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})


def make_run(
    folder: Path,
    columns: int = 15,
    workers: int = 2,
    chunks: int = 24,
    iterations: int = 25,
    certified: bool = True,
    tasks: bool = True,
    rounds: int = 30,
    **changes: Any,
) -> Path:
    """Write a run folder of made-up figures; ``changes`` replace keys of result.json."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(20009)
    truth = (random.random_sample(columns) - 0.5) * 3
    estimate = truth + np.random.default_rng(1).normal(0, 0.004, columns)
    estimate[::7] = 0.0
    places = [f"tcp://127.0.0.1:{40000 + i}" for i in range(workers)]
    spread = {place: len(range(i, chunks, workers)) for i, place in enumerate(places)}
    result: dict[str, Any] = {
        "solver": "admm",
        "family": "binomial",
        "link": "logit",
        "penalty": "l1",
        "alpha": 1.25e-7,
        "l1_ratio": 1.0,
        "lamduh": 1.0,
        "rows": 8_000_000,
        "columns": columns,
        "dtype": "float64",
        "storage": "memory",
        "status": "optimal",
        "coefficients": estimate.tolist(),
        "intercept": None,
        "feature_names": [f"x{i}" for i in range(columns)],
        "objective": 0.5512345678,
        "null_objective": 0.6931471806,
        "certificate": {
            "method": "curvature",
            "gap": 3.1e-13,
            "relative_gap": 4.5e-13,
            "kkt": 0.002,
            "error_in_se": 0.004,
        }
        if certified
        else {"method": "none", "gap": None, "relative_gap": None, "kkt": 0.002, "error_in_se": None},
        "tolerance": {"kind": "tol", "value": 0.01},
        "start": "fit on 30000 sampled rows",
        "start_saved": {
            "distance": 2.1e-3,
            "passes": 2 * iterations,
            "foreseen_from_null": 2 * iterations + 4,
            "saved": 4,
        },
        "iterations": iterations,
        "passes": 2 * iterations,
        "bytes": 1_024_000_000,
        "seconds": {"plan": 0.01, "load": 3.2, "fit": 10.4, "report": 1.3},
        "cost": None,
        "chunks": {"count": chunks, "rows": 333_824, "spread": spread},
        "tasks": chunks * (rounds + 1),
        "tasks_dropped": 0,
        "workers": workers,
        "threads": workers,
        "blas_threads": 1,
        "memory": {
            "limit": 4_000_000_000,
            "peak": 1_310_000_000,
            "worker": {place: 1_310_000_000 - 9_000_000 * i for i, place in enumerate(places)},
        },
        "seed": 20009,
        "truth_error": float(np.abs(estimate - truth).max()),
        "truth": truth.tolist(),
        "notes": [
            "note: no penalty was given: L1 with lamduh 1",
            "warning: column x3 (constant 1.0): same as the intercept",
        ],
        "versions": {
            "python": "3.11.7",
            "clusterglm": "0.1.0",
            "dask": "2026.8.0",
            "distributed": "2026.8.0",
            "numpy": "2.4.1",
            "scipy": "1.17.0",
        },
        "command": "clusterglm fit admm --rows 8e6 --columns 15 --seed 20009 --lamduh 1 --workers 2",
        "started": "2026-11-23T09:16:28+00:00",
        "resumed": False,
        "columns_dropped": [],
    } | changes
    plan = {
        "solver": "admm",
        "storage": "memory",
        "rows": 8_000_000,
        "columns": columns,
        "dtype": "float64",
        "itemsize": 8,
        "block_rows": 2048,
        "local_rows": 333_824,
        "local_problems": 24,
        "chunk_rows": 333_824,
        "chunks": chunks,
        "bytes": 1_024_000_000,
        "bytes_per_worker": 1_024_000_000 // workers,
        "tasks_per_pass": chunks,
        "workers": workers,
        "threads": workers,
        "memory": 4_000_000_000,
        "reasons": [
            "micro-blocks of 2048 rows: 245.8 kB stay in cache",
            "in memory: 1.0 GB are 13% of the workers' 8.0 GB",
        ],
        "measured": {
            "passes": 2 * iterations,
            "seconds_load": 3.2,
            "seconds_fit": 10.4,
            "seconds_per_pass": 0.21,
            "peak_memory": 1_310_000_000,
        },
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "plan.json").write_text(json.dumps(plan))
    pq.write_table(history_table(iterations, certified, result["objective"] or 0.55), folder / "history.parquet")
    pq.write_table(tasks_table(places, rounds if tasks else -1, chunks), folder / "tasks.parquet")
    return folder
