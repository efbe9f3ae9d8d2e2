"""Rows on real worker processes: the same bits as in this process, also when workers die."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sums import gradient, gradient_or_death, squares
from tables import write

from clusterglm.data.chunk import Block
from clusterglm.data.chunks import Plan, plan
from clusterglm.data.dask_rows import DaskRows
from clusterglm.data.rows import LocalRows
from clusterglm.data.sources import Source, local_rows, open_source
from clusterglm.data.synthetic import Synthetic
from clusterglm.errors import ClusterError, DataError

pytestmark = pytest.mark.slow

GENERATED = Synthetic(300_000, 5)
BETA = np.linspace(-1, 1, 5)


def long_products(block: Block, seconds: float) -> tuple[np.ndarray]:
    """Multiply matrices, in BLAS and without the interpreter's lock, until so much time has passed."""
    until, square = time.monotonic() + seconds, np.ones((1500, 1500))
    while time.monotonic() < until:
        square = square @ square / 1500
    return (np.array(float(os.getpid())),)


def raises(block: Block, error: Exception) -> tuple[int]:
    raise error


def local_step(rows: LocalRows, state: int, beta: np.ndarray) -> tuple[int, int, float, np.ndarray]:
    return (state, rows.rows, *rows.sum(gradient, beta))


def loaded(client: Any, source: Source, *, intercept: bool = False, **words: Any) -> DaskRows:
    return DaskRows(
        client,
        source.make(planned(source, intercept, **words), intercept),
        planned(source, intercept, **words),
        source.locate,
    ).load()


def planned(source: Source, intercept: bool, **words: Any) -> Plan:
    columns = len(source.names) + intercept
    return plan(
        solver="test",
        rows=source.rows,
        columns=columns,
        extra_columns=source.extra_columns,
        workers=3,
        threads=3,
        **words,
    )


def assert_same_bits(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    assert pickle.dumps([np.asarray(v).tobytes() for v in ours]) == pickle.dumps(
        [np.asarray(v).tobytes() for v in theirs]
    )


@pytest.fixture(scope="module")
def expected() -> tuple[Any, ...]:
    return local_rows(GENERATED).sum(gradient, BETA)


@pytest.mark.parametrize("chunk_rows", [None, 8192, 100_000, 10**9])
def test_sums_and_local_problems_have_the_same_bits_under_any_chunking(
    client: Any, expected: Any, chunk_rows: int | None
) -> None:
    here, there = local_rows(GENERATED), loaded(client, GENERATED, chunk_rows=chunk_rows)
    assert_same_bits(there.sum(gradient, BETA), expected)
    states = list(range(here.local_problems))
    (ours, reads), (theirs, reads_there) = (rows.each(local_step, states, BETA) for rows in (here, there))
    assert reads == reads_there == 1
    assert there.local_problems == len(theirs) == len(ours)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)
    assert sum(there.spread().values()) == there.plan.chunks
    # Made and measured chunk by chunk; after that a pass is one task a worker thread, however many the chunks.
    assert there.tasks == 2 * there.plan.chunks + 2 * min(3, there.plan.chunks)
    assert there.troubles == []
    there.close()


def test_a_task_that_does_not_find_its_chunks_leaves_them_to_one_that_waits(client: Any, expected: Any) -> None:
    rows = loaded(client, GENERATED, chunk_rows=8192 * 3)
    assert_same_bits(rows.sum(gradient, BETA), expected)
    shares = rows.shares()
    assert all(share.lies for share in shares)
    workers = [share.worker for share in shares]
    rows._shares = [
        share._replace(worker=worker) for share, worker in zip(shares, workers[1:] + workers[:1], strict=True)
    ]
    before = rows.tasks
    assert_same_bits(rows.sum(gradient, BETA), expected)
    assert (rows.tasks - before, rows.troubles) == (6, [])
    assert_same_bits(rows.sum(gradient, BETA), expected)
    assert rows.tasks - before == 9
    assert all(share.lies for share in rows.shares())
    rows.close()


def test_a_worker_that_retires_between_two_passes_leaves_the_bits(mortal_client: Any, expected: Any) -> None:
    rows = loaded(mortal_client, GENERATED, chunk_rows=8192 * 3)
    assert_same_bits(rows.sum(gradient, BETA), expected)
    leaving = rows.shares()[0].worker
    rows._looked = time.monotonic() + 60  # it has gone, and nobody has looked yet
    mortal_client.retire_workers([leaving], close_workers=False)
    before = rows.tasks
    assert_same_bits(rows.sum(gradient, BETA), expected)
    assert (rows.tasks - before, rows.troubles) == (3 + 1, [])
    assert leaving not in {share.worker for share in rows.shares()}


def test_coefficients_may_be_more_than_dask_tells_with_a_task(client: Any) -> None:
    beta = np.ones(20_000)
    rows = loaded(client, Synthetic(40_000, 2), chunk_rows=8192)
    for scale in (1.0, 2.0):  # under the same name, which must not bring back the first ones
        (total,) = rows.sum(squares, beta * scale)
        assert total == 40_000 * 20_000 * scale**2
    rows.close()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_on_workers_are_the_files_in_this_process(client: Any, tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.random((60_000, 4)), columns=["a", "b", "y", "w"])
    for i in range(3):
        words = {"row_group_size": 7000} if suffix == ".parquet" else {}
        write(frame[i * 20_000 : i * 20_000 + 20_000], tmp_path / f"{i}{suffix}", **words)
    sources = [open_source(str(tmp_path), "y", weights="w") for _ in range(2)]
    for source, where in zip(sources, (None, client), strict=True):
        source.open(where)
    assert sources[0].fingerprint() == sources[1].fingerprint()
    here = local_rows(sources[0], intercept=True)
    there = loaded(client, sources[1], intercept=True, chunk_rows=8192)
    assert_same_bits(there.sum(gradient, BETA[:3]), here.sum(gradient, BETA[:3]))
    assert there.locate(59_999) == here.locate(59_999)
    there.close()


