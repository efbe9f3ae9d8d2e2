"""What acts on a host: a program that is sent over SSH together with its request, and answers in one line of JSON.

It needs Python 3.8 and nothing else, so that a host whose environment is broken or removed can be looked at and cleared
all the same. Every process of a cluster carries ``CLUSTERGLM_TAG=NAME-UID/ROLE`` in its environment from birth, so none
is missed whenever ``up`` was killed, and no number that the system has given to someone else is taken for ours.

A cluster's folder is ``~/.local/state/clusterglm/hosts/NAME-UID/HOSTNAME``: home may be one for all hosts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "clusterglm-answer:"
TAG = "CLUSTERGLM_TAG"
_SHARE = 0.9  # of the memory: the system takes the rest
_GRACE_SECONDS, _KILL_SECONDS = 4.0, 10.0
_MOST_BYTES = 1_000_000  # of a log
_REMEMBERED = 200  # clusters that were taken down
_PACKAGES = ("dask", "distributed", "numpy")


class Problem(Exception):
    """What is said to the user in place of an answer."""


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Return what there is on this host of each cluster, by ``NAME-UID``: from its folder, and from its processes."""
    found: dict[str, Any] = {}
    for folder in sorted(_base().glob(f"*/{socket.gethostname()}")):
        found[folder.parent.name] = {"roles": {}, **_noted(folder)}
    for number, cluster, role in _processes():
        found.setdefault(cluster, {"roles": {}, "plan": {}})["roles"].setdefault(role, []).append(number)
    name = request.get("name")
    return {cluster: parts for cluster, parts in found.items() if name in (None, cluster.rpartition("-")[0])}


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """Return what a host has: versions, cores, memory in bytes, its clock, free disk, and whether it can be written."""
    folder = _private(_base())
    trial = folder / f".trial-{os.getpid()}"
    try:
        _write(trial, " " * 100_000)  # three keys, a plan and the first lines of a log
    finally:
        with contextlib.suppress(OSError):
            trial.unlink()
    scratch = Path(request.get("scratch") or _temporary())
    if not os.access(scratch, os.W_OK | os.X_OK):
        raise Problem(f"{scratch} is not a folder that can be written: --scratch names another")
    return {
        "hostname": socket.gethostname(),
        "python": sys.executable,
        "versions": _versions(),
        "cores": _cores(),
        "memory": _memory(),
        "time": time.time(),
        "free": {str(path): shutil.disk_usage(path).free for path in (folder, scratch)},
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "detached": "systemd" if _systemd() else "session",
        "clusters": look(request),
    }


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Start one process of a cluster, detached, and wait for the file that it shall write, if any.

    ``line`` is its command, with ``{python}`` and the like for what only this host knows; ``files`` are written first,
    as their owner's alone. A process of this role that runs already is left as it is. A cluster that was taken down
    has nothing started any more: the request of an ``up`` that was killed may come late.
    """
    cluster, role = request["cluster"], request["role"]
    folder = _base() / cluster / socket.gethostname()
    with _locked() as lock:
        if cluster in _taken_down(lock):
            raise Problem("the cluster was taken down meanwhile")
        for path in (_base(), folder.parent, folder):
            _private(path)
        for name, text in request["files"].items():
            if "/" in name:
                _private((folder / name).parent)
            _write(folder / name, text)
        if not _alive(cluster, role):
            words = _filled(request, folder)
            _detach(words, cluster, role, folder, request.get("limit"))
    until = time.monotonic() + request["seconds"]
    while request.get("awaits") and not _has(folder / request["awaits"]):
        if not _alive(cluster, role):
            raise Problem(f"{role} died at the start: {_last_line(folder / (role + '.log'))}")
        if time.monotonic() > until:
            raise Problem(f"{role} has not begun to listen after {request['seconds']:.0f} s")
        time.sleep(0.05)
    return _noted(folder)


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """End what runs under a cluster's name, in some roles or all; with all of them the folders go too.

    ``cluster`` is its ``NAME-UID`` where that is known: of it, and of all that is found, nothing will start here again.
    """
    name, only = request["name"], request.get("roles")
    ended: set[tuple[str, str]] = set()
    with _locked() as lock:
        if only is None:
            known = [request["cluster"]] if request.get("cluster") else []
            _take_down(lock, [*known, *(cluster for cluster in look({}) if cluster.rpartition("-")[0] == name)])
        began, asked = time.monotonic(), False
        while ours := [p for p in _processes() if p[1].rpartition("-")[0] == name and (only is None or p[2] in only)]:
            ended |= {(cluster, role) for _, cluster, role in ours}
            late = time.monotonic() - began
            if late > _GRACE_SECONDS + _KILL_SECONDS:
                raise Problem("processes that cannot be ended: " + ", ".join(str(number) for number, *_ in ours))
            leaders = [number for number, *_ in ours if _leads(number)]
            if not asked:  # first, so that logs end in order
                _signal(leaders, signal.SIGTERM)
            elif late > _GRACE_SECONDS or not leaders:
                _signal([number for number, *_ in ours], signal.SIGKILL)
            asked = True
            time.sleep(0.05)
        if only is None:
            for folder in _base().glob(f"{name}-????????/{socket.gethostname()}"):
                shutil.rmtree(_scratch(folder.parent.name, request.get("scratch")), ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # those of other hosts, where home is one for all
                    folder.parent.rmdir()
    return {"ended": len(ended)}


def read(request: dict[str, Any]) -> dict[str, str]:
    """Return the ends of files in a cluster's folder, by name; those that are not there are left out."""
    folder = _base() / request["cluster"] / socket.gethostname()
    found = {}
    for name in request["names"]:
        with contextlib.suppress(FileNotFoundError), open(folder / name, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MOST_BYTES))
            found[name] = file.read().decode("utf-8", "replace")
    return found


