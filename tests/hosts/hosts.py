"""Several hosts on one Linux machine, made of namespaces: each has an address, a name and processes of its own.

They lie in a "site" of namespaces, so the machine's own network, mounts and processes are untouched, and whoever ends
the site's first process ends everything in it. Files are the machine's own, as on a shared file system, but for folders
that a test lays over others; hosts of ``roots`` have a root file system of their own, a copy on write; on those of
``systemd`` the first process is a systemd, which runs none of the machine's services. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount")
SYSTEMD = "/usr/lib/systemd/systemd"
_NETWORK = "10.77.0"  # seen inside the site alone
_SECONDS = 20.0
_SPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
# The first process of a host: it takes in those whose parents have ended.
_FIRST = "while :; do sleep 3600 & wait $!; done"
# A root file system over the machine's, whose changes lie in memory.
_OWN_ROOT = """
mount -t tmpfs -o mode=755 tmpfs "$1"; cd "$1"; mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" root; cd root
mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run; mkdir run/old; pivot_root . run/old; umount -l run/old; rmdir run/old
"""
# Before systemd starts there: no service, mount or device of the machine's is its affair.
_SYSTEMD = """
mount -t sysfs -o ro sysfs /sys; mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ ! -e /dev/console ] || mount --bind /dev/null /dev/console
find /etc/systemd/system /usr/lib/systemd/system -depth \\( -name '*.wants' -o -name '*.requires' \\) -exec rm -r {} +
rm -rf /usr/lib/systemd/system-generators /etc/fstab; touch /run/go
"""
_FIRST_SYSTEMD = """
until [ -e /run/go ]; do sleep 0.05; done
exec env -i container=test PATH="$PATH" "$0" --unit=basic.target --log-target=null --show-status=no
"""


def missing() -> list[str]:
    """Return what is not there: programs, or the rights of root."""
    rights = [] if os.geteuid() == 0 else ["root"]
    return rights + [name for name in PROGRAMS if shutil.which(name) is None]


class Hosts:
    """Running hosts of these ``names``; on each the folders of ``over`` lie over those they are keyed by."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        over: Mapping[str, Path],
        roots: Sequence[str] = (),
        systemd: Sequence[str] = (),
    ) -> None:
        self.folder, self.names, self.roots, self.systemd = folder, list(names), list(roots), list(systemd)
        self.groups: list[Path] = []  # of processes, of those with systemd
        self.spaces: list[subprocess.Popen[bytes]] = []  # the site's, then those of the hosts
        self.first: dict[str, int] = {}  # process numbers, as this machine counts
        addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, start=10)}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").touch()  # no name server: a look-up would wait for it
        self.addresses = addresses
        self.site: list[str] = []  # the beginning of a command on the network between the hosts
        self.over = {"/etc/hosts": folder / "hosts", "/etc/resolv.conf": folder / "resolv.conf", **over}

    def start(self) -> None:
        """Make the site, its network and the hosts."""
        top = self._first_of(self._unshared(["setpriv", "--pdeathsig", "KILL"]))
        self.site = ["nsenter", "--target", str(top), "--net"]
        _run(*self.site, "ip", "link", "add", "switch", "type", "bridge")
        _run(*self.site, "ip", "link", "set", "switch", "up")
        for name in self.names:
            self.make(name)

    def make(self, name: str) -> None:
        """Start a host, for the first time or after ``kill``: then its files are the machine's again."""
        enter = ["nsenter", "--target", self.site[2], "--all"]
        if name in self.systemd:
            first = self._first_of(self._unshared([*enter, *self._in_group(name)], _FIRST_SYSTEMD, "--cgroup"))
        else:
            first = self._first_of(self._unshared(enter))
        self.first[name] = first
        inner = ["nsenter", "--target", str(first), "--net"]
        # A host that is made again must not wait until the others have forgotten where it was.
        card = f"02:00:00:00:00:{self.names.index(name) + 1:02x}"
        link = ("type", "veth", "peer", "name", "eth0", "address", card, "netns", str(first))
        _run(*self.site, "ip", "link", "add", self._port(name), *link)
        _run(*self.site, "ip", "link", "set", self._port(name), "master", "switch", "up")
        _run(*inner, "ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        for link_ in ("eth0", "lo"):
            _run(*inner, "ip", "link", "set", link_, "up")
        # What asks for "the" address of a host asks for the one towards all others.
        _run(*inner, "ip", "route", "add", "default", "dev", "eth0")
        self.run(name, "hostname", name)
        if name in self.roots:
            place = self.folder / f"root-{name}"
            place.mkdir(exist_ok=True)
            self.run(name, "bash", "-ec", _OWN_ROOT, "bash", str(place))
        if name in self.systemd:
            self.run(name, "bash", "-ec", _SYSTEMD)
            self._until_systemd(name)
        for path, source in self.over.items():
            if name in self.roots:  # the machine's file of this name may be a link to nowhere here
                self.run(name, "cp", "--remove-destination", str(source), path)
            else:
                self.run(name, "mount", "--bind", str(source), path)

    def command(self, name: str, *words: str) -> list[str]:
        """Return the command line that runs a command on a host."""
        here = [] if name in self.roots else ["--wd=."]
        return ["nsenter", "--target", str(self.first[name]), "--all", *here, "--", *words]

    def cut(self, name: str) -> None:
        """Take a host off the network. Its processes live on, and no packet tells of it."""
        _run(*self.site, "ip", "link", "set", self._port(name), "down")

    def mend(self, name: str) -> None:
        """Bring a host back onto the network."""
        _run(*self.site, "ip", "link", "set", self._port(name), "up")

    def kill(self, name: str) -> None:
        """End all processes of a host at once, and say nothing to the others, as a failure of power does."""
        self.cut(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first[name], signal.SIGKILL)
        self._gone([self.first[name]])
        # Else the kernel takes the port down whenever it comes to it, and its name is needed.
        with contextlib.suppress(AssertionError):
            _run(*self.site, "ip", "link", "delete", self._port(name))

    def processes(self, name: str) -> list[str]:
        """Return the command lines of the processes on a host that an environment's Python runs."""
        lines = self.run(name, "ps", "-eo", "args", "--no-headers").splitlines()
        return [line for line in lines if "distributed" in line or "multiprocessing" in line]

    def _port(self, name: str) -> str:
        return f"port{self.names.index(name)}"

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
        self._gone(list(self.first.values()))
        until = time.monotonic() + _SECONDS
        for group in [path for top in self.groups for path in sorted([top, *top.rglob("*/")], reverse=True)]:
            while group.exists():
                with contextlib.suppress(OSError):  # until the kernel has counted its last process
                    group.rmdir()
                assert time.monotonic() < until, f"left: {group}"

    def _in_group(self, name: str) -> list[str]:
        """Return the beginning of a command in a new group of processes, the root of those that a systemd will make."""
        lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        top = next(Path(line[1]) for line in lines if line[2] == "cgroup2")
        group = top / f"clusterglm-{os.getpid()}-{name}-{len(self.groups)}"
        group.mkdir()
        self.groups.append(group)
        return ["sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh"]

    def _until_systemd(self, name: str) -> None:
        until = time.monotonic() + _SECONDS
        while True:
            with contextlib.suppress(AssertionError):
                self.run(name, "systemctl", "is-active", "basic.target")
                return
            assert time.monotonic() < until, f"systemd did not start: see {self.folder}/hosts.log"
            time.sleep(0.05)

    def _gone(self, numbers: Sequence[int]) -> None:
        until = time.monotonic() + _SECONDS
        while left := [number for number in numbers if Path(f"/proc/{number}").exists()]:
            assert time.monotonic() < until, f"left: {left}"
            time.sleep(0.01)

    def _unshared(self, before: Sequence[str], first: str = _FIRST, *spaces: str) -> subprocess.Popen[bytes]:
        command = [
            *before,
            "unshare",
            *_SPACES,
            *spaces,
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            first,
            SYSTEMD,
        ]
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
