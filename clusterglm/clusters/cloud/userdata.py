"""What a machine is given to run at its boot: a shell script, made by a pure function, packed to fit into 16 kB.

The order matters. The timer that ends the machine comes first, before anything that may hang; the trap next, so that
whatever fails ends the machine too. An end of a machine is the end of its bill: they are started so.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clusterglm.clusters import settings, tls
from clusterglm.errors import UsageError

MOST_BYTES = 16384  # of user data, packed
PORT = 8786
SSH_PORT = 8722  # of our own sshd, see clusters/cloud/door.py
HOME = Path("/srv/clusterglm")  # of everything that is ours on a machine
NOTED = "CLUSTERGLM_NOTED"  # what later commands need to know, in the scheduler's environment
_UV = "https://astral.sh/uv/0.9.7/install.sh"
_AGAIN = 'again() { for pause in 1 5 15 30; do "$@" && return; sleep $pause; done; "$@"; }'
_DEATH_SECONDS = 300  # a worker without a scheduler gives up
_BLANK = {name: f"({name}: made at the launch)\n" for name in tls.FILES}


# One key pair, the cluster's: it is what a machine shows, and what it lets in.
_SSHD = [
    "mkdir -p /run/sshd",
    "cat >sshd_config <<'END'",
    f"Port {SSH_PORT}",
    f"HostKey {HOME}/tls/key.pem",
    f"AuthorizedKeysFile {HOME}/authorized_keys",
    *("AllowUsers root", "PermitRootLogin prohibit-password", "AuthenticationMethods publickey"),
    *("UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PidFile none"),
    *("AllowAgentForwarding no", "X11Forwarding no", "AllowTcpForwarding local"),
    "END",
    'ssh-keygen -y -f tls/key.pem >authorized_keys && "$(command -v sshd)" -f "$PWD/sshd_config" ||'
    ' echo "clusterglm: no sshd, so no way in by ssh"',
]


@dataclass(frozen=True)
class Boot:
    """What one machine of a cluster shall be.

    ``minutes`` of life, ``idle`` seconds until an idle scheduler ends, ``address`` the scheduler's, for a worker.
    ``packages`` are pins such as ``numpy==2.1.0``; without any, the image has all that is needed in its own Python, or
    the ``container`` image that Docker is to run has it.
    ``noted`` is what the cluster's later commands need to know, readable by whoever may read the machine's user data.
    """

    cluster: str
    role: Literal["scheduler", "worker"]
    number: int
    minutes: int
    idle: int
    address: str = ""
    python: str = "3.12"
    packages: Sequence[str] = ()
    container: str = ""
    first: Sequence[str] = ()
    noted: Mapping[str, Any] | None = None


def script(boot: Boot, keys: Mapping[str, str] | None = None) -> str:
    """Return the script; without ``keys`` (the content of each file of tls.FILES) they are left blank, to be shown."""
    lines = [
        "#!/bin/sh",
        f"# clusterglm {json.dumps(boot.noted or {}, sort_keys=True)}",
        f"shutdown -h +{boot.minutes}",
        "trap 'echo \"clusterglm: ended with $?\"; shutdown -h now' EXIT",
        "set -e",
        "umask 077",
        f"mkdir -p {HOME}/tls {HOME}/scratch",
        f"cd {HOME}",
    ]
    for name, content in (keys or _BLANK).items():
        lines += [f"cat >tls/{name} <<'END'", content.rstrip("\n"), "END"]
    lines += _SSHD
    # Each line in a shell of its own: an `exit` in one would skip what follows.
    lines += [f"sh -c {shlex.quote(line)}" for line in boot.first]
    lines += _installation(boot)
    variables = settings.WORKER_ENVIRONMENT | settings.dask_environment(settings.dask_settings())
    variables |= tls.variables(HOME / "tls")
    if boot.role == "scheduler":
        variables[NOTED] = json.dumps(boot.noted or {}, sort_keys=True)
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    command = f"{_docker(boot.container, variables)} {_command(boot)}" if boot.container else _command(boot)
    return "\n".join([*lines, f"echo 'clusterglm: {boot.role} begins'", command, ""])


def packed(text: str) -> bytes:
    """Return a script as cloud-init reads it, packed.

    Raises
    ------
    UsageError
        It is above 16 kB even so.
    """
    data = gzip.compress(text.encode(), mtime=0)
    if len(data) > MOST_BYTES:
        raise UsageError("--first", f"{len(data)} bytes", f"more than the {MOST_BYTES} of user data: shorten the lines")
    return data


def unpacked(data: str) -> str:
    """Return the script from user data as the cloud shows it, in base64."""
    content = base64.b64decode(data)
    return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode(errors="replace")


def noted(text: str) -> dict[str, Any]:
    """Return what a script says of its cluster, an empty dict for a script that is not ours."""
    found = re.search(r"^# clusterglm (\{.*\})$", text, re.MULTILINE)
    return json.loads(found[1]) if found else {}


def keys(text: str) -> dict[str, bytes]:
    """Return the files of keys in a script, as tls.keep takes them."""
    return {
        name: body.encode() for name, body in re.findall(r"^cat >tls/([a-z.]+) <<'END'\n(.*?)^END$", text, re.M | re.S)
    }


def _installation(boot: Boot) -> list[str]:
    """Return the lines that make the caller's own environment: its Python and the very versions of its packages."""
    if boot.container:
        apt = "apt-get -q -o DPkg::Lock::Timeout=120"
        return [
            _AGAIN,
            f"docker_() {{ {apt} update && DEBIAN_FRONTEND=noninteractive {apt} install -y docker.io; }}",
            "command -v docker || again docker_",
            f"again docker pull --quiet {shlex.quote(boot.container)}",
        ]
    if not boot.packages:
        return []
    return [
        f"export PATH={HOME}/bin:$PATH UV_PYTHON_INSTALL_DIR={HOME}/python UV_CACHE_DIR={HOME}/cache",
        "cat >requirements.txt <<'END'",
        *boot.packages,
        "END",
        _AGAIN,
        f"fetch() {{ curl -LsSf {_UV} -o uv.sh && env UV_INSTALL_DIR={HOME}/bin UV_NO_MODIFY_PATH=1 sh uv.sh; }}",
        "command -v uv || again fetch",
        f"again uv venv --clear --python {boot.python} {HOME}/env",
        f"again uv pip install --python {HOME}/env/bin/python -r requirements.txt",
        f"export PATH={HOME}/env/bin:$PATH",
    ]