def listen(request: dict[str, Any]) -> dict[str, Any]:
    """Listen at a port for ``lasts`` seconds, in the background, and return the address and the port."""
    try:
        server = socket.create_server(("", request["port"]))
    except OSError as error:
        raise Problem(f"port {request['port']}: {os.strerror(error.errno or 0).lower()}") from error
    found = {"address": _address(), "port": server.getsockname()[1]}
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # else the session would last as long
            os.dup2(nothing, stream)
        until = time.monotonic() + request["lasts"]
        with contextlib.suppress(OSError):
            while (left := until - time.monotonic()) > 0:
                server.settimeout(left)
                server.accept()[0].close()
        os._exit(0)
    return found


def knock(request: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong with a port of another host, empty where it can be reached."""
    try:
        socket.create_connection((request["address"], request["port"]), timeout=request["lasts"]).close()
    except OSError as error:
        return {"problem": (error.strerror or str(error)).lower()}
    return {"problem": ""}


def _address() -> str:
    """Return the address towards the default route, which is the one that Dask tells."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_:
        probe_.connect(("8.8.8.8", 80))  # no packet is sent
        return str(probe_.getsockname()[0])
    return socket.gethostbyname(socket.gethostname())


def _base() -> Path:
    return Path.home() / ".local" / "state" / "clusterglm" / "hosts"


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or not folder.is_dir() or folder.is_symlink():
        raise Problem(f"{folder} is not its owner's alone: chmod 700 {folder}")
    return folder


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise Problem(f"{(error.strerror or str(error)).lower()} in {path.parent}") from error


@contextlib.contextmanager
def _locked() -> Iterator[int]:
    """Hold what starts and ends processes here: an ``up`` that was killed may still be at work on this host."""
    file = os.open(_private(_base()) / f"{socket.gethostname()}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _taken_down(lock: int) -> list[str]:
    """Return the clusters that were taken down, of which the file of the lock tells."""
    return os.pread(lock, 100 * _REMEMBERED, 0).decode("utf-8", "replace").split()


def _take_down(lock: int, clusters: list[str]) -> None:
    words = list(dict.fromkeys([*_taken_down(lock), *clusters]))[-_REMEMBERED:]
    with contextlib.suppress(OSError):  # a full disk keeps nothing from being ended
        os.ftruncate(lock, os.pwrite(lock, " ".join(words).encode(), 0))


def _processes() -> list[tuple[int, str, str]]:
    """Return (number, ``NAME-UID``, role) of every process of ours that carries a tag."""
    found = []
    head = f"{TAG}=".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid != os.getuid():
                continue
            tags = [variable[len(head) :] for variable in _environment(process) if variable.startswith(head)]
            if tags:
                cluster, _, role = tags[0].decode("utf-8", "replace").partition("/")
                found.append((int(process.name), cluster, role))
    return found


def _environment(process: Path) -> list[bytes]:
    """Return the environment of a process. It is empty for a moment while the process becomes another program."""
    for _ in range(20):
        if found := (process / "environ").read_bytes():
            return found.split(b"\0")
        if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.001)
    return []


def _leads(number: int) -> bool:
    """Return whether a process is the one that was started, not one that it has started itself."""
    with contextlib.suppress(OSError):
        return os.getsid(number) == number
    return False


def _signal(numbers: list[int], signal_: signal.Signals) -> None:
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal_)


