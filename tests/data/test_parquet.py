"""What only parquet has: types, footers, pages, statistics, pandas' index."""

from __future__ import annotations

import datetime
import decimal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import write

from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import DataError


def opened(path: Path, **words: Any) -> FileSource:
    source = open_source(str(path), "y", **words)
    source.open(None)
    return source


def test_every_numeric_type_is_upcast_exactly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 2000
    columns: dict[str, pa.Array] = {}
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32"):
        info = np.iinfo(name)
        columns[name] = pa.array(random.integers(info.min, info.max, n, dtype=name, endpoint=True))
    columns["int64"] = pa.array(random.integers(-(2**53), 2**53, n))
    for name in ("float16", "float32", "float64"):
        columns[name] = pa.array(random.standard_normal(n).astype(name))
    columns["bool"] = pa.array(random.random(n) < 0.5)
    expected = np.column_stack([c.to_numpy(zero_copy_only=False).astype(np.float64) for c in columns.values()])
    money = [decimal.Decimal(int(v)).scaleb(-7) for v in random.integers(-(10**17), 10**17, n)]
    columns["decimal"] = pa.array(money, pa.decimal128(20, 7))
    expected = np.column_stack([expected, [float(v) for v in money]])
    columns["y"] = columns["float64"]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=300)
    np.testing.assert_array_equal(local_rows(opened(tmp_path)).chunk.X, expected)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (pa.array([datetime.date(2020, 1, 1)] * 2), "datetime"),
        (pa.array([datetime.timedelta(1)] * 2), "datetime"),
        (pa.array([b"x", b"z"]), "binary"),
        (pa.array([[1.0], [2.0]]), "list<.*>"),
        (pa.array([{"re": 1.0, "im": 2.0}] * 2), "struct<.*>"),
    ],
)
def test_other_types_are_refused_by_their_name(tmp_path: Path, values: pa.Array, word: str) -> None:
    pq.write_table(pa.table({"x": values, "z": [1.0, 2.0], "y": [0.0, 1.0]}), tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=rf"column x \({word}\): neither number nor category: leave it out with --features z$"
    ):
        opened(tmp_path)
    assert local_rows(opened(tmp_path, features=["z"])).chunk.X.tolist() == [[1.0], [2.0]]


def test_types_must_be_those_of_the_first_file(frame: pd.DataFrame, tmp_path: Path) -> None:
    write(frame, tmp_path / "part-000.parquet")
    write(frame.astype({"c": "float32"}), tmp_path / "part-005.parquet")
    message = r"part-005.parquet: column c is float, in part-000.parquet double"
    with pytest.raises(DataError, match=message):
        opened(tmp_path)
    assert opened(tmp_path, features=["a"]).rows == 1400


def test_a_footer_that_is_cut_off_is_seen_before_the_fit(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "part-007.parquet")
    for content in (path.read_bytes()[:-20], path.read_bytes()[:100], b"", b"PAR1 nonsense PAR1"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"^part-007.parquet \(footer\): not readable as parquet: copy it again$"):
            opened(path)


def test_a_page_that_is_broken_is_named_when_it_is_read(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "p.parquet", row_group_size=100, compression="zstd", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(3).column(3).data_page_offset
    content = bytearray(path.read_bytes())
    content[place + 60 : place + 400] = bytes(340)
    path.write_bytes(content)
    source = opened(path)
    message = r"p.parquet \(row groups? (3|0 to 6)\): not readable as parquet: copy it again"
    with pytest.raises(DataError, match=message):
        local_rows(source)
    np.testing.assert_array_equal(source.chunk((0, 288), 16).y, frame["y"][:288])
    with pytest.raises(DataError, match=message):
        source.chunk((304, 320), 16)


def test_checksums_are_checked_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.arange(3e4), "y": np.arange(3e4)}), path, write_page_checksum=True)
    source, asked = opened(path), []
    real = pq.ParquetFile

    def spied(*given: Any, **words: Any) -> Any:
        asked.append(words["page_checksum_verification"])
        return real(*given, **words)

    monkeypatch.setattr(pq, "ParquetFile", spied)
    first, second = (local_rows(source).chunk.X for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert asked == [True, False]
    local_rows(opened(path, features=["a"]))
    assert asked[-1] is False
    path.write_bytes(path.read_bytes())  # another file, for all that its name says
    local_rows(opened(path))
    assert asked[-1] is True


def test_checksums_are_checked_where_there_are_any(frame: pd.DataFrame, tmp_path: Path) -> None:
    words = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    path = write(frame, tmp_path / "p.parquet", **words)
    content = path.read_bytes().replace(struct.pack("<d", frame["c"][10]), struct.pack("<d", 7.0))
    path.write_bytes(content)
    with pytest.raises(DataError, match="not readable as parquet"):
        local_rows(opened(path))


def test_whole_numbers_without_statistics_are_said_to_be_unknown(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = write(frame, tmp_path / "p.parquet", write_statistics=False)
    assert opened(path, features=["a", "b"]).whole == ["b"]


def test_unsigned_numbers_and_all_missing_groups(tmp_path: Path) -> None:
    columns = {"u": pa.array([1, 2**64 - 1], pa.uint64()), "gone": pa.array([None, None], pa.int64()), "y": [0.0, 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=1)
    assert opened(tmp_path).notes == [f"warning: column u ({2**64 - 1}): rounded to float64"]


@pytest.mark.parametrize("name", [None, "key"])
def test_the_index_of_a_pandas_frame_is_no_feature(frame: pd.DataFrame, tmp_path: Path, name: str | None) -> None:
    frame.index = pd.Index(np.arange(700.0)[::-1], name=name)
    frame.to_parquet(tmp_path / "p.parquet")
    source = opened(tmp_path)
    shown = name or "__index_level_0__"
    assert source.names == ["a", "b", "yes", "c", "w", "o"]
    assert source.notes == [f"note: column {shown}: numbers the rows: left out"]
    assert opened(tmp_path, features=[shown, "a"]).names == [shown, "a"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1.0], [2.0], [0.0]], names=["x", "x", "y"]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p.parquet: column x is there twice"):
        opened(tmp_path)


def test_a_parquet_file_needs_no_suffix(frame: pd.DataFrame, tmp_path: Path) -> None:
    assert opened(write(frame, tmp_path / "table")).rows == 700


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """Arrow would rather read all of a row group first."""
    rows = 1_000_000
    table = pa.table({name: np.random.default_rng(0).random(rows) for name in "abcdefghy"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows, use_dictionary=False)
    source = open_source(str(tmp_path / "a.parquet"), "y")
    source.open(None)
    before, most = pa.total_allocated_bytes(), 0
    for _ in source.windows((0, rows), 8192, 8192):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < table.nbytes / 2
