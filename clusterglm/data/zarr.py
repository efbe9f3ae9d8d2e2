"""Zarr stores, of formats 2 and 3, on a file system or behind a URL."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusterglm.data import arrays, remote
from clusterglm.data.arrays import Columns
from clusterglm.data.columns import Look
from clusterglm.data.files import DataFile, unchanged
from clusterglm.errors import ClusterError, ClusterglmError, DataError, quoted

_BROKEN = (
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    IndexError,
    NotImplementedError,
)  # what codecs and parsers raise


def look(run: Callable[..., list[Any]], files: list[DataFile]) -> list[Look]:
    """Return what the stores' metadata say, read by tasks of ``run``."""
    return [seen for group in run(_metadata, [[file] for file in files]) for seen in group]


def _metadata(files: Sequence[DataFile]) -> list[Look]:
    looks = []
    for file in files:
        with unchanged(file), _readable(file, "metadata"):
            found = _arrays(file)
            seen = arrays.look(file, found)
            looks.append(seen._replace(notes=(*seen.notes, *_gaps(file, found))))
    return looks


def _gaps(file: DataFile, found: dict[str, Any]) -> Iterator[str]:
    """Yield a note for every array of which chunks are not there: zeros, or lost."""
    for name, array in found.items():
        missing = 0 if array.shards else array.nchunks - array.nchunks_initialized
        if missing:
            place = quoted(f"{file.name}/{name}".rstrip("/"))
            stored = f"{missing} of {array.nchunks} chunks are not stored"
            yield f"note: {place}: {stored}: read as {array.fill_value}, the value that fills them"


def batches(file: DataFile, kinds: dict[str, str]) -> Iterator[Columns]:
    """Yield the rows of the file's pieces, in order; ``kinds`` names the columns."""
    place = f"rows {file.pieces[0].first + 1} to {file.pieces[-1].stop}"
    with _readable(file, place):
        yield from arrays.batches(file, _arrays(file), kinds)


def _arrays(file: DataFile) -> dict[str, Any]:
    """Return the arrays of the store, or of the group in it that is meant."""
    zarr = package()
    try:
        opened = zarr.open(store(file.path, read_only=True), path=file.group, mode="r")
    except FileNotFoundError as error:  # zarr's own errors are of this class
        cure = "no such group or array in it" if file.group else "not readable as zarr: copy it again"
        raise DataError(quoted(file.name), f"::/{file.group}" if file.group else None, cure) from error
    found = dict(opened.arrays()) if isinstance(opened, zarr.Group) else {"": opened}
    for array in found.values():
        if "pickle" in repr((array.filters, array.compressors)).lower():
            raise DataError(quoted(file.name), None, "holds pickled objects, which could run anything: save numbers")
    return found


def store(path: Path | str, read_only: bool = False) -> Any:
    """Return what the package ``zarr`` reads and writes a store at a path or URL with."""
    storage = package().storage
    if isinstance(path, str):
        with remote.answered(path):
            return storage.FsspecStore.from_url(path, remote.options(path), read_only=read_only)
    return storage.LocalStore(path, read_only=read_only)


def package() -> Any:
    """Return the package ``zarr``.

    Raises
    ------
    ClusterError
        It is not installed where this runs.
    """
    try:
        import zarr
    except ImportError as error:
        raise ClusterError("zarr", None, "not installed where the workers run: pip install zarr") from error
    warnings.filterwarnings("ignore", "Object at .* is not recognized")  # a file that somebody laid beside the arrays
    return zarr


@contextmanager
def _readable(file: DataFile, part: str) -> Iterator[None]:
    try:
        yield
    except (ClusterglmError, GeneratorExit):
        raise
    except _BROKEN as error:
        raise DataError(f"{quoted(file.name)} ({part})", None, "not readable as zarr: copy it again") from error
    except Exception as error:
        if isinstance(file.path, str):
            raise remote.refusal(file.path, error) from error
        raise
