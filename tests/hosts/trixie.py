"""A Debian trixie tree for batch systems that Debian 12 has no package of, and one of them at work in it on a host of
its own (hosts.py).

The tree takes minutes and a gigabyte to make; it is kept under the user's cache, and no run changes it. Commands are
run as its user ``tester``, with folders of his own, for such systems take no jobs from root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from hosts import hosts

TREE = Path(platformdirs.user_cache_dir("clusterglm-tests")) / "trixie"
USER = 1000  # tester's number in the tree
CHECKOUT = Path(__file__).resolve().parents[2]
_SECONDS = 90.0


# What runs change in the tree lies in memory. Without another system's commands, which would be asked in vain.
_ROOT = """
mkdir -p "$1"; mount -t tmpfs tmpfs "$1"; mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"; cd "$1/root"
mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs -o mode=1777 tmpfs tmp
cat /etc/hosts >etc/hosts; : >etc/resolv.conf; rm -f usr/bin/$3; shift 3
for path; do mkdir -p ".$path"; mount --bind "$path" ".$path"; done
for path; do while [ "$path" != / ]; do path=$(dirname "$path"); chmod a+x ".$path"; done; done # as far as those
"""


def missing() -> list[str]:
    """Return what is not installed here."""
    return hosts.missing() + [name for name in ("debootstrap", "chroot") if shutil.which(name) is None]


def _install(program: str, packages: str) -> None:
    """Bring packages into the tree where their program is not there; make the tree where there is none."""
    if not (TREE / "home" / "tester").exists():
        shutil.rmtree(TREE, ignore_errors=True)
        TREE.parent.mkdir(parents=True, exist_ok=True)
        words = ["debootstrap", "--variant=minbase", "trixie", str(TREE)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=900)
        policy = TREE / "usr" / "sbin" / "policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        _in_tree("useradd -m tester")
    if not (TREE / program).exists():
        words = f"apt-get install -qq -y --no-install-recommends {packages} procps"
        _in_tree(f"export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; {words}")


def _in_tree(line: str) -> None:
    """Run a line of shell in the tree."""
    outer = 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; chroot "$1" sh -ec "$2"'
    words = ["unshare", "--mount", "--propagation", "private", "bash", "-ec", outer, "sh", str(TREE), line]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=900)


class System(ABC):
    """A batch system on the host ``name``; ``program`` is one of its commands, ``others`` other systems'."""

    name: str
    program: str
    packages: str
    others: str

    def __init__(self, folder: Path, own: Path) -> None:
        self.folder, self.own = folder, own
        self.hosts = hosts.Hosts(folder, [self.name], {})
        self.tree = folder / "tree" / "root"

    @abstractmethod
    def begin(self) -> None:
        """Start the daemons in the tree."""

    @abstractmethod
    def ready(self) -> bool:
        """Return whether jobs can be taken."""

    @abstractmethod
    def jobs(self) -> list[str]:
        """Return the jobs in the queue, a line each."""

    def start(self) -> None:
        """Start the host, place the tree on it, start the daemons and wait until jobs can be taken."""
        _install(self.program, self.packages)
        os.chown(self.own, USER, USER)
        shared = dict.fromkeys([self.own, CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)])
        self.hosts.start()
        words = [str(self.tree.parent), str(TREE), self.others, *map(str, shared)]
        self.hosts.run(self.name, "bash", "-ec", _ROOT, "bash", *words)
        self.begin()
        until = time.monotonic() + _SECONDS
        while not self.ready():
            assert time.monotonic() < until, f"{self.name} waited for in vain: see {self.folder}"
            time.sleep(0.2)

    def in_tree(self, *words: str) -> list[str]:
        """Return the command line that runs a command in the tree as root."""
        return self.hosts.command(self.name, "chroot", str(self.tree), *words)

    def words(self, *words: str, **variables: str) -> list[str]:
        """Return the command line that runs a command in the tree as tester."""
        given = [f"{name}={value}" for name, value in {"HOME": "/home/tester", **variables}.items()]
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return self.in_tree(*user, "env", "-C", "/home/tester", *given, *words)

    def said(self, *words: str) -> str:
        """Return what a command prints, empty where it fails."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    def clusterglm(self, *arguments: object, **more: str) -> list[str]:
        """Return the command line that runs clusterglm as tester, with state and settings in his folder."""
        kept = {"PYTHONPATH": str(CHECKOUT), "USER": "tester", "PYTHONDONTWRITEBYTECODE": "1"}
        kept |= {"XDG_STATE_HOME": f"{self.own}/state", "XDG_DATA_HOME": f"{self.own}/data"}
        kept |= {"DASK_CONFIG": f"{self.own}/dask"}
        return self.words(sys.executable, "-m", "clusterglm.cli", *map(str, arguments), **kept | more)

    def run(self, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        """Run clusterglm as tester."""
        line = self.clusterglm(*arguments, **more)
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    def folders(self) -> list[Path]:
        """Return the folders that clusters have left."""
        return list((self.own / "data" / "clusterglm" / "clusters").iterdir())

    def folder_of_tester(self, name: str) -> Path:
        """Return a new folder of tester's."""
        folder = self.own / name
        folder.mkdir(exist_ok=True)
        os.chown(folder, USER, USER)
        return folder

    def steps(self, steps: Any, name: str) -> Any:
        """Return the tests' steps of fits in a folder of tester's."""
        made = type(steps)(self.own / name)
        os.chown(self.own / name, USER, USER)
        return made


@contextlib.contextmanager
def running(kind: Callable[[Path, Path], System], folder: Path, own: Path) -> Iterator[System]:
    """Run a batch system for the length of a ``with`` block; tester has the folder ``own``."""
    system = kind(folder, own)
    try:
        system.start()
        yield system
        assert system.run("down", "--all").returncode == 0
        assert not system.jobs()
    finally:
        system.hosts.stop()
