"""Chunks and micro-blocks, and rows in this process."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from clusterglm.data.chunk import Block, Chunk, block_rows
from clusterglm.data.rows import LocalRows, from_arrays
from clusterglm.errors import DataError, UsageError


def misaligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


@pytest.mark.parametrize(
    ("columns", "itemsize", "rows"),
    [
        (1, 8, 8192),
        (16, 8, 8192),
        (17, 8, 4096),
        (32, 4, 8192),
        (200, 8, 512),
        (1000, 8, 1024),
        (1100, 8, 2048),
        (10**6, 8, 16),
    ],
)
def test_micro_blocks_come_from_the_width_alone(columns: int, itemsize: int, rows: int) -> None:
    assert block_rows(columns, itemsize) == rows


@given(st.integers(1, 5000), st.sampled_from([4, 8]))
def test_micro_blocks_divide_the_generators_block(columns: int, itemsize: int) -> None:
    assert 8192 % block_rows(columns, itemsize) == 0


def test_a_chunk_that_arrives_misaligned_is_put_right() -> None:
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    chunk = Chunk(X, y, None, y + 1, start=16, block_rows=16)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(chunk, protocol=5, buffer_callback=buffers.append)
    moved = pickle.loads(data, buffers=[misaligned(np.frombuffer(b.raw(), dtype=np.float64)) for b in buffers])
    for ours, theirs in ((moved.X, X), (moved.y, y), (moved.offset, y + 1)):
        assert ours.flags.aligned
        np.testing.assert_array_equal(ours, theirs)
    assert (moved.weights, moved.start, moved.block_rows, len(moved)) == (None, 16, 16, 6)
    assert moved.__sizeof__() == chunk.__sizeof__() >= X.nbytes + 2 * y.nbytes


def test_a_chunk_starts_at_a_micro_block() -> None:
    with pytest.raises(ValueError, match="row 17"):
        Chunk(np.zeros((2, 1)), np.zeros(2), start=17, block_rows=16)


def test_blocks_are_float64_in_row_order() -> None:
    X = np.arange(70, dtype=np.float32).reshape(35, 2)
    chunk = Chunk(X, np.arange(35.0), np.ones(35), start=32, block_rows=16)
    blocks = list(chunk.blocks())
    assert [(b.start, len(b.y)) for b in blocks] == [(32, 16), (48, 16), (64, 3)]
    assert all(b.X.dtype == np.float64 and b.X.flags.c_contiguous and b.offset is None for b in blocks)
    np.testing.assert_array_equal(np.concatenate([b.X for b in blocks]), X)
    part = chunk.part(48, 67)
    assert part.start == 48
    assert np.shares_memory(part.X, X)
    np.testing.assert_array_equal(part.X, X[16:])


def total(block: Block, factor: float) -> tuple[float, int]:
    return float(factor * block.X.sum()), len(block.y)


def test_rows_in_this_process() -> None:
    random = np.random.default_rng(0)
    X, y = random.random((9000, 3)), random.random(9000)
    rows = from_arrays(np.asfortranarray(X), y, intercept=True)
    assert rows.chunk.X.flags.c_contiguous
    assert (rows.rows, rows.columns, rows.locate(7)) == (9000, 4, "row 7")
    value, count = rows.sum(total, 2.0)
    assert count == 9000
    assert value == pytest.approx(2 * (X.sum() + 9000), rel=1e-12)
    assert rows.reads == 1


def count_rows(rows: LocalRows, state: int, more: int) -> tuple[int, float]:
    return state + more, rows.sum(total, 1.0)[0]


def test_every_local_problem_is_visited_once_in_order() -> None:
    X = np.ones((40000, 1))
    rows = from_arrays(X, X[:, 0])
    assert rows.local_problems == 5
    results, reads = rows.each(count_rows, list(range(5)), 10)
    assert results == [(10, 8192.0), (11, 8192.0), (12, 8192.0), (13, 8192.0), (14, 7232.0)]
    assert reads == 1


def out_of_bounds(index: int) -> csr_array:
    """Return a matrix that scipy builds without a look at its indices."""
    return csr_array((np.ones(2), np.array([0, index]), np.array([0, 1, 2])), shape=(2, 3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"X": np.ones(3), "y": np.ones(3)}, r"features \(shape \(3,\)\)"),
        ({"X": np.ones((3, 0)), "y": np.ones(3)}, "features"),
        ({"X": np.ones((3, 1)), "y": np.ones(2)}, r"target \(2 rows\): the features have 3"),
        ({"X": np.ones((3, 1)), "y": np.ones(3), "weights": np.ones(4)}, r"weights \(4 rows\)"),
        ({"X": np.ones((3, 1)), "y": np.ones(3), "offset": np.ones(1)}, r"offset \(1 rows\)"),
        ({"X": np.ones((0, 1)), "y": np.ones(0)}, r"features \(0 rows\)"),
        ({"X": np.ones((2, 1)), "y": np.ones((1, 2))}, r"target \(shape \(1, 2\)\): give one value for every row"),
        ({"X": np.ones((2, 1)), "y": None}, "target: give a value for every row"),
        ({"X": np.ones((2, 1)) * 1j, "y": np.ones(2)}, r"features \(complex128\): give an array of numbers"),
        ({"X": np.ones((2, 1)), "y": np.ma.masked_equal([1, 9], 9)}, r"target \(masked values\): drop or fill"),
        ({"X": np.zeros((2, 1), "datetime64[s]"), "y": np.ones(2)}, r"features \(datetime64"),
        ({"X": [["a"], ["b"]], "y": np.ones(2)}, r"features \(<U1\): give an array of numbers"),
        ({"X": [[1, 2], [3]], "y": np.ones(2)}, "features .*: give an array of numbers"),
        ({"X": csr_array(np.ones((2, 1)) * 1j), "y": np.ones(2)}, r"features \(complex128, shape"),
        ({"X": out_of_bounds(7), "y": np.ones(2)}, "features .*: not a valid sparse matrix"),
        ({"X": out_of_bounds(-1), "y": np.ones(2)}, "features .*: not a valid sparse matrix"),
    ],
)
def test_arrays_that_are_no_rows_of_numbers_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(**words)


def test_dtypes_other_than_the_two_are_refused() -> None:
    with pytest.raises(UsageError, match=r"dtype \(float16\)"):
        from_arrays(np.ones((2, 1)), np.ones(2), dtype="float16")
