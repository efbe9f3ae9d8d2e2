"""Whether a host can take part, from what its agent says of it: one small function a check, "" where all is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from clusterglm.clusters.hosts.channel import PROVISIONED, Channel
from clusterglm.clusters.hosts.host import Host
from clusterglm.errors import ClusterError
from clusterglm.units import LEAST_MEMORY, format_duration, format_size

_LEAST_ROOM = 100 * 10**6  # bytes: logs, and what a worker spills before it says that the disk is full
_CLOCK_SECONDS = 300.0
_COMPARED = ("python", "dask", "distributed", "numpy", "clusterglm")


def our_versions() -> dict[str, str]:
    """Return the versions here that functions which travel to workers depend on."""
    import sys
    from importlib import metadata

    from clusterglm import __version__

    found = {"python": "{}.{}".format(*sys.version_info), "clusterglm": __version__}
    return found | {name: metadata.version(name) for name in ("dask", "distributed", "numpy")}


def examine(
    channel: Channel, hosts: Sequence[Host], scratch: str | None, allow_version_mismatch: bool
) -> tuple[dict[Host, Any], dict[Host, str]]:
    """Return what hosts have, and of those that cannot take part why, with the cure.

    Raises
    ------
    ClusterError
        ssh is not installed here.
    """
    before = time.time()
    found, errors = channel.ask_all(hosts, "probe", scratch=scratch)
    after = time.time()
    if (error := next(iter(errors.values()), None)) is not None and error.what == "ssh":
        raise error
    why = {host: error.cure for host, error in errors.items()}
    ours = our_versions()
    for host, probe in found.items():
        checks: list[Callable[[], str]] = [lambda p=probe: environment(p)]  # type: ignore[misc]
        if not allow_version_mismatch:
            checks.append(lambda p=probe: versions(p, ours))  # type: ignore[misc]
        checks += [lambda p=probe: clock(p, before, after), lambda p=probe: room(p), lambda p=probe: memory(p)]  # type: ignore[misc]
        if problem := next(filter(None, (check() for check in checks)), ""):
            why[host] = problem
    return found, {host: why[host] for host in hosts if host in why}


def environment(probe: dict[str, Any]) -> str:
    """Say where clusterglm is not installed."""
    missing = [name for name, version in probe["versions"].items() if version == "missing"]
    if not missing:
        return ""
    found = f"no {' and no '.join(missing)} in {probe['python']}, no ~/{PROVISIONED}"
    return f"{found}: provision it with ansible/site.yml, or --python"


def versions(probe: dict[str, Any], ours: dict[str, str]) -> str:
    """Say which versions differ from ours."""
    theirs = probe["versions"]
    wrong = [f"{name} {theirs[name]} (here {ours[name]})" for name in _COMPARED if theirs[name] != ours[name]]
    return f"{', '.join(wrong)}: install the same, or --allow-version-mismatch" if wrong else ""


def clock(probe: dict[str, Any], before: float, after: float) -> str:
    """Say how far a host's clock is off, given our time before and after it was asked."""
    late = (before + after) / 2 - probe["time"]
    if abs(late) < _CLOCK_SECONDS + (after - before) / 2:
        return ""
    off = format_duration(60 * round(abs(late) / 60))
    return f"its clock is {off} {'behind' if late > 0 else 'ahead of'} ours: set it there, chronyc makestep"


def room(probe: dict[str, Any]) -> str:
    """Say which disk is full."""
    full = [f"{format_size(free)} free in {folder}" for folder, free in probe["free"].items() if free < _LEAST_ROOM]
    return f"{' and '.join(full)}: make room, or --scratch" if full else ""


def memory(probe: dict[str, Any]) -> str:
    """Say where a worker would not live."""
    size = probe["memory"]
    return f"{format_size(size)} of memory: too little for a worker" if size < LEAST_MEMORY / 0.9 else ""


def summary(probe: dict[str, Any]) -> str:
    """Return what a host has, in a line."""
    free = min(probe["free"].values())
    words = [f"python {probe['versions']['python']}", f"clusterglm {probe['versions']['clusterglm']}"]
    words += [f"{probe['cores']} cores", format_size(probe["memory"]), f"{format_size(free)} free"]
    words += [f"processes in a {probe['detached']}" if probe["detached"] == "session" else "processes under systemd"]
    return ", ".join([*words, f"interfaces {' '.join(probe['interfaces'])}"])


def interface(probe: dict[str, Any], name: str | None) -> str:
    """Say where a network interface that was named is not there."""
    there = probe["interfaces"]
    return "" if name is None or name in there else f"no interface {name}: --interface is one of {', '.join(there)}"


def refused(why: dict[Host, str], of: int, cure: str) -> ClusterError:
    """Return the error that names every host which cannot take part, and why."""
    if len(why) == 1:
        host, problem = next(iter(why.items()))
        return ClusterError("host", host.name, problem)
    lines = [f"cannot take part: {cure}", *(f"  {host.name}: {problem}" for host, problem in why.items())]
    return ClusterError("hosts", f"{len(why)} of {of}", "\n".join(lines))
