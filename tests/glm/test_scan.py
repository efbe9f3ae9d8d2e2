"""The first look: moments in any split, and the place of the first value that cannot be taken."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.glm.families import FAMILIES
from clusterglm.glm.scan import Place, Scan, scan


def look(
    X: np.ndarray,
    y: np.ndarray,
    w: np.ndarray | None = None,
    o: np.ndarray | None = None,
    cuts: Any = (),
    family: str = "gaussian",
) -> Scan:
    """Scan the pieces between ``cuts`` and merge them."""
    edges = [0, *sorted(cuts), len(y)]
    total: Scan | None = None
    for a, b in pairwise(edges):
        part = slice(a, b)
        piece = SimpleNamespace(
            X=X[part], y=y[part], weights=None if w is None else w[part], offset=None if o is None else o[part], start=a
        )
        (seen,) = scan(piece, FAMILIES[family])
        total = seen if total is None else total + seen
    assert total is not None
    return total


@settings(derandomize=True, max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 60), max_size=6), weights=st.booleans())
def test_moments_are_those_of_numpy_in_any_split(seed: int, cuts: list[int], weights: bool) -> None:
    random = np.random.default_rng(seed)
    X = random.standard_normal((60, 3)) * [1, 100, 1e-8] + [0, 1e6, 3]
    y, o = random.standard_normal(60), random.standard_normal(60)
    w = random.integers(0, 3, 60) * random.random(60) if weights else None
    used = np.ones(60) if w is None else w
    seen = look(X, y, w, o, cuts)
    mean = np.average(X, axis=0, weights=used)
    np.testing.assert_allclose(seen.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(seen.deviation, np.sqrt(np.average((X - mean) ** 2, axis=0, weights=used)), rtol=1e-7)
    np.testing.assert_array_equal(seen.smallest, X[used > 0].min(axis=0))
    np.testing.assert_array_equal(seen.largest, X[used > 0].max(axis=0))
    assert seen.rows == 60
    assert seen.weight == pytest.approx(used.sum())
    assert seen.target_sum == pytest.approx(used @ y)
    assert (seen.target_smallest, seen.target_largest) == (y[used > 0].min(), y[used > 0].max())
    assert seen.offset_sum == pytest.approx(used @ o)
    assert seen.largest_offset == np.abs(o).max()
    assert seen.not_whole == 60


def test_a_mean_of_1e9_costs_no_digits() -> None:
    X = 1e9 + np.arange(64.0)[:, None]
    seen = look(X, np.zeros(64), cuts=(16, 32, 48))
    assert seen.variance_sum[0] == pytest.approx(((X - X.mean()) ** 2).sum(), rel=1e-14)
    assert not seen.constant[0]
    assert look(np.full((9, 1), 0.1), np.zeros(9)).constant[0]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    row=st.integers(0, 39),
    column=st.integers(0, 2),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    weightless=st.booleans(),
)
def test_a_value_that_is_not_finite_is_found_anywhere(
    row: int, column: int, value: float, cuts: list[int], weightless: bool
) -> None:
    X, y, w = np.ones((40, 3)), np.ones(40), np.ones(40)
    X[row, column] = value
    X[min(row + 1, 39), 2] = np.nan  # the first one counts
    if weightless:
        w[row:] = 0
    seen = look(X, y, w, None, cuts)
    assert seen.bad_x.row == row
    assert seen.bad_column == (column if row < 39 or column < 2 else 2)
    assert (seen.bad_y, seen.bad_weight, seen.bad_offset) == (Place(), Place(), Place())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_in_target_weights_and_offset(value: float, family: str) -> None:
    for role in ("y", "w", "o"):
        arrays = {"X": np.ones((20, 1)), "y": np.ones(20), "w": np.ones(20), "o": np.zeros(20)}
        arrays[role][13] = value
        if role != "w":
            arrays["w"][13] = 0  # weight 0 hides nothing
        seen = look(**arrays, cuts=(8, 16), family=family)
        found = {"y": seen.bad_y, "w": seen.bad_weight, "o": seen.bad_offset}
        assert {name: place.row for name, place in found.items() if place} == {role: 13}


def test_overflow_of_a_sum_is_not_a_bad_value() -> None:
    seen = look(np.full((4, 1), 1e308), np.zeros(4))
    assert not seen.bad_x


def test_targets_outside_the_range_and_negative_weights_are_placed() -> None:
    y = np.array([0.0, 1.0, 2.0, -1.0])
    assert look(np.ones((4, 1)), y, cuts=(2,), family="binomial").outside == Place(2, 2.0)
    assert look(np.ones((4, 1)), y, cuts=(2,), family="poisson").outside == Place(3, -1.0)
    assert not look(np.ones((4, 1)), y, family="gaussian").outside
    seen = look(np.ones((4, 1)), y, np.array([1.0, 0.0, -2.0, -3.0]), cuts=(1, 3))
    assert seen.negative_weight == Place(2, -2.0)


def test_rows_without_weight_alone_have_no_moments_and_do_no_harm() -> None:
    X, y, w = np.arange(8.0).reshape(4, 2) * [1, 1e100], np.ones(4), np.array([0.0, 0.0, 1.0, 1.0])
    seen = look(X, y, w, cuts=(2,))
    np.testing.assert_allclose(seen.mean, X[2:].mean(axis=0))
    np.testing.assert_allclose(seen.variance_sum[0], 2.0)
    assert seen.smallest.tolist() == [4.0, 5e100]
