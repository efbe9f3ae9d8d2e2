"""Generated rows: the same whoever makes them."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.data.chunks import plan
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import FAMILIES, Synthetic

ROWS = 20_000


def test_the_rows_of_the_reference_seed_never_change() -> None:
    chunk = Synthetic(ROWS, 15, 20009).chunk((0, ROWS), 16)
    assert hashlib.sha256(chunk.X.tobytes()).hexdigest()[:16] == "d76510f33d8939e6"
    assert hashlib.sha256(chunk.y.tobytes()).hexdigest()[:16] == "08e5a8f42bd9eb02"


def test_the_generating_coefficients_are_those_of_the_published_experiment() -> None:
    expected = (np.random.RandomState(20009).random_sample(15) - 0.5) * 3
    np.testing.assert_array_equal(Synthetic(10).truth, expected)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(1, ROWS // 16 - 1), max_size=5), st.sampled_from(FAMILIES), st.booleans())
def test_any_chunking_gives_the_same_rows(cuts: set[int], family: str, intercept: bool) -> None:
    source = Synthetic(ROWS, 3, family=family)
    whole = source.chunk((0, ROWS), 16, intercept=intercept)
    bounds = [0, *(16 * cut for cut in sorted(cuts)), ROWS]
    parts = [source.chunk(b, 16, intercept=intercept) for b in pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate([part.X for part in parts]), whole.X)
    np.testing.assert_array_equal(np.concatenate([part.y for part in parts]), whole.y)
    if intercept:
        assert (whole.X[:, 0] == 1).all()


def test_float32_rounds_the_same_rows() -> None:
    source = Synthetic(ROWS, 4)
    wide, narrow = (source.chunk((0, ROWS), 16, dtype=dtype) for dtype in ("float64", "float32"))
    np.testing.assert_array_equal(narrow.X, wide.X.astype(np.float32))
    np.testing.assert_array_equal(narrow.y, wide.y)


def test_seeds_differ_also_above_32_bits() -> None:
    seeds = [0, 1, 20009, 2**32, 2**32 + 1, 2**63 - 1]
    assert len({tuple(Synthetic(1, 3, seed).truth) for seed in seeds}) == len(seeds)
    assert len({Synthetic(8192, 3, seed).block(0)[0][0, 0] for seed in seeds}) == len(seeds)
    assert Synthetic(8192, 3).block(0)[0][0, 0] != Synthetic(8192, 3).block(1)[0][0, 0]


def test_targets_are_drawn_at_the_generating_coefficients() -> None:
    n = 200_000
    for family in FAMILIES:
        source = Synthetic(n, 4, family=family)
        chunk = source.chunk((0, n), 16)
        eta = chunk.X @ source.truth
        mean = {"gaussian": eta, "poisson": np.exp(eta), "binomial": 1 / (1 + np.exp(-eta))}[family]
        variance = {"gaussian": np.ones(n), "poisson": mean, "binomial": mean * (1 - mean)}[family]
        score = chunk.X.T @ (chunk.y - mean) / np.sqrt((chunk.X**2).T @ variance)
        assert np.abs(score).max() < 4.5, family
    assert set(np.unique(Synthetic(n).chunk((0, n), 16).y)) == {0.0, 1.0}


def test_it_meets_what_a_fit_asks_of_its_data() -> None:
    source = Synthetic(100, 2)
    source.open(None)
    assert (source.names, source.extra_columns, source.notes, source.locate(5)) == (["x0", "x1"], 1, [], "row 5")
    assert source.fingerprint() == {
        "source": "synthetic",
        "rows": 100,
        "columns": 2,
        "seed": 20009,
        "family": "binomial",
    }
    rows = local_rows(source, intercept=True)
    assert (rows.rows, rows.columns) == (100, 3)
    assert callable(source.make(plan(solver="newton", rows=100, columns=2), intercept=False))


@pytest.mark.parametrize("first", [0, 8192, 16384])
def test_only_the_blocks_that_are_needed_are_made(first: int) -> None:
    source = Synthetic(10**12, 2)
    np.testing.assert_array_equal(source.chunk((first, first + 32), 16).X, source.block(first // 8192)[0][:32])
