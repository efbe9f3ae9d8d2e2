"""Streams and files of rows: the same rows as in memory, whatever happens to the files."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.data import disk, sources
from clusterglm.data.chunk import Block, Held
from clusterglm.data.chunks import plan
from clusterglm.data.disk import OnDisk
from clusterglm.data.rows import LocalRows, each_in
from clusterglm.data.sources import Source, open_source
from clusterglm.data.stream import Stream
from clusterglm.data.synthetic import Synthetic
from clusterglm.errors import ClusterError

ROWS = 50_000


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    monkeypatch.setattr(disk, "scratch", lambda: folder)
    return folder


def table(folder: Path) -> Source:
    random = np.random.default_rng(5)
    frame = pd.DataFrame(random.standard_normal((ROWS, 6)), columns=["a", "b", "c", "y", "w", "o"])
    frame["w"] = random.integers(1, 4, ROWS)
    frame.to_parquet(folder / "x.parquet", row_group_size=7_001)
    source = open_source(str(folder / "x.parquet"), "y", ("c", "a", "b"), "w", "o")
    source.open(None)
    return source


def streamed(source: Source, intercept: bool = False, dtype: str = "float64", **words: Any) -> Stream:
    columns = len(source.names) + intercept
    extra = source.extra_columns
    made = plan(solver="t", rows=source.rows, columns=columns, dtype=dtype, extra_columns=extra, **words)
    return Stream.of(source, (0, source.rows), made, intercept)


def content(block: Block) -> tuple[tuple[Any, ...]]:
    arrays = (block.X, block.y, block.weights, block.offset)
    return ((block.start, *(None if a is None else (a.shape, a.tobytes()) for a in arrays)),)


def blocks(held: Held) -> list[Any]:
    return [content(block) for block in held.blocks()]


def written(stream: Stream) -> OnDisk:
    return OnDisk(stream, "key", stream.start, stream.stop).write()


def forget(path: Path) -> None:
    """Let no page of the file stay in the page cache, so that it is read from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("kind", ["files", "gaussian", "binomial", "wide"])
def test_the_three_ways_to_hold_rows_give_the_same_blocks(
    tmp_path: Path, kind: str, intercept: bool, dtype: str
) -> None:
    source = table(tmp_path) if kind == "files" else Synthetic(ROWS, 5, 7, kind)
    if kind == "wide":
        source = Synthetic(20_000, 150)  # micro-blocks that are shorter than the generator's
    stream = streamed(source, intercept, dtype)
    here = blocks(stream.in_memory())
    assert blocks(stream) == here
    held = written(stream)
    assert blocks(held) == here
    forget(held.path)
    assert blocks(held) == here
    assert len(stream) == source.rows
    assert stream.nbytes == written(stream).nbytes == stream.in_memory().nbytes


def step(rows: LocalRows, state: int, _: None) -> tuple[int, Any, Any]:
    """Read the rows twice."""
    return state, rows.rows, [rows.sum(lambda block: (block.X.sum(axis=0),)) for _ in range(2)]


