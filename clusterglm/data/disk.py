"""Rows that a worker has written to its local disk once, and reads in every pass.

A file holds one chunk: a header of 4,096 bytes, then window after window of the rows exactly as the kernels want them
(``X`` row by row in its storage dtype, then ``y``, ``weights`` and ``offset`` as float64, each at a multiple of 4,096
bytes), then a checksum of every window.

The files lie in the worker's own directory, which Dask removes with the worker, under a name that says which rows they
hold. The next fit of the same rows finds them there; rows of others go when the disk is full. A file that is missing,
cut short or damaged is written again from its recipe, so a chunk may move to any other worker.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clusterglm.data.ahead import PAGE, only_these, read_ahead
from clusterglm.data.chunk import Block, Chunk
from clusterglm.data.stream import Stream
from clusterglm.errors import ClusterError
from clusterglm.units import format_size

FOLDER = "clusterglm-rows"
_LAYOUT = 1


class _Damaged(Exception):
    """The file does not hold what it should."""


def scratch() -> Path:
    """Return the directory of this worker, which ends with it."""
    from distributed import get_worker

    return Path(get_worker().local_directory) / FOLDER


@dataclass(frozen=True)
class OnDisk:
    """The rows of ``stream``, in a file of the folder ``key`` on whatever worker this is asked.

    ``first`` and ``last`` are the global rows that are wanted of it, whole windows but for the end.
    """

    stream: Stream
    key: str
    first: int
    last: int

    def __sizeof__(self) -> int:
        return 1024  # which Dask counts as the worker's memory: the rows are in none

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def start(self) -> int:
        return self.first

    @property
    def block_rows(self) -> int:
        return self.stream.block_rows

    @property
    def columns(self) -> int:
        return self.stream.columns

    @property
    def dtype(self) -> str:
        return self.stream.dtype

    @property
    def nbytes(self) -> int:
        return self.stream.nbytes * len(self) // len(self.stream)

    @property
    def path(self) -> Path:
        return scratch() / self.key / f"{self.stream.start}-{self.stream.stop}.rows"

    def write(self) -> OnDisk:
        """Write the file, unless it is there already.

        Raises
        ------
        ClusterError
            The disk is full, or cannot be written.
        """
        path = self.path
        if path.exists():
            return self
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _make_room(path.parent, self.stream.nbytes)
            with temporary.open("xb") as file:
                _write(file, self.stream)
            temporary.replace(path)
        except OSError as error:
            cure = f"{format_size(self.stream.nbytes)} needed: make room, or set Dask's temporary-directory"
            raise ClusterError(f"local disk ({path.parent})", (error.strerror or str(error)).lower(), cure) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return self

    def blocks(self) -> Iterator[Block]:
        for window in self._windows():
            yield from window.blocks()

    def parts(self, rows: int) -> Iterator[OnDisk]:
        for first in range(self.first, self.last, rows):
            yield replace(self, first=first, last=min(first + rows, self.last))

    def _windows(self) -> Iterator[Chunk]:
        """Yield the windows from the first to the last row that are wanted; what is damaged is written again once."""
        size = self.stream.window_rows
        wanted = range((self.first - self.stream.start) // size, -(-(self.last - self.stream.start) // size))
        read = 0
        for _ in range(2):
            try:
                path = self.write().path
                with suppress(OSError):
                    os.utime(path.parent)  # rows in use are the last to go
                for window in _File(path).windows(wanted[read:]):
                    yield window
                    read += 1
                return
            except (_Damaged, FileNotFoundError):
                self.path.unlink(missing_ok=True)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                cure = "reading failed: use another disk"
                raise ClusterError(f"local disk ({self.path.parent})", reason, cure) from error
        cure = "it gives back other bytes than were written: use another disk"
        raise ClusterError(f"local disk ({self.path.parent})", None, cure)


def _make_room(folder: Path, needed: int) -> None:
    """Remove the rows of other data, those used longest ago first, as long as there is not enough space."""
    others = [other for other in folder.parent.iterdir() if other != folder]
    for other in sorted(others, key=_used):
        if shutil.disk_usage(folder).free > 2 * needed:
            return
        shutil.rmtree(other, ignore_errors=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another thread or fit has just removed it
        return 0.0


def _write(file: Any, stream: Stream) -> None:
    sums: list[int] = []
    header: dict[str, Any] = {}
    file.write(bytes(PAGE))
    for window in stream.windows(stream.window_rows):
        arrays = (window.X, window.y, window.weights, window.offset)
        data = b"".join(_padded(array) for array in arrays if array is not None)
        file.write(data)
        sums.append(checksum(np.frombuffer(data, dtype=np.uint64)))
        header = header or {
            "layout": _LAYOUT,
            "start": stream.start,
            "rows": len(stream),
            "columns": stream.columns,
            "dtype": stream.dtype,
            "block_rows": stream.block_rows,
            "window_rows": stream.window_rows,
            "weights": window.weights is not None,
            "offset": window.offset is not None,
        }
    file.write(np.array(sums, dtype=np.uint32).tobytes())
    file.seek(0)
    file.write(json.dumps(header).encode().ljust(PAGE))


def _padded(array: np.ndarray) -> bytes:
    data = np.ascontiguousarray(array).tobytes()
    return data + bytes(-len(data) % PAGE)


def checksum(words: np.ndarray) -> int:
    """Return a CRC of the sums of every page's 512 words: it sees what a CRC of all bytes would see on a disk, in a
    tenth of the time."""
    return zlib.crc32(np.add.reduce(words.reshape(-1, PAGE // 8), axis=1).tobytes())


class _File:
    """A file of rows, by what its header and its end say. Raises _Damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb", buffering=0) as file:
                only_these(file.fileno())
                self.header = json.loads(file.read(PAGE))
                itemsize = np.dtype(self.header["dtype"]).itemsize
                self.vectors = 1 + self.header["weights"] + self.header["offset"]
                self.sizes = (itemsize * self.header["columns"], *[8] * self.vectors)
                self.count = -(-self.header["rows"] // self.header["window_rows"])
                file.seek(self._at(self.count - 1) + self._bytes(self.count - 1))
                self.sums = np.frombuffer(file.read(4 * self.count), dtype=np.uint32)
        except (ValueError, KeyError, TypeError) as error:
            raise _Damaged from error
        if len(self.sums) != self.count or self.header["layout"] != _LAYOUT:
            raise _Damaged

    def _rows(self, k: int) -> int:
        return int(min(self.header["window_rows"], self.header["rows"] - k * self.header["window_rows"]))

    def _bytes(self, k: int) -> int:
        return sum(-(-self._rows(k) * size // PAGE) * PAGE for size in self.sizes)

    def _at(self, k: int) -> int:
        return PAGE + k * self._bytes(0)

    def windows(self, wanted: range) -> Iterator[Chunk]:
        """Yield these windows, each until the next is asked for. Raises _Damaged."""
        spans = [(self._at(k), self._bytes(k)) for k in wanted]
        for k, (_, size), data in zip(wanted, spans, read_ahead(self.path, spans), strict=True):
            if len(data) != size or checksum(data.view(np.uint64)) != self.sums[k]:
                raise _Damaged
            yield self._chunk(k, data)

    def _chunk(self, k: int, data: np.ndarray) -> Chunk:
        rows, at, arrays = self._rows(k), 0, []
        for size, dtype in zip(self.sizes, (self.header["dtype"], *["float64"] * self.vectors), strict=True):
            arrays.append(data[at : at + rows * size].view(dtype))
            at += -(-rows * size // PAGE) * PAGE
        X, y, *rest = arrays
        weights = rest.pop(0) if self.header["weights"] else None
        offset = rest.pop(0) if self.header["offset"] else None
        start = self.header["start"] + k * self.header["window_rows"]
        block_rows = self.header["block_rows"]
        return Chunk(X.reshape(rows, -1), y, weights, offset, start=start, block_rows=block_rows)
