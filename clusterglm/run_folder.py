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
import shlex
import socket
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from clusterglm import __version__
from clusterglm.errors import ClusterError, DataError, UsageError
from clusterglm.glm.problem import Recorded

if TYPE_CHECKING:
    from clusterglm.result import Result

CHECKPOINT = "checkpoint.npz"
_PAGES = ("report.html", "performance-report.html", "task-stream.html")
_FILES = ("result.json", "model.json", "plan.json", "history.parquet", "tasks.parquet", *_PAGES, CHECKPOINT)
_SCHEMA = 2
_LOCK = ".lock"
_CLUSTER = "cluster"  # the logs of a batch job that has a cluster of its own
_number = itertools.count()
_LEAST_SECONDS, _IDLE = 1.0, 20  # between two checkpoints: seconds, and in multiples of what the first took


def write_whole(path: Path, content: bytes | memoryview) -> None:
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
    """A run folder that this process has claimed; see ``claim``.

    Attributes
    ----------
    path : Path
    resumable : bool
        Whether it holds a checkpoint of this run. Nothing else is written before the first one.
    """

    def __init__(self, path: Path, resumable: bool) -> None:
        self.path, self.resumable = path, resumable
        self._next = -np.inf

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

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
        """Write the checkpoint, at most once a second and for a twentieth of the time, unless ``now``."""
        if not now and time.monotonic() < self._next:
            return
        began = time.monotonic()
        entries = [
            {
                "passes": entry.passes,
                "key": entry.key,
                "shapes": None if entry.total is None else [list(np.shape(a)) for a in entry.total],
            }
            for entry in journal
        ]
        meta = {"schema": _SCHEMA, "fingerprint": fingerprint, "entries": entries}
        flat = [np.ravel(a) for entry in journal for a in entry.total or ()]
        values = np.concatenate(flat) if flat else np.empty(0)
        content = io.BytesIO()
        np.savez(content, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), values=values)
        write_whole(self.checkpoint, content.getbuffer())
        if not self.resumable:
            self.resumable = True
            for name in set(_FILES) - {CHECKPOINT}:  # of the run that is overwritten
                (self.path / name).unlink(missing_ok=True)
        ended = time.monotonic()
        self._next = ended + max(_LEAST_SECONDS, _IDLE * (ended - began))


def load_checkpoint(folder: Path) -> tuple[list[Recorded], dict[str, Any]]:
    """Return the journal and the fingerprint of a run folder's checkpoint.

    Raises
    ------
    UsageError
        No run folder, or one without a checkpoint, or one that another version has made.
    DataError
        A checkpoint that cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise UsageError("--resume", folder, f"no {CHECKPOINT} in it: name the folder of an interrupted run")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            meta, values = json.loads(file["meta"].tobytes()), file["values"]
        if meta["schema"] != _SCHEMA or meta["fingerprint"]["version"] != versions():
            raise UsageError("--resume", folder, "made with other versions: start again with a new --out")
        journal, used = [], 0
        for entry in meta["entries"]:
            total = []
            for shape in entry["shapes"] or ():
                size = int(np.prod(shape))
                total.append(values[used : used + size].reshape(shape))
                used += size
            kept = None if entry["shapes"] is None else tuple(total)
            journal.append(Recorded(int(entry["passes"]), str(entry["key"]), kept))
        request, data = meta["fingerprint"]["request"], meta["fingerprint"]["data"]
        if not isinstance(request, dict) or not isinstance(data, dict) or values.dtype != np.float64:
            raise TypeError
    except OSError as error:
        raise ClusterError(str(path), (error.strerror or str(error)).lower(), "make it readable") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(str(path), None, "not readable as a checkpoint: start again with a new --out") from error
    return journal, meta["fingerprint"]


def versions() -> dict[str, str]:
    """Return the versions on which the bits of a fit depend."""
    return {"clusterglm": __version__, "numpy": np.__version__}


@contextlib.contextmanager
def claim(path: Path, *, resume: bool = False, overwrite: bool = False) -> Iterator[RunFolder]:
    """Make or take over a folder for one run, and hold it against other fits.

    A run that ends without a checkpoint leaves no trace: folders that were made for it go, older files stay.

    Raises
    ------
    UsageError
        It is a file, cannot be written, or holds a run.
    ClusterError
        Another fit is writing there.
    """
    option = "--resume" if resume else "--out"
    made: list[Path] = []
    lock = FileLock(path / _LOCK, timeout=0)
    try:
        try:
            if path.exists() and not path.is_dir():
                raise UsageError(option, path, "is a file: name a folder")
            made += [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            (path / _LOCK).write_text(f"pid {os.getpid()} on {socket.gethostname()}")
        except Timeout:
            raise ClusterError(option, path, f"{_holder(path)} is writing there: another name") from None
        except OSError as error:
            raise UsageError(option, path, f"not writable ({(error.strerror or str(error)).lower()})") from error
        _make_room(path, resume, overwrite)
        yield RunFolder(path, resumable=resume)
    finally:
        if lock.is_locked:
            (path / _LOCK).unlink(missing_ok=True)
            lock.release()
        for folder in made:
            with contextlib.suppress(OSError):  # a folder that holds something stays
                folder.rmdir()


def shell_word(value: object) -> str:
    """Return a path as a word for the shell, on one line and in ASCII whatever bytes it has."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    letters = (chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(text))
    return f"$'{''.join(letters)}'"


def _holder(path: Path) -> str:
    try:
        return f"another fit ({(path / _LOCK).read_text()})"
    except OSError:
        return "another fit"


def _make_room(path: Path, resume: bool, overwrite: bool) -> None:
    for left in path.glob(".*-*-*"):  # temporary files of a run that was killed
        name, *numbers = left.name[1:].rsplit("-", 2)
        if name in _FILES and all(number.isdigit() for number in numbers):
            left.unlink(missing_ok=True)
    if resume or overwrite:
        return
    if (path / "result.json").exists() or (path / CHECKPOINT).exists():
        raise UsageError("--out", path, "holds a run: another name, --resume, or --overwrite")
    if any(p.name not in (_LOCK, _CLUSTER) for p in path.iterdir()):
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


def write_run(folder: RunFolder, result: Result, plan: dict[str, Any]) -> None:
    """Write the run folder: data first, then the page that shows them."""
    from clusterglm.report.page import write_report

    began = time.perf_counter()
    write_data(folder, result, plan)
    write_report(folder.path)
    result.seconds["report"] = result.seconds.get("report", 0.0) + time.perf_counter() - began
    folder.write_json("result.json", result.as_dict())
    result.folder = folder.path


def write_data(folder: RunFolder, result: Result, plan: dict[str, Any]) -> None:
    """Write the plan beside what happened, the history, the model and the result."""
    passes, seconds = result.passes, result.seconds
    measured = {
        "passes": passes,
        "seconds_load": seconds["load"],
        "seconds_fit": seconds["fit"],
        "seconds_per_pass": seconds["fit"] / max(passes - 1, 1),  # the first is the look, which loading counts
        "peak_memory": result.memory.get("peak", 0),
    }
    folder.write_json("plan.json", plan | {"measured": measured})
    folder.write_table("history.parquet", result.history)
    folder.write_json("model.json", result.model())
    folder.write_json("result.json", result.as_dict())
