"""From an address, a scheduler file or a record to a ``distributed.Client``, within a time limit of its own."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm import config
from clusterglm.clusters import tls
from clusterglm.errors import ClusterError, ClusterglmError, UsageError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

    from clusterglm.clusters.launcher import Record

_COMPARED = ("python", "dask", "distributed", "numpy", "clusterglm")
_ADDRESS = re.compile(r"(?:(?:tcp|tls)://)?(?:\[(?P<ipv6>[0-9a-fA-F:.%]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")


def connect(
    address: str,
    *,
    what: str = "--scheduler",
    value: str | None = None,
    cure: str = "start it, or give the address that it printed",
    timeout: float | None = None,
    allow_version_mismatch: bool = False,
    keys: Path | None = None,
) -> Client:
    """Return a client of the scheduler at ``address``, its versions compared with ours.

    Parameters
    ----------
    address : str
        ``tcp://host:port``, ``tls://host:port`` or ``host:port``.
    what, value, cure : str
        How an error names the scheduler (by default by its address), and what its reader should do.
    timeout : float, optional
        Seconds until the scheduler must have answered; by default the setting ``connect-timeout``.
    allow_version_mismatch : bool
        Go on where Python, Dask, numpy or clusterglm differ between here, the scheduler and the workers.
    keys : Path, optional
        The folder of the cluster's TLS keys; by default Dask's configuration names them.

    Raises
    ------
    UsageError
        Not an address.
    ClusterError
        The keys are not there, no scheduler answers there, or versions differ.
    """
    value = value or address
    limit = timeout or config.get("connect-timeout")
    until = time.monotonic() + limit
    _probe(address, what, value, cure, limit)
    import asyncio  # not needed to refuse a command line, as Dask is not
    from concurrent.futures import ThreadPoolExecutor

    from clusterglm.clusters.settings import quiet

    with quiet():
        from distributed import Client
        from distributed.security import Security

        full = address if "://" in address else f"tcp://{address}"
        security = Security() if keys is None else tls.security(keys)
        if full.startswith("tls://") and security.get_connection_args("client").get("ssl_context") is None:
            raise ClusterError(
                what, value, "needs TLS keys: name them under distributed.comm.tls in Dask's configuration"
            )
        try:
            with ThreadPoolExecutor(1) as pool:  # the caller's thread may have an event loop of its own
                pool.submit(asyncio.run, _greet(full, security, max(1.0, until - time.monotonic()))).result()
            client = Client(full, security=security, timeout=max(1.0, until - time.monotonic()))
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise _gone(what, value, f"no Dask scheduler answers at {address}: {cure}") from error
        try:
            if not allow_version_mismatch:
                check_versions(client)
        except BaseException as error:
            disconnect(client, 1)
            if isinstance(error, ClusterglmError) or not isinstance(error, OSError):
                raise
            raise _gone(what, value, f"scheduler {address} is gone: {cure}") from error
    return client


def disconnect(client: Client, seconds: float = 2) -> None:
    """Close a client, within so many seconds: nothing is left to close where the scheduler is gone."""
    try:
        client.close(timeout=seconds)
    except Exception:  # whatever a connection says that has been cut
        client.status = "closed"  # else Dask tries again when the interpreter ends, for longer, and shows how it failed


def moved(record: Record, why: str, what: str = "cluster") -> ClusterError:
    """Return the error for a cluster whose wall keeps the caller out."""
    return ClusterError(what, record.name, f"{why}: clusterglm status {record.name} --reopen")


def read_scheduler_file(path: Path, timeout: float | None = None, what: str = "--scheduler-file") -> str:
    """Return the address in a scheduler file, waiting until the scheduler has written it.

    Raises
    ------
    ClusterError
        No such file within ``timeout`` seconds (by default the setting ``connect-timeout``), or none of Dask's.
    """
    limit = timeout or config.get("connect-timeout")
    until = time.monotonic() + limit
    while True:
        try:
            if path.exists() and not path.is_file():
                raise ClusterError(what, path, "not a regular file")  # a pipe would be waited for
            return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        except FileNotFoundError as error:
            problem, cause = f"no such file after {limit:.0f} s: is its scheduler running?", error
        except OSError as error:
            raise ClusterError(what, path, f"{(error.strerror or str(error)).lower()}: not readable here") from error
        except (ValueError, KeyError, TypeError) as error:  # also a file that is still being written
            problem, cause = "not the scheduler file of a Dask scheduler", error  # type: ignore[assignment]
        if time.monotonic() > until:
            raise ClusterError(what, path, problem) from cause
        time.sleep(0.05)


def check_versions(client: Client) -> None:
    """Compare the versions that matter to pickled functions here, on the scheduler and on every worker.

    Raises
    ------
    ClusterError
        They differ; the message holds a table of package and place.
    """
    found = client.get_versions(packages=["clusterglm"])
    places: dict[str, Mapping[str, Any]] = {"here": found["client"]["packages"]}
    places["scheduler"] = found["scheduler"]["packages"]
    places |= {str(worker): info["packages"] for worker, info in found["workers"].items() if isinstance(info, Mapping)}
    ours = _versions(places["here"])
    others = {place: _versions(packages) for place, packages in places.items()}
    wrong = [name for name in _COMPARED if any(versions[name] != ours[name] for versions in others.values())]
    if not wrong:
        return
    shown = {p: v for p, v in others.items() if p in {"here", "scheduler"} or any(v[n] != ours[n] for n in wrong)}
    rows = [("", *wrong), *((place, *(versions[name] for name in wrong)) for place, versions in shown.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(wrong) + 1)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    cure = "install the same versions, or --allow-version-mismatch"
    raise ClusterError("versions", ", ".join(wrong), "\n".join([f"not the same everywhere: {cure}", *table]))


def _versions(packages: Mapping[str, Any]) -> dict[str, str]:
    versions = {name: str(packages.get(name) or "missing") for name in _COMPARED}
    return versions | {"python": ".".join(versions["python"].split(".")[:2])}


def _probe(address: str, what: str, value: str, cure: str, seconds: float) -> None:
    """Knock at the port: a refused connection is known at once, where Dask would try again until its limit."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"]) < 65536:
        raise UsageError(what, value, "not an address: write tcp://HOST:PORT")
    host, port = match["ipv6"] or match["host"], int(match["port"])
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (socket.gaierror, UnicodeError) as error:
        raise ClusterError("host", host, "does not resolve here: give an address") from error
    except OSError as error:
        raise _gone(what, value, f"scheduler {address} is gone: {cure}") from error


async def _greet(address: str, security: Security, seconds: float) -> None:
    """Ask a scheduler for its name. Dask's own client has no limit once a port is open and nobody answers."""
    import asyncio

    from distributed.core import rpc

    async def ask() -> str:
        async with rpc(address, connection_args=security.get_connection_args("client")) as server:
            return str((await server.identity())["type"])

    if await asyncio.wait_for(ask(), seconds) != "Scheduler":
        raise ValueError("some other server of Dask's")


def _gone(what: str, value: str, text: str) -> ClusterError:
    return ClusterError(what, value, text)
