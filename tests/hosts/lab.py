"""A lab: a desk and hosts with sshd, an address and a root file system each (hosts.py). Commands run at the desk.

The desk's files and processes are the machine's own; only its network is the lab's.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hosts import hosts

_SSHD = "/usr/sbin/sshd"
_DESK = "desk"
_WITH_SYSTEMD = ("node1", "node4")  # the others have none, and processes run there in sessions of their own
_SECONDS = 20.0


def missing() -> list[str]:
    """Return what is not there: programs, or the rights of root."""
    found = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    return hosts.missing() + found + ([] if Path(_SSHD).exists() else ["openssh-server"])


class Lab(hosts.Hosts):
    """Running hosts ``node1``, ``node2``, ... ``environment`` leads clusterglm to them; on two of them runs systemd."""

    def __init__(self, folder: Path, nodes: int = 4) -> None:
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        systemd = [node for node in _WITH_SYSTEMD if node in self.nodes and Path(hosts.SYSTEMD).exists()]
        super().__init__(folder, [_DESK, *self.nodes], {}, roots=self.nodes, systemd=systemd)
        for name in ("key", "host_key", "other_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", folder / name], check=True
            )
        public = " ".join((folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text("".join(f"{self.addresses[node]} {public}\n" for node in self.nodes))
        self.config = folder / "ssh_config"
        lines = [f"Host {node}\n  HostName {self.addresses[node]}\n" for node in self.nodes]
        lines.append(f"Host *\n  User root\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n")
        lines.append(f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n")
        self.config.write_text("".join(lines))
        self.environment = {"DASK_CLUSTERGLM__SSH_CONFIG": str(self.config)}

    @property
    def desk(self) -> list[str]:
        """The beginning of a command at the desk, where the hosts' names are known and no name server is."""
        names = [f"mount --bind {source} {path}" for path, source in self.over.items()]
        script = "; ".join([*names, 'exec "$@"'])
        return [
            "nsenter",
            "--target",
            str(self.first[_DESK]),
            "--net",
            "unshare",
            "--mount",
            "bash",
            "-ec",
            script,
            _DESK,
        ]

    def make(self, name: str) -> None:
        """Start a host, and sshd on it."""
        super().make(name)
        if name in self.nodes:
            self.run(name, "cp", str(self.folder / "key.pub"), "/run/authorized_keys")
            self.run(name, "usermod", "-p", "*", "root")  # sshd takes "!" for a locked account
            # What the machine's root has of his own is not there, nor what his shell does at a login.
            own = (".bashrc", ".profile", ".local/state/clusterglm", ".local/share/clusterglm")
            self.run(name, "rm", "-rf", *(f"/root/{path}" for path in own))
            self.sshd(name)

    def end_sshd(self, node: str) -> None:
        """End a host's sshd, so that connections are refused."""
        self.run(node, "sh", "-c", "[ ! -e /run/sshd.pid ] || kill $(cat /run/sshd.pid); rm -f /run/sshd.pid")

    def sshd(self, node: str, *options: str) -> None:
        """Start a host's sshd, the one that runs ended before."""
        self.end_sshd(node)
        given = {
            "HostKey": f"{self.folder}/host_key",
            "AuthorizedKeysFile": "/run/authorized_keys",
            "PidFile": "/run/sshd.pid",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "MaxStartups": "100",
            "Subsystem": "sftp internal-sftp",
        }
        words = [word for name, value in given.items() for word in ("-o", f"{name}={value}")]
        self.run(node, "mkdir", "-p", "/run/sshd")
        self.run(node, _SSHD, "-f", "/dev/null", *[w for option in options for w in ("-o", option)], *words)
        self.until(lambda: self._answers(node))

    def over_ssh(self, node: str, text: str) -> None:
        """Let the login shell of a host run a line."""
        subprocess.run([*self.desk, "ssh", "-F", str(self.config), node, text], check=True, capture_output=True)

    def left(self) -> dict[str, str]:
        """Return what clusters have left on the hosts: processes, and files but for those of the locks."""
        found = "find /root/.local/state/clusterglm -type f -not -name '*.lock'; find /tmp -maxdepth 1 -name 'cglm-*'"
        mine = r"grep -vE '/cglm-[0-9a-f]{8}-' || true"  # what jobs of batch systems have left on the machine
        left = {}
        for node in self.nodes:
            files = self.run(node, "sh", "-c", f"({found}) 2>/dev/null | {mine}")
            left[node] = "\n".join([*self.processes(node), files]).strip()
        return {node: text for node, text in left.items() if text}

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition."""
        until = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < until, f"waited in vain: see {self.folder}"
            time.sleep(0.02)

    def _answers(self, node: str) -> bool:
        probe = f"exec 3<>/dev/tcp/{self.addresses[node]}/22"
        return subprocess.run([*self.desk, "bash", "-c", probe], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def running(folder: Path, nodes: int = 4) -> Iterator[Lab]:
    """Run a lab for the length of a ``with`` block."""
    lab = Lab(folder, nodes)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
