"""The way into a cluster's machines: OpenSSH with the cluster's own keys, at a port that is open while it is used.

Each machine runs an sshd of ours that knows one pair, the cluster's: its public key is what the machine shows, so no
host is believed unseen, and what it lets in. That gives nobody a right that he has not: whoever holds the key may run
code on the cluster by Dask. The wall before the port stays closed but for the address of whoever is using it.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clusterglm.clusters import tls
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.clusters.cloud.fleet import SCHEDULER
from clusterglm.clusters.cloud.userdata import SSH_PORT
from clusterglm.errors import ClusterError, unknown

INVENTORY = "# Written by clusterglm: the machines of "  # its first words
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


class Way(NamedTuple):
    """The way into a machine: the folder of its cluster's keys, and where it is reached."""

    keys: Path
    address: str

    def line(self, *options: str) -> list[str]:
        """Return the command line of ssh up to the machine, in nobody's configuration but the cluster's own.

        Raises
        ------
        ClusterError
            The keys are not there.
        """
        return ["ssh", *_arguments(self.keys), *options, "--", self.address]


def into(ways: Mapping[str, Way], machine: str) -> Way:
    """Return the way into one machine; UsageError for one that there is not."""
    if machine not in ways:
        raise unknown("--on", machine, sorted(ways))
    return ways[machine]


def inventory(ways: Mapping[str, Way]) -> str:
    """Return an inventory of Ansible's, in YAML: the machines by their roles, each in the group of its role.

    Raises
    ------
    ClusterError
        The keys are not there.
    """
    import yaml

    groups: dict[str, Any] = {"dask_scheduler": {"hosts": {}}, "dask_worker": {"hosts": {}}}
    for role, way in ways.items():
        hosts = groups["dask_scheduler" if role == SCHEDULER else "dask_worker"]["hosts"]
        hosts[role] = {"ansible_host": way.address}
    (keys,) = {way.keys for way in ways.values()}
    given = {"ansible_user": _OPTIONS["User"], "ansible_port": SSH_PORT}
    # No connection is kept: it would outlive the port's being open.
    given |= {"ansible_ssh_args": "-o ControlMaster=no", "ansible_ssh_common_args": shlex.join(_arguments(keys))}
    return str(yaml.safe_dump({"all": {"children": groups, "vars": given}}, sort_keys=False))


def _arguments(keys: Path) -> list[str]:
    known = keys.parent / "known_hosts"
    known.write_text(f"{_ALIAS} {_public(keys)}\n", encoding="ascii")
    found = ["-F", "/dev/null"]
    for name, value in _OPTIONS.items():
        found += ["-o", f"{name}={value}"]
    for name, path in {"IdentityFile": keys / tls.KEY, "UserKnownHostsFile": known}.items():
        found += ["-o", f'{name}="{str(path).replace("%", "%%")}"']
    return found


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
    """Run ssh, or what uses it, in the foreground and return its exit code; Ctrl-C is for what runs there."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(line, check=False).returncode
    except FileNotFoundError as error:
        cure = "install OpenSSH's client" if line[0] == "ssh" else "install it"
        raise ClusterError(line[0], None, f"not installed here: {cure}") from error
    finally:
        signal.signal(signal.SIGINT, before)
