"""Spans of a file, read while those before them are worked on, and read past the page cache.

A page that is new in the page cache must first be found, and the guest of a virtual machine must get it back from its
host: rows from a fast disk would come at half its speed. So what is in the page cache is taken from there, and anything
else straight from the disk (O_DIRECT), which also leaves in the cache what is there. Where a system cannot do that, or
cannot tell what it has (mincore), all goes through the page cache.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

PAGE = 4096
PART_BYTES = 2**22  # what a disk is asked for at a time; larger ones are no faster
BUFFERS = 2  # of a part, that a thread holds: what it works on, and what comes

Span = tuple[int, int]

_LIBC = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "mincore") else None

_spare: list[np.ndarray] = []  # buffers, for who reads next: new memory costs more than reading into it


def read_ahead(path: Path, spans: Sequence[Span]) -> Iterator[np.ndarray]:
    """Yield the bytes of each span, (its first byte, how many), all of them multiples of a page, as uint8.

    They are overwritten when the next are asked for. They are fewer where the file ends. A span that follows on the one
    before it is read together with it.

    Raises
    ------
    OSError
        The file is not there, or cannot be read.
    """
    parts = _parts(spans)
    window = np.empty(max((size for _, size in spans), default=0), dtype=np.uint8)  # which stays in a core's cache
    with _File(path) as file, ThreadPoolExecutor(1) as reader:

        def begin(part: list[Span]) -> tuple[np.ndarray, Future[int]] | None:
            """Begin to read a part into a buffer, unless the first page of each of its spans is in the page cache."""
            first, size = part[0][0], sum(size for _, size in part)
            if all(file.has(at) for at, _ in part):
                return None
            buffer = _buffer(size)
            return buffer, reader.submit(file.read_past_cache, first, buffer[:size])

        begun = pairwise(chain(map(begin, parts), [None]))  # each with the next one, so that it has begun as well
        for part, (coming, _) in zip(parts, begun, strict=True):
            if coming is None:
                for at, size in part:
                    yield window[: file.read(at, window[:size])]
            else:
                buffer, data = coming[0], coming[0][: coming[1].result()]
                for at, size in part:
                    yield data[at - part[0][0] :][:size]
                _spare.append(buffer)


def only_these(fd: int) -> None:
    """Tell the system to read from this file what is asked for, and nothing around it."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)


def _parts(spans: Sequence[Span]) -> list[list[Span]]:
    """Return the spans in groups, each without a gap and read at once."""
    parts: list[list[Span]] = []
    stop = room = 0
    for at, size in spans:
        if at != stop or size > room:
            parts.append([])
            room = PART_BYTES
        parts[-1].append((at, size))
        stop, room = at + size, room - size
    return parts


def _buffer(size: int) -> np.ndarray:
    """Return a buffer of at least so many bytes that begins where a page does, as O_DIRECT wants it."""
    with suppress(IndexError):
        if len(buffer := _spare.pop()) >= size:
            return buffer
    room = np.empty(max(size, PART_BYTES) + PAGE, dtype=np.uint8)
    return room[-room.ctypes.data % PAGE :][: len(room) - PAGE]


class _File:
    """A file open for reading, through the page cache and past it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _File:
        with ExitStack() as opened:
            self.fd = os.open(self.path, os.O_RDONLY)
            opened.callback(os.close, self.fd)
            self.direct: int | None = None
            self.pages: np.ndarray | None = None
            # A file system, an empty file, and a system may each not have what it takes.
            with suppress(OSError, ValueError, AttributeError):
                # For mincore, never read. It is let go of, not closed: that fails while anything holds a view of it,
                # and a profiler holds for a moment the frames that it looks at.
                self.pages = np.frombuffer(mmap.mmap(self.fd, 0, prot=mmap.PROT_READ), dtype=np.uint8)
                self.address = self.pages.ctypes.data
                self.direct = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
                opened.callback(os.close, self.direct)
            self.close = opened.pop_all().close
        return self

    def __exit__(self, *_: object) -> None:
        self.pages = None
        self.close()

    def has(self, at: int) -> bool:
        """Whether the page that begins there is in the page cache, or can only be read through it."""
        if self.direct is None or _LIBC is None:
            return True
        page = ctypes.c_ubyte(1)
        _LIBC.mincore(ctypes.c_void_p(self.address + at), ctypes.c_size_t(1), ctypes.byref(page))
        return bool(page.value & 1)

    def read(self, at: int, into: np.ndarray) -> int:
        """Return how many bytes there were from ``at`` on."""
        return os.preadv(self.fd, [into.data], at)

    def read_past_cache(self, at: int, into: np.ndarray) -> int:
        assert self.direct is not None
        try:
            return os.preadv(self.direct, [into.data], at)
        except OSError as error:
            if error.errno != errno.EINVAL:  # that of a disk whose blocks are larger than a page
                raise
            return self.read(at, into)
