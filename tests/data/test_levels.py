"""Levels: their order, their names, and the codes of any column that Arrow can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clusterglm.data.design import Design
from clusterglm.data.levels import MISSING, UNSEEN, Levels

TEXT = Levels(("b", "a", "10", "2"))
NUMBERS = Levels(("7", "-3", "2.5"), numeric=True)


def test_levels_are_sorted_by_value_or_as_declared() -> None:
    assert Levels.of({"b", "a"}) == Levels(("a", "b"))
    assert Levels.of({"10", "2", "1"}).labels == ("1", "10", "2")  # text, though it looks like numbers
    assert Levels.of({10, 2, 1}) == Levels(("1", "2", "10"), numeric=True)
    assert Levels.of({10.0, 2.5, -1.0}) == Levels(("-1", "2.5", "10"), numeric=True)
    assert Levels.of({"low", "high"}, ("low", "mid", "high")).labels == ("low", "high")  # mid is no row's
    assert Levels.of({"b", "a"}).names("x") == ["x[T.b]"]


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (pa.array(["a", None, "b", "z", "2"]), [1, MISSING, 0, UNSEEN, 3]),
        (pa.array(["a", None, "b"], pa.large_string()), [1, MISSING, 0]),
        (pa.array(["a", None, "b", "z", "a"]).dictionary_encode(), [1, MISSING, 0, UNSEEN, 1]),
        (
            pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array([None, "a"])),
            [MISSING, 1, MISSING],
        ),
        (pa.array(["b", "z", "a", "b"]).slice(1, 2), [UNSEEN, 1]),
        (pa.array(["b", "z", "a", None]).dictionary_encode().slice(1, 3), [UNSEEN, 1, MISSING]),
        (pa.array([10, 2, 3]), [2, 3, UNSEEN]),
        (pa.array([10.0, None, float("nan")]), [2, MISSING, MISSING]),
        (pa.nulls(2), [MISSING, MISSING]),
        (pa.array([], pa.string()), []),
    ],
)
def test_codes_of_text(values: Any, codes: list[int]) -> None:
    assert TEXT.codes(values).tolist() == codes


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (pa.array([-3, 7, 8], pa.int8()), [1, 0, UNSEEN]),
        (pa.array([2.5, None, 2.4, float("inf")]), [2, MISSING, UNSEEN, UNSEEN]),
        (pa.array([7, None]), [0, MISSING]),
        (pa.array(["7", "2.5", "07"]), [0, 2, UNSEEN]),
        (pa.array([7, -3, None]).dictionary_encode(), [0, 1, MISSING]),
        (pa.nulls(1), [MISSING]),
    ],
)
def test_codes_of_numbers(values: Any, codes: list[int]) -> None:
    assert NUMBERS.codes(values).tolist() == codes


def test_text_with_leading_zeros_is_no_number() -> None:
    levels = Levels.of({"01", "1"})
    assert levels.codes(pa.array(["1", "01"])).tolist() == [1, 0]
    assert levels.codes(pa.array([1])).tolist() == [1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_design_of_numbers_and_levels(dtype: str) -> None:
    design = Design(4, ["a", "g", "b"], ["y"], dtype, True, {"g": Levels(("u", "v", "w"))})
    columns = {"g": ["w", "u", "v", None], "a": [1.0, 2.0, 3.0, 4.0], "b": [5, 6, 7, 8], "y": [0.0, 1.0, 1.0, 0.0]}
    batch = pa.RecordBatch.from_pydict(columns)
    held = design.columns(batch)
    design.append(held.slice(0, 1))
    design.append(held.slice(1, 3))
    X, vectors = design.take()
    nan = np.nan
    expected = [[1, 1, 0, 1, 5], [1, 2, 0, 0, 6], [1, 3, 1, 0, 7], [1, 4, nan, nan, 8]]
    np.testing.assert_array_equal(X, np.array(expected, dtype=dtype))
    assert X.dtype == dtype
    np.testing.assert_array_equal(vectors["y"], columns["y"])
