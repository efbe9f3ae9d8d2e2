"""A folder, or a prefix of objects, that is written as a whole: nobody meets it half-written.

Everything is written under a name that readers pass over, and moved when it is complete; on a file system that is one
rename. A mark lies in the unfinished folder for as long as it is wanted: a task that finds it gone, because somebody
pressed Ctrl-C while it wrote, removes what it has written itself.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterglm.data import remote
from clusterglm.data.files import location
from clusterglm.data.listing import FORMATS, STORE
from clusterglm.errors import ClusterError, UsageError, quoted
from clusterglm.units import format_size

_MARK = "_unfinished"
_REMOVING_SECONDS = 30.0


@dataclass(frozen=True)
class Target:
    """``path`` is an absolute path or a URL, ``url`` what the user wrote, ``staging`` where it is written first."""

    url: str
    path: Path | str
    staging: Path | str

    @classmethod
    def of(cls, url: str, option: str = "--to") -> Target:
        """Return the target that a path or a URL means; nothing is touched.

        Raises
        ------
        UsageError
            No path, or a URL that nobody here can write.
        """
        path, group = location(url, option)
        if group:
            raise UsageError(option, url, "names a group in a file: name a folder")
        if isinstance(path, str):
            if path.startswith(("http://", "https://", "memory://")):
                raise UsageError(option, url, "cannot be written: name a folder, or a URL such as s3://BUCKET/KEY")
            path = path.rstrip("/")
            if set(path) & set("*?[]"):
                raise UsageError(option, url, "holds a letter of patterns (* ? [ ]): another name")
            return cls(url, path, f"{path}/{_MARK}-{uuid.uuid4().hex[:12]}")
        path = path.resolve()
        return cls(url, path, path.parent / f".{path.name}{_MARK}-{socket.gethostname()}-{os.getpid()}")

    def check(self, needed: int, overwrite: bool) -> None:
        """Look whether ``needed`` bytes can go there; with ``overwrite``, instead of data files that are there now.

        Raises
        ------
        UsageError
            Something is there already that must stay, or nothing can be written there.
        ClusterError
            The disk is too small, or the store does not answer, or not to us.
        """
        try:
            self._check(needed, overwrite)
        except OSError as error:
            raise self._unwritable(error) from error

    def _check(self, needed: int, overwrite: bool) -> None:
        held = self._held()
        if held and not overwrite:
            raise UsageError("--to", self.url, "is there and not empty: another name, or --overwrite")
        if not STORE & held:
            for name in sorted(held):
                if Path(name).suffix.lower() not in FORMATS:
                    cure = f"holds {quoted(name)}, which is no file of data: another name"
                    raise UsageError("--to", self.url, cure)
        if isinstance(self.path, Path):
            if self.path.is_mount():
                raise UsageError("--to", self.url, "is where a disk is mounted: name a folder in it")
            there = next(folder for folder in (self.path, *self.path.parents) if folder.exists())
            free = shutil.disk_usage(there).free
            if needed > free:
                cure = f"{format_size(needed)} needed, {format_size(free)} free: fewer rows, or another disk"
                raise ClusterError("--to", self.url, cure)

    def holds(self, place: Path | str) -> bool:
        """Whether what lies at ``place`` would be replaced with the target."""
        if isinstance(self.path, str) or isinstance(place, str):
            return f"{place}/".startswith(f"{self.path}/")
        return place.resolve().is_relative_to(self.path)

    def _held(self) -> set[str]:
        """Return the names of what lies in the target, but for what is unfinished: of this process or a killed one."""
        if isinstance(self.path, str):
            with contextlib.suppress(FileNotFoundError):
                names = [item.url.removeprefix(self.path).strip("/") for item in remote.now(self.path)]
                held = {name.partition("/")[0] or self.path for name in names}
                return {name for name in held if not name.startswith(f"{_MARK}-")}
            return set()
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("--to", self.url, "is a file: name a folder")
        return {item.name for item in self.path.iterdir()} if self.path.exists() else set()

    @contextlib.contextmanager
    def staged(self) -> Iterator[None]:
        """Make room for what is written inside this, and remove it all whatever goes wrong.

        Raises
        ------
        UsageError
            The place is not writable.
        ClusterError
            Its store does not answer, or not to us.
        """
        made: list[Path] = []
        try:
            self._begin(made)
            yield
        except BaseException:
            self.remove()
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        if isinstance(self.path, Path):
            shutil.rmtree(self._replaced, ignore_errors=True)

    @property
    def _replaced(self) -> Path:
        """Where the old files go until the new ones are in their place."""
        assert isinstance(self.staging, Path)
        assert isinstance(self.path, Path)
        begin = f".{self.path.name}{_MARK}"
        return self.staging.with_name(f"{begin}-old{self.staging.name.removeprefix(begin)}")

    def _begin(self, made: list[Path]) -> None:
        if isinstance(self.staging, str):
            system, path = remote.store(self.staging)
            with remote.answered(self.url, "write"):
                try:
                    system.pipe_file(f"{path}/{_MARK}", b"unfinished")
                except FileNotFoundError as error:
                    raise ClusterError("--to", self.url, "no such bucket: make it first") from error
            return
        try:
            made += [folder for folder in self.staging.parents if not folder.exists()]
            self.staging.parent.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self.staging.mkdir()
            (self.staging / _MARK).touch()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError("--to", self.url, f"not writable ({(error.strerror or str(error)).lower()})")

    def _sweep(self) -> None:
        """Remove what a process left that was killed while it wrote the same target."""
        assert isinstance(self.path, Path)
        for left in self.path.parent.glob(f".{glob.escape(self.path.name)}{_MARK}*-{socket.gethostname()}-*"):
            owner = left.name.rpartition("-")[2]
            if owner.isdigit() and (int(owner) == os.getpid() or not Path(f"/proc/{owner}").exists()):
                shutil.rmtree(left, ignore_errors=True)

    def write(self, name: str, content: Any) -> None:
        """Write a file of the target, from a worker: ``content`` is any buffer of bytes.

        Raises
        ------
        ClusterError
            No room, no right, or the folder is not there where this runs.
        """
        if isinstance(self.staging, str):
            system, path = remote.store(self.staging)
            with remote.answered(self.url, "write"):
                system.pipe_file(f"{path}/{name}", bytes(content), **_one_request(system))
            self.leave_if_over()
            return
        temporary = self.staging / f".{name}-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.staging / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self.refusal(error) from error

    def refusal(self, error: OSError) -> ClusterError:
        """Return the error that says why the system did not let the target be written."""
        reason = (error.strerror or str(error)).lower()
        host = socket.gethostname()
        cure = f"writing failed on {host}: everything written is removed"
        if isinstance(error, FileNotFoundError):
            cure = f"not there on {host}: every worker must see the same folder"
        return ClusterError(f"--to ({quoted(self.url)})", reason, cure)

    def leave_if_over(self) -> None:
        """Remove what was written if nobody wants it any more.

        Raises
        ------
        ClusterError
            That is so.
        """
        if isinstance(self.staging, str):
            system, path = remote.store(self.staging)
            with remote.answered(self.url, "write"):
                wanted = system.exists(f"{path}/{_MARK}")
        else:
            wanted = (self.staging / _MARK).exists()
        if not wanted:
            self.remove()
            raise ClusterError("--to", self.url, "was given up while it was written")

    def publish(self, overwrite: bool) -> None:
        """Move what was written to where it belongs, complete as it is now.

        Raises
        ------
        ClusterError
            It could not be moved.
        """
        if isinstance(self.staging, str):
            self._publish_objects(overwrite)
            return
        assert isinstance(self.path, Path)
        for left in (*self.staging.glob(".*"), *self.staging.rglob("*.partial"), self.staging / _MARK):
            left.unlink(missing_ok=True)  # of workers that died while they wrote; what they wrote was written again
        try:
            if overwrite and self.path.exists():
                self.path.rename(self._replaced)
            self.staging.rename(self.path)
        except OSError as error:  # not empty: somebody else has written it meanwhile
            raise self.refusal(error) from error

    def _publish_objects(self, overwrite: bool) -> None:
        system, staging = remote.store(str(self.staging))
        path = remote.store(str(self.path))[1]
        with remote.answered(self.url, "write"):
            old = set(system.find(path)) if overwrite else set()
            names = [name for name in system.find(staging) if not name.endswith(f"/{_MARK}")]
            places = [path + name.removeprefix(staging) for name in names]
            try:
                system.copy(names, places)
            except BaseException:
                _rm(system, set(places) - old)
                raise
            _rm(system, {name for name in old if not name.startswith(staging)} - set(places))
        self.remove()

    def remove(self) -> None:
        """Remove what was written; the mark first, so that a task which still writes knows."""
        if isinstance(self.staging, str):
            system, path = remote.store(self.staging)
            with contextlib.suppress(FileNotFoundError), remote.answered(self.url, "write"):
                system.invalidate_cache()
                _rm(system, {f"{path}/{_MARK}"})
                _rm(system, system.find(path))
            return
        until = time.monotonic() + _REMOVING_SECONDS
        with contextlib.suppress(OSError):
            if self._replaced.exists() and isinstance(self.path, Path) and not self.path.exists():
                self._replaced.rename(self.path)
        with contextlib.suppress(OSError):
            (self.staging / _MARK).unlink(missing_ok=True)
        while self.staging.exists() and time.monotonic() < until:  # a worker that dies may still be writing
            shutil.rmtree(self.staging, ignore_errors=True)


def _rm(system: Any, names: Collection[str]) -> None:
    if names:
        with contextlib.suppress(FileNotFoundError):
            system.rm(sorted(names))


def _one_request(system: Any) -> dict[str, int]:
    """Return what keeps s3fs from cutting an upload, whose pieces would stay for ever where its process is killed."""
    return {"chunksize": 2**30} if "s3" in system.protocol else {}