@pytest.mark.parametrize("source", [Synthetic(ROWS, 3, 1), "files"])
def test_local_problems_are_the_same_three_times(tmp_path: Path, source: Any) -> None:
    stream = streamed(table(tmp_path) if source == "files" else source)
    size = 16384
    states = list(range(-(-ROWS // size)))
    expected = each_in(stream.in_memory(), step, states, (None,), size)
    for held in (stream, written(stream)):
        found = each_in(held, step, states, (None,), size)
        np.testing.assert_equal(found, expected)
    assert expected[1] == 2


@settings(max_examples=20)
@given(st.integers(0, 6), st.integers(1, 6), st.sampled_from([1, 2, 4]))
def test_a_stream_of_any_range_in_any_windows_is_that_range(first: int, length: int, windows: int) -> None:
    source = Synthetic(ROWS, 4, 3)
    bounds = (first * 8192, min((first + length) * 8192, ROWS))
    chunk = source.chunk(bounds, 8192)
    found = [(w.start, w.X.copy(), w.y.copy()) for w in source.windows(bounds, windows * 8192, 8192)]
    np.testing.assert_array_equal(np.concatenate([X for _, X, _ in found]), chunk.X)
    np.testing.assert_array_equal(np.concatenate([y for _, _, y in found]), chunk.y)
    assert [start for start, _, _ in found] == list(range(*bounds, windows * 8192))


def damage(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(
    "fault", ["gone", "folder gone", "cut", "empty", "a bit", "zeros", "header", "sums", "swapped"]
)
def test_a_damaged_file_is_written_again(fault: str, cold: bool) -> None:
    held = written(streamed(Synthetic(ROWS, 15, 4)))
    here, path = blocks(held), held.path
    size = path.stat().st_size
    whole = path.read_bytes()
    if fault == "gone":
        path.unlink()
    elif fault == "folder gone":
        shutil.rmtree(path.parent)
    elif fault in ("cut", "empty"):
        path.write_bytes(whole[: size // 2 if fault == "cut" else 0])
    elif fault == "a bit":
        damage(path, size - 50_000, bytes([whole[size - 50_000] ^ 4]))
    elif fault == "zeros":
        damage(path, 3 * 4096, bytes(4096))
    elif fault == "header":
        damage(path, 0, b"\xff{}")
    elif fault == "sums":
        path.write_bytes(whole[:-4])
    else:  # two pages in each other's place
        damage(path, 4096, whole[8192:12288] + whole[4096:8192])
    if path.exists():
        assert path.read_bytes() != whole
        if cold:
            forget(path)
    assert blocks(held) == here
    assert path.read_bytes() == whole


def test_a_disk_that_never_gives_back_what_was_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    held = written(streamed(Synthetic(ROWS, 15, 4)))
    monkeypatch.setattr(disk, "checksum", lambda words: int(words[0]) % 1000 + len(words) + id(words) % 7919)
    with pytest.raises(ClusterError, match="gives back other bytes than were written"):
        blocks(held)


def test_a_disk_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    held = written(streamed(Synthetic(ROWS, 15, 4)))
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ClusterError, match=r"local disk \(.*key\) \(input/output error\): reading failed"):
        blocks(held)


def test_rows_of_other_data_go_when_the_disk_is_full(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = streamed(Synthetic(ROWS, 15, 4))
    old = OnDisk(stream, "old", 0, ROWS).write()
    free = iter([10**12, 0, 10**12])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, next(free)))  # type: ignore[attr-defined]
    OnDisk(stream, "new", 0, ROWS).write()
    assert old.path.exists()  # there was room for both
    OnDisk(stream, "newest", 0, ROWS).write()
    assert not old.path.exists()
    assert sorted(path.name for path in scratch.iterdir()) == ["new", "newest"]


def test_rows_in_use_are_the_last_to_go(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = streamed(Synthetic(ROWS, 15, 4))
    held = {key: OnDisk(stream, key, 0, ROWS).write() for key in ("first", "second")}
    for age, key in enumerate(("second", "first")):
        os.utime(scratch / key, (1000 + age, 1000 + age))
    blocks(held["second"])  # a pass over what was written longest ago
    free = iter([0, 10**12])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, next(free)))  # type: ignore[attr-defined]
    OnDisk(stream, "third", 0, ROWS).write()
    assert sorted(path.name for path in scratch.iterdir()) == ["second", "third"]


def test_a_full_disk_is_one_line_and_leaves_no_half_file(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Iterator[Any]:
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(Synthetic, "windows", full)
    with pytest.raises(ClusterError, match=r"no space left on device.*6.4 MB needed"):
        written(streamed(Synthetic(ROWS, 15, 4)))
    assert not [path for path in scratch.rglob("*") if path.is_file()]


def test_what_is_written_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held = written(streamed(Synthetic(ROWS, 15, 4)))
    before = held.path.stat().st_mtime_ns
    assert written(held.stream).path.stat().st_mtime_ns == before
    assert len(replace(held, first=8192, last=20_000)) == 20_000 - 8192


def test_rows_of_other_files_of_the_same_name_size_and_time_have_other_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    monkeypatch.setattr(sources, "map_where", lambda *_, rows_key, **__: keys.append(rows_key) or [])

    def key(name: str, seed: int) -> str:
        path = tmp_path / name / "x.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.random.default_rng(seed).standard_normal((100, 3)))
        os.utime(path, ns=(0, 0))  # as out of an archive
        return key_of(path)

    def key_of(path: Path) -> str:
        source = open_source(str(path), "x2", None, None, None)
        source.open(None)
        made = plan(solver="t", rows=100, columns=2, storage="disk", disk=10**9)
        source.make(made, False)(None, [0], 0, None)  # type: ignore[arg-type]
        return keys[-1]

    first = key("a", 1)
    assert key_of(tmp_path / "a" / "x.npy") == first
    assert key("b", 2) != first  # in another folder
    assert key("a", 3) != first  # in its own place


def test_what_another_fit_removes_meanwhile_is_no_error(scratch: Path) -> None:
    scratch.mkdir()
    (scratch / "probe").symlink_to("removed")
    assert written(streamed(Synthetic(ROWS, 15, 4))).path.exists()
