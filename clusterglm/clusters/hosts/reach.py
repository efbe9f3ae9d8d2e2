"""Whether the scheduler's port can be reached: from the other hosts and from here, tried before anything runs there."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from clusterglm.clusters.checks import Finding
from clusterglm.clusters.hosts.channel import Channel
from clusterglm.clusters.hosts.host import Host
from clusterglm.errors import ClusterError

_LISTEN_SECONDS, _KNOCK_SECONDS = 20, 5


def ports(channel: Channel, head: Host, hosts: Sequence[Host], port: int | None) -> Iterator[Finding]:
    """Let the scheduler's host listen for some seconds, and every other host and this machine knock."""
    try:
        where = channel.ask(head, "listen", port=port or 0, lasts=_LISTEN_SECONDS)
    except ClusterError as error:
        yield Finding("ports", f"{head.name} cannot listen", f"{error.cure}: --port names another")
        return
    address, number = where["address"], where["port"]
    others = [host for host in hosts if host != head]
    answers, errors = channel.ask_all(others, "knock", address=address, port=number, lasts=_KNOCK_SECONDS)
    deaf = [host.name for host, answer in answers.items() if answer["problem"]] + [host.name for host in errors]
    cure = f"open it to them: --port fixes it; {', '.join(deaf)} cannot reach it" if deaf else ""
    yield Finding(
        "ports", f"{head.name} at {address}:{number}, from {len(others) - len(deaf)} of {len(others)} hosts", cure
    )
    try:
        socket.create_connection((address, number), timeout=_KNOCK_SECONDS).close()
        yield Finding("ports", f"{head.name} at {address}:{number}, from here")
    except OSError as error:
        cure = f"open it to this machine, or run fits on {head.name}"
        yield Finding(
            "ports", f"{head.name} at {address}:{number}, from here: {(error.strerror or str(error)).lower()}", cure
        )
