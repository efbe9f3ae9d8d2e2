"""A real HTCondor of one machine in a Debian trixie tree (Debian 12 has no package), in a site of its own (hosts.py).

``install`` makes the tree, which takes minutes and a gigabyte; it is kept under the user's cache, and no run
changes it. HTCondor takes no jobs from root: commands are run as its user ``tester``, with folders of his own.
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


# What runs change in the tree lies in memory. Without another system's commands, which would be asked in vain.
_ROOT = """
mkdir -p "$1"; mount -t tmpfs tmpfs "$1"; mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"; cd "$1/root"
mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs -o mode=1777 tmpfs tmp
cat /etc/hosts >etc/hosts; : >etc/resolv.conf; rm -f usr/bin/$3; shift 3
for path; do mkdir -p ".$path"; mount --bind "$path" ".$path"; done
for path; do while [ "$path" != / ]; do path=$(dirname "$path"); chmod a+x ".$path"; done; done # as far as those
"""


def place_tree(on: hosts.Hosts, name: str, place: Path, shared: list[Path], without: str) -> None:
    """Mount the tree on a host, these folders of the machine in it."""
    on.run(name, "bash", "-ec", _ROOT, "bash", str(place.parent), str(TREE), without, *map(str, shared))


class HTCondor:
    """A running HTCondor. ``words`` is the command line that runs a command in its tree, as tester."""

    def __init__(self, folder: Path, shared: list[Path]) -> None:
        self.folder, self.shared = folder, shared
        self.hosts = hosts.Hosts(folder, [_NAME], {})
        self.tree = folder / "tree" / "root"

    def start(self) -> None:
        """Start the daemons and wait until jobs can be taken."""
        configuration = TREE / "etc" / "condor" / "config.d" / "99-tests.conf"
        configuration.write_text(_CONFIGURATION)
        self.hosts.start()
        place_tree(self.hosts, _NAME, self.tree, self.shared, without="oar*")
        folders = "/run/condor /run/lock/condor /var/lock/condor /var/log/condor"
        self._root("sh", "-c", f"mkdir -p {folders}; chown condor: {folders}; exec condor_master")
        until = time.monotonic() + _SECONDS
        while not self.said("condor_status", "-af", "Name"):
            assert time.monotonic() < until, f"HTCondor waited for in vain: see {self.folder}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End everything with its host."""
        self.hosts.stop()

    def words(self, *words: str, **variables: str) -> list[str]:
        given = [f"{name}={value}" for name, value in {"HOME": "/home/tester", **variables}.items()]
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return self.hosts.command(_NAME, "chroot", str(self.tree), *user, "env", "-C", "/home/tester", *given, *words)

    def said(self, *words: str) -> str:
        """Return what a command prints, empty where it fails."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> list[str]:
        """Return the jobs in the queue: ``CLUSTER PROC STATUS``."""
        return self.said("condor_q", "-allusers", "-af", "ClusterId", "ProcId", "JobStatus").splitlines()

    def _root(self, *words: str) -> None:
        self.hosts.run(_NAME, "chroot", str(self.tree), *words)


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
