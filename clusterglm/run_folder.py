"""The folder of one run: claimed by one fit, written whole file by whole file, and its checkpoint.

A checkpoint is the journal of the passes made so far (glm/problem.py) with a fingerprint of the data and the options.
It is an ``npz`` without pickles, replaced atomically: a kill leaves the old one or the new one.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from clusterglm.errors import ClusterError, DataError, UsageError
from clusterglm.glm.problem import Recorded

CHECKPOINT = "checkpoint.npz"
_SCHEMA = 1
_LOCK = ".lock"
_number = itertools.count()
_LEAST_SECONDS = 1.0  # between two checkpoints: their size grows with the passes


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers find the old one or the new one, also after a loss of power.

    Raises
    ------
    ClusterError
        The disk is full or the folder cannot be written; the old file is intact.
    """
    temporary = path.parent / f".{path.name}-{os.getpid()}-{next(_number)}"
    try:
        # Opened as any file of the user's, so that their umask says who may read a report.
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        cure = f"{len(content) / 1e6:.1f} MB needed"
        raise ClusterError(str(path), (error.strerror or str(error)).lower(), cure) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class RunFolder:
    """A run folder that this process has claimed; see ``claim``."""

    def __init__(self, path: Path, made: bool) -> None:
        self.path = path
        self._made = made
        self._written = -np.inf

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def resumable(self) -> bool:
        return self.checkpoint.exists()

    def write_json(self, name: str, value: Any) -> None:
        # JSON knows no infinity; a bound that is not there is null.
        write_whole(self.path / name, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())

    def write_table(self, name: str, columns: dict[str, Sequence[Any]]) -> None:
        """Write a Parquet table of these columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = io.BytesIO()
        pq.write_table(pa.table(columns), content)
        write_whole(self.path / name, content.getvalue())

    def save(self, journal: Sequence[Recorded], fingerprint: dict[str, Any], now: bool = False) -> None:
        """Write the checkpoint, at most once a second unless ``now``."""
        if not now and time.monotonic() - self._written < _LEAST_SECONDS:
            return
        entries = [
            {"passes": entry.passes, "key": entry.key, "shapes": [list(np.shape(a)) for a in entry.total]}
            for entry in journal
        ]
        meta = {"schema": _SCHEMA, "fingerprint": fingerprint, "entries": entries}
        flat = [np.ravel(a) for entry in journal for a in entry.total]
        values = np.concatenate(flat) if flat else np.empty(0)
        content = io.BytesIO()
        np.savez(content, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), values=values)
        write_whole(self.checkpoint, content.getvalue())
        self._written = time.monotonic()

    def abandon(self) -> None:
        """Remove what this run has made, unless there is a checkpoint to resume from."""
        if self._made and not self.resumable:
            shutil.rmtree(self.path, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[list[Recorded], dict[str, Any]]:
    """Return the journal and the fingerprint of a run folder's checkpoint.

    Raises
    ------
    UsageError
        No run folder, or one without a checkpoint.
    DataError
        A checkpoint that cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise UsageError("--resume", folder, f"no {CHECKPOINT} in it: name the folder of an interrupted run")
    try:
        with np.load(path, allow_pickle=False) as file:
            meta, values = json.loads(file["meta"].tobytes()), file["values"]
        if meta["schema"] != _SCHEMA:
            raise DataError(str(path), f"schema {meta['schema']}", "written by another version of clusterglm")
        journal, used = [], 0
        for entry in meta["entries"]:
            total = []
            for shape in entry["shapes"]:
                size = int(np.prod(shape))
                total.append(values[used : used + size].reshape(shape))
                used += size
            journal.append(Recorded(entry["passes"], entry["key"], tuple(total)))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(str(path), None, "not readable as a checkpoint: start again with a new --out") from error
    return journal, meta["fingerprint"]


@contextlib.contextmanager
def claim(path: Path, *, resume: bool = False, overwrite: bool = False) -> Iterator[RunFolder]:
    """Make or take over a folder for one run, and hold it against other fits.

    Raises
    ------
    UsageError
        It is a file, cannot be written, holds a run, or is in use by another fit.
    """
    option = "--resume" if resume else "--out"
    if path.exists() and not path.is_dir():
        raise UsageError(option, path, "is a file: name a folder")
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / _LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise UsageError(option, path, "another fit is writing there: another name") from None
    except OSError as error:
        raise UsageError(option, path, f"not writable ({(error.strerror or str(error)).lower()})") from error
    try:
        _make_room(path, resume, overwrite)
        folder = RunFolder(path, made or not any(p.name != _LOCK for p in path.iterdir()))
        try:
            yield folder
        except BaseException:
            folder.abandon()
            raise
    finally:
        (path / _LOCK).unlink(missing_ok=True)
        lock.release()


def _make_room(path: Path, resume: bool, overwrite: bool) -> None:
    for left in path.glob(".*-*"):  # temporary files of a run that was killed
        left.unlink(missing_ok=True)
    if resume:
        return
    if (path / "result.json").exists() or (path / CHECKPOINT).exists():
        if not overwrite:
            raise UsageError("--out", path, "holds a run: another name, --resume, or --overwrite")
        for name in ("result.json", CHECKPOINT):
            (path / name).unlink(missing_ok=True)
    elif any(p.name != _LOCK for p in path.iterdir()) and not overwrite:
        raise UsageError("--out", path, "holds other files: another name, or --overwrite")


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: numpy's numbers and arrays as Python's, what is not finite as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
