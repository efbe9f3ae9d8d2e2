"""Rows that Python holds: the same bits as the same rows from arrays or files, however Dask has cut them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import write

from clusterglm.data.chunk import Chunk, block_rows
from clusterglm.data.collections import Collections
from clusterglm.data.from_python import OPTIONS, from_python
from clusterglm.data.rows import from_arrays
from clusterglm.data.sources import local_rows, open_source
from clusterglm.errors import ClusterglmError, DataError, UsageError

NO_ROLES = dict.fromkeys(OPTIONS)
ROWS = 500


def made(rows: int = ROWS, columns: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return X, y, weights and offset; X from tiny to huge, so that a sum in other steps has other bits."""
    random = np.random.default_rng(rows)
    X = random.standard_normal((rows, columns)) * 10.0 ** random.integers(-300, 300, (rows, columns))
    return X, random.random(rows), random.random(rows), random.random(rows)


def frame_of(arrays: Sequence[np.ndarray]) -> pd.DataFrame:
    X, y, w, o = arrays
    return pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])]).assign(y=y, w=w, o=o)


NAMED = NO_ROLES | {"target": "y", "weights": "w", "offset": "o"}


def cut_frame(frame: Any, lengths: Sequence[int]) -> Any:
    """Return a Dask frame, or series, with partitions of these lengths, of which it knows none."""
    ends = np.cumsum(lengths)
    pieces = [frame.iloc[end - n : end] for end, n in zip(ends, lengths, strict=True)]
    return dd.from_delayed([delayed(piece) for piece in pieces], meta=frame.iloc[:0], verify_meta=False)


def opened(data: Any, roles: Any = NO_ROLES, **words: Any) -> Any:
    found = from_python(data, roles, **({"intercept": False, "dtype": "float64"} | words))
    if isinstance(found, Collections):
        found.open(None)
    return found