def _alive(cluster: str, role: str) -> bool:
    return any(found[1:] == (cluster, role) for found in _processes())


def _filled(request: dict[str, Any], folder: Path) -> list[str]:
    """Return the words of a command with what only this host knows put in."""
    processes = request.get("processes", 1)
    scratch = _scratch(request["cluster"], request.get("scratch"))
    values = {
        "{python}": sys.executable,
        "{folder}": str(folder),
        "{scratch}": str(scratch),
        "{threads}": str(max(1, (request.get("cores") or _cores()) // processes)),
        "{memory}": str(int((request.get("memory") or _SHARE * _memory()) / processes)),
        **request.get("values", {}),
    }
    if "{scratch}" in request["line"]:
        _private(scratch)
    words = shlex.split(request["line"])
    for mark, value in values.items():
        words = [word.replace(mark, value) for word in words]
    return words


def _detach(words: list[str], cluster: str, role: str, folder: Path, limit: int | None) -> None:
    """Start a process that outlives this session: a unit of systemd where there is one, else a session of its own."""
    log = folder / f"{role}.log"
    tag = {TAG: f"{cluster}/{role}"}
    if systemd := _systemd():
        unit = [*systemd, "--quiet", "--collect", f"--unit=clusterglm-{cluster}-{role}", "--property=Type=exec"]
        unit += [f"--property=Standard{stream}=append:{log}" for stream in ("Output", "Error")]
        unit += [f"--working-directory={folder}", f"--setenv={TAG}={tag[TAG]}"]
        unit += [f"--property=MemoryMax={limit}"] if limit else []
        done = subprocess.run([*unit, "--", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Problem(f"systemd-run: {(done.stderr or done.stdout).strip()}")
        return
    with log.open("ab") as file:
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            env={**os.environ, **tag},
            start_new_session=True,
        )


def _systemd() -> list[str]:
    """Return the command that starts units which outlive this session; empty where there is no such systemd.

    A user's own systemd ends with their last session unless they linger: a session of its own is then the better way.
    """
    if shutil.which("systemd-run") is None or not Path("/run/systemd/system").is_dir():
        return []
    if os.getuid() == 0:
        return ["systemd-run"]
    os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")

    def works(*words: str) -> bool:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0

    import pwd

    lingers = Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists()
    if (lingers or works("loginctl", "enable-linger")) and works("systemctl", "--user", "show-environment"):
        return ["systemd-run", "--user"]
    return []


def _noted(folder: Path) -> dict[str, Any]:
    """Return what a cluster's folder says: its plan, and what its scheduler has written."""
    found: dict[str, Any] = {"plan": {}}
    for key, name in (("plan", "plan.json"), ("scheduler", "scheduler.json")):
        with contextlib.suppress(OSError, ValueError):
            found[key] = json.loads((folder / name).read_text())
    found["last"] = {path.stem: _last_line(path) for path in folder.glob("*.log")}
    return found


def _has(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads(path.read_text()))
    return False


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "(empty log)"
    return "(no log)"


def _temporary() -> str:
    return os.environ.get("TMPDIR", "/tmp")  # noqa: S108  the folder that is made there is its owner's alone


def _scratch(cluster: str, parent: str | None) -> Path:
    return Path(parent or _temporary()) / f"cglm-{cluster}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _memory() -> int:
    """Return the bytes of memory that processes here may use (container limits count)."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return min(found)


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {"python": "{}.{}".format(*sys.version_info)}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    try:
        import clusterglm

        found["clusterglm"] = clusterglm.__version__
    except (ImportError, AttributeError, SyntaxError):
        found["clusterglm"] = "missing"
    return found


def main(text: str) -> None:
    """Do what is asked for, and print the answer."""
    sys.path[:] = [path for path in sys.path if path]  # not what happens to lie in the home directory
    os.umask(0o077)
    request = json.loads(text)
    verbs = {verb.__name__: verb for verb in (look, probe, start, stop, read, listen, knock)}
    try:
        answer: dict[str, Any] = {"answer": verbs[request["verb"]](request)}
    except Problem as problem:
        answer = {"problem": str(problem)}
    except OSError as error:
        where = f" in {Path(error.filename).parent}" if error.filename else ""
        answer = {"problem": f"{(error.strerror or str(error)).lower()}{where}"}
    print(MARK + json.dumps(answer), flush=True)
