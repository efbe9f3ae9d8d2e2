"""Rows that Dask makes on real workers: the same bits as in this process, nothing left beside them, also when workers
die."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from tables import write

from clusterglm.data.chunk import Block
from clusterglm.data.chunks import plan
from clusterglm.data.collections import Collections
from clusterglm.data.dask_rows import DaskRows
from clusterglm.data.from_python import OPTIONS, from_python
from clusterglm.data.rows import LocalRows, from_arrays
from clusterglm.data.sources import local_rows, open_source
from clusterglm.errors import UsageError

pytestmark = pytest.mark.slow

ROWS, COLUMNS = 60_000, 4
BETA = np.linspace(-1, 1, COLUMNS)
NO_ROLES = dict.fromkeys(OPTIONS)
NAMED = NO_ROLES | {"target": "y", "weights": "w"}
_random = np.random.default_rng(5)
X, Y, W = _random.standard_normal((ROWS, COLUMNS)), _random.random(ROWS), _random.random(ROWS)
FRAME = pd.DataFrame(X, columns=list("abcd")).assign(y=Y, w=W)


def gradient(block: Block, beta: np.ndarray) -> tuple[float, np.ndarray]:
    residual = (block.X @ beta - block.y) * (1.0 if block.weights is None else block.weights)
    return float(residual @ residual), block.X.T @ residual


def step(rows: LocalRows, state: int, beta: np.ndarray) -> tuple[int, float, np.ndarray]:
    return state, *rows.sum(gradient, beta)


def in_memory(dask_scheduler: Any) -> list[str]:
    """Return what the workers hold but for the sums of rounds, which go when this process collects its garbage."""
    held = (str(key) for key, task in dask_scheduler.tasks.items() if task.state == "memory")
    return [key for key in held if not key.startswith(("lengths-", "sums-", "each-"))]


def forgives_nothing(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = 0


def slow(block: np.ndarray) -> np.ndarray:
    """Be there when the worker of this task is killed by another, so that Dask blames both."""
    time.sleep(0.3)
    return block


def deadly(block: np.ndarray, flag: str) -> np.ndarray:
    """Kill this worker, once."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return block
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
    return block


def counted(block: np.ndarray, log: str) -> np.ndarray:
    """Leave a byte for every block that is made."""
    if len(block):
        with open(log, "ab", buffering=0) as opened:
            opened.write(b".")
    return block


def broken(block: np.ndarray) -> np.ndarray:
    raise ZeroDivisionError("a block's own")


def opened(client: Any, data: Any, roles: dict[str, Any] = NO_ROLES) -> Collections:
    found = from_python(data, roles, intercept=False, dtype="float64")
    assert isinstance(found, Collections)
    found.open(client)
    return found


def loaded(client: Any, source: Collections, storage: str = "memory") -> DaskRows:
    made = plan(
        solver="test",
        rows=source.rows,
        columns=COLUMNS,
        extra_columns=source.extra_columns,
        workers=3,
        threads=3,
        storage=storage,
        chunk_rows=8192,
        data=source.label,
        disk=10**9,
    )
    return DaskRows(client, source.make(made, intercept=False), made, source.locate).load()


def bits(rows: Any) -> list[bytes]:
    sums = rows.sum(gradient, BETA)
    each, _ = rows.each(step, list(range(rows.local_problems)), BETA)
    return [pickle.dumps(np.asarray(value).tobytes()) for value in (*sums, *(v for result in each for v in result))]


DATA: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "arrays": lambda: (
        (da.from_array(X, chunks=(7001, 3)), da.from_array(Y, chunks=11_111), da.from_array(W, chunks=ROWS)),
        NO_ROLES,
    ),
    "frame": lambda: (dd.from_pandas(FRAME, npartitions=5), NAMED),
    "columns": lambda: ({n: dd.from_pandas(FRAME[n], npartitions=2 + i) for i, n in enumerate(FRAME)}, NAMED),
}


@pytest.mark.parametrize("storage", ["memory", "stream", "disk"])
@pytest.mark.parametrize("kind", DATA)
def test_collections_have_the_bits_of_arrays_and_leave_nothing_beside_the_chunks(
    client: Any, wait_until: Any, kind: str, storage: str
) -> None:
    others = set(client.run_on_scheduler(in_memory))

    def left() -> set[str]:
        return set(client.run_on_scheduler(in_memory)) - others

    source = opened(client, *DATA[kind]())
    rows = loaded(client, source, storage)
    assert bits(rows) == bits(from_arrays(X, Y, W))
    assert rows.troubles == []
    wait_until(lambda: len(left()) == rows.plan.chunks)
    assert all("chunk-" in key for key in left())
    assert min(rows.spread().values()) >= rows.plan.chunks // 3
    rows.close()
    wait_until(lambda: not left())