def assert_same_rows(ours: Chunk, theirs: Chunk) -> None:
    assert ours.X.flags.c_contiguous
    for name in ("X", "y", "weights", "offset"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@st.composite
def lengths(draw: st.DrawFn, rows: int = ROWS) -> list[int]:
    """Any way to cut the rows, some cuts of nothing."""
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6)))
    return [b - a for a, b in itertools.pairwise([0, *cuts, rows])]


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(lengths(), min_size=4, max_size=4),
    kind=st.sampled_from(["arrays", "unknown", "frame", "columns"]),
    dtype=st.sampled_from(["float64", "float32"]),
    intercept=st.booleans(),
    bounds=st.tuples(st.integers(0, ROWS // 16 - 1), st.integers(1, ROWS)),
    window=st.integers(1, 40),
)
def test_any_cut_of_a_collection_gives_the_rows_of_arrays(
    cuts: list[list[int]], kind: str, dtype: str, intercept: bool, bounds: tuple[int, int], window: int
) -> None:
    arrays = made()
    X, *vectors = arrays
    if kind == "frame":
        source = opened(cut_frame(frame_of(arrays), cuts[0]), NAMED)
    elif kind == "columns":
        frame = frame_of(arrays)
        source = opened({name: cut_frame(frame[name], cuts[i % 4]) for i, name in enumerate(frame)}, NAMED)
    else:
        parts = [da.from_array(X, chunks=(tuple(cuts[0]), (1, 3)))]
        parts += [da.from_array(v, chunks=(tuple(c),)) for v, c in zip(vectors, cuts[1:], strict=True)]
        if kind == "unknown":
            parts = [part[part[:, 0] == part[:, 0] if part.ndim == 2 else part == part] for part in parts]
        source = opened(tuple(parts))
    with np.errstate(over="ignore"):
        expected = from_arrays(*arrays, intercept=intercept, dtype=dtype).chunk
    first = 16 * bounds[0]
    last = min(first + bounds[1], ROWS)
    assert source.rows == ROWS
    assert (kind == "arrays") == ("note: row counts unknown: counted in one extra pass" not in source.notes)
    theirs = Chunk(
        *(getattr(expected, name)[first:last] for name in ("X", "y", "weights", "offset")), start=first, block_rows=16
    )
    assert_same_rows(source.chunk((first, last), 16, dtype, intercept), theirs)
    row = first
    for part in source.part((first, last)).windows((first, last), 16 * window, 16, dtype, intercept):
        assert part.start == row
        assert part.X.tobytes() == theirs.X[row - first : row - first + len(part)].tobytes()
        row += len(part)
    assert row == last


def test_a_frame_in_memory_or_of_dask_is_the_table_in_a_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    source = open_source(str(write(frame, tmp_path / "a.parquet")), "y", weights="w", offset="o")
    source.open(None)
    expected = local_rows(source, intercept=True).chunk
    for data in (frame, {name: frame[name].to_numpy() for name in frame}, dict(frame.items())):
        here = opened(data, NAMED, intercept=True)
        assert here.names == source.names == ["a", "b", "yes", "c"]
        assert here.target == "y"
        assert_same_rows(here.rows.chunk, expected)
    there = opened(cut_frame(frame, [300, 0, 400]), NAMED)
    assert there.names == source.names
    assert_same_rows(local_rows(there, intercept=True).chunk, expected)
    assert there.locate(0) == "the frame, partition 0, row 0"
    assert there.locate(301) == "the frame, partition 2, row 1"
    assert "note: the frame: 1 of 3 partitions have no rows, skipped" in there.notes


def test_texts_and_categories_are_coded_as_in_a_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    frame = frame.assign(
        city=random.choice(["Rome", "Bern", "Oslo"], 700),
        size=pd.Categorical(random.choice(["s", "m", "l"], 700), categories=["s", "m", "l", "xl"]),
        month=random.integers(1, 4, 700),
    )
    words: dict[str, Any] = {"weights": "w", "offset": "o", "categorical": ["month"]}
    source = open_source(str(write(frame, tmp_path / "a.parquet")), "y", **words)
    source.open(None)
    expected = local_rows(source).chunk
    assert source.names[4:] == ["city[T.Oslo]", "city[T.Rome]", "size[T.m]", "size[T.l]", "month[T.2]", "month[T.3]"]
    plain = frame.assign(city=frame.city.astype(object))
    for data in (frame, plain, {name: frame[name] for name in frame}):
        here = opened(data, NAMED | {"categorical": ["month"]})
        assert (here.names, here.coding) == (source.names, source.coding)
        assert_same_rows(here.rows.chunk, expected)
    lazy = cut_frame(frame, [100, 0, 350, 250])
    arrays = {"city": da.from_array(frame.city.to_numpy(dtype="U"), chunks=90)}
    unknown = lazy.assign(size=lazy["size"].astype(str).astype("category"))  # an order that nobody declared
    assert opened(unknown, NAMED).names[6:8] == ["size[T.m]", "size[T.s]"]
    for data in (lazy, cut_frame(plain, [699, 1]), {name: lazy[name] for name in frame} | arrays):
        there = opened(data, NAMED | {"categorical": ["month"]})
        assert (there.names, there.coding) == (source.names, source.coding)
        assert [note for note in there.notes if "levels" in note] == source.notes
        assert_same_rows(local_rows(there).chunk, expected)


def test_missing_values_of_a_category_are_refused_with_their_place(frame: pd.DataFrame) -> None:
    frame = frame.assign(city=["Bern", "Oslo"] * 350)
    frame.loc[[450, 500], "city"] = None
    roles = NAMED | {"features": ["city"]}
    with pytest.raises(DataError, match=r"^column city \(2 missing, the first in row 450\)"):
        opened(frame, roles)
    with pytest.raises(DataError, match=r"^column city \(2 missing, the first in the frame, partition 1, row 50\)"):
        opened(cut_frame(frame, [400, 300]), roles)


TYPES = ["int8", "uint16", "int32", "int64", "float16", "float32", ">f8", ">i4", "bool", "longdouble"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("where", ["numpy", "dask", "pandas", "dask frame"])
def test_other_types_orders_and_read_only_arrays_are_taken_exactly(dtype: str, where: str) -> None:
    random = np.random.default_rng(0)
    X = np.asfortranarray(random.integers(0, 100, (300, 3)).astype(dtype))
    y = random.integers(0, 2, 300).astype(dtype)[::-1]
    for array in (X, y):
        array.flags.writeable = False
    columns = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": y}
    frame, roles = pd.DataFrame(columns, copy=False), NAMED | {"weights": None, "offset": None}
    if where == "numpy":
        chunk = opened((X, y)).rows.chunk
    elif where == "pandas":
        chunk = opened(frame, roles).rows.chunk
    elif where == "dask":
        chunk = local_rows(opened((da.from_array(X, chunks=(70, 2)), da.from_array(y, chunks=110)))).chunk
    else:
        chunk = local_rows(opened(cut_frame(frame, [100, 200]), roles)).chunk
    assert chunk.X.dtype == chunk.y.dtype == np.float64
    np.testing.assert_array_equal(chunk.X, X.astype(np.float64))
    np.testing.assert_array_equal(chunk.y, y.astype(np.float64))


def test_columns_of_pandas_own_types_are_taken_and_what_is_missing_is_nan() -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "yes": pd.array([True, False, None], dtype="boolean"),
            "arrow": pd.array([0.5, 1.5, None], dtype="float64[pyarrow]"),
            "sparse": pd.arrays.SparseArray([0.0, 2.0, 0.0]),
            7: [1.0, np.nan, 2.0],
            "y": [0, 1, 0],
        }
    )
    nan = np.nan
    expected = [[1, 1, 0.5, 0, 1], [nan, 0, 1.5, 2, nan], [3, nan, nan, 0, 2]]
    roles = NO_ROLES | {"target": "y"}
    here, there = opened(frame, roles), opened(cut_frame(frame, [1, 2]), roles)
    assert here.names == there.names == ["whole", "yes", "arrow", "sparse", "7"]
    np.testing.assert_array_equal(here.rows.chunk.X, expected)
    np.testing.assert_array_equal(local_rows(there).chunk.X, expected)


