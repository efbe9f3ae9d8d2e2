"""Finding files of data: a file, a folder or a pattern, on a file system or behind a URL.

A path is looked at before it is opened, so that a pipe or a device never keeps anybody waiting. A Zarr store, which is
a folder, counts as one file.
"""

from __future__ import annotations

import glob
import os
import posixpath
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from clusterglm.data import remote
from clusterglm.data.files import DataFile, Location, changed, digest, fail, refusal, state
from clusterglm.errors import DataError, quoted

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".parq": "parquet", ".csv": "csv", ".npy": "npy", ".zarr": "zarr"}
FORMATS |= {".h5": "hdf5", ".hdf5": "hdf5"}
_MAGIC = {b"PAR1": "parquet", b"\x93NUM": "npy", b"\x89HDF": "hdf5"}
STORE = {"zarr.json", ".zgroup", ".zarray"}  # what a folder holds that is a Zarr store
_ANY = ".parquet, .csv, .npy, .zarr or .h5"
_GROUPED = {"zarr", "hdf5"}


def find(location: Location, url: str, home: str) -> tuple[str, list[DataFile], list[str]]:
    """Return the format, the files in the order of their names, and notes.

    ``location`` is a file, a folder or prefix (searched to its depth) or a pattern. ``url`` is what the user wrote,
    ``home`` the host on which that was.

    Raises
    ------
    DataError
        No such file, not a regular file, nothing that matches, or no format that can be read.
    ClusterError
        The files may not be read, or their store does not answer.
    """
    path, group = location
    try:
        if isinstance(path, str):
            found = _objects(path, url)
        else:
            paths, base = _paths(path, url)
            found = [_look_at(p, str(p.relative_to(base)), url if p == path else str(p)) for p in paths]
    except FileNotFoundError as error:
        here = socket.gethostname()
        if isinstance(path, str):
            missing = "bucket" if "bucket" in str(error) else "key" if path.startswith("s3") else "object"
            raise DataError("--data", url, f"no such {missing}") from error
        place = "" if here == home else f" on {here}: every worker must see the same files"
        raise DataError("--data", _shown(error, path, url), f"no such file{place}") from error
    except OSError as error:
        raise refusal("--data", error, _shown(error, Path(path), url)) from error
    formats = {format for format, _ in found}
    if len(formats) > 1:
        first = {format: suffix for suffix, format in reversed(FORMATS.items())}
        kinds = [first[format] for format in dict.fromkeys(FORMATS.values()) if format in formats]
        cure = f"name one kind, such as 'FOLDER/*{kinds[0]}'"
        raise DataError("--data", url, f"holds {' and '.join(kinds)} files: {cure}")
    [format] = formats
    if group and format not in _GROUPED:
        raise DataError("--data", url, f"a .{format} file has no groups: leave ::/{group} out")
    files = sorted((file for _, file in found), key=lambda file: file.name)
    if group:
        files = [replace(file, group=group) for file in files]
    keyed = sorted({part for file in files for part in Path(file.name).parts[:-1] if "=" in part})
    notes = [f"note: --data ({quoted(keyed[0])}): values in folders' names are not read as columns"] if keyed else []
    return format, files, notes


def _paths(path: Path, url: str) -> tuple[list[Path], Path]:
    """Return the files that ``path`` stands for, and the folder that their names are relative to."""
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207  the path is absolute
        stores = {match for match in matches if match.is_dir() and _is_store(match)}
        matches = [match for match in matches if not stores & set(match.parents)]
        found = (p for m in matches if not _hidden(m.name) for p in ([m] if _is_file(m) else _walk(m)))
        paths = list(dict.fromkeys(found))
        if not paths:
            raise DataError("--data", url, "matches 0 files")
        return paths, Path(os.path.commonpath([p.parent for p in paths]))
    path.stat()
    if _is_file(path):
        return [path], path.parent
    paths = list(_walk(path))
    if not paths:
        raise _no_file(url, [name for _, _, names in os.walk(path) for name in names])
    return paths, path


