"""What a plan will take: the pure part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterglm.data.chunks import plan
from clusterglm.data.forecast import Work, forecast, typical

BIG: dict[str, Any] = {"solver": "admm", "rows": 8 * 10**8, "columns": 15, "memory": 10**12, "disk": 10**13}
SPEEDS = typical(15)._replace(round=0.0, task=0.0, fetch=0.0, cached=1e15)


@pytest.mark.parametrize("storage", ["memory", "stream", "disk"])
@given(threads=st.integers(1, 512), work=st.builds(Work, st.integers(0, 50), st.integers(1, 50)))
def test_time_is_in_proportion_to_the_rows_of_a_thread(storage: str, threads: int, work: Work) -> None:
    one = forecast(plan(**BIG, storage=storage, workers=1), SPEEDS, work)
    many = forecast(plan(**BIG, storage=storage, workers=threads, threads=threads), SPEEDS, work)
    assert one.seconds_fit is not None
    assert many.seconds_fit == pytest.approx(one.seconds_fit / threads)
    assert many.seconds_load == pytest.approx(one.seconds_load / threads)
    assert many.passes == work.passes + 1


def test_a_pass_is_what_its_rows_are_read_by_and_worked_on() -> None:
    held = {s: plan(**BIG, storage=s) for s in ("memory", "stream", "disk")}
    speeds = SPEEDS._replace(make=40e-9, gradient=10e-9, hessian=30e-9, read=1.28e9)
    a_row = {storage: forecast(made, speeds, Work(1, 0)).seconds_per_pass / made.rows for storage, made in held.items()}
    assert a_row == pytest.approx({"memory": 10e-9, "stream": 50e-9, "disk": 100e-9})
    shared = forecast(held["memory"], speeds, Work(0, 1, 0.5))
    assert shared.seconds_per_pass == pytest.approx(8e8 * 20e-9)  # a gradient, and half of the rest of a Hessian
    slow = forecast(held["memory"], speeds._replace(fetch=1e-10, pair=19e-9), Work(1, 0, pairs=True, client=3.0))
    assert slow.seconds_fit == pytest.approx(8e8 * (19e-9 + 128e-10) + 3.0)


def test_every_chunk_is_a_task_to_load() -> None:
    made = plan(**BIG, storage="memory")
    loading = [forecast(made, SPEEDS._replace(task=seconds), None).seconds_load for seconds in (0.0, 1e-3)]
    assert loading[1] == pytest.approx(loading[0] + made.chunks * 1e-3)


def test_rows_on_disk_are_read_from_memory_where_they_stay_there() -> None:
    held = plan(**BIG, storage="disk")
    speeds = SPEEDS._replace(gradient=10e-9, read=1.28e9, cached=12.8e9)
    seconds = [forecast(held, speeds._replace(cache=size), Work(1, 0)).seconds_fit for size in (0, 10**12)]
    assert seconds == pytest.approx([8e8 * 100e-9, 8e8 * 20e-9])


def test_memory_of_a_stream_does_not_depend_on_the_rows() -> None:
    peaks = [forecast(plan(**BIG | {"rows": n}, storage="stream"), SPEEDS, None).peak_memory for n in (10**7, 10**9)]
    assert peaks[0] == peaks[1] < 300e6
    held = plan(**BIG, storage="memory", workers=2)
    assert forecast(held, SPEEDS, None).peak_memory > held.bytes / 2


def test_what_an_unknown_solver_does_is_unknown() -> None:
    told = forecast(plan(**BIG), SPEEDS, None)
    assert (told.passes, told.seconds_fit) == (None, None)
    assert told.seconds_per_pass > 0
    assert replace(told, passes=3).passes == 3