def test_a_frame_read_from_files_is_the_files(client: Any, tmp_path: Path) -> None:
    for i in range(4):
        write(FRAME[i * 15_000 : (i + 1) * 15_000], tmp_path / f"{i}.parquet", row_group_size=4000)
    files = open_source(str(tmp_path), "y", weights="w")
    files.open(None)
    rows = loaded(client, opened(client, dd.read_parquet(tmp_path), NAMED))
    assert bits(rows) == bits(local_rows(files))
    rows.close()


def test_what_is_persisted_is_copied_in_memory_and_never_made_again_elsewhere(client: Any) -> None:
    parts = [
        client.persist(array) for array in (da.from_array(X, chunks=(9000, COLUMNS)), da.from_array(Y, chunks=9000))
    ]
    source = opened(client, tuple(parts))
    rows = loaded(client, source)
    assert bits(rows) == bits(from_arrays(X, Y))
    rows.close()
    with pytest.raises(UsageError, match=r"^data \(dask arrays\): persisted, so that a stream"):
        loaded(client, source, "stream")


def test_chunks_of_what_is_persisted_are_made_again_from_it(client: Any) -> None:
    X_there, y = (client.persist(array) for array in (da.from_array(X, chunks=(9000, COLUMNS)), da.from_array(Y, 9000)))
    rows = loaded(client, opened(client, (X_there * 1.0, y)))
    rows._make_again(list(range(rows.plan.chunks)), None)
    rows._shares = []
    assert bits(rows) == bits(from_arrays(X, Y))
    rows.close()


def test_blocks_are_made_once_and_those_of_unknown_length_twice(client: Any, tmp_path: Path) -> None:
    whole, log = da.from_array(X, chunks=(2000, COLUMNS)), tmp_path / "log"
    made = whole.map_blocks(counted, str(log), dtype=float, meta=X[:0])
    y = da.from_array(Y, chunks=2000)
    rows = loaded(client, opened(client, (made, y)))
    # But for a block that two workers need, when the first of them was quick.
    assert 30 <= log.stat().st_size <= 32
    rows.close()
    log.unlink()
    unknown = made[made[:, 0] == made[:, 0]]
    rows = loaded(client, opened(client, (unknown, y)))
    assert 60 <= log.stat().st_size <= 62
    assert bits(rows) == bits(from_arrays(X, Y))
    rows.close()


def test_a_block_that_fails_is_raised_as_it_is(client: Any) -> None:
    source = opened(client, (da.from_array(X, chunks=(9000, COLUMNS)).map_blocks(broken, dtype=float), da.ones(ROWS)))
    with pytest.raises(ZeroDivisionError, match="a block's own"):
        loaded(client, source)


def test_a_block_that_has_killed_its_worker_is_tried_again_beside_chunks_that_were_made_from_it(
    mortal_client: Any, tmp_path: Path
) -> None:
    mortal_client.run_on_scheduler(forgives_nothing)
    flag = tmp_path / "flag"
    flag.touch()
    block = da.from_array(Y, chunks=ROWS).map_blocks(deadly, str(flag), dtype=float, meta=Y[:0])
    blocks = da.from_array(X, chunks=(9000, COLUMNS)).map_blocks(slow, dtype=float, meta=X[:0])
    rows = loaded(mortal_client, opened(mortal_client, (blocks, block)))
    pids = mortal_client.run(os.getpid)
    holders = {worker for chunk in mortal_client.who_has(rows.chunks).values() for worker in chunk}
    assert len(holders) == 3
    flag.unlink()
    os.kill(pids[min(holders)], signal.SIGKILL)
    started = time.monotonic()
    assert bits(rows) == bits(from_arrays(X, Y))
    assert time.monotonic() - started < 60  # and not when the last chunk that was made from it is lost or given up
    assert flag.exists()


def test_workers_that_die_before_or_after_the_rows_are_made_leave_the_bits(mortal_client: Any, tmp_path: Path) -> None:
    mortal_client.run_on_scheduler(forgives_nothing)  # so that the death of a worker is blamed on the block
    made = da.from_array(X, chunks=(9000, COLUMNS)).map_blocks(deadly, str(tmp_path / "flag"), dtype=float, meta=X[:0])
    rows = loaded(mortal_client, opened(mortal_client, (made, da.from_array(Y, chunks=5000))))
    assert (tmp_path / "flag").exists()
    assert rows.troubles
    assert bits(rows) == bits(from_arrays(X, Y))
    for pid in mortal_client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
    assert bits(rows) == bits(from_arrays(X, Y))
