"""Rows in memory, as streams and on disk, on real workers: the same bits, and every worker its share of the chunks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sums import gradient, gradient_or_death
from tables import write

from clusterglm.data import dask_rows
from clusterglm.data.chunk import Block
from clusterglm.data.chunks import plan
from clusterglm.data.dask_rows import DaskRows
from clusterglm.data.rows import LocalRows
from clusterglm.data.sources import Source, local_rows, open_source
from clusterglm.data.synthetic import Synthetic

pytestmark = pytest.mark.slow

GENERATED = Synthetic(300_000, 5)
BETA = np.linspace(-1, 1, 5)
STORAGES = ("memory", "stream", "disk")


def step(rows: LocalRows, state: int, beta: np.ndarray) -> tuple[int, float, np.ndarray]:
    rows.sum(gradient, beta + 1)
    return state, *rows.sum(gradient, beta)


def loaded(client: Any, source: Source, storage: str, **words: Any) -> DaskRows:
    made = plan(
        solver="test",
        rows=source.rows,
        columns=len(source.names),
        storage=storage,
        extra_columns=source.extra_columns,
        workers=3,
        threads=3,
        disk=10**12,
        **words,
    )
    return DaskRows(client, source.make(made, False), made, source.locate).load()


def bits(total: Any) -> list[bytes]:
    return [np.asarray(value).tobytes() for value in total]


def written(dask_worker: Any) -> dict[str, int]:
    """Return the files of rows on a worker, and when each was written."""
    paths = Path(dask_worker.local_directory).rglob("*.rows")
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    return bits(local_rows(GENERATED).sum(gradient, BETA))


@pytest.mark.parametrize("storage", STORAGES)
def test_generated_rows_have_the_same_bits(client: Any, expected: Any, storage: str) -> None:
    before = {name for found in client.run(written).values() for name in found}  # of other tests' rows
    here, there = local_rows(GENERATED), loaded(client, GENERATED, storage)
    assert bits(there.sum(gradient, BETA)) == expected
    states = list(range(here.local_problems))
    (ours, reads), (theirs, _) = (rows.each(step, states, BETA) for rows in (here, there))
    assert [bits(a) for a in ours] == [bits(b) for b in theirs]
    assert reads == 2
    assert there.troubles == []
    files = {name for found in client.run(written).values() for name in found}
    assert len(files - before) == (there.plan.chunks if storage == "disk" else 0)
    there.close()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_have_the_same_bits(client: Any, tmp_path: Path, suffix: str, storage: str) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.random((60_000, 7)), columns=["a", "b", "c", "d", "e", "y", "w"])
    write(frame, tmp_path / f"x{suffix}", **({"row_group_size": 7000} if suffix == ".parquet" else {}))
    source = open_source(str(tmp_path), "y", weights="w")
    source.open(client)
    there = loaded(client, source, storage, data="x", chunk_rows=8192)
    assert bits(there.sum(gradient, BETA)) == bits(local_rows(source).sum(gradient, BETA))
    there.close()


@pytest.mark.parametrize("storage", ["stream", "disk"])
def test_a_worker_killed_in_the_middle_of_a_pass_leaves_the_bits(
    mortal_client: Any, expected: Any, tmp_path: Path, storage: str
) -> None:
    rows = loaded(mortal_client, GENERATED, storage, chunk_rows=8192 * 3)
    assert bits(rows.sum(gradient_or_death, BETA, str(tmp_path / "flag"))) == expected
    assert (tmp_path / "flag").exists()
    assert bits(rows.sum(gradient, BETA)) == expected


def test_rows_on_disk_are_found_again_and_go_with_the_workers(expected: Any) -> None:
    from distributed import Client, LocalCluster

    words = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, **words) as cluster, Client(cluster) as client:
        folders = [Path(folder) for folder in client.run(lambda dask_worker: dask_worker.local_directory).values()]
        first = loaded(client, GENERATED, "disk")
        assert bits(first.sum(gradient, BETA)) == expected
        before = client.run(written)
        assert sum(map(len, before.values())) == first.plan.chunks
        first.close()
        again = loaded(client, GENERATED, "disk")
        assert bits(again.sum(gradient, BETA)) == expected
        assert client.run(written) == before
        other = loaded(client, Synthetic(300_000, 5, seed=1), "disk")
        assert bits(other.sum(gradient, BETA)) != expected
        assert bits(again.sum(gradient, BETA)) == expected
    assert not any(folder.exists() for folder in folders)


@pytest.fixture
def every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the workers before every round."""
    monkeypatch.setattr(dask_rows, "_SETTLED", 0.0)


