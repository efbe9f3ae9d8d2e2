"""Files of data, on a file system or behind a URL: what they were when a fit began, and that they stay it.

All but ``location`` runs where the files are, in a task on a worker.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from clusterglm.data import remote
from clusterglm.errors import ClusterError, ClusterglmError, DataError, UsageError, quoted


class Location(NamedTuple):
    """Where data are: an absolute path or pattern, or a URL; and the ``group`` or array within each file."""

    path: Path | str
    group: str = ""


def location(url: str, option: str = "--data") -> Location:
    """Return what the user's words for a place mean: ``PATH``, ``file://PATH``, ``PROTOCOL://...``, each with
    ``::/GROUP`` behind it where a part of a Zarr store or an HDF5 file is meant.

    Raises
    ------
    UsageError
        No path, or a URL that cannot be read here.
    """
    base, separator, group = url.rpartition("::")
    in_host = "]" in group.partition("/")[0]  # of http://[::1]/
    if not separator or "://" in group or in_host or os.path.lexists(url):
        base, group = url, ""
    group = group.strip("/")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", base)
    if not scheme:
        if not base or "\0" in base:
            raise UsageError(option, url, "not a path: name a file, a folder or a pattern")
        return Location(Path(base).absolute(), group)  # a worker may stand in another folder
    if scheme[1].lower() != "file":
        if base.lower().endswith((".h5", ".hdf5")):
            raise UsageError(option, url, "HDF5 is read from paths alone: copy it here, or write it as Zarr")
        return Location(remote.checked(base, option), group)
    host, slash, path = base[scheme.end() :].partition("/")
    if host not in ("", "localhost") or "\0" in path:
        raise UsageError(option, url, "not a path of this machine: write file:///PATH")
    return Location(Path(os.fsdecode(unquote_to_bytes(slash + path))), group)


class Piece(NamedTuple):
    """What is read at once: row groups (parquet), bytes (csv) or rows (arrays) ``start`` to ``stop - 1``.

    ``first`` is the piece's first row within its file, counted from 0.
    """

    first: int
    rows: int
    start: int
    stop: int


@dataclass(frozen=True)
class DataFile:
    """A file as it was when the fit began.

    ``path`` is a URL where it is an object of a remote store. ``modified`` is its mtime in ns, the version of an
    object, or a digest of all that a Zarr store holds; ``group`` the part of it that is meant, ``header`` the columns
    of a csv file in its order, ``first`` the global index of its first row. ``kept`` are, where rows with missing
    values are left out, those that stay of every piece, as (first, rows) counted within the file. ``changed`` is the
    ctime of a local file in ns, which unlike its mtime no program can set.
    """

    path: Path | str
    name: str
    size: int
    modified: int | str
    group: str = ""
    header: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    first: int = 0
    kept: tuple[tuple[int, int], ...] | None = None
    changed: int = 0

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.held)

    @property
    def held(self) -> tuple[tuple[int, int], ...]:
        """The first row and the rows of every piece, those without missing values where the others are left out."""
        return tuple((piece.first, piece.rows) for piece in self.pieces) if self.kept is None else self.kept


def state(path: Path | str) -> tuple[int, int | str]:
    """Return the size and the time or version of a file as it is now.

    Raises
    ------
    OSError
        It is gone, or may not be looked at.
    ClusterError
        Its store does not answer, or not to us.
    """
    if isinstance(path, str):
        held = remote.now(path)
        alone = len(held) == 1 and held[0].url == path
        return held[0][1:] if alone else digest((o.url.removeprefix(path), o.size, o.version) for o in held)
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    parts = (Path(here, name) for here, _, names in os.walk(path, onerror=fail) for name in names)
    stats = ((str(part.relative_to(path)), part.stat()) for part in parts)
    return digest((name, status.st_size, status.st_mtime_ns) for name, status in stats)


def changed(path: Path) -> int:
    """Return when the system last changed a file, or any file of a Zarr store, in ns."""
    parts = [path, *(Path(here, name) for here, _, names in os.walk(path) for name in names)]
    return max(part.stat().st_ctime_ns for part in parts)


def fail(error: OSError) -> None:
    """Raise what ``os.walk`` would pass over."""
    raise error


def digest(held: Iterable[tuple[str, int, object]]) -> tuple[int, str]:
    """Return the size of a Zarr store, and what changes with any part of it."""
    size, digest = 0, hashlib.sha256()
    for part in sorted(held):
        size += part[1]
        digest.update(repr(part).encode(errors="surrogateescape"))
    return size, digest.hexdigest()[:32]


@contextmanager
def byte_ranges(file: DataFile) -> Iterator[Callable[[int, int], bytes]]:
    """Yield ``read(start, stop)``, which returns the bytes ``start`` to ``stop - 1`` of a file.

    Raises
    ------
    DataError
        The file is shorter than that.
    OSError, ClusterError
        It is gone, or may not be read.
    """
    if isinstance(file.path, str):
        yield partial(_get, file.path)
        return
    with file.path.open("rb") as opened:
        yield partial(_pread, file, opened.fileno())


def _get(url: str, start: int, stop: int) -> bytes:
    return remote.read(url, [(start, stop)])[0]


def _pread(file: DataFile, number: int, start: int, stop: int) -> bytes:
    data = os.pread(number, stop - start, start)
    while len(data) < stop - start:  # a large read may come in parts
        more = os.pread(number, stop - start - len(data), start + len(data))
        if not more:
            raise DataError(quoted(file.name), "cut short", "start again when it is complete")
        data += more
    return data


def refusal(what: str, error: OSError, value: str | None = None) -> ClusterglmError:
    """Return the error that says why the system did not let ``what`` (``value``) be read."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)  # Arrow's own words are many
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
        return DataError(what, value, f"not a regular file: {reason}")
    if error.errno == errno.ENAMETOOLONG:
        return DataError(what, value, f"no such file: {reason}")
    cure = f"reading failed on {socket.gethostname()}: try again, or use a copy"
    if error.errno in (errno.EACCES, errno.EPERM):
        cure = f"make it readable by user {_user()} on {socket.gethostname()}"
    return ClusterError(what if value is None else f"{what} ({quoted(value)})", reason, cure)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@contextmanager
def unchanged(file: DataFile) -> Iterator[None]:
    """Read inside this: the file must be the one that the fit began with, before, after and whatever goes wrong.

    Raises
    ------
    DataError
        The file changed, or is gone.
    ClusterError
        It may not be read, or the system failed to.
    """
    _check(file)
    try:
        yield
    except OSError as error:
        _check(file)
        raise refusal(quoted(file.name), error) from error
    except DataError:
        _check(file)  # what looks like a broken file may be one that is being written
        raise
    _check(file)


def _check(file: DataFile) -> None:
    name = quoted(file.name)
    try:
        found = state(file.path)
    except FileNotFoundError as error:
        if isinstance(file.path, str):
            raise DataError(name, "gone", "it was there when the fit began: put it back and start again") from error
        host = socket.gethostname()
        cure = "it was there when the fit began, and every worker must see it: put it back and start again"
        raise DataError(name, f"no such file on {host}", cure) from error
    except OSError as error:
        raise refusal(name, error) from error
    if found != (file.size, file.modified):
        ns = found[1]
        at = f" at {time.strftime('%H:%M:%S', time.localtime(ns / 1e9))}" if isinstance(ns, int) else ""
        raise DataError(name, f"changed{at}", "the fit mixes two versions: start again")
