"""The planner: pure, and what it must not depend on."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterglm.data.chunks import plan
from clusterglm.errors import UsageError

SIZES = st.fixed_dictionaries(
    {"rows": st.integers(1, 10**9), "columns": st.integers(1, 3000), "dtype": st.sampled_from(["float64", "float32"])}
)


@given(SIZES, st.integers(1, 64), st.integers(1, 4), st.none() | st.integers(10**5, 10**8))
def test_bits_do_not_depend_on_the_cluster_or_the_chunks(
    sizes: dict[str, int], workers: int, threads: int, chunk_rows: int | None
) -> None:
    alone = plan(solver="admm", **sizes)
    there = plan(solver="admm", **sizes, workers=workers, threads=threads * workers, chunk_rows=chunk_rows)
    assert (there.block_rows, there.local_rows, there.local_problems) == (
        alone.block_rows,
        alone.local_rows,
        alone.local_problems,
    )
    assert there.chunk_rows % there.local_rows == 0
    assert there.local_rows % there.block_rows == 0
    assert (there.chunks - 1) * there.chunk_rows < there.rows <= there.chunks * there.chunk_rows


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_ranges_cover_every_row_once(rows: int, chunk_rows: int) -> None:
    ranges = plan(solver="newton", rows=rows, columns=3, chunk_rows=chunk_rows).ranges()
    assert ranges[0][0] == 0
    assert ranges[-1][1] == rows
    assert all(a[1] == b[0] for a, b in pairwise(ranges))


@given(st.integers(1, 10**8), st.integers(1, 8), st.integers(2**17, 2**21), st.sampled_from(["stream", "disk"]))
def test_what_is_stored_together_changes_no_bits(rows: int, threads: int, group: int, storage: str) -> None:
    words = {"rows": rows, "columns": 16, "storage": storage, "threads": threads, "disk": 10**12, "data": "d"}
    stored = range(0, rows, group)
    without = plan(solver="admm", **words)  # type: ignore[arg-type]
    made = plan(solver="admm", **words, stored=stored)  # type: ignore[arg-type]
    assert (made.local_rows, made.block_rows) == (without.local_rows, without.block_rows)

    def work(chunk_rows: int) -> float:
        """Return the rows that the busiest thread decodes, those that it has no use for included."""
        again = sum(first % group for first in range(chunk_rows, rows, chunk_rows))
        return -(-rows // chunk_rows // threads) * chunk_rows + again / threads

    assert work(made.chunk_rows) <= work(without.chunk_rows)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("groups", [300, 301, 777])
def test_chunks_begin_where_row_groups_do(groups: int, threads: int) -> None:
    """Groups of 2^20 rows, which many programs write, are two local problems of 16 columns."""
    rows, words = groups * 2**20, {"columns": 16, "threads": threads, "data": "d", "disk": 10**12}
    made = plan(solver="newton", rows=rows, storage="disk", **words, stored=range(0, rows, 2**20))  # type: ignore[arg-type]
    assert (made.local_rows, made.chunk_rows) == (2**19, 2**20)


BIG = {"solver": "newton", "rows": 8 * 10**8, "columns": 15}


def test_rows_that_do_not_fit_are_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError) as caught:
        plan(**BIG, storage="memory", workers=2, memory=4 * 10**9)
    for figure in ("--storage", "102.4 GB", "8.0 GB", "2 workers", "stream or disk, or 44 workers"):
        assert figure in str(caught.value)
    with pytest.raises(UsageError, match=r"102.4 GB of rows, 100.0 GB free .* 128.0 GB are needed: use --storage str"):
        plan(**BIG, storage="disk", workers=2, memory=4 * 10**9, disk=100 * 10**9)
    with pytest.raises(UsageError, match=r"600.0 MB of memory on 2 workers: use .* or more memory"):
        plan(solver="newton", rows=10**7, columns=15, storage="memory", workers=2, memory=300 * 10**6)


@given(rows=st.integers(10**5, 10**9), memory=st.integers(300 * 10**6, 8 * 10**9))
def test_the_smallest_cluster_that_would_do_is_named(rows: int, memory: int) -> None:
    def refusal(workers: int) -> str:
        words = {"rows": rows, "columns": 15, "storage": "memory", "workers": workers, "memory": memory}
        try:
            plan(solver="newton", threads=workers, **words)  # type: ignore[arg-type]
        except UsageError as error:
            return str(error)
        return ""

    if found := re.search(r"or (\d+) workers", refusal(1)):
        assert not refusal(int(found[1]))
        assert refusal(int(found[1]) - 1)
    elif refusal(1):
        assert refusal(10**6)  # more of them would not do


@given(
    rows=st.integers(10**5, 10**9),
    workers=st.integers(1, 20),
    memory=st.integers(300 * 10**6, 64 * 10**9),
    data=st.sampled_from([None, "x.parquet"]),
)
def test_what_is_in_memory_fits_on_the_fullest_worker(rows: int, workers: int, memory: int, data: str | None) -> None:
    made = plan(solver="newton", rows=rows, columns=15, workers=workers, threads=workers, memory=memory, data=data)
    allowed = min(0.6 * memory, 0.7 * memory - 200 * 10**6)
    if made.storage == "memory":
        assert made.bytes_per_worker <= allowed
    else:
        assert made.bytes / workers > 0.6 * allowed or made.bytes / workers + 2 * made.local_rows * 128 > allowed


@pytest.mark.parametrize(
    ("memory", "disk", "data", "storage"),
    [
        (0, 0, None, "memory"),  # no limit is no reason to leave memory
        (90 * 10**9, 0, None, "memory"),
        (85 * 10**9, 10**12, None, "stream"),
        (85 * 10**9, 128 * 10**9, "x.parquet", "disk"),
        (85 * 10**9, 127 * 10**9, "x.parquet", "stream"),
    ],
)
def test_where_rows_are_held_follows_from_what_is_there(memory: int, disk: int, data: str | None, storage: str) -> None:
    made = plan(**BIG, workers=2, threads=2, memory=memory, disk=disk, data=data)
    assert made.storage == storage
    assert any(reason.startswith("note: 102.4 GB of rows, and room for") for reason in made.reasons) == (
        storage != "memory"
    )
    assert made.row_bytes == 128
    assert (made.bytes_per_worker == 0) == (storage == "stream")


def test_extra_columns_count() -> None:
    assert plan(solver="newton", rows=1000, columns=2, extra_columns=3).bytes == 1000 * (2 * 8 + 3 * 8)


def test_chunk_rows_are_rounded_to_whole_local_problems_and_say_so() -> None:
    rounded = plan(solver="newton", rows=10**6, columns=2, chunk_rows=100_000)
    assert rounded.chunk_rows % rounded.local_rows == 0
    assert any(reason.startswith("note: --chunk-rows (100000)") for reason in rounded.reasons)
    single = plan(solver="newton", rows=50_000, columns=2, chunk_rows=10**9)
    assert single.chunks == 1
    assert "note: --chunk-rows (1000000000): one chunk of 50000 rows" in single.reasons


def test_every_thread_has_work() -> None:
    for threads in (1, 2, 4, 8):
        assert plan(solver="newton", rows=8 * 10**6, columns=15, workers=threads, threads=threads).chunks >= 2 * threads


@pytest.mark.parametrize("threads", [2, 3, 8, 24])
@pytest.mark.parametrize("data", [None, "x.parquet"])
@pytest.mark.parametrize("rows", [2 * 10**7, 8 * 10**7])
def test_threads_have_about_equal_shares(threads: int, data: str | None, rows: int) -> None:
    made = plan(solver="newton", rows=rows, columns=15, workers=threads, threads=threads, data=data)
    busiest = -(-made.chunks // threads) * made.chunk_rows
    assert busiest <= 1.1 * rows / threads + made.local_rows


def test_the_plan_is_fit_for_json() -> None:
    made = plan(solver="newton", rows=1000, columns=2, workers=2, threads=2, memory=10**9)
    assert json.loads(json.dumps(made.as_dict()))["rows"] == 1000