def addresses(client: Any) -> set[str]:
    return set(client.scheduler_info(n_workers=-1)["workers"])


def assert_evenly_spread(rows: DaskRows, expected: list[bytes], workers: int) -> None:
    """Make passes until every worker has its share: Dask goes on moving what it has for some seconds."""
    until = time.monotonic() + 20
    while True:
        assert bits(rows.sum(gradient, BETA)) == expected
        spread = rows.spread()
        even = len(spread) == workers and max(spread.values()) - min(spread.values()) <= 1
        if even and {share.worker for share in rows._shares} == set(spread):
            assert sum(spread.values()) == rows.plan.chunks
            return
        assert time.monotonic() < until, f"{spread} {rows._shares}"


@pytest.mark.usefixtures("every_round")
@pytest.mark.parametrize("storage", STORAGES)
def test_f17_workers_that_come_take_their_share_and_those_that_go_leave_theirs(
    expected: Any, storage: str, wait_until: Any
) -> None:
    from distributed import Client, LocalCluster

    words = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, **words) as cluster, Client(cluster) as client:
        rows = loaded(client, GENERATED, storage, chunk_rows=8192 * 3)
        assert bits(rows.sum(gradient, BETA)) == expected
        for count in (3, 2, 4):
            cluster.scale(count)
            wait_until(lambda count=count: len(addresses(client)) == count)
            assert_evenly_spread(rows, expected, count)


@pytest.mark.usefixtures("every_round")
@pytest.mark.parametrize("storage", STORAGES)
def test_f18_a_worker_that_is_started_again_takes_its_share(
    mortal_client: Any, expected: Any, storage: str, wait_until: Any
) -> None:
    rows = loaded(mortal_client, GENERATED, storage, chunk_rows=8192 * 3)
    before = mortal_client.run(os.getpid)
    os.kill(min(before.values()), signal.SIGKILL)
    assert bits(rows.sum(gradient, BETA)) == expected
    wait_until(lambda: len(found := addresses(mortal_client)) == 3 and found != before.keys())
    assert_evenly_spread(rows, expected, 3)


def slow(block: Block, seconds: float) -> tuple[int]:
    time.sleep(seconds)  # the work that takes so long
    return (len(block.y),)


def test_a_long_pass_tells_how_it_goes_on(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[int, int, float]] = []
    made = plan(solver="test", rows=300_000, columns=5, storage="stream", workers=3, threads=3, chunk_rows=8192)
    source = GENERATED.make(made, False)
    rows = DaskRows(client, source, made, str, on_rows=lambda *told: heard.append(told)).load()
    assert rows.sum(slow, 0.3)[0] == 300_000  # 37 blocks on three threads: four seconds
    assert len(heard) >= 3
    assert all(total == 300_000 and seconds > 0 for _, total, seconds in heard)
    done = [so_far for so_far, _, _ in heard]
    assert done == sorted(done)
    assert 0 < done[0] <= done[-1] <= 300_000
    rows.close()
    before = len(heard)
    other = DaskRows(client, source, made, str).load()
    assert other.sum(slow, 0.3)[0] == 300_000
    assert len(heard) == before
    other.close()
