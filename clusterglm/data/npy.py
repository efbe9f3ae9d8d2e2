"""NumPy's .npy files: mapped piece by piece, or fetched by ranges of bytes where they are behind a URL."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clusterglm.data import arrays, remote
from clusterglm.data.arrays import Columns
from clusterglm.data.columns import Look
from clusterglm.data.files import DataFile, unchanged
from clusterglm.errors import DataError, quoted

_HEADERS = 32  # headers that one task reads
_LONGEST_HEADER = 2**20  # bytes: a structured array names its fields in it


def look(run: Callable[..., list[Any]], files: list[DataFile]) -> list[Look]:
    """Return what the headers say, read by tasks of ``run``."""
    groups = [files[i : i + _HEADERS] for i in range(0, len(files), _HEADERS)]
    return [seen for group in run(_headers, groups) for seen in group]


def _headers(files: Sequence[DataFile]) -> list[Look]:
    looks = []
    for file in files:
        with unchanged(file):
            looks.append(arrays.look(file, {"": _opened(file)}))
    return looks


def batches(file: DataFile, kinds: dict[str, str]) -> Iterator[Columns]:
    """Yield the rows of the file's pieces, in order; ``kinds`` names the columns."""
    yield from arrays.batches(file, {"": _opened(file)}, kinds)


def _opened(file: DataFile) -> Any:
    try:
        return _Fetched(file) if isinstance(file.path, str) else _Mapped(file)
    except (ValueError, EOFError, SyntaxError) as error:
        if "Python objects" in str(error):
            cure = "holds Python objects, which could run anything: save an array of numbers"
            raise DataError(quoted(file.name), None, cure) from error
        raise DataError(quoted(file.name), None, "not readable as npy: copy it again") from error


class _Mapped:
    """An array on a file system. What is read is mapped for as long as it is used, and no longer: mapped pages count
    as memory of the worker."""

    chunks = None
    attrs: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, file: DataFile) -> None:
        self.path = Path(file.path)
        mapped = self._map()
        self.shape, self.dtype = mapped.shape, mapped.dtype

    def _map(self) -> np.ndarray:
        return np.lib.format.open_memmap(self.path, mode="r", max_header_size=_LONGEST_HEADER)

    def __getitem__(self, cut: Any) -> np.ndarray:
        return np.asarray(self._map()[cut])


class _Fetched:
    """An array behind a URL."""

    chunks = None
    attrs: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, file: DataFile) -> None:
        self.url = str(file.path)
        head = io.BytesIO(remote.read(self.url, [(0, min(file.size, _LONGEST_HEADER))])[0])
        version = np.lib.format.read_magic(head)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            cure = "names of its fields are beyond Latin-1: read it from a local copy, or rename them"
            raise DataError(quoted(file.name), None, cure)
        self.shape: tuple[int, ...]
        self.shape, self.by_column, self.dtype = readers[version](head, max_header_size=_LONGEST_HEADER)
        self.start = head.tell()
        if self.dtype.hasobject:
            raise ValueError("Python objects")
        if self.start + self.dtype.itemsize * math.prod(self.shape) > file.size:
            raise ValueError("cut short")

    def __getitem__(self, cut: Any) -> np.ndarray:
        rows, columns = cut if isinstance(cut, tuple) else (cut, slice(0, None))
        size, width = self.dtype.itemsize, math.prod(self.shape[1:])
        if self.by_column and len(self.shape) == 2:
            starts = [self.start + size * j * self.shape[0] for j in range(*columns.indices(width))]
            parts = remote.read(self.url, [(s + size * rows.start, s + size * rows.stop) for s in starts])
            return np.stack([np.frombuffer(part, self.dtype) for part in parts], axis=1)
        row = size * width
        [data] = remote.read(self.url, [(self.start + row * rows.start, self.start + row * rows.stop)])
        values = np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])
        return values[:, columns] if isinstance(cut, tuple) else values
