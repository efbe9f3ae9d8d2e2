"""What ``doctor`` looks at on this machine: one small function a check. Nothing is started or changed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterglm import config
from clusterglm.clusters import registry
from clusterglm.errors import ClusterglmError
from clusterglm.units import LEAST_MEMORY, format_size

# Kinds of file systems that other machines see too.
_SHARED = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "ceph", "panfs", "orangefs", "afs", "fuse", "9p", "virtiofs")
_MEMORY_ONLY = ("tmpfs", "ramfs")
_OPEN_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """What was looked at and what is there; the ``cure`` is empty where all is well."""

    what: str
    said: str
    cure: str = ""


def machine() -> Iterator[Finding]:
    """Look at what every target needs of the machine that runs the command."""
    yield versions()
    yield settings()
    yield state_directory()
    yield blas_threads()


def local() -> Iterator[Finding]:
    """Look at what a cluster on this machine needs besides."""
    yield loopback()
    yield open_files()
    yield memory()


def versions() -> Finding:
    """Return the versions that clusters must share with this machine."""
    from clusterglm.clusters.hosts.fitness import our_versions

    return Finding("versions", ", ".join(f"{name} {version}" for name, version in our_versions().items()))


def settings() -> Finding:
    """Return whether the user's configuration can be read."""
    try:
        config.get("workers")
    except ClusterglmError as error:
        return Finding("settings", "not readable", str(error))
    return Finding("settings", "readable")


def state_directory() -> Finding:
    """Return whether records can be kept."""
    try:
        return Finding("state directory", str(registry.state_folder()))
    except ClusterglmError as error:
        return Finding("state directory", str(registry.state_path()), error.cure)


def blas_threads() -> Finding:
    """Return what this shell says of threads. Processes of clusters are told one, whatever it says."""
    from clusterglm.clusters.settings import ONE_THREAD

    said = [f"{name}={os.environ[name]}" for name in ONE_THREAD if os.environ.get(name, "1") != "1"]
    return Finding("BLAS threads", f"1 in clusters (here {', '.join(said)})" if said else "1")


def loopback() -> Finding:
    """Return whether a port of this machine can be listened at and reached."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=2).close()
    except OSError as error:
        return Finding("loopback", error.strerror or str(error), "let programs of this machine reach 127.0.0.1")
    return Finding("loopback", "127.0.0.1 can be reached")


def open_files() -> Finding:
    """Return the limit on open files, of which a worker takes four."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    said = "no limit" if hard == resource.RLIM_INFINITY else str(hard)
    enough = hard == resource.RLIM_INFINITY or hard >= _OPEN_FILES
    return Finding("open files", said, "" if enough else f"ulimit -n {_OPEN_FILES}")


def memory() -> Finding:
    """Return the cores and the memory of this machine."""
    from distributed.system import MEMORY_LIMIT

    from clusterglm.clusters.settings import cores

    said = f"{format_size(MEMORY_LIMIT)} for {cores()} cores"
    enough = 0.85 * MEMORY_LIMIT / cores() >= LEAST_MEMORY
    return Finding("memory", said, "" if enough else "less than a worker a core needs: --workers with fewer")


def interface(name: str | None, what: str = "--interface") -> Finding:
    """Return the network interfaces of this machine, and whether the named one is among them."""
    there = sorted(each for _, each in socket.if_nameindex())
    wrong = name is not None and name not in there
    return Finding("interfaces", ", ".join(there), f"{what} ({name}) is not among those here" if wrong else "")


def program(name: str, cure: str, *version: str) -> Finding:
    """Return where a program is, or the first line that it says of its version."""
    path = shutil.which(name)
    if path is None:
        return Finding(name, "not installed", cure)
    if not version:
        return Finding(name, path)
    done = subprocess.run([path, *version], capture_output=True, text=True, timeout=30, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return Finding(name, lines[0] if lines else path)


def shared_folder(folder: Path, what: str) -> Finding:
    """Return the kind of file system that a folder lies on, and whether it can be written."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    kind = _kind(place)
    said = f"{folder} ({kind})"
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("folder", said, f"not writable: {what} names another")
    if kind in _MEMORY_ONLY or str(folder).startswith(("/tmp/", "/dev/shm/")):  # noqa: S108
        return Finding("folder", said, f"this machine's alone: {what} names one that all nodes see")
    return Finding("folder", said if kind.startswith(_SHARED) else f"{said}: is it seen by all nodes?")


def _kind(place: Path) -> str:
    """Return the kind of the file system with the longest path that leads to a place."""
    found = "unknown"
    longest = -1
    for line in Path("/proc/mounts").read_text().splitlines() if Path("/proc/mounts").exists() else []:
        _, mount, kind, *_ = line.split()
        if place.resolve().is_relative_to(mount) and len(mount) >= longest:
            found, longest = kind, len(mount)
    return found
