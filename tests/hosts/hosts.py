"""Several hosts on one Linux machine, made of namespaces: each has an address, a name and processes of its own.

They lie in a "site" of namespaces, so the machine's own network, mounts and processes are untouched, and whoever ends
the site's first process ends everything in it. Files are the machine's own, as on a shared file system, but for folders
that a test lays over others. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount")
_NETWORK = "10.77.0"  # seen inside the site alone
_SECONDS = 20.0
_SPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
# The first process of a host: it takes in those whose parents have ended.
_FIRST = "while :; do sleep 3600 & wait $!; done"


def missing() -> list[str]:
    """Return what is not there: programs, or the rights of root."""
    return [] if os.geteuid() == 0 else ["root"] + [name for name in PROGRAMS if shutil.which(name) is None]


class Hosts:
    """Running hosts of these ``names``; on each the folders of ``over`` lie over those they are keyed by."""

    def __init__(self, folder: Path, names: Sequence[str], over: Mapping[str, Path]) -> None:
        self.folder, self.names = folder, list(names)
        self.spaces: list[subprocess.Popen[bytes]] = []  # the site's, then those of the hosts
        self.first: dict[str, int] = {}  # process numbers, as this machine counts
        addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, start=10)}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").touch()  # no name server: a look-up would wait for it
        self.addresses = addresses
        self.over = {"/etc/hosts": folder / "hosts", "/etc/resolv.conf": folder / "resolv.conf", **over}

    def start(self) -> None:
        """Make the site, its network and the hosts."""
        top = self._first_of(self._unshared(["setpriv", "--pdeathsig", "KILL"]))
        site = ["nsenter", "--target", str(top), "--net"]
        _run(*site, "ip", "link", "add", "switch", "type", "bridge")
        _run(*site, "ip", "link", "set", "switch", "up")
        for number, name in enumerate(self.names):
            first = self._first_of(self._unshared(["nsenter", "--target", str(top), "--all"]))
            self.first[name] = first
            inner = ["nsenter", "--target", str(first), "--net"]
            link = ("type", "veth", "peer", "name", "eth0", "netns", str(first))
            _run(*site, "ip", "link", "add", f"port{number}", *link)
            _run(*site, "ip", "link", "set", f"port{number}", "master", "switch", "up")
            _run(*inner, "ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            for link_ in ("eth0", "lo"):
                _run(*inner, "ip", "link", "set", link_, "up")
            # What asks for "the" address of a host asks for the one towards all others.
            _run(*inner, "ip", "route", "add", "default", "dev", "eth0")
            self.run(name, "hostname", name)
            for place, source in self.over.items():
                self.run(name, "mount", "--bind", str(source), place)

    def command(self, name: str, *words: str) -> list[str]:
        """Return the command line that runs a command on a host."""
        return ["nsenter", "--target", str(self.first[name]), "--all", "--wd=.", "--", *words]

    def run(self, name: str, *words: str, **options: object) -> str:
        """Run a command on a host and return what it printed.

        Raises
        ------
        AssertionError
            It has failed.
        """
        return _run(*self.command(name, *words), **options)

    def stop(self) -> None:
        """End the site's first process; the kernel ends all others, and takes the network down with them."""
        for spaces in self.spaces:
            spaces.kill()
            spaces.wait()
        until = time.monotonic() + _SECONDS
        while left := [number for number in self.first.values() if Path(f"/proc/{number}").exists()]:
            assert time.monotonic() < until, f"left: {left}"
            time.sleep(0.01)

    def _unshared(self, before: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [*before, "unshare", *_SPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-c", _FIRST]
        with (self.folder / "hosts.log").open("ab") as log:
            made = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.spaces.append(made)
        return made

    def _first_of(self, process: subprocess.Popen[bytes]) -> int:
        """Return the number of the bash that is the first process in the spaces that ``process`` makes."""
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            number = process.pid
            with contextlib.suppress(OSError, IndexError):
                while Path(f"/proc/{number}/comm").read_text() != "bash\n":
                    number = int(Path(f"/proc/{number}/task/{number}/children").read_text().split()[0])
                return number
            assert process.poll() is None, (self.folder / "hosts.log").read_text()
            time.sleep(0.01)
        raise AssertionError("a host did not start")


def _run(*words: str, **options: object) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return str(done.stdout).strip()


@contextlib.contextmanager
def running(folder: Path, names: Sequence[str], over: Mapping[str, Path]) -> Iterator[Hosts]:
    """Run hosts for the length of a ``with`` block."""
    hosts = Hosts(folder, names, over)
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()
