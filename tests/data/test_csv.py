"""What only csv has: lines, quotes, kinds of columns that nobody wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterglm.data import csv
from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import DataError


def opened(path: Path, content: str | bytes | None = None, **words: Any) -> FileSource:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = open_source(str(path), "y", **words)
    source.open(None)
    return source


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of 50 bytes and pieces of 64, so that most lines are never seen before the fit."""
    monkeypatch.setattr(csv, "_SAMPLE_BYTES", 50)
    monkeypatch.setattr(csv, "_PIECE_BYTES", 64)
    monkeypatch.setattr(csv, "_TASK_BYTES", 128)


@pytest.fixture
def d(tmp_path: Path) -> Path:
    return tmp_path / "d.csv"


@pytest.mark.usefixtures("small_pieces")
def test_whole_numbers_and_fractions_in_one_column(d: Path) -> None:
    values = [*range(200), 0.1, 1e-310, 2.0**70, 1 / 3, -0.0]
    chunk = local_rows(opened(d, "x,y\n" + "".join(f"{v!r},1\n" for v in values))).chunk
    np.testing.assert_array_equal(chunk.X[:, 0], np.array(values, dtype=np.float64))
    assert np.signbit(chunk.X[-1, 0])


@pytest.mark.usefixtures("small_pieces")
def test_a_word_in_a_later_piece_is_named_by_file_line_and_column(d: Path) -> None:
    source = opened(d, "x,t,y\n" + "1,true,0\n" * 300 + "1,true,abc\n" + "2,false,1\n" * 9)
    with pytest.raises(
        DataError, match=r"^column y \(abc in d.csv, line 302\): not a number: correct it, or leave"
    ) as caught:
        local_rows(source)
    assert caught.value.exit_code == 5
    source = opened(d, "x,t,y\n" + "1,true,0\n" * 300 + "1,maybe,1\n")
    with pytest.raises(DataError, match=r"^column t \(maybe in d.csv, line 302\)"):
        local_rows(source)
    assert local_rows(opened(d, features=["x"])).rows == 301


@pytest.mark.usefixtures("small_pieces")
def test_whole_numbers_may_grow_beyond_the_first_megabyte(d: Path) -> None:
    lines = "".join(f"{i},{i / 2},1\n" for i in range(400))
    source = opened(d, "key,x,y\n" + lines)
    assert (source.whole, source.notes) == (["key", "y"], [])
    assert opened(d, "key,x,y\n" + lines[:8]).whole == []  # all of which has been seen


def test_a_word_at_the_beginning_is_named_too(d: Path) -> None:
    with pytest.raises(DataError, match=r"^column x \(n.a. in d.csv, line 3\): not a number"):
        opened(d, "x,y\n1,2\nn.a.,3\n")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2,3", r"d.csv \(line 102\): 3 values, the header has 2 columns: one row a line"),
        ("1", r"d.csv \(line 102\): 1 values, the header has 2 columns"),
        ("", r"d.csv \(line 102\): blank: remove it"),
    ],
)
def test_lines_that_are_no_rows_are_named(d: Path, row: str, message: str) -> None:
    source = opened(d, "x,y\n" + "1,0\n" * 100 + row + "\n" + "1,0\n" * 30)
    with pytest.raises(DataError, match=message):
        local_rows(source)


@pytest.mark.parametrize("piece", [7, 64, 10**6])
@pytest.mark.parametrize("place", [0, 10, 99])
def test_line_breaks_in_quotes_are_refused_not_guessed_at(
    d: Path, monkeypatch: pytest.MonkeyPatch, piece: int, place: int
) -> None:
    monkeypatch.setattr(csv, "_PIECE_BYTES", piece)
    monkeypatch.setattr(csv, "_TASK_BYTES", piece * 3)
    lines = ['1,"plain",0\n'] * 100
    lines[place] = '1,"two\nlines",0\n'
    source = opened(d, "x,text,y\n" + "".join(lines), features=["x"])
    with pytest.raises(
        DataError, match=r"d.csv \(lines? [\d a-z]+\): .*no line break inside quotes: correct it, or write"
    ):
        local_rows(source)


def test_quotes_and_commas_within_them_are_read(d: Path) -> None:
    source = opened(d, 'x,"a, b",y\n"1.5","3",0\n2,4,"1"\n')
    assert source.names == ["x", "a, b"]
    assert local_rows(source).chunk.X.tolist() == [[1.5, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_ends_of_files_and_byte_order_marks(d: Path, end: str, mark: bytes) -> None:
    source = opened(d, mark + f"x,y\r\n1,2\r\n3,4{end}".encode())
    assert (source.names, source.rows) == (["x"], 2)
    assert local_rows(source).chunk.y.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\nx,y\n1,2\n", r"d.csv \(line 1\): blank"),
        (b"x\xff,y\n1,2\n", r"d.csv \(line 1\): not UTF-8 text"),
        ("x,y\n1,2\n".encode("utf-16"), r"d.csv \(line 1\): not UTF-8 text"),
        (b"x,x,y\n1,2,3\n", r"d.csv \(line 1\): column x is there twice"),
        (b"", r"--data \(.*d.csv\): no rows"),
        (b"x,y", "no rows"),
        (b"x,y\n\n\n", "no rows"),
        (b"x" * (2**20 + 9), "no line end in its first megabyte"),
    ],
)
def test_headers_that_cannot_be_read(d: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(d, content)


def test_the_column_without_a_name_is_an_index(d: Path) -> None:
    source = opened(d, ",x,y\n0,1.5,1\n1,2.5,0\n")
    assert source.names == ["x"]
    assert source.notes == ["note: the column without a name: left out"]
    assert local_rows(source).chunk.X.tolist() == [[1.5], [2.5]]


def test_missing_in_one_file_and_numbers_in_the_next(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("x,t,y\n,,1\n")
    (tmp_path / "1.csv").write_text("x,t,y\n2.5,true,1\n")
    rows = local_rows(opened(tmp_path))
    np.testing.assert_array_equal(rows.chunk.X, [[np.nan, np.nan], [2.5, 1.0]])


def test_a_file_that_is_cut_while_it_is_looked_at_is_refused(d: Path) -> None:
    source = opened(d, "x,y\n" + "1,0\n" * 100)
    size, modified = d.stat().st_size, d.stat().st_mtime_ns
    d.write_text("x,y\n" + "1,0\n" * 50)
    assert (size, modified) != (d.stat().st_size, d.stat().st_mtime_ns)
    with pytest.raises(DataError, match="changed at"):
        local_rows(source)
