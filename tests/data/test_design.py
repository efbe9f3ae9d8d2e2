"""Columns side by side are the matrix that numpy makes of them, whatever the widths, types and lengths of batches."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from clusterglm.data.design import Design

TYPES = ["float64", "float32", "float16", "int64", "uint8", "int8"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("columns", [1, 15, 64, 65, 130])
def test_a_design_is_its_columns(columns: int, intercept: bool, dtype: str) -> None:
    random = np.random.default_rng(columns)
    cuts = [0, 1, 4095, 4096, 8200, 12_297, 12_297, 13_000]
    made = {f"x{j}": (random.random(cuts[-1]) * 100 - 50) for j in range(columns)}
    typed = {name: x.astype(TYPES[j % 6], casting="unsafe") for j, (name, x) in enumerate(made.items())}
    typed["y"] = random.random(cuts[-1])
    batch = pa.record_batch(typed)
    design = Design(cuts[-1], list(made), ["y"], dtype, intercept)
    held = design.columns(batch)
    for first, last in itertools.pairwise(cuts):
        design.append(held.slice(first, last - first))
    expected = np.column_stack([typed[name].astype(dtype) for name in made])
    assert design.X.flags.c_contiguous
    assert design.X.dtype == dtype
    np.testing.assert_array_equal(design.X[:, int(intercept) :], expected)
    assert (design.X[:, : int(intercept)] == 1).all()
    np.testing.assert_array_equal(design.vectors["y"], typed["y"])
    assert design.filled == cuts[-1]


def test_missing_values_are_nan_and_what_is_beyond_float32_is_infinite() -> None:
    batch = pa.record_batch(
        {"a": pa.array([1, None, 3]), "b": pa.array([True, False, None]), "c": [1e300, None, -1e300], "y": [0.0] * 3}
    )
    design = Design(3, ["a", "b", "c"], ["y"], "float32", intercept=False)
    design.append(design.columns(batch))
    nan, inf = np.nan, np.inf
    np.testing.assert_array_equal(design.X, [[1, 1, inf], [nan, 0, nan], [3, nan, -inf]])
