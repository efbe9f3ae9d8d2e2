"""Makes the instances of a moto server live: each becomes a network namespace in which its own user data runs.

Runs inside the namespaces of clusters/cloud/rehearsal.py, where there is no way out to any network. Nothing of what a
machine runs is changed; but ``shutdown``, ``apt-get``, ``curl``, ``uv`` and their like are found first in a folder of
stand-ins, so that Python is this one, nothing is downloaded, and a machine that halts is ended as EC2 would end it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterglm.clusters.cloud import userdata

GATEWAY = "172.31.0.1"  # in moto's default network, and the caller's address
_BRIDGE = "cglm0"
# moto hands out public addresses of hosts that exist: here they stay on the bridge.
PUBLIC = "54.214.0.0/16"
_NOTHING = ("apt-get", "apt", "curl", "systemctl", "docker")
_UV = """#!/bin/sh
[ "$1" = venv ] || exit 0
for folder; do :; done
mkdir -p "$folder/bin"
printf '#!/bin/sh\\nexec {python} "$@"\\n' >"$folder/bin/python"
chmod 755 "$folder/bin/python"
"""
_SHUTDOWN = """#!/bin/sh
case "$2" in
+*) (sleep "$(( ${2#+} * MINUTE_SECONDS ))" && : >"$MACHINE/halt") >/dev/null 2>&1 & ;;
*) : >"$MACHINE/halt" ;;
esac
"""


class Machine:
    """One live instance."""

    def __init__(self, instance: Mapping[str, Any], script: str, folder: Path, programs: Path) -> None:
        self.id, self.folder = str(instance["InstanceId"]), folder
        self.namespace = f"cglm-{self.id[-8:]}"
        (folder / "srv").mkdir(parents=True)
        (folder / "run.sh").write_text(script)
        self._connect(instance["PrivateIpAddress"], instance.get("PublicIpAddress"))
        environment = {
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "MACHINE": str(folder),
            "MINUTE_SECONDS": os.environ.get("CLUSTERGLM_REHEARSAL_MINUTE", "60"),
        }
        # Its own /srv, on this machine's disk: rows may be written there.
        srv, script_file = (shlex.quote(str(folder / name)) for name in ("srv", "run.sh"))
        boot = f"mount --bind {srv} /srv && exec /bin/sh {script_file}"
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "-m", "sh", "-c", boot],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    def halted(self) -> bool:
        return (self.folder / "halt").exists()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # Nannies put their workers into sessions of their own.
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._port], capture_output=True, check=False)

    @property
    def _port(self) -> str:
        return f"cglm{self.id[-8:]}"

    def _connect(self, private: str, public: str | None) -> None:
        inside = ["ip", "-n", self.namespace]
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "link", "set", self._port, "master", _BRIDGE, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "addr", "add", f"{private}/16", "dev", "eth0")
        run(*inside, "route", "add", PUBLIC, "dev", "eth0", "src", private)
        if public:
            run(*inside, "addr", "add", f"{public}/32", "dev", "eth0")


class Booter:
    """Follows what moto says of its instances, and makes it true."""

    def __init__(self, ec2: Any, folder: Path) -> None:
        self.ec2, self.folder = ec2, folder
        self.machines: dict[str, Machine] = {}
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in _NOTHING:
            self._program(name, "#!/bin/sh\nexit 0\n")
        self._program("nproc", "#!/bin/sh\necho 1\n")  # several machines share the cores of this one
        self._program("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self._program("uv", _UV.replace("{python}", sys.executable))
        self._program("shutdown", _SHUTDOWN)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", _BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{GATEWAY}/16", "dev", _BRIDGE)
        run("ip", "link", "set", _BRIDGE, "up")
        run("ip", "route", "add", PUBLIC, "dev", _BRIDGE)

    def look(self) -> list[dict[str, Any]]:
        """Bring the machines in line with the instances, and return these."""
        instances = [
            instance
            for page in self.ec2.get_paginator("describe_instances").paginate()
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        ]
        running = {item["InstanceId"]: item for item in instances if item["State"]["Name"] == "running"}
        for identity in self.machines.keys() - running.keys():
            self.machines.pop(identity).end()
        for identity, instance in running.items():
            if identity not in self.machines:
                folder = self.folder / identity
                script = userdata.unpacked(_user_data(self.ec2, identity)) or "#!/bin/sh\n"
                self.machines[identity] = Machine(instance, script, folder, self.programs)
            elif self.machines[identity].halted():
                self._halt(identity)
        return instances

    def console(self, identity: str) -> str:
        """Return the end of what a machine has printed, also of one that is gone."""
        path = self.folder / identity / "console.log"
        return path.read_text(errors="replace")[-(2**16) :] if path.exists() else ""

    def end(self) -> None:
        for machine in self.machines.values():
            machine.end()
        self.machines.clear()

    def _halt(self, identity: str) -> None:
        attribute = "instanceInitiatedShutdownBehavior"
        found = self.ec2.describe_instance_attribute(InstanceId=identity, Attribute=attribute)
        if found["InstanceInitiatedShutdownBehavior"].get("Value") == "terminate":
            self.ec2.terminate_instances(InstanceIds=[identity])
        else:
            self.ec2.stop_instances(InstanceIds=[identity])

    def _program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)


def run(*command: str) -> str:
    """Run a command and return what it printed; RuntimeError with its words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _user_data(ec2: Any, identity: str) -> str:
    found = ec2.describe_instance_attribute(InstanceId=identity, Attribute="userData")
    return str(found["UserData"].get("Value", ""))
