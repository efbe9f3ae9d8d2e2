"""Zarr stores, of formats 2 and 3, on a file system or behind a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    if isinstance(file.path, str):
        with remote.answered(file.path):
            store = zarr.storage.FsspecStore.from_url(file.path, remote.options(file.path), read_only=True)
    else:
        store = zarr.storage.LocalStore(file.path, read_only=True)
    try:
        opened = zarr.open(store, path=file.group, mode="r")
    except FileNotFoundError as error:  # zarr's own errors are of this class
        cure = "no such group or array in it" if file.group else "not readable as zarr: copy it again"
        raise DataError(quoted(file.name), f"::/{file.group}" if file.group else None, cure) from error
    found = dict(opened.arrays()) if isinstance(opened, zarr.Group) else {"": opened}
    for array in found.values():
        if "pickle" in repr((array.filters, array.compressors)).lower():
            raise DataError(quoted(file.name), None, "holds pickled objects, which could run anything: save numbers")
    return found


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
