"""Rows on a cluster that is none of ours: workers that spill, that come late, and that die with nobody beside them."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sums import gradient

from clusterglm.data.chunk import Block
from clusterglm.data.chunks import plan
from clusterglm.data.dask_rows import DaskRows
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

pytestmark = pytest.mark.slow

GENERATED = Synthetic(8192 * 20, 5)
BETA = np.linspace(-1, 1, 5)


def slowly(block: Block, seconds: float, beta: np.ndarray) -> tuple[Any, ...]:
    time.sleep(seconds)
    return gradient(block, beta)


def spill(dask_worker: Any) -> int:
    """Write all that this worker has in memory to its disk; return how many things that were."""
    count = len(dask_worker.data.fast)
    while dask_worker.data.fast:
        dask_worker.data.evict()
    return count


def in_memory(dask_worker: Any) -> int:
    return sum(name.startswith("chunk") for name in dask_worker.data.fast)


def bits(sums: Any) -> list[bytes]:
    return [pickle.dumps(np.asarray(value).tobytes()) for value in sums]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of Dask's own making, without workers yet."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    from distributed import Client

    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    return bits(local_rows(GENERATED).sum(gradient, BETA))


@pytest.fixture
def loaded(client: Any) -> Callable[..., DaskRows]:
    def load(storage: str = "memory") -> DaskRows:
        made = plan(
            solver="test",
            rows=GENERATED.rows,
            columns=5,
            extra_columns=GENERATED.extra_columns,
            workers=2,
            threads=2,
            chunk_rows=8192,
            storage=storage,
            disk=10**9,
        )
        return DaskRows(client, GENERATED.make(made, False), made, GENERATED.locate).load()

    return load


def test_what_a_worker_has_spilled_is_read_back_by_the_worker(
    cluster: Any, client: Any, loaded: Any, expected: Any
) -> None:
    cluster.scale(2)
    client.wait_for_workers(2)
    rows = loaded()
    assert bits(rows.sum(gradient, BETA)) == expected
    assert sum(client.run(spill).values()) >= rows.plan.chunks
    before = rows.tasks
    assert bits(rows.sum(gradient, BETA)) == expected
    assert (rows.tasks - before, rows.troubles) == (2 + 2, [])
    assert sum(client.run(in_memory).values()) == rows.plan.chunks
    assert bits(rows.sum(gradient, BETA)) == expected
    assert rows.tasks - before == 2 + 2 + 2


def test_the_only_worker_dies_in_a_pass_and_its_chunks_were_made_for_nobody(
    cluster: Any, client: Any, loaded: Any, expected: Any
) -> None:
    coming = threading.Timer(0.5, lambda: cluster.scale(1))  # after the chunks have been asked for
    coming.start()
    rows = loaded()
    assert set(rows._homes) == {None}
    assert bits(rows.sum(gradient, BETA)) == expected
    assert all(share.lies for share in rows.shares())
    [pid] = client.run(os.getpid).values()
    dying = threading.Timer(1.0, lambda: os.kill(pid, signal.SIGKILL))
    dying.start()
    since = time.monotonic()
    assert bits(rows.sum(slowly, 0.2, BETA)) == expected
    assert time.monotonic() - since < 60  # not after the limit without any task
    coming.join()
    dying.join()


@pytest.mark.parametrize("storage", ["memory", "stream", "disk"])
def test_chunks_are_found_by_name_again_once_a_worker_has_taken_its_share(
    cluster: Any, client: Any, loaded: Any, expected: Any, wait_until: Any, storage: str
) -> None:
    cluster.scale(1)
    client.wait_for_workers(1)
    rows = loaded(storage)
    assert bits(rows.sum(gradient, BETA)) == expected
    cluster.scale(2)
    client.wait_for_workers(2)
    rows._looked = 0.0

    def found() -> bool:
        assert bits(rows.sum(gradient, BETA)) == expected
        shares = rows.shares()
        return len({share.worker for share in shares}) == 2 and all(share.lies for share in shares)

    wait_until(found)
    assert rows.troubles == []