def test_whole_numbers_that_are_rounded_are_reported() -> None:
    frame = pd.DataFrame({"id": [1, 2**53 + 1, 2], "small": [2**53, 1, 1], "y": [0.0, 1.0, 0.0]})
    told = "warning: column id (9007199254740993): rounded to float64"
    roles = NO_ROLES | {"target": "y"}
    assert opened(frame, roles).notes == [told]
    assert opened(cut_frame(frame, [1, 1, 1]), roles).notes[1:] == [told]


def test_what_has_other_chunks_is_cut_anew_and_said_and_other_lengths_are_refused() -> None:
    X, y, *_ = made(40)
    chunked = da.from_array(X, chunks=(10, 4))
    assert opened((chunked, da.from_array(y, chunks=10))).notes == []
    assert opened((chunked, da.from_array(y, chunks=7))).notes == ["note: target: other chunks than features: cut anew"]
    with pytest.raises(DataError, match=r"^target \(39 rows\): features has 40"):
        opened((chunked, da.from_array(y[:39], chunks=10)))
    frame = frame_of(made(40))
    with pytest.raises(DataError, match=r"^column x1 \(39 rows\): column x0 has 40"):
        opened(
            {"x0": cut_frame(frame.x0, [40]), "x1": cut_frame(frame.x1[:39], [39]), "y": cut_frame(frame.y, [40])},
            NO_ROLES | {"target": "y"},
        )
    with pytest.raises(DataError, match=r"^column b \(2 rows\): the target has 3"):
        opened({"a": [1, 2, 3], "b": [1, 2], "y": [1, 2, 3]}, NO_ROLES | {"target": "y"})


def promise_too_much(block: np.ndarray) -> np.ndarray:
    return block[:-1]


