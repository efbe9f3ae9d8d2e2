"""The caller's environment, as a machine can make it again: its Python and the very versions of its packages."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution

_ROOTS = ("clusterglm", "s3fs", "h5py", "zarr")  # the optional ones as far as they are installed here


def python() -> str:
    """Return the minor version of this Python."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def packages() -> list[str]:
    """Return pins such as ``numpy==2.1.0`` of all that clusterglm needs, itself excepted: it is handed over later."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    waiting = [(root, frozenset[str]()) for root in _ROOTS]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        pins[str(canonicalize_name(name))] = found.version
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                continue
            if (entry := (str(canonicalize_name(needed.name)), frozenset(needed.extras))) not in seen:
                seen.add(entry)
                waiting.append(entry)
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if name != "clusterglm"]
