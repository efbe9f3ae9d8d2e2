"""A way to a scheduler that this machine reaches by SSH alone: a port of loopback, while this process lives."""

from __future__ import annotations

import atexit
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable

from clusterglm.errors import ClusterError

_SECONDS = 20.0


def tunnel(command: Callable[..., list[str]], host: str, address: str) -> str:
    """Return an address on loopback that leads to ``address`` as the host sees it, by ssh.

    ``command`` takes options of ssh and returns its command line up to the host.

    Raises
    ------
    ClusterError
        SSH does not reach the host, or forwards no ports there.
    """
    scheme, _, there = address.rpartition("://")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    options = ("-L", f"127.0.0.1:{port}:{there}", "-o", "ExitOnForwardFailure=yes")
    # It reads what nobody writes, so it ends with this process, however that ends.
    way = subprocess.Popen(
        [*command(*options), "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which says goodbye to the scheduler first
    )
    atexit.register(_close, way)
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and way.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return f"{scheme}://127.0.0.1:{port}"
        time.sleep(0.05)
    _close(way)
    raise ClusterError("host", host, f"no way to {address} by ssh: let its sshd forward ports (AllowTcpForwarding)")


def _close(way: subprocess.Popen[bytes]) -> None:
    if way.stdin is not None:
        way.stdin.close()
    way.terminate()
    way.wait()
