"""The way into a cluster's machines: OpenSSH with the cluster's own keys, at a port that is open while it is used.

Each machine runs an sshd of ours that knows one pair, the cluster's: its public key is what the machine shows, so no
host is believed unseen, and what it lets in. That gives nobody a right that he has not: whoever holds the key may run
code on the cluster by Dask. The wall before the port stays closed but for the address of whoever is using it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clusterglm.clusters import tls
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.clusters.cloud.userdata import SSH_PORT
from clusterglm.errors import ClusterError

_ALIAS = "clusterglm"
_OPTIONS = {
    "User": "root",
    "Port": str(SSH_PORT),
    "BatchMode": "yes",
    "IdentitiesOnly": "yes",
    "HostKeyAlias": _ALIAS,
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "/dev/null",
    "PreferredAuthentications": "publickey",
    "ConnectTimeout": "15",
    "ConnectionAttempts": "3",
    "ServerAliveInterval": "15",
    "LogLevel": "ERROR",
}


def command(keys: Path, address: str, *options: str) -> list[str]:
    """Return the command line of ssh up to a machine, in nobody's configuration but the cluster's own.

    Raises
    ------
    ClusterError
        The keys are not there.
    """
    known = keys.parent / "known_hosts"
    known.write_text(f"{_ALIAS} {_public(keys)}\n", encoding="ascii")
    line = ["ssh", "-F", "/dev/null"]
    for name, value in _OPTIONS.items():
        line += ["-o", f"{name}={value}"]
    for name, path in {"IdentityFile": keys / tls.KEY, "UserKnownHostsFile": known}.items():
        line += ["-o", f'{name}="{str(path).replace("%", "%%")}"']
    return [*line, *options, "--", address]


def _public(keys: Path) -> str:
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key((keys / tls.KEY).read_bytes(), None)
    except OSError as error:
        raise ClusterError("keys", keys / tls.KEY, "no such file: the cluster's keys were removed") from error
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(encoding, form).decode()


@contextlib.contextmanager
def opened(ec2: Any, name: str, ranges: Sequence[str]) -> Iterator[None]:
    """Keep the port open in the cluster's group for some addresses, and close it at the end."""
    group = api.group(ec2, name)
    mine = [each for each in ranges if api.allow(ec2, group, SSH_PORT, each)]
    try:
        yield
    finally:
        for each in mine:
            api.forbid(ec2, group, SSH_PORT, each)


def run(line: Sequence[str]) -> int:
    """Run ssh in the foreground and return its exit code; Ctrl-C is for what runs there."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(line, check=False).returncode
    except FileNotFoundError as error:
        raise ClusterError("ssh", None, "not installed here: install OpenSSH's client") from error
    finally:
        signal.signal(signal.SIGINT, before)
