"""Hosts by name, as a list on the command line or as an Ansible inventory: the same file that provisions them."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterglm.errors import ClusterError, UsageError, quoted

# Nothing that passes here can be an option of ssh's, or a word of a shell's.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"
_ADDRESS = rf"(?:{_NAME}|\[[0-9A-Fa-f:.%]{{2,64}}\])"
_HOST = re.compile(rf"(?:(?P<user>{_NAME})@)?(?P<address>{_ADDRESS})(?::(?P<port>\d{{1,5}}))?")
_FILE = re.compile(r"/|\.(?:ya?ml|ini|cfg|json)$")
_SECONDS = 60.0
SCHEDULER_GROUP, WORKER_GROUP = "dask_scheduler", "dask_worker"


@dataclass(frozen=True)
class Host:
    """A host as its user calls it, and what ssh is told beyond the user's own configuration of it."""

    name: str
    address: str
    user: str = ""
    port: int = 0
    key: str = ""
    arguments: tuple[str, ...] = ()
    python: str = ""

    @property
    def written(self) -> str:
        """As ``--hosts`` takes it, for a machine that has no such inventory."""
        return "@".join(filter(None, (self.user, self.address))) + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Hosts:
    """All hosts in their order, those that may run the scheduler and those that may run workers."""

    every: tuple[Host, ...]
    schedulers: tuple[Host, ...]
    workers: tuple[Host, ...]


def parse_hosts(value: object, what: str = "--hosts") -> str:
    """Return a list of hosts, ``a,user@b,c:2222``, or the absolute path of an inventory.

    Raises
    ------
    UsageError
        No host is named, or one is not a host's name or is named twice.
    """
    text = str(value).strip()
    if _FILE.search(text):
        return str(Path(text).expanduser().absolute())
    found = [read_host(word, what) for word in text.split(",")]
    names = [host.name for host in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(what, name, "named twice: a host runs one worker")
    return ",".join(host.written for host in found)


def read_hosts(text: str) -> Hosts:
    """Return the hosts of what ``parse_hosts`` has returned.

    Raises
    ------
    UsageError
        No such inventory, one that Ansible does not read, without hosts, or with a host that ssh cannot be told.
    ClusterError
        Ansible is not installed.
    """
    if text.startswith("/"):
        path = Path(text)
        if not path.is_file():
            raise UsageError("--hosts", text, "no such inventory")
        return _inventory(text, path.stat().st_mtime_ns)
    every = tuple(read_host(word) for word in text.split(","))
    return Hosts(every, every, every)


def read_host(word: str, what: str = "--hosts") -> Host:
    """Return a host from ``user@address:port``; UsageError where it is none."""
    match = _HOST.fullmatch(word.strip())
    port = int(match["port"] or 0) if match else 0
    if match is None or port > 65535:
        raise UsageError(what, word, "not a host: write a,b,c or user@a:2222, or name an inventory")
    return Host(match["address"], match["address"], match["user"] or "", port)


@functools.lru_cache(maxsize=8)
def _inventory(path: str, _: int) -> Hosts:
    """Return the hosts of an inventory, read by Ansible itself; the second argument is the time of its last change."""
    try:
        done = subprocess.run(
            [_ansible_inventory(), "-i", path, "--list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=os.environ | {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true", "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError("inventory", path, f"not read within {_SECONDS:.0f} s") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.startswith(("ERROR", "[ERROR]"))]
        raise UsageError("inventory", path, quoted(said[0] if said else done.stderr.strip()) or "not an inventory")
    groups = json.loads(done.stdout)
    variables = groups.get("_meta", {}).get("hostvars", {})
    every = {name: _of_inventory(name, variables.get(name, {}), path) for name in _members(groups, "all")}
    if not every:
        raise UsageError("inventory", path, "names no host")

    def of(group: str) -> tuple[Host, ...]:
        return tuple(every[name] for name in _members(groups, group)) or tuple(every.values())

    return Hosts(tuple(every.values()), of(SCHEDULER_GROUP), of(WORKER_GROUP))


def ansible(program: str) -> str | None:
    """Return the path of one of Ansible's programs: of this environment, or else the first on the path."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def _ansible_inventory() -> str:
    if found := ansible("ansible-inventory"):
        return found
    raise ClusterError("ansible-inventory", None, "not installed: pip install 'clusterglm[ansible]', or --hosts a,b,c")


def _members(groups: dict[str, Any], group: str) -> list[str]:
    """Return the names of a group's hosts and of those of the groups in it, in the inventory's order."""
    found = list(groups.get(group, {}).get("hosts", []))
    for child in groups.get(group, {}).get("children", []):
        found += _members(groups, child)
    return list(dict.fromkeys(found))


def _of_inventory(name: str, variables: dict[str, Any], path: str) -> Host:
    def text(*names: str) -> str:
        value = next((variables[key] for key in names if key in variables), "")
        if "{{" in str(value) or not isinstance(value, str | int):
            raise UsageError("inventory", path, f"{name}: {names[0]} must be a plain word here")
        return str(value)

    address = text("ansible_host", "ansible_ssh_host") or name
    user = text("ansible_user", "ansible_ssh_user")
    port = text("ansible_port", "ansible_ssh_port")
    if not _HOST.fullmatch(f"{user + '@' if user else ''}{address}{':' + port if port else ''}") and not re.fullmatch(
        r"[0-9A-Fa-f:.%]+", address
    ):
        raise UsageError("inventory", path, f"{quoted(name)}: not a host that ssh can be told")
    arguments = [word for key in ("common", "extra") for word in shlex.split(text(f"ansible_ssh_{key}_args"))]
    key = text("ansible_ssh_private_key_file", "ansible_private_key_file")
    return Host(
        name,
        address,
        user,
        int(port or 0),
        str(Path(key).expanduser()) if key else "",
        tuple(arguments),
        text("clusterglm_python"),
    )
