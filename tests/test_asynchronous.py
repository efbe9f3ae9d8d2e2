"""Asynchronous fits on a cluster with a slow worker, and with one that dies: the answer of all rows, and its proof."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from throttle import throttled

import clusterglm as package
from clusterglm.clusters.embedded import embedded
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import kernels
from clusterglm.glm.families import FAMILIES

pytestmark = pytest.mark.slow
ROWS, COLUMNS = 600_000, 8
OPTIONS: dict[str, Any] = {
    "rows": ROWS,
    "columns": COLUMNS,
    "start": "null",
    "rel_gap": 1e-9,
    "penalty": "l2",
    "alpha": 1e-4,
}


@pytest.fixture(scope="module")
def expected() -> Any:
    words = {key: OPTIONS[key] for key in ("penalty", "alpha")}
    return package.fit(
        data=local_rows(Synthetic(ROWS, COLUMNS)), solver="newton", family="binomial", rel_gap=1e-13, **words
    )


@pytest.fixture
def cluster() -> Iterator[Any]:
    with embedded(3, memory=10**9) as (client, ask_for):
        yield client, ask_for, sorted(client.run(os.getpid).values())


def assert_proven(found: Any, expected: Any) -> None:
    """The answer is as near as its certificate says, by sums over all rows that are made here and anew."""
    assert found.status == "optimal"
    total, gradient = local_rows(Synthetic(ROWS, COLUMNS)).sum(
        kernels.gradient, FAMILIES["binomial"], found.coefficients
    )
    objective = float(total) / ROWS + OPTIONS["alpha"] / 2 * float(found.coefficients @ found.coefficients)
    assert objective == found.objective
    assert objective - expected.objective <= found.certificate["gap"] <= 1e-9 * expected.null_objective
    slope = gradient / ROWS + OPTIONS["alpha"] * found.coefficients
    # P is strongly convex by the penalty alone.
    assert np.linalg.norm(slope) < 1e-3
    np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", ["async_newton", pytest.param("async_admm", marks=pytest.mark.full)])
def test_one_slow_worker_is_not_waited_for(cluster: Any, expected: Any, tmp_path: Path, solver: str) -> None:
    client, _, pids = cluster
    package.fit(client, solver="newton", rows=10_000, columns=2)  # what is imported once is imported at full speed
    with throttled(pids[0], pids[1:], share=0.05):
        found = package.fit(client, solver=solver, out=tmp_path, **OPTIONS)
    assert_proven(found, expected)
    told = json.loads((tmp_path / "result.json").read_text())["asynchronous"]
    assert sum(lane["rows"] for lane in told["lanes"]) == ROWS
    assert told["rounds"][-1]["exact"]
    assert not any(told["rounds"][-1]["ages"])
    assert any(any(step["ages"]) for step in told["rounds"])
    page = (tmp_path / "report.html").read_text()
    assert "Who answered when" in page
    assert "not yet" in page


def test_a_worker_that_dies_changes_no_answer(cluster: Any, expected: Any) -> None:
    client, ask_for, pids = cluster

    class Strike:
        struck = False

        def phase(self, text: str) -> None: ...
        def note(self, text: str) -> None: ...
        def rows(self, done: int, total: int, seconds: float) -> None: ...
        def iteration(self, row: Any, null_objective: float, rows: int) -> None:
            if not self.struck:
                os.kill(pids[0], signal.SIGKILL)
                self.struck = True

    progress = Strike()
    found = package.fit(client, solver="async_newton", ask_for=ask_for, progress=progress, **OPTIONS)
    assert progress.struck
    assert_proven(found, expected)
