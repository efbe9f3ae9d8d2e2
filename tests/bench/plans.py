"""What plans say, beside what happened: ten fits, each made twice on a cluster of its own.

    python tests/bench/plans.py [--scale 1]

Seconds are loading and fitting together; memory is the peak of the fullest worker.

A virtual machine gives memory that nobody uses back to its host, within two seconds, and gets it again at ten times
the price of what it kept: no forecast from a few megabytes can know how much of it is kept. So the first fit of a
cluster that holds its rows in memory may take twice as long as one that finds memory which was in use a moment ago. The
table has the second, for which this process uses as much and lets go of it when the rows are loaded; the last column is
what the plan of the first said over what the first took.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import clusterglm
from clusterglm.clusters.embedded import embedded
from clusterglm.data.dask_rows import DaskRows
from clusterglm.units import format_size

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {"solver": "auto", "rows": 8e6},
    {"solver": "admm", "rows": 8e6},
    {"solver": "proximal_gradient", "rows": 8e6, "start": "null"},
    {"solver": "auto", "rows": 1e6, "columns": 100},
    {"solver": "newton", "rows": 4e6, "family": "poisson", "intercept": True},
    {"solver": "lbfgs", "rows": 8e6, "dtype": "float32"},
    {"solver": "auto", "rows": 4e7, "storage": "stream"},
    {"solver": "admm", "rows": 4e7, "storage": "stream"},
    {"solver": "proximal_newton", "rows": 2e7, "storage": "stream", "family": "gaussian", "columns": 30},
    {"solver": "proximal_gradient", "rows": 2e7, "storage": "disk"},
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    print(f"{'fit':75} {'passes':>9} {'seconds':>15} {'ratio':>6} {'peak memory':>19} {'ratio':>6} first")
    for configuration in CONFIGURATIONS:
        asked = configuration | {"rows": int(configuration["rows"] * scale)}
        with embedded(2) as (client, _), tempfile.TemporaryDirectory() as folder:
            first = fit(client, Path(folder, "first"), asked)
            with memory_in_use(first[1]):
                found, plan = fit(client, Path(folder, "second"), asked)
        planned, took = plan["seconds_load"] + plan["seconds_fit"], seconds(found)
        before = (first[1]["seconds_load"] + first[1]["seconds_fit"]) / seconds(first[0])
        peak = plan["measured"]["peak_memory"]
        name = " ".join(f"{key}={value:.0e}" if key == "rows" else f"{value}" for key, value in asked.items())
        print(
            f"{name:75} {plan['passes']:>3} / {found.passes:<3} {planned:6.2f} / {took:6.2f} {planned / took:6.2f} "
            f"{format_size(plan['peak_memory']):>8} / {format_size(peak):>8} {plan['peak_memory'] / peak:6.2f} "
            f"{before:6.2f}",
            flush=True,
        )


def fit(client: Any, folder: Path, asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    found = clusterglm.fit(client, out=folder, **asked)
    return found, json.loads(Path(folder, "plan.json").read_text())


@contextmanager
def memory_in_use(plan: dict[str, Any]) -> Iterator[None]:
    """Use as much as the rows of a plan take until rows are loaded, so that the host has none of it then."""
    used = [np.ones(int(1.2 * plan["bytes"]) if plan["storage"] == "memory" else 0, dtype=np.uint8)]
    load = DaskRows.load

    def instead(rows: DaskRows) -> DaskRows:
        used.clear()
        return load(rows)

    with mock.patch.object(DaskRows, "load", instead):
        yield


def seconds(found: Any) -> float:
    return float(found.seconds["load"] + found.seconds["fit"])


if __name__ == "__main__":
    main()
