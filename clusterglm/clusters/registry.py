"""Records of clusters, one JSON file each, in the user's state directory: a cache that may be deleted.

A record is changed under an exclusive ``flock`` on a separate file: read, change, write whole. Readers take no lock.
Files are 0600 in folders of 0700.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterglm.clusters.files import PARTIAL, write_whole
from clusterglm.clusters.launcher import SCHEMA, Record
from clusterglm.errors import ClusterError, UsageError, unknown

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_STALE_SECONDS = 3600.0
_EMPTY = Record(name="", target="", workers=0, host="", user=0, created="")


def checked_name(name: str, what: str = "--name") -> str:
    """Return the name of a cluster, which becomes part of paths, or refuse it.

    Raises
    ------
    UsageError
        Not ``[a-z][a-z0-9-]{0,30}``.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(what, name, "lower-case letters, digits and -, starting with a letter, at most 31")
    return name


def now() -> str:
    """Return the time in UTC, to the second, as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def state_path() -> Path:
    """Return the path of clusterglm's folder in the user's state directory; nothing is touched."""
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "clusterglm"
    import platformdirs

    return Path(platformdirs.user_state_dir("clusterglm"))


def state_folder() -> Path:
    """Return clusterglm's folder in the user's state directory, made where it is missing.

    Raises
    ------
    ClusterError
        It cannot be written, is a link, belongs to another user, or others may write to it.
    """
    folder = state_path()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder) from error
    return private_folder(folder)


def private_folder(folder: Path) -> Path:
    """Make a folder of mode 0700, or check the one that is there.

    Raises
    ------
    ClusterError
        As for :func:`state_folder`.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise _not_writable(folder) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ClusterError("state directory", folder, "a link or a file, not a folder: move it, or set XDG_STATE_HOME")
    if found.st_uid != os.getuid():
        raise ClusterError("state directory", folder, f"belongs to user {found.st_uid}: set XDG_STATE_HOME")
    if found.st_mode & 0o022:
        raise ClusterError("state directory", folder, f"writable by others: chmod 700 {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _not_writable(folder)
    return folder


def _not_writable(folder: Path) -> ClusterError:
    return ClusterError("state directory", folder, "not writable: set XDG_STATE_HOME")


def run_folder(name: str) -> Path:
    """Return the folder of a cluster's logs and scratch files (not made here)."""
    return state_path() / "clusters" / checked_name(name, "cluster")


def cluster_folder(name: str) -> Path:
    """Return that folder, made where it is missing; raises as ``private_folder`` does."""
    private_folder(state_folder() / "clusters")
    return private_folder(run_folder(name))


class Registry:
    """The records of one user. Two of these objects, in any processes, see the same records."""

    def __init__(self) -> None:
        self.folder = private_folder(state_folder() / "records")
        self._sweep()

    def names(self) -> list[str]:
        """Return the names of all records, those of clusters that are down included."""
        return sorted(path.stem for path in self.folder.glob("*.json") if _NAME.fullmatch(path.stem))

    def read(self, name: str) -> Record | None:
        """Return the record of a cluster, None where there is none.

        Raises
        ------
        ClusterError
            A record that cannot be read, or that a newer clusterglm wrote. The file is kept as it is.
        """
        path = self._path(name)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8") as file:
                content = json.load(file)
            schema = content["schema"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"record {path.name}", None, f"not readable as a record: move {path} away") from error
        if schema != SCHEMA:
            cure = f"written by a newer clusterglm: upgrade, or move {path} away"
            raise ClusterError(f"record {path.name}", f"schema {schema}", cure)
        try:
            record = Record(**content)
            pattern = dataclasses.asdict(_EMPTY)
            fits = all(type(content.get(key, value)) is type(value) for key, value in pattern.items())
        except TypeError:
            fits = False
        if not fits or record.name != name or record.state not in {"starting", "up", "down"}:
            raise ClusterError(f"record {path.name}", None, f"not readable as a record: move {path} away")
        return record

    def load(self, name: str, what: str = "cluster") -> Record:
        """Return the record of a cluster, or the error that lists those there are (exit code 2)."""
        if (record := self.read(checked_name(name, what))) is None:
            raise not_known(name, self.open_names(), what)
        return record

    def open_names(self) -> list[str]:
        """Return the names of clusters that are not down, unreadable records included."""
        names = []
        for name in self.names():
            try:
                record = self.read(name)
            except ClusterError:
                record = None
            if record is None or record.state != "down":
                names.append(name)
        return names

    def create(self, record: Record) -> None:
        """Write the record of a new cluster.

        Raises
        ------
        ClusterError
            The name is in use: of two that create it at once, exactly one gets here.
        """
        with self._locked(record.name):
            old = self.read(record.name)
            if old is not None and old.state != "down":
                cure = f"in use since {old.created} on {old.target}: another name, or clusterglm down {old.name}"
                raise ClusterError("--name", old.name, cure)
            self._write(record)

    def update(self, name: str, **changes: Any) -> Record:
        """Change fields of a record and return it; a field given as a function is applied to the old value."""
        with self._locked(name):
            record = self.load(name)
            values = {key: new(getattr(record, key)) if callable(new) else new for key, new in changes.items()}
            record = dataclasses.replace(record, **values)
            self._write(record)
            return record

    def save(self, record: Record) -> None:
        """Write a record whatever was there, such as one made up again from what the system says."""
        with self._locked(record.name):
            self._write(record)

    @contextlib.contextmanager
    def holding(self, name: str, command: str) -> Iterator[None]:
        """Hold a cluster for as long as a command changes it (``up``, ``scale``, ``down``).

        Raises
        ------
        ClusterError
            Another command holds it; the message says which. The lock of a process that was killed is free.
        """
        path = self.folder / f"{checked_name(name, 'cluster')}.busy"
        with _flock(path, wait=False) as file:
            if file is None:
                holder = _holder(path)
                where = f"pid {holder.get('pid', '?')} on {holder.get('host', '?')}"
                doing = {"up": "started", "down": "taken down"}.get(str(holder.get("command")), "changed")
                raise ClusterError("--cluster", name, f"being {doing} by {where} since {holder.get('since', '?')}")
            content = {"command": command, "pid": os.getpid(), "host": socket.gethostname(), "since": now()}
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(content).encode(), 0)
            yield

    def busy(self, name: str) -> dict[str, Any]:
        """Return who holds a cluster (command, pid, host, since), an empty dict where nobody does."""
        path = self.folder / f"{checked_name(name, 'cluster')}.busy"
        with _flock(path, wait=False) as file:
            return _holder(path) if file is None else {}

    def _path(self, name: str) -> Path:
        return self.folder / f"{checked_name(name, 'cluster')}.json"

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with _flock(self._path(name).with_suffix(".lock"), wait=True):
            yield

    def _write(self, record: Record) -> None:
        try:
            write_whole(self._path(record.name), json.dumps(dataclasses.asdict(record), indent=1))
        except OSError as error:
            raise ClusterError("state directory", self.folder, f"{error.strerror}: set XDG_STATE_HOME") from error

    def _sweep(self) -> None:
        """Remove the temporary files that killed writers left."""
        for path in self.folder.glob(f"*{PARTIAL}"):
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def not_known(name: str, names: list[str], what: str = "cluster") -> Exception:
    """Return the error for a cluster that is neither recorded nor running."""
    if names:
        return unknown(what, name, names)
    return UsageError(what, name, "not known: no cluster is up; start one with clusterglm up local")


@contextlib.contextmanager
def _flock(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Hold an exclusive lock on a file and yield its descriptor; None where it is held and ``wait`` is off."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_writable(path.parent) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        except OSError as error:
            if error.errno not in {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}:
                raise
            cure = "its file system has no locks: set XDG_STATE_HOME to a local disk"
            raise ClusterError("state directory", path.parent, cure) from error
        yield file
    finally:
        os.close(file)  # which also gives the lock back


def _holder(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