def _no_file(url: str, others: list[str]) -> DataError:
    suffixes = ", ".join(quoted(s) for s, _ in Counter(Path(name).suffix or name for name in others).most_common(3))
    more = f" ({len(others)} others: {suffixes})" if others else ""
    return DataError("--data", url, f"no {_ANY} file in it{more}")


def _is_file(path: Path) -> bool:
    """Whether a path is one file of data: anything but a folder, or a folder that is a Zarr store."""
    return not path.is_dir() or _is_store(path)


def _is_store(path: Path) -> bool:
    return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in STORE)


def _objects(path: str, url: str) -> list[tuple[str, DataFile]]:
    """Return the format and the file of every object that a URL stands for; those of a Zarr store are one."""
    objects, base = remote.find(path)
    stores: dict[str, list[remote.Object]] = {}
    roots = {posixpath.dirname(o.url) for o in objects if posixpath.basename(o.url) in STORE}
    files = []
    for item in objects:
        within = item.url.removeprefix(base).strip("/").split("/")
        if root := _root_of(item.url, roots, base):
            if not any(map(_hidden, root.removeprefix(base).strip("/").split("/"))):
                stores.setdefault(root, []).append(item)
        elif len(objects) == 1 and item.url.rstrip("/") == path.rstrip("/"):
            files.append((_format_of(path, url), DataFile(item.url, within[-1], item.size, item.version)))
        elif not any(map(_hidden, within)) and (format := FORMATS.get(posixpath.splitext(item.url)[1].lower())):
            files.append((format, DataFile(item.url, "/".join(within), item.size, item.version)))
    for root, held in stores.items():
        name = root.removeprefix(base).strip("/") or posixpath.basename(root)
        files.append(
            ("zarr", DataFile(root, name, *digest((o.url.removeprefix(root), o.size, o.version) for o in held)))
        )
    if not files:
        if base.rstrip("/") != path.rstrip("/"):
            raise DataError("--data", url, "matches 0 files")
        raise _no_file(url, [posixpath.basename(item.url) for item in objects])
    return files


def _root_of(url: str, roots: set[str], base: str) -> str:
    """Return the Zarr store that an object belongs to, "" for none."""
    folder, found = posixpath.dirname(url), ""
    while len(folder) >= len(base.rstrip("/")) and "://" in folder:
        if folder in roots or folder.lower().endswith(".zarr"):
            found = folder
        folder = posixpath.dirname(folder)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the data files at any depth, those of a folder once however often it is linked."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        stores = [name for name in folders if _is_store(Path(here, name))]
        folders[:] = [name for name in folders if name not in stores]
        shown = (name for name in names if not _hidden(name) and Path(name).suffix.lower() in FORMATS)
        yield from (Path(here, name) for name in (*stores, *shown))


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _shown(error: OSError, path: Path, url: str) -> str:
    """Return the name of what ``error`` is about: as the user wrote it where the user did."""
    return url if error.filename is None or str(error.filename) == str(path) else str(error.filename)


def _look_at(path: Path, name: str, shown: str) -> tuple[str, DataFile]:
    """Return the format of a file, by its name or its first bytes, and the file as it is now."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        return "zarr", DataFile(path, name, *state(path), changed=changed(path))
    if not stat.S_ISREG(status.st_mode):
        raise DataError("--data", shown, "not a regular file")
    file = DataFile(path, name, status.st_size, status.st_mtime_ns, changed=status.st_ctime_ns)
    return _format_of(path, shown), file


def _format_of(path: Path | str, shown: str) -> str:
    suffix = posixpath.splitext(str(path))[1].lower()
    if suffix in FORMATS and suffix != ".zarr":
        return FORMATS[suffix]
    if suffix == ".npz":
        raise DataError("--data", shown, "several arrays in a zip file: save them as one .npy, .zarr or .h5 file")
    if suffix == ".zarr":
        raise DataError("--data", shown, "not a folder: a Zarr store is one")
    if isinstance(path, str):
        first = remote.read(path, [(0, min(4, remote.now(path)[0].size))])[0]
    else:
        with path.open("rb") as opened:
            first = opened.read(4)
    if first not in _MAGIC:
        raise DataError("--data", shown, f"no {_ANY} file: convert it, or give it its suffix")
    return _MAGIC[first]