X4 = np.ones((4, 2))
LAZY = da.from_array(X4, chunks=(2, 2))
REFUSED: list[tuple[Any, dict[str, Any], type[ClusterglmError], str]] = [
    (3, {}, UsageError, r"data \(int\): give a path, a frame"),
    ([X4, X4[:, 0]], {}, UsageError, r"data \(list\): give a path"),
    (X4, {}, UsageError, r"data \(ndarray\)"),
    (LAZY, {}, UsageError, r"data \(Array\)"),
    (pd.Series([1.0]), {}, UsageError, r"data \(Series\)"),
    ((X4,), {}, UsageError, r"data \(a tuple of 1\): give \(X, y\)"),
    ((X4, None), {}, UsageError, r"data \(a tuple of 2\)"),
    ((LAZY, X4[:, 0]), {}, UsageError, "some of it is of Dask"),
    ((X4, X4[:, 0]), {"target": "y"}, UsageError, r"target \(y\): has no effect on arrays"),
    ((LAZY[:, 0], LAZY[:, 0]), {}, DataError, r"features \(shape \(4,\)\)"),
    ((LAZY, LAZY), {}, DataError, r"target \(Array\): give one value for every row"),
    ((LAZY, delayed(1)), {}, DataError, r"target \(DelayedLeaf\)"),
    ((delayed(1), LAZY[:, 0]), {}, DataError, r"features \(DelayedLeaf\)"),
    ((LAZY[:, :0], LAZY[:, 0]), {}, DataError, r"features \(shape \(4, 0\)\)"),
    ((LAZY[:0], LAZY[:0, 0]), {}, DataError, r"data \(dask arrays of 0 rows\): nothing to fit"),
    ((LAZY.astype(complex), LAZY[:, 0]), {}, DataError, r"features \(complex128\)"),
    ((LAZY, LAZY[:, 0].astype("M8[s]")), {}, DataError, r"target \(datetime64\[s\]\)"),
    ((dd.from_pandas(pd.DataFrame(X4), npartitions=1), LAZY[:, 0]), {}, DataError, r"features \(DataFrame\): .* frame"),
    (pd.DataFrame({"a": [1.0], "y": [1.0]}), {}, UsageError, "target: needed with data"),
    (pd.DataFrame({"a": [1.0], "y": [1.0]}), {"target": "yy"}, DataError, r"yy.*no such column: did you mean y\?"),
    (pd.DataFrame({"y": [1.0]}), {"target": "y"}, DataError, "no columns besides the target"),
    (pd.DataFrame({"a": [1.0], "y": [1.0]})[:0], {"target": "y"}, DataError, r"frame of 0 rows"),
    (pd.DataFrame([[1, 2, 3]], columns=["a", "a", "y"]), {"target": "y"}, DataError, "column a is there twice"),
    (pd.DataFrame([[1, 2, 3]], columns=["1", 1, "y"]), {"target": "y"}, DataError, "column 1 is there twice"),
    (
        pd.DataFrame({"a": [1, "x"], "y": [1, 2]}),
        {"target": "y"},
        DataError,
        r"column a \(object\): neither number",
    ),
    (pd.DataFrame({"a": [1], "y": ["u"]}), {"target": "y"}, DataError, r"--target y \(string\): not a number"),
    (pd.DataFrame({"a": ["u"], "y": [1]}), {"target": "y"}, DataError, r"frame.*no columns besides the target y"),
    ((X4, X4[:, 0]), {"missing": "drop"}, UsageError, r"missing \(drop\): has no effect on arrays"),
    ((X4, X4[:, 0]), {"categorical": ["x0"]}, UsageError, r"categorical .*has no effect on arrays"),
    (pd.DataFrame({"a": [1j], "y": [1]}), {"target": "y"}, DataError, r"column a \(complex\): neither number nor"),
    ({"a": X4, "y": X4[:, 0]}, {"target": "y"}, DataError, r"column a \(shape \(4, 2\)\): give one value"),
    ({"a": [[1], [1, 2]], "y": [1, 2]}, {"target": "y"}, DataError, "column a: give one value for every row"),
    ({"a": np.ma.masked_equal([1, 2], 2), "y": [1, 2]}, {"target": "y"}, DataError, r"column a \(masked values\)"),
    ({"a": LAZY, "y": LAZY[:, 0]}, {"target": "y"}, DataError, r"column a \(Array\): give an array or a series"),
    ({"a": LAZY[:, 0], "y": da.from_array(["u"])}, {"target": "y"}, DataError, r"--target y \(string\): not a number"),
]


@pytest.mark.parametrize(("data", "roles", "kind", "message"), REFUSED)
def test_what_cannot_be_fitted_is_refused_in_words(
    data: Any, roles: dict[str, Any], kind: type[ClusterglmError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        opened(data, NO_ROLES | roles)


def test_pieces_that_are_not_what_was_promised_are_named() -> None:
    y = LAZY[:, 0]
    short = LAZY.map_blocks(promise_too_much, dtype=float)
    with pytest.raises(DataError, match=r"^features, partition 0 \(1 rows\): 2 were promised"):
        local_rows(opened((short, y)))
    wide = da.map_blocks(lambda block: block[:, :1], LAZY, dtype=float, chunks=LAZY.chunks, meta=X4)
    with pytest.raises(DataError, match=r"^features \(a block of shape \(2, 1\)\): 2 columns were promised"):
        local_rows(opened((wide, y)))
    words = cut_frame(pd.DataFrame({"a": ["u", "v"], "y": [0.0, 1.0]}), [2])
    lying = words.map_partitions(lambda f: f, meta=pd.DataFrame({"a": [1.0], "y": [1.0]})[:0])
    with pytest.raises(DataError, match=r"^column a \(string\): float64 was promised: see that all partitions"):
        opened(lying, NO_ROLES | {"target": "y"})


def test_the_fingerprint_tells_collections_apart() -> None:
    X, y, *_ = made(40)
    ours = [opened((da.from_array(X, chunks=10), da.from_array(y, chunks=10))).fingerprint() for _ in range(2)]
    theirs = opened((da.from_array(X + 1, chunks=10), da.from_array(y, chunks=10))).fingerprint()
    assert ours[0] == ours[1] != theirs


def test_block_rows_of_a_source_are_those_of_arrays() -> None:
    X, y, *_ = made(40)
    there = local_rows(opened((da.from_array(X, chunks=10), da.from_array(y, chunks=10))))
    here = from_arrays(X, y)
    assert there.chunk.block_rows == here.chunk.block_rows == block_rows(4, 8)
    assert there.problem_rows == here.problem_rows
