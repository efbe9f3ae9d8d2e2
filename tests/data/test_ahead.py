"""Bytes of files: those that were written, whatever a file system can do, and nothing more in the page cache."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterglm.data import ahead
from clusterglm.data.ahead import PAGE, read_ahead

PARTS = [(PAGE, 3 * PAGE), (4 * PAGE, PAGE), (0, 8 * PAGE), (60 * PAGE, 2 * PAGE), (8 * PAGE, 8 * PAGE)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(1).bytes(64 * PAGE))
    forget(path)
    return path


def forget(path: Path) -> None:
    """Let no page of the file stay in the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached(path: Path) -> bool:
    with ahead._File(path) as file:
        return any(file.has(at) for at in range(0, path.stat().st_size, PAGE))


def parts(path: Path) -> list[bytes]:
    return [part.tobytes() for part in read_ahead(path, PARTS)]


def expected(path: Path) -> list[bytes]:
    whole = path.read_bytes()
    return [whole[at : at + size] for at, size in PARTS]


def flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT


def test_parts_are_what_was_written(path: Path) -> None:
    found = parts(path)
    assert found == expected(path)  # which reads all of it through the cache
    assert parts(path) == found


def test_a_profiler_that_holds_frames_is_not_in_the_way(path: Path) -> None:
    frames: list[Any] = []
    sys.setprofile(lambda frame, *_: frames.append(frame))  # Dask's does so for a moment, a hundred times a second
    try:
        found = parts(path)
    finally:
        sys.setprofile(None)
    assert found == expected(path)


def test_what_is_not_in_the_page_cache_does_not_go_there(path: Path) -> None:
    assert not cached(path)
    parts(path)
    assert not cached(path)
    path.read_bytes()
    assert cached(path)


def test_what_is_in_the_page_cache_is_taken_from_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = expected(path)
    used: set[int] = set()
    read = os.preadv

    def preadv(fd: int, *words: Any) -> int:
        used.add(flags(fd))
        return read(fd, *words)

    monkeypatch.setattr(os, "preadv", preadv)
    assert parts(path) == whole
    assert used == {0}
    forget(path)
    used.clear()
    assert parts(path) == whole
    assert used == {os.O_DIRECT}


def test_a_disk_of_larger_blocks_is_read_through_the_page_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.preadv

    def preadv(fd: int, *words: Any) -> int:
        if flags(fd):
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(fd, *words)

    monkeypatch.setattr(os, "preadv", preadv)
    assert parts(path) == expected(path)


@pytest.mark.parametrize("lacking", ["O_DIRECT", "mincore", "a file system"])
def test_a_system_without_such_reads_reads_the_same(lacking: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking == "O_DIRECT":
        monkeypatch.delattr(os, "O_DIRECT")
    elif lacking == "mincore":
        monkeypatch.setattr(ahead, "_LIBC", None)
    else:
        opened = os.open

        def refuse(path: Any, how: int, *words: Any, **more: Any) -> int:
            if how & os.O_DIRECT:
                raise OSError(errno.EINVAL, "Invalid argument")
            return opened(path, how, *words, **more)

        monkeypatch.setattr(os, "open", refuse)
    assert parts(path) == expected(path)


def test_a_part_is_shorter_where_the_file_ends(path: Path) -> None:
    whole = path.read_bytes()
    beyond = [(62 * PAGE, 4 * PAGE), (70 * PAGE, PAGE)]
    for _ in range(2):
        assert [part.tobytes() for part in read_ahead(path, beyond)] == [whole[62 * PAGE :], b""]
        forget(path)
    path.write_bytes(b"")
    assert [len(part) for part in read_ahead(path, beyond)] == [0, 0]
    assert list(read_ahead(path, [])) == []


def test_a_part_is_read_while_the_one_before_it_is_worked_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, begun = os.preadv, threading.Semaphore(0)

    def preadv(*words: Any) -> int:
        begun.release()
        return read(*words)

    monkeypatch.setattr(os, "preadv", preadv)
    coming = read_ahead(path, PARTS)
    whole = next(coming).tobytes()
    assert begun.acquire(timeout=60)
    assert begun.acquire(timeout=60)  # for the second part, which nobody has asked for yet
    assert [whole, *(part.tobytes() for part in coming)] == expected(path)


def test_nothing_is_left_open(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    parts(path)
    next(read_ahead(path, PARTS))  # and no more of it
    with pytest.raises(FileNotFoundError):
        list(read_ahead(path.with_name("none"), PARTS))
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before
