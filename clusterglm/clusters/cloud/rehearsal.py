"""``up ec2 --fake``: a whole life of a cluster on EC2 with no account, on one Linux machine.

One process holds a moto server and the booter that makes its instances live, in user, network, mount and process
namespaces of its own. There is no route out of them, so nothing in a rehearsal can reach an address outside this
machine; and with that process ends everything in it, so nothing can be left over. Commands on a rehearsed cluster
enter its network and run there as they would against AWS.
"""

from __future__ import annotations

import contextlib
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
from clusterglm.errors import ClusterError

REGION = "us-east-1"
_STATE = "CLUSTERGLM_REHEARSAL_OF"  # the state directory, in the environment of the rehearsal's process
_INSIDE = "CLUSTERGLM_REHEARSAL"  # in that of the commands that have entered
_LINGER = "CLUSTERGLM_REHEARSAL_LINGER"  # seconds that a rehearsal stays without instances
_SHOWN = Path("/run/clusterglm/shown.json")  # in the rehearsal's own /run
_PORT = 5000
_START_SECONDS = 60.0
_LONGEST = 24 * 3600.0
_PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}


class Elsewhere(ClusterError):
    """A command met a rehearsed cluster from outside: the command line enters and runs it again, see ``enter``."""


def inside() -> bool:
    """Return whether this process runs in a rehearsal."""
    return _INSIDE in os.environ


def process() -> int | None:
    """Return the number of the process that holds this state directory's rehearsal, None where there is none."""
    import psutil

    state = str(registry.state_path())
    for found in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if found.environ().get(_STATE) == state and _shown(found.pid).exists():
                return int(found.pid)
    return None


def shown() -> dict[str, list[dict[str, Any]]]:
    """Return the ``instances`` and ``groups`` of this state directory's rehearsal, as EC2 shows them, from outside."""
    with contextlib.suppress(OSError, ValueError):
        if (pid := process()) is not None:
            return dict(json.loads(_shown(pid).read_text()))
    return {"instances": [], "groups": []}


def missing() -> str:
    """Return why no rehearsal is possible here, an empty string where it is."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    try:
        import moto.server  # noqa: F401
    except ImportError:
        return "moto is not installed: pip install 'clusterglm[rehearsal]'"
    tried = subprocess.run([*_unshare(), "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if tried.returncode:
        words = (tried.stderr.strip().splitlines() or ["?"])[-1]
        return f"this system allows no namespaces ({words}): in a container, --cap-add SYS_ADMIN,NET_ADMIN"
    return ""


def enter(arguments: Sequence[str]) -> NoReturn:
    """Become ``clusterglm`` with these arguments inside the rehearsal, which is started if there is none.

    Raises
    ------
    ClusterError
        No rehearsal is possible here, or it did not start.
    """
    pid = process() or _start()
    world = {_INSIDE: str(pid), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_PORT}", "AWS_DEFAULT_REGION": REGION}
    world |= {"AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": "rehearsal", "AWS_REGION": REGION}
    world |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "NO_PROXY": "*", "no_proxy": "*"}
    world |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    stale = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_SSM")
    environment = {name: value for name, value in os.environ.items() if name not in stale} | world
    line = ["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-n", "--"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe("nsenter", [*line, sys.executable, "-m", "clusterglm", *arguments], environment)  # noqa: S606


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


def _shown(pid: int) -> Path:
    return Path(f"/proc/{pid}/root{_SHOWN}")


def _unshare() -> list[str]:
    # The caller stays who he is, so that files keep their owner.
    return ["unshare", "-U", "--map-current-user", "--keep-caps", "-n", "-m", "-p", "-f", "--mount-proc"]


def _start() -> int:
    """Start the process that holds a rehearsal, and return its number."""
    if why := missing():
        raise ClusterError("--fake", None, why)
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
    images = folder / "images.json"
    images.write_text(json.dumps([_image("x86_64", "amd64"), _image("arm64", "arm64")]))
    os.environ |= {"MOTO_AMIS_PATH": str(images), "AWS_EC2_METADATA_DISABLED": "true"}
    import botocore.session

    from clusterglm.clusters.cloud.booter import Booter

    ec2 = botocore.session.Session().create_client(
        "ec2",
        region_name=REGION,
        endpoint_url=f"http://127.0.0.1:{_PORT}",
        aws_access_key_id="booter",
        aws_secret_access_key="booter",  # noqa: S106  moto asks for some
    )
    booter = Booter(ec2, folder)
    _moto(booter)
    linger = float(os.environ.get(_LINGER, "60"))
    _SHOWN.parent.mkdir()
    begun = used = time.monotonic()
    try:
        while time.monotonic() < min(used + linger, begun + _LONGEST):
            found = booter.look()
            if any(instance["State"]["Name"] != "terminated" for instance in found):
                used = time.monotonic()
            partial = _SHOWN.with_suffix(".new")
            groups = ec2.describe_security_groups()["SecurityGroups"]
            partial.write_text(json.dumps({"instances": found, "groups": groups}, default=str))
            partial.replace(_SHOWN)
            time.sleep(0.2)
    finally:
        booter.end()
        shutil.rmtree(folder, ignore_errors=True)


def _moto(booter: Any) -> None:
    """Start the server, whose GetConsoleOutput shows what the machines have really printed."""
    import base64
    import logging

    from moto.core.responses import ActionResult
    from moto.ec2.responses.general import General
    from moto.server import ThreadedMotoServer

    def get_console_output(self: Any) -> ActionResult:
        identity = self._get_param("InstanceId")
        output = base64.b64encode(booter.console(identity).encode()).decode()
        return ActionResult({"InstanceId": identity, "Output": output})

    General.get_console_output = get_console_output
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=_PORT, verbose=False).start()


def _image(architecture: str, name: str) -> dict[str, Any]:
    """Return a stand-in for the image that is looked for."""
    return {
        "ami_id": f"ami-{architecture.replace('_', '')}0000rehearsal",
        "name": f"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{name}-server-20260901",
        "description": "a rehearsal",
        "owner_id": "099720109477",
        "public": True,
        "virtualization_type": "hvm",
        "architecture": architecture,
        "state": "available",
        "image_type": "machine",
        "hypervisor": "xen",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
        "creation_date": "2026-09-01T00:00:00.000Z",
    }


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
