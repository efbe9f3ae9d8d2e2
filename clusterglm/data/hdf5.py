"""HDF5 files of a local or shared file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from clusterglm.data import arrays
from clusterglm.data.arrays import Columns
from clusterglm.data.columns import Look
from clusterglm.data.files import DataFile, unchanged
from clusterglm.errors import ClusterError, DataError, quoted


def look(run: Callable[..., list[Any]], files: list[DataFile]) -> list[Look]:
    """Return what the files' headers say, read by tasks of ``run``."""
    for file in files[:1]:
        if isinstance(file.path, str):
            cure = "HDF5 is read from paths alone: copy it here, or write it as Zarr"
            raise DataError("--data", file.path, cure)
    return [seen for group in run(_headers, [[file] for file in files]) for seen in group]


def _headers(files: Sequence[DataFile]) -> list[Look]:
    looks = []
    for file in files:
        with unchanged(file), _arrays(file, "header") as found:
            looks.append(arrays.look(file, found))
    return looks


def batches(file: DataFile, kinds: dict[str, str]) -> Iterator[Columns]:
    """Yield the rows of the file's pieces, in order; ``kinds`` names the columns."""
    with _arrays(file, f"rows {file.pieces[0].first + 1} to {file.pieces[-1].stop}") as found:
        yield from arrays.batches(file, found, kinds)


@contextmanager
def _arrays(file: DataFile, part: str) -> Iterator[dict[str, Any]]:
    """Yield the arrays of the file, or of the group in it that is meant: those whose values lie in this very file."""
    h5py = _package()
    try:
        # Unlocked: there are file systems that know no locks, and a change is noticed all the same.
        with h5py.File(os.fsencode(file.path), "r", locking=False) as opened:
            found = opened.get(f"/{file.group}") if file.group else opened
            if found is None:
                raise DataError(quoted(file.name), f"::/{file.group}", "no such group or array in it")
            if isinstance(found, h5py.Dataset):
                yield {"": _own(file, found)}
                return
            hard = [name for name in found if isinstance(found.get(name, getlink=True), h5py.HardLink)]
            held = {name: found[name] for name in hard}
            datasets = {name: held[name] for name in held if isinstance(held[name], h5py.Dataset) and held[name].shape}
            yield {name: _own(file, dataset) for name, dataset in datasets.items()}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:  # from the system; the library's own have no number
            raise
        raise DataError(f"{quoted(file.name)} ({part})", None, "not readable as HDF5: copy it again") from error


def _own(file: DataFile, dataset: Any) -> Any:
    if dataset.is_virtual or dataset.external:
        raise DataError(quoted(file.name), dataset.name, "its values lie in other files: copy them into this one")
    return dataset


def _package() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ClusterError("h5py", None, "not installed where the workers run: pip install h5py") from error
    return h5py
