"""Makes the machines of fake clouds live: each becomes a network namespace in which its own user data runs.

Runs inside the namespaces of clusters/cloud/rehearsal.py, where there is no way out to any network. Nothing of what a
machine runs is changed; but ``shutdown``, ``apt-get``, ``curl``, ``uv`` and their like are found first in a folder of
stand-ins, so that Python is this one, nothing is downloaded, and a machine that halts is ended as its cloud would.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from clusterglm.clusters.cloud.fakes import Fake, Instance, metadata

GATEWAY = "172.31.0.1"  # in moto's default network, and the caller's address
_BRIDGE = "cglm0"
# moto hands out public addresses of hosts that exist: here they stay on the bridge. The other ranges are for examples.
PUBLIC = ("54.214.0.0/16", "203.0.113.0/24", "198.51.100.0/24")
_NOTHING = ("apt-get", "apt", "curl", "systemctl")
# What a container would run runs on the machine itself.
_DOCKER = """#!/bin/sh
[ "$1" = run ] || exit 0
shift
while :; do case "$1" in
--network | --user | --volume | --env) shift 2 ;;
--*) shift ;;
*) break ;;
esac; done
shift
exec "$@"
"""
_UV = """#!/bin/sh
[ "$1" = venv ] || exit 0
for folder; do :; done
mkdir -p "$folder/bin"
printf '#!/bin/sh\\nexec {python} "$@"\\n' >"$folder/bin/python"
chmod 755 "$folder/bin/python"
"""
# One that changes its user would need more than one user here: it runs as nobody in particular, who is called root.
_SSHD = """#!/bin/sh
[ -x /usr/sbin/sshd ] || exit 1
printf 'root:x:1000:1000::%s:/bin/sh\\n' "$MACHINE" >"$MACHINE/passwd"
exec unshare -U --map-user=1000 --map-group=1000 --keep-caps -m sh -c '
mount --bind "$MACHINE/passwd" /etc/passwd && exec /usr/sbin/sshd -o StrictModes=no "$@"' sh "$@"
"""
_SHUTDOWN = """#!/bin/sh
case "$2" in
+*) (sleep "$(( ${2#+} * MINUTE_SECONDS ))" && : >"$MACHINE/halt") >/dev/null 2>&1 & ;;
*) : >"$MACHINE/halt" ;;
esac
"""


class Machine:
    """One live instance."""

    def __init__(self, instance: Instance, folder: Path, programs: Path) -> None:
        self.id, self.folder = instance.id, folder
        self._metadata: subprocess.Popen[bytes] | None = None
        self.namespace = f"cglm-{self.id[-8:]}"
        (folder / "srv").mkdir(parents=True)
        (folder / "run.sh").write_text(instance.script() or "#!/bin/sh\n")
        self._connect(instance.private, instance.public)
        if instance.notices:
            self._tell_of_notices()
        environment = {
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "MACHINE": str(folder),
            "MINUTE_SECONDS": os.environ.get("CLUSTERGLM_REHEARSAL_MINUTE", "60"),
        }
        # Its own /srv, on this machine's disk: rows may be written there. No group of terminals: sshd would give it the
        # terminal of a login, which root of a namespace may not.
        srv, script_file, group = (shlex.quote(str(folder / name)) for name in ("srv", "run.sh", "group"))
        boot = f"mount --bind {srv} /srv && grep -v ^tty: /etc/group >{group} && mount --bind {group} /etc/group"
        boot += f" && exec /bin/sh {script_file}"
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
        if self._metadata is not None:
            self._metadata.wait()
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._port], capture_output=True, check=False)

    @property
    def _port(self) -> str:
        return f"cglm{self.id[-8:]}"

    def _tell_of_notices(self) -> None:
        run("ip", "-n", self.namespace, "addr", "add", f"{metadata.ADDRESS}/32", "dev", "lo")
        line = ["ip", "netns", "exec", self.namespace, sys.executable, "-I", metadata.__file__, str(self.folder)]
        self._metadata = subprocess.Popen(line, stdin=subprocess.DEVNULL)

    def _connect(self, private: str, public: str | None) -> None:
        inside = ["ip", "-n", self.namespace]
        run("ip", "netns", "add", self.namespace)
        run("ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "link", "set", self._port, "master", _BRIDGE, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "addr", "add", f"{private}/16", "dev", "eth0")
        for addresses in PUBLIC:
            run(*inside, "route", "add", addresses, "dev", "eth0", "src", private)
        if public:
            run(*inside, "addr", "add", f"{public}/32", "dev", "eth0")


class Booter:
    """Follows what fakes say of their machines, and makes it true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[str, dict[str, Machine]] = {}  # by cloud and id
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in _NOTHING:
            self._program(name, "#!/bin/sh\nexit 0\n")
        self._program("nproc", "#!/bin/sh\necho 1\n")  # several machines share the cores of this one
        self._program("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self._program("uv", _UV.replace("{python}", sys.executable))
        self._program("docker", _DOCKER)
        self._program("shutdown", _SHUTDOWN)
        self._program("sshd", _SSHD)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", _BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{GATEWAY}/16", "dev", _BRIDGE)
        run("ip", "link", "set", _BRIDGE, "up")
        for addresses in PUBLIC:
            run("ip", "route", "add", addresses, "dev", _BRIDGE)

    def look(self, cloud: str, fake: Fake) -> None:
        """Bring the machines of a cloud in line with what its fake says."""
        live = self.machines.setdefault(cloud, {})
        running = {instance.id: instance for instance in fake.running()}
        for identity in live.keys() - running.keys():
            live.pop(identity).end()
        for identity, instance in running.items():
            if identity not in live:
                live[identity] = Machine(instance, self.folder / identity, self.programs)
            elif live[identity].halted():
                fake.halted(identity)

    def console(self, identity: str) -> str:
        """Return the end of what a machine has printed, also of one that is gone."""
        path = self.folder / identity / "console.log"
        return path.read_text(errors="replace")[-(2**16) :] if path.exists() else ""

    def end(self) -> None:
        for live in self.machines.values():
            for machine in live.values():
                machine.end()
        self.machines.clear()

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
