"""Rows that fill nine tenths of the room that the plan sees in small workers: nothing spills, pauses or dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from clusterglm.data import chunks
from clusterglm.data.dask_rows import DaskRows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm.families import get_family
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.solvers import SOLVERS

pytestmark = pytest.mark.slow
MEMORY = 900 * 10**6
ROOM = min(0.6 * MEMORY, 0.7 * MEMORY - 200e6)  # of a worker
COLUMNS = 31
ROWS = int(0.9 * 2 * ROOM / (8 * COLUMNS + 8))


@pytest.fixture(scope="module")
def small() -> Iterator[Any]:
    from clusterglm.clusters.embedded import embedded

    with embedded(2, memory=MEMORY) as (client, _):
        yield client


class _Watch:
    """Notes, all along, what a worker is doing to get on with its memory."""

    def __init__(self) -> None:
        from distributed import WorkerPlugin

        class Watch(WorkerPlugin):
            name = "watch"

            def setup(self, worker: Any) -> None:
                from tornado.ioloop import PeriodicCallback

                self.worker, self.seen = worker, set()
                self.callback = PeriodicCallback(self.look, 20)
                self.callback.start()

            def look(self) -> None:
                self.seen.add(self.worker.status.name)

            def teardown(self, worker: Any) -> None:
                self.callback.stop()

        self.plugin = Watch()


def what_happened(dask_worker: Any) -> dict[str, Any]:
    data = dask_worker.data
    spilled = getattr(data, "spilled_total", None)
    return {
        "pid": os.getpid(),
        "statuses": sorted(dask_worker.plugins["watch"].seen),
        "spilled": 0 if spilled is None else int(spilled.disk),
    }


def test_every_solver_on_rows_that_fill_nine_tenths(small: Any) -> None:
    """One after the other, on the same rows."""
    made = chunks.plan(solver="admm", rows=ROWS, columns=COLUMNS, workers=2, threads=2, memory=MEMORY)
    assert made.storage == "memory"
    assert made.bytes_per_worker > 0.88 * ROOM
    small.register_plugin(_Watch().plugin)
    before = {found["pid"] for found in small.run(what_happened).values()}
    source = Synthetic(ROWS, COLUMNS)
    rows = DaskRows(small, source.make(made, False), made, source.locate).load()
    for solver in SOLVERS.values():
        model = Model(get_family("binomial"), "l2" if solver.smooth_only else "l1", lamduh=1.0, intercept=False)
        found = fit(rows, source.names, model, solver, Limits())
        assert found.status == "optimal"
    assert rows.troubles == []
    assert min(rows.spread().values()) > 0
    after = small.run(what_happened)
    assert {told["pid"] for told in after.values()} == before
    for told in after.values():
        assert (told["spilled"], told["statuses"]) == (0, ["running"])
    rows.close()
