"""Files of data on a local or shared file system: finding them, and making sure that they stay what they were.

Everything here runs where the files are, in a task on a worker. A path is looked at before it is opened, so that a
pipe or a device never keeps anybody waiting.
"""

from __future__ import annotations

import errno
import glob
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clusterglm.errors import ClusterError, ClusterglmError, DataError, quoted

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".parq": "parquet", ".csv": "csv"}


class Piece(NamedTuple):
    """What is read at once: row groups (parquet) or bytes (csv) ``start`` to ``stop - 1``.

    ``first`` is the piece's first row within its file, counted from 0.
    """

    first: int
    rows: int
    start: int
    stop: int


@dataclass(frozen=True)
class DataFile:
    """A file as it was when the fit began.

    ``modified`` is its mtime in ns, ``header`` the columns of a csv file in its order, ``first`` the global
    index of its first row.
    """

    path: Path
    name: str
    size: int
    modified: int
    header: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    first: int = 0

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


def find(path: Path, url: str, home: str) -> tuple[str, list[DataFile], list[str]]:
    """Return the format, the files in the order of their names, and notes.

    ``path`` is absolute: a file, a folder (searched to its depth) or a pattern. ``url`` is what the user wrote,
    ``home`` the host on which that was.

    Raises
    ------
    DataError
        No such file, not a regular file, nothing that matches, or no format that can be read.
    ClusterError
        The files may not be read.
    """
    try:
        paths, base = _paths(path, url)
        found = [_look_at(p, str(p.relative_to(base)), url if p == path else str(p)) for p in paths]
    except FileNotFoundError as error:
        here = socket.gethostname()
        place = "" if here == home else f" on {here}: every worker must see the same files"
        raise DataError("--data", _shown(error, path, url), f"no such file{place}") from error
    except OSError as error:
        raise refusal("--data", error, _shown(error, path, url)) from error
    formats = {format for format, _ in found}
    if len(formats) > 1:
        raise DataError("--data", url, "holds .parquet and .csv files: name one kind, such as 'FOLDER/*.parquet'")
    files = sorted((file for _, file in found), key=lambda file: file.name)
    keyed = sorted({part for file in files for part in Path(file.name).parts[:-1] if "=" in part})
    notes = [f"note: --data ({quoted(keyed[0])}): values in folders' names are not read as columns"] if keyed else []
    return formats.pop(), files, notes


def _paths(path: Path, url: str) -> tuple[list[Path], Path]:
    """Return the files that ``path`` stands for, and the folder that their names are relative to."""
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207  the path is absolute
        found = (p for m in matches if not _hidden(m.name) for p in (_walk(m) if m.is_dir() else [m]))
        paths = list(dict.fromkeys(found))
        if not paths:
            raise DataError("--data", url, "matches 0 files")
        return paths, Path(os.path.commonpath([p.parent for p in paths]))
    if not stat.S_ISDIR(path.stat().st_mode):
        return [path], path.parent
    paths = list(_walk(path))
    if not paths:
        others = [name for _, _, names in os.walk(path) for name in names]
        suffixes = ", ".join(quoted(s) for s, _ in Counter(Path(name).suffix or name for name in others).most_common(3))
        more = f" ({len(others)} others: {suffixes})" if others else ""
        raise DataError("--data", url, f"no .parquet or .csv file in it{more}")
    return paths, path


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the data files at any depth, those of a folder once however often it is linked."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield from (Path(here, n) for n in names if not _hidden(n) and Path(n).suffix.lower() in FORMATS)


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _shown(error: OSError, path: Path, url: str) -> str:
    """Return the name of what ``error`` is about: as the user wrote it where the user did."""
    return url if error.filename is None or str(error.filename) == str(path) else str(error.filename)


def _look_at(path: Path, name: str, shown: str) -> tuple[str, DataFile]:
    """Return the format of a file, by its name or its first bytes, and the file as it is now."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError("--data", shown, "not a regular file")
    format = FORMATS.get(path.suffix.lower())
    if format is None:
        with path.open("rb") as opened:
            format = "parquet" if opened.read(4) == b"PAR1" else None
    if format is None:
        raise DataError("--data", shown, "neither a .parquet nor a .csv file: convert it, or give it its suffix")
    return format, DataFile(path, name, status.st_size, status.st_mtime_ns)


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
        status = file.path.stat()
    except FileNotFoundError as error:
        host = socket.gethostname()
        cure = "it was there when the fit began, and every worker must see it: put it back and start again"
        raise DataError(name, f"no such file on {host}", cure) from error
    except OSError as error:
        raise refusal(name, error) from error
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        at = time.strftime("%H:%M:%S", time.localtime(status.st_mtime))
        raise DataError(name, f"changed at {at}", "the fit mixes two versions: start again")
