"""A real HTCondor of one machine in a Debian trixie tree (Debian 12 has no package), in a site of its own (hosts.py).

``install`` makes the tree, which takes minutes and a gigabyte; it is kept under the user's cache. HTCondor takes no
jobs from root: commands are run as the tree's user ``tester``, who needs folders of his own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from hosts import hosts

TREE = Path(platformdirs.user_cache_dir("clusterglm-tests")) / "trixie"
USER = 1000  # tester's number in the tree
_NAME = "condor"
_SECONDS = 60.0
_CONFIGURATION = """
CONDOR_HOST = condor
use ROLE: CentralManager
use ROLE: Submit
use ROLE: Execute
use SECURITY: HOST_BASED
ALLOW_WRITE = *
ALLOW_READ = *
ALLOW_ADMINISTRATOR = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_OWNER = *
SEC_DEFAULT_AUTHENTICATION = OPTIONAL
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
NUM_CPUS = 8
MEMORY = 8000
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = TRUE
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 2
UPDATE_INTERVAL = 3
START = TRUE
SUSPEND = FALSE
PREEMPT = FALSE
KILL = FALSE
UID_DOMAIN = local
FILESYSTEM_DOMAIN = local
TRUST_UID_DOMAIN = TRUE
DISCARD_SESSION_KEYRING_ON_STARTUP = False
BASE_CGROUP =
MOUNT_UNDER_SCRATCH =
DedicatedScheduler = "DedicatedScheduler@condor"
STARTD_ATTRS = $(STARTD_ATTRS) DedicatedScheduler
"""


def missing() -> list[str]:
    """Return what is not installed here."""
    return hosts.missing() + [name for name in ("debootstrap", "chroot") if shutil.which(name) is None]


def install() -> None:
    """Make the tree where there is none."""
    if (TREE / "usr" / "bin" / "condor_submit").exists():
        return
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "timeout": 900}
    subprocess.run(["debootstrap", "--variant=minbase", "trixie", str(TREE)], **quiet)  # type: ignore[call-overload]
    policy = TREE / "usr" / "sbin" / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    add("htcondor procps")
    in_tree("useradd -m tester")


def add(packages: str) -> None:
    """Install packages in the tree."""
    words = f"apt-get install -qq -y --no-install-recommends {packages}"
    in_tree(f"export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; {words}")


def in_tree(line: str) -> None:
    """Run a line of shell in the tree."""
    outer = 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; chroot "$1" sh -ec "$2"'
    words = ["unshare", "--mount", "--propagation", "private", "bash", "-ec", outer, "sh", str(TREE), line]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=900)


class HTCondor:
    """A running HTCondor. ``words`` is the command line that runs a command in its tree, as tester."""

    def __init__(self, folder: Path, shared: list[Path]) -> None:
        self.folder, self.shared = folder, shared
        self.hosts = hosts.Hosts(folder, [_NAME], {})

    def start(self) -> None:
        """Start the daemons and wait until jobs can be taken."""
        configuration = TREE / "etc" / "condor" / "config.d" / "99-tests.conf"
        configuration.write_text(_CONFIGURATION)
        self.hosts.start()
        tree = str(TREE)
        # The tree must be a mount point, else condor says "Failed to unshare the mount namespace".
        self.hosts.run(_NAME, "mount", "--bind", tree, tree)
        self.hosts.run(_NAME, "mount", "-t", "proc", "proc", f"{tree}/proc")
        self.hosts.run(_NAME, "mount", "--rbind", "/dev", f"{tree}/dev")
        self.hosts.run(_NAME, "mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{tree}/tmp")
        self.hosts.run(_NAME, "mount", "--bind", "/etc/hosts", f"{tree}/etc/hosts")
        if (TREE / "usr" / "bin" / "oarstat").exists():  # another system in the tree (oar.py), which does not run
            self.hosts.run(_NAME, "mount", "--bind", "/dev/null", f"{tree}/usr/bin/oarstat")
        for path in self.shared:
            self.hosts.run(_NAME, "mkdir", "-p", f"{tree}{path}")
            self.hosts.run(_NAME, "mount", "--bind", str(path), f"{tree}{path}")
        # Into a home that others may not read, only as far as the shared folders in it.
        self.hosts.run(_NAME, "chmod", "a+x", *{f"{tree}{p}" for path in self.shared for p in path.parents})
        folders = "/run/condor /run/lock/condor /var/lock/condor /var/log/condor"
        self._root("sh", "-c", f"mkdir -p {folders}; chown condor: {folders}; exec condor_master")
        until = time.monotonic() + _SECONDS
        while not self.said("condor_status", "-af", "Name"):
            assert time.monotonic() < until, f"HTCondor waited for in vain: see {TREE}/var/log/condor"
            time.sleep(0.2)

    def stop(self) -> None:
        """End everything with its host."""
        self.hosts.stop()

    def words(self, *words: str, **variables: str) -> list[str]:
        given = [f"{name}={value}" for name, value in {"HOME": "/home/tester", **variables}.items()]
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return self.hosts.command(_NAME, "chroot", str(TREE), *user, "env", "-C", "/home/tester", *given, *words)

    def said(self, *words: str) -> str:
        """Return what a command prints, empty where it fails."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> list[str]:
        """Return the jobs in the queue: ``CLUSTER PROC STATUS``."""
        return self.said("condor_q", "-allusers", "-af", "ClusterId", "ProcId", "JobStatus").splitlines()

    def _root(self, *words: str) -> None:
        self.hosts.run(_NAME, "chroot", str(TREE), *words)


@contextlib.contextmanager
def running(folder: Path, own: Path) -> Iterator[HTCondor]:
    """Run an HTCondor for the length of a ``with`` block; tester has the folder ``own``."""
    install()
    os.chown(own, USER, USER)
    here = Path(__file__).resolve().parents[2]
    condor = HTCondor(folder, list(dict.fromkeys([own, here, Path(sys.prefix), Path(sys.base_prefix)])))
    try:
        condor.start()
        yield condor
    finally:
        condor.stop()
