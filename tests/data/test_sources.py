"""Files as sources: what parquet and csv have in common."""

from __future__ import annotations

import json
import pickle
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import write

from clusterglm.data import csv
from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import DataError, UsageError

FEATURES = ["a", "b", "yes", "c"]


def opened(url: Path | str, **words: Any) -> FileSource:
    source = open_source(str(url), **({"target": "y"} | words))
    source.open(None)
    return source


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_several_files_are_the_frame_that_pandas_reads(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    for i, (first, last) in enumerate([(0, 300), (300, 301), (301, 700)]):
        write(frame[first:last], tmp_path / f"part-{i}{suffix}")
    for url in (tmp_path, tmp_path / f"*{suffix}", f"file://{tmp_path}", f"{tmp_path}/part-?{suffix}"):
        source = opened(url, weights="w", offset="o")
        chunk = local_rows(source, intercept=True).chunk
        assert source.names == FEATURES
        assert (source.rows, source.extra_columns, source.truth, source.notes) == (700, 3, None, [])
        assert chunk.X.flags.c_contiguous
        np.testing.assert_array_equal(chunk.X[:, 0], 1.0)
        np.testing.assert_array_equal(chunk.X[:, 1:], frame[FEATURES].to_numpy(dtype=np.float64))
        for column, values in (("y", chunk.y), ("w", chunk.weights), ("o", chunk.offset)):
            assert values is not None
            assert values.dtype == np.float64
            np.testing.assert_array_equal(values, frame[column])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_are_found_again_as_a_person_counts(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    write(frame[:300], tmp_path / f"part-0{suffix}")
    write(frame[300:], tmp_path / f"part-1{suffix}")
    source = opened(tmp_path)
    word, header = ("line", 1) if suffix == ".csv" else ("row", 0)
    places = {0: f"part-0{suffix}, {word} {1 + header}", 299: f"part-0{suffix}, {word} {300 + header}"}
    places |= {300: f"part-1{suffix}, {word} {1 + header}", 699: f"part-1{suffix}, {word} {400 + header}"}
    assert {row: source.locate(row) for row in places} == places
    assert local_rows(source).locate(300) == places[300]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_fingerprint_tells_versions_apart(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = write(frame, tmp_path / f"d{suffix}")
    first = opened(path).fingerprint()
    assert json.loads(json.dumps(first)) == first == opened(path).fingerprint()
    assert first != opened(path, weights="w").fingerprint() != opened(path, offset="w").fingerprint()
    write(frame, path)
    assert opened(path).fingerprint() != first


def test_where_row_groups_begin_is_known_to_the_planner(frame: pd.DataFrame, tmp_path: Path) -> None:
    for i, part in enumerate((frame[:70], frame[:0], frame[:45])):
        part.to_parquet(tmp_path / f"{i}.parquet", row_group_size=30)
    source = open_source(str(tmp_path), "y", missing="drop")
    source.open(None)
    assert list(source.stored) == [0, 30, 60, 70, 100]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_features_are_taken_in_the_order_asked_for(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    source = opened(write(frame, tmp_path / f"d{suffix}"), features=["c", "a"])
    chunk = source.chunk((0, 700), 16, dtype="float32")
    assert source.names == ["c", "a"]
    assert chunk.X.dtype == np.float32
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(chunk.X, frame[["c", "a"]].to_numpy().astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_files_any_pieces_any_bounds_give_the_same_rows(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 200))
    random = np.random.default_rng(rows)
    frame = pd.DataFrame(
        {"x": random.standard_normal(rows), "k": random.integers(0, 9, rows), "y": random.random(rows)}
    )
    suffix = data.draw(st.sampled_from([".parquet", ".csv"]))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(0, rows), max_size=3))), rows]
    bounds = [0, *(16 * c for c in sorted(data.draw(st.sets(st.integers(1, 13), max_size=5))) if 16 * c < rows), rows]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        piece = data.draw(st.integers(1, 3000))
        patch.setattr(csv, "_PIECE_BYTES", piece)
        patch.setattr(csv, "_TASK_BYTES", piece * data.draw(st.integers(1, 4)))
        patch.setattr("clusterglm.data.parquet._BATCH_VALUES", 3000)
        for i, (first, last) in enumerate(pairwise(cuts)):
            words: dict[str, Any] = {"row_group_size": data.draw(st.integers(1, 99)), "compression": "zstd"}
            if suffix == ".csv":
                words = {"lineterminator": data.draw(st.sampled_from(["\n", "\r\n"]))}
            path = write(frame[first:last], Path(folder, f"{i}{suffix}"), **words)
            if suffix == ".csv":
                path.write_bytes(
                    path.read_bytes().rstrip(b"\r\n") + data.draw(st.sampled_from([b"", b"\n", b"\r\n\r\n"]))
                )
        source = opened(folder)
        chunks = [pickle.loads(pickle.dumps(source.part(b))).chunk(b, 16) for b in pairwise(bounds)]
    assert source.rows == rows
    np.testing.assert_array_equal(np.concatenate([c.X for c in chunks]), frame[["x", "k"]].to_numpy(dtype=np.float64))
    np.testing.assert_array_equal(np.concatenate([c.y for c in chunks]), frame["y"])
    assert [c.start for c in chunks] == bounds[:-1]