def _docker(image: str, variables: Iterable[str]) -> str:
    """Return the words before a command that runs in a container, in the machine's own network and with its keys."""
    words = ["docker", "run", "--rm", "--init", "--network", "host", "--user", "root", "--volume", f"{HOME}:{HOME}"]
    words += [word for name in variables for word in ("--env", name)]  # with the value that they have here
    return shlex.join([*words, image])


def _command(boot: Boot) -> str:
    if boot.role == "scheduler":
        # Its dashboard on loopback: it asks nobody who he is.
        words = ["--port", str(PORT), "--dashboard-address", "127.0.0.1:8787", "--idle-timeout", f"{boot.idle}s"]
        return shlex.join(["python", "-m", "distributed.cli.dask_scheduler", *words])
    words = [boot.address, "--name", f"{boot.cluster}-{boot.number}", "--nthreads", "1", "--no-dashboard"]
    words += ["--dashboard-address", "127.0.0.1:0", "--local-directory", str(HOME / "scratch")]
    words += ["--death-timeout", f"{_DEATH_SECONDS}s"]
    # A process a core: kernels of numpy share a GIL. On the address from which it reaches the scheduler, and no other.
    own = f"ip -4 route get {boot.address.split('://')[1].rsplit(':', 1)[0]} | sed -n 's/.* src \\([0-9.]*\\).*/\\1/p'"
    line = shlex.join(["python", "-m", "distributed.cli.dask_worker", *words])
    return f'{line} --host "$({own})" --nworkers "$(nproc)"'