def test_a_worker_killed_in_the_middle_of_a_pass_leaves_the_bits(
    mortal_client: Any, expected: Any, tmp_path: Path
) -> None:
    rows = loaded(mortal_client, GENERATED, chunk_rows=8192 * 3)
    assert_same_bits(rows.sum(gradient_or_death, BETA, str(tmp_path / "flag")), expected)
    assert (tmp_path / "flag").exists()
    assert_same_bits(rows.sum(gradient, BETA), expected)


def test_all_workers_killed_at_once_leave_the_bits(mortal_client: Any, expected: Any) -> None:
    rows = loaded(mortal_client, GENERATED, chunk_rows=8192 * 3)
    for pid in mortal_client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    assert_same_bits(rows.sum(gradient, BETA), expected)
    assert time.monotonic() - started < 60  # Dask alone never offers the lost chunks to the workers that come after


def test_chunks_that_workers_were_to_make_who_all_died_are_made_by_others(mortal_client: Any, expected: Any) -> None:
    rows = loaded(mortal_client, GENERATED, chunk_rows=8192 * 3)
    pids = mortal_client.run(os.getpid).values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # so that none of them makes a chunk before it dies
    rows._make_again(list(range(len(rows.chunks))), rows._homes)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    assert_same_bits(rows.sum(gradient, BETA), expected)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("kernel's own"),
        OSError("looks like a lost connection"),
        DataError("column x", "nan", "not finite"),
    ],
)
def test_what_a_kernel_raises_is_raised_and_not_tried_again(client: Any, expected: Any, error: Exception) -> None:
    rows = loaded(client, GENERATED)
    with pytest.raises(type(error)) as caught:
        rows.sum(raises, error)
    assert str(caught.value) == str(error)
    assert rows.troubles == []
    assert_same_bits(rows.sum(gradient, BETA), expected)
    rows.close()


def test_what_a_loader_refuses_arrives_as_it_was_said(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd\nname.csv"
    path.write_text("x,y\n" + "1,0\n" * 300_000 + "1,abc\n")
    source = open_source(str(path), "y")
    source.open(client)
    with pytest.raises(
        DataError, match=r"^column y \(abc in odd\\nname.csv, line 300002\): not a number: correct it"
    ) as caught:
        loaded(client, source)
    assert (caught.value.exit_code, caught.value.what) == (5, "column y")
    path.unlink()
    with pytest.raises(DataError, match="no such file on"):
        loaded(client, source)


def test_what_looking_refuses_arrives_as_it_was_said(client: Any, frame: pd.DataFrame, tmp_path: Path) -> None:
    for url, message in ((tmp_path / "a.parquet", r"no such file$"), (tmp_path, r"no .parquet, .* or .h5 file in it$")):
        with pytest.raises(DataError, match=message):
            open_source(str(url), "y").open(client)
    for i in range(70):
        write(frame[:2], tmp_path / f"part-{i:03}.parquet")
    broken = tmp_path / os.fsdecode(b"part-069\xff.parquet")
    (tmp_path / "part-069.parquet").rename(broken)
    source = open_source(str(tmp_path), "y")
    source.open(client)
    assert source.rows == 140
    broken.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"^part-069\\udcff.parquet \(footer\): not readable as parquet") as caught:
        source.open(client)
    assert caught.value.exit_code == 5


def test_a_scheduler_that_is_gone_is_a_matter_of_the_cluster() -> None:
    from distributed import Client, LocalCluster

    words = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, **words) as cluster, Client(cluster) as client:
        rows = loaded(client, Synthetic(1000, 5))
        cluster.close()
        with pytest.raises(ClusterError, match="gone"):
            rows.sum(gradient, BETA)
        with pytest.raises(ClusterError, match="looking at the data failed"):
            open_source("a.parquet", "y").open(client)


def test_f9_a_task_longer_than_the_workers_time_to_live_keeps_its_worker() -> None:
    """Work in BLAS lets the worker's heart beat."""
    import dask.config
    from distributed import Client, LocalCluster

    words = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": "5s"}),
        LocalCluster(n_workers=1, **words) as cluster,
        Client(cluster) as client,
    ):
        rows = loaded(client, Synthetic(1000, 5))
        (before,) = client.run(os.getpid).values()
        (worked,) = rows.sum(long_products, 12.0)
        assert (int(worked), rows.troubles) == (before, [])
        assert list(client.run(os.getpid).values()) == [before]


@pytest.mark.parametrize(("most", "wished"), [(None, []), (2, [2]), (100, [37])])
def test_as_many_workers_are_asked_for_as_have_chunks(client: Any, most: int | None, wished: list[int]) -> None:
    """None beyond those that are there unless more, or fewer, are allowed for."""
    made = planned(GENERATED, False, chunk_rows=8192)
    assert made.chunks == 37
    asked: list[int] = []
    make = GENERATED.make(made, False)
    rows = DaskRows(client, make, made, GENERATED.locate, asked.append, most=most).load()
    assert asked == wished
    rows.close()
