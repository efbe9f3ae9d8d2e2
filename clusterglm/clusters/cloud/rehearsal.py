"""``up ec2 --fake`` and its like: a whole life of a cluster in a cloud with no account, on one Linux machine.

One process holds the fakes of the clouds that are rehearsed (clusters/cloud/fakes) and the booter that makes their
machines live, in user, network, mount and process namespaces of its own. There is no route out of them, so nothing in
a rehearsal can reach an address outside this machine; and with that process ends everything in it, so nothing can be
left over. Commands on a rehearsed cluster enter its network and run there as they would against the cloud itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from clusterglm.clusters import registry
from clusterglm.clusters.cloud.fakes import Fake, worlds
from clusterglm.clusters.launcher import Entrance
from clusterglm.errors import ClusterError

_STATE = "CLUSTERGLM_REHEARSAL_OF"  # the state directory, in the environment of the rehearsal's process
_INSIDE = "CLUSTERGLM_REHEARSAL"  # its process, in the environment of the commands that have entered
_CLOUDS = "CLUSTERGLM_REHEARSAL_CLOUDS"  # the clouds that these can reach
_LINGER = "CLUSTERGLM_REHEARSAL_LINGER"  # seconds that a rehearsal stays without instances
_SHOWN = Path("/run/clusterglm/shown.json")  # in the rehearsal's own /run
_WANTED = Path("/run/clusterglm/wanted")  # a folder: a file for each cloud
_START_SECONDS = 60.0
_LONGEST = 24 * 3600.0
_PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}


def inside(cloud: str | None = None) -> bool:
    """Return whether this process runs in a rehearsal, and a cloud is there if one is named."""
    return _INSIDE in os.environ and (cloud is None or cloud in os.environ[_CLOUDS].split(","))


def process() -> int | None:
    """Return the number of the process that holds this state directory's rehearsal, None where there is none."""
    import psutil

    state = str(registry.state_path())
    for found in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            ours = found.environ().get(_STATE) == state and _within(found.pid, _SHOWN).exists()
            if ours and _is_first(found.pid):  # and not unshare(1) above it, which is deaf to signals
                return int(found.pid)
    return None


def shown(cloud: str) -> dict[str, Any]:
    """Return what a cloud holds in this state directory's rehearsal, from outside; an empty dict for nothing."""
    with contextlib.suppress(OSError, ValueError):
        if (pid := process()) is not None:
            return dict(_read(pid).get(cloud, {}))
    return {}


def missing(cloud: str = "ec2") -> str:
    """Return why a cloud cannot be rehearsed here, an empty string where it can."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    if cloud not in worlds():
        return f"{cloud} cannot be rehearsed: {', '.join(worlds())} can"
    if why := worlds()[cloud].missing():
        return why
    tried = subprocess.run([*_unshare(), "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if tried.returncode:
        words = (tried.stderr.strip().splitlines() or ["?"])[-1]
        return f"this system allows no namespaces ({words}): in a container, --cap-add SYS_ADMIN,NET_ADMIN"
    return ""


def enter(arguments: Sequence[str], cloud: str | None = None) -> NoReturn:
    """Become ``clusterglm`` with these arguments inside the rehearsal; it, and a cloud in it, are started if need be.

    Raises
    ------
    ClusterError
        No rehearsal is possible here, or it did not start.
    """
    if cloud is not None and (why := missing(cloud)):
        raise ClusterError("--fake", None, why)
    pid = process() or _start()
    if cloud is not None:
        _want(pid, cloud)
    present = _read(pid)
    world = {_INSIDE: str(pid), _CLOUDS: ",".join(present), "NO_PROXY": "*", "no_proxy": "*"}
    environment = os.environ | world
    for variable in [name for of in worlds().values() for name in of.real]:
        environment.pop(variable, None)
    for found in present.values():
        environment |= found["variables"]
    line = ["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-n", "--"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe("nsenter", [*line, sys.executable, "-m", "clusterglm", *arguments], environment)  # noqa: S606


def entrance(cloud: str, begin: bool = False) -> Entrance | None:
    """Return the way into the rehearsal of a cloud for commands outside of it, as launchers tell it."""
    if inside(cloud if begin else None) or not (begin or process()):
        return None
    return functools.partial(enter, cloud=cloud if begin else None)


def end() -> None:
    """End this state directory's rehearsal and everything in it."""
    pid = process()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)