def test_a_part_carries_no_more_than_its_rows_need(frame: pd.DataFrame, tmp_path: Path) -> None:
    for i in range(7):
        write(frame[i * 100 : i * 100 + 100], tmp_path / f"{i}.parquet", row_group_size=10)
    part = opened(tmp_path).part((256, 320))
    assert [(file.name, file.first, len(file.pieces)) for file in part.files] == [
        ("2.parquet", 200, 5),
        ("3.parquet", 300, 2),
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_that_changes_or_goes_is_noticed(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = write(frame, tmp_path / f"d{suffix}")
    source = opened(path)
    write(frame[:699], path)
    with pytest.raises(DataError, match=rf"d{suffix} \(changed at \d\d:\d\d:\d\d\): the fit mixes two versions"):
        local_rows(source)
    path.unlink()
    with pytest.raises(DataError, match=rf"d{suffix} \(no such file on .*\): it was there when the fit began"):
        local_rows(source)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"url": "s9://bucket/key"}, r"--data \(s9://bucket/key\): s9:// is not known"),
        ({"url": "file://elsewhere/a.csv"}, "not a path of this machine: write file:///PATH"),
        ({"url": ""}, "--data"),
        ({"url": "a\0b.csv"}, r"--data \(a\\x00b.csv\): not a path"),
        ({"target": ""}, "--target"),
        ({"features": []}, r"--features \(\): names no column"),
        ({"features": [""]}, r"--features \(\): names no column"),
        ({"features": ["a", "y"]}, r"--features \(y\): is the target"),
        ({"features": ["a", "w"], "weights": "w"}, r"--features \(w\): is the weights"),
        ({"features": ["a", "w"], "offset": "w"}, r"--features \(w\): is the offset"),
        ({"features": ["a", "a"]}, r"--features \(a\): named twice"),
        ({"weights": "y"}, r"--weights \(y\): is the target"),
        ({"offset": "y"}, r"--offset \(y\): is the target"),
    ],
)
def test_what_the_command_line_alone_shows_is_refused_before_anything_is_opened(
    words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(**({"url": "missing.parquet", "target": "y"} | words))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"target": "yy"}, r"--target \(yy\): no such column: did you mean y\? One of a, b"),
        ({"weights": "ww"}, r"--weights \(ww\): no such column: did you mean w\?"),
        ({"offset": "zzz"}, r"--offset \(zzz\): no such column: One of a"),
        ({"features": ["a", "cc"]}, r"--features \(cc\): no such column: did you mean c\?"),
    ],
)
def test_columns_that_no_file_holds(
    frame: pd.DataFrame, tmp_path: Path, suffix: str, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(write(frame, tmp_path / f"d{suffix}"), **words)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_is_neither_number_nor_category_is_refused(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    frame["day"] = pd.date_range("2020-01-01", periods=700)
    frame["city"] = "Rome"
    path = write(frame, tmp_path / f"d{suffix}")
    with pytest.raises(
        DataError,
        match=r"column day \(datetime\): neither number nor category: leave it out with --features a,b,yes,c,w,o,city$",
    ):
        opened(path)
    with pytest.raises(
        DataError, match=r"--target city \((string|Rome in d.csv, line 2)\): not a number: map it to 0 and 1"
    ):
        opened(path, target="city", features=["a"])
    assert opened(path, features=["a", "b"]).names == ["a", "b"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_without_rows(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    write(frame, tmp_path / f"part-3{suffix}")
    for i in (0, 4):
        write(frame[:0].astype(object), tmp_path / f"part-{i}{suffix}")
    source = opened(tmp_path)
    assert source.notes == [f"note: part-0{suffix}, part-4{suffix}: no rows, skipped"]
    np.testing.assert_array_equal(local_rows(source).chunk.y, frame["y"])
    (tmp_path / f"part-3{suffix}").unlink()
    with pytest.raises(DataError, match=r"--data \(.*\): 2 files, no rows"):
        opened(tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_no_columns_besides_the_target(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match="no columns besides the target y"):
        opened(write(frame[["y"]], tmp_path / f"d{suffix}"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_missing_values_become_nan_for_the_fit_to_find(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    holes = frame.astype({"b": "Int64", "yes": "boolean"})
    for place, column in enumerate(["a", "b", "yes", "y"]):
        holes.loc[5 + place, column] = None
    holes["none"] = None
    source = opened(write(holes, tmp_path / f"d{suffix}"))
    chunk = local_rows(source).chunk
    expected = holes[source.names].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    assert source.names[-1] == "none"
    np.testing.assert_array_equal(chunk.X, expected)
    assert np.isnan(chunk.y).nonzero()[0].tolist() == [8]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_whole_numbers_that_are_rounded_are_reported(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    frame["id"] = 2**53 + 1
    frame["exact"] = -(2**53)
    path = write(frame, tmp_path / f"d{suffix}")
    assert opened(path).notes == ["warning: column id (9007199254740993): rounded to float64"]
    assert opened(path, features=["a"]).notes == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_in_another_order_are_put_right_and_others_refused(
    frame: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    write(frame[:300], tmp_path / f"part-0{suffix}")
    other = write(frame[300:][["y", "c", "b", "w", "a", "o", "yes"]], tmp_path / f"part-1{suffix}")
    chunk = local_rows(opened(tmp_path)).chunk
    np.testing.assert_array_equal(chunk.X[:, :4], frame[FEATURES].to_numpy(dtype=np.float64))
    write(frame[300:].drop(columns="b"), other)
    with pytest.raises(DataError, match=rf"part-1{suffix}: no column b, which part-0{suffix} has"):
        opened(tmp_path)
    assert opened(tmp_path, features=["a"]).rows == 700
    write(frame[300:].assign(new=1.0), other)
    with pytest.raises(DataError, match=rf"part-1{suffix}: column new is not in part-0{suffix}"):
        opened(tmp_path)
    write(frame[300:].assign(b=True), other)
    with pytest.raises(DataError, match=rf"part-1{suffix}: column b is bool, in part-0{suffix} (int64|number)"):
        opened(tmp_path)