def check_fence() -> None:
    """Refuse to go on where there is a way out of this network.

    Raises
    ------
    ClusterError
        There is a default route.
    """
    found = [line for v in ("-4", "-6") for line in _ip(v, "route", "show", "default").splitlines() if line]
    if found:
        raise ClusterError("rehearsal", found[0], "there is a way out of its network: nothing is started")


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def _within(pid: int, path: Path) -> Path:
    return Path(f"/proc/{pid}/root{path}")


def _is_first(pid: int) -> bool:
    """Return whether a process is the first of its namespace, with which all others end."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid:")).split()[-1] == "1"


def _read(pid: int) -> dict[str, dict[str, Any]]:
    return dict(json.loads(_within(pid, _SHOWN).read_text()))


def _want(pid: int, cloud: str) -> None:
    """Have a cloud started in a rehearsal, and wait until it is there."""
    _within(pid, _WANTED / cloud).touch()
    until = time.monotonic() + _START_SECONDS
    while cloud not in _read(pid):
        if not Path(f"/proc/{pid}").exists() or time.monotonic() > until:
            raise ClusterError("--fake", cloud, "did not start in the rehearsal")
        time.sleep(0.05)


def _unshare() -> list[str]:
    # The caller stays who he is, so that files keep their owner.
    return ["unshare", "-U", "--map-current-user", "--keep-caps", "-n", "-m", "-p", "-f", "--mount-proc"]


def _start() -> int:
    """Start the process that holds a rehearsal, and return its number."""
    folder = Path(tempfile.mkdtemp(prefix="clusterglm-rehearsal-"))
    line = [*_unshare(), "--kill-child", sys.executable, "-m", __name__, str(folder)]
    log = folder / "rehearsal.log"
    with log.open("ab") as output:
        started = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | {_STATE: str(registry.state_path())},
        )
    until = time.monotonic() + _START_SECONDS
    while (pid := process()) is None:
        if started.poll() is not None or time.monotonic() > until:
            started.kill()
            words = (log.read_text(errors="replace").strip().splitlines() or ["no word of it"])[-1]
            shutil.rmtree(folder, ignore_errors=True)
            raise ClusterError("--fake", None, f"the rehearsal did not start: {words}")
        time.sleep(0.05)
    return pid


def _serve(folder: Path) -> None:
    """Hold a rehearsal until its last instance has been gone for a while."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)  # where ip(8) keeps its namespaces
    check_fence()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    from clusterglm.clusters.cloud.fakes.booter import Booter

    booter, fakes = Booter(folder), dict[str, Fake]()
    linger = float(os.environ.get(_LINGER, "60"))
    _WANTED.mkdir(parents=True)
    begun = used = time.monotonic()
    try:
        while time.monotonic() < min(used + linger, begun + _LONGEST):
            for name in {path.name for path in _WANTED.iterdir()} - fakes.keys():
                fakes[name] = worlds()[name].start(folder / name, booter.console)
            for name, fake in fakes.items():
                booter.look(name, fake)
            found = {name: {"variables": fake.variables, **fake.shown()} for name, fake in fakes.items()}
            if not all(each["empty"] for each in found.values()):
                used = time.monotonic()
            partial = _SHOWN.with_suffix(".new")
            partial.write_text(json.dumps(found, default=str))
            partial.replace(_SHOWN)
            time.sleep(0.2)
    finally:
        booter.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
