"""The way to a host: the system's OpenSSH with the user's own configuration, host keys always checked.

Requests travel on standard input, never on a command line, where other users of a host would see them.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterglm.clusters import words
from clusterglm.clusters.hosts import agent
from clusterglm.clusters.hosts.host import Host
from clusterglm.errors import ClusterError, UsageError, quoted

_AT_ONCE = 32
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60.0
# The first of a keyword's values counts for ssh, so these win over the user's configuration.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(_CONNECT_SECONDS),
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}
# Where ansible/'s role python_env makes its environment.
PROVISIONED = ".local/share/clusterglm/env/bin/python"
_NO_PYTHON = 127
_WORDS = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED",
     "its host key has changed: where that is right, ssh-keygen -R {address}"),
    (r"Host key verification failed|No .*host key is known",
     "host key not in known_hosts: log in once by ssh, or --known-hosts FILE"),
    (r"Permission denied \(([^)]*)\)", "login refused ({0}): ssh-add your key, or name it in ssh_config"),
    (r"Too many authentication failures", "login refused: name one key in ssh_config (IdentitiesOnly yes)"),
    (r"Could not resolve hostname", "does not resolve here: give an address"),
    (r"(?:[Cc]onnection|Operation) timed out|Timeout, server", "no answer: is it up, and its port open?"),
    (r"No route to host|Network is unreachable|Host is down", "no route to it: is it up?"),
    (r"Connection refused", "connection refused: is sshd running, on another port?"),
    (r"[Cc]onnection (?:reset|closed)|Broken pipe", "the connection was closed by it"),
    (r"Bad owner or permissions on (\S+)", "{0} must be its owner's alone: chmod 600 {0}"),
)  # fmt: skip


@dataclass(frozen=True)
class Channel:
    """How hosts are reached: the files that the user names in place of ssh's own, and where Python lies on them."""

    config: str | None = None
    known_hosts: str | None = None
    python: str | None = None

    def command(self, host: Host, *options: str) -> list[str]:
        """Return the command line of ssh up to the host."""
        own = ["ssh", "-T"]
        for name, value in _OPTIONS.items():
            own += ["-o", f"{name}={value}"]
        own += ["-o", f'UserKnownHostsFile="{self.known_hosts}"'] if self.known_hosts else []
        own += ["-F", self.config] if self.config else []
        own += ["-l", host.user] if host.user else []
        own += ["-p", str(host.port)] if host.port else []
        own += ["-i", host.key] if host.key else []
        return [*own, *host.arguments, *options, "--", host.address.strip("[]")]

    def ask(self, host: Host, verb: str, *, seconds: float = 0.0, **request: Any) -> Any:
        """Let the agent on a host do something and return its answer; ``seconds`` it may take beyond the usual.

        Raises
        ------
        ClusterError
            The host is out of reach, has no Python, or the agent tells of a problem.
        """
        try:
            done = subprocess.run(
                [*self.command(host), self._shell(host)],
                input=_program() + f"\nmain({json.dumps(json.dumps({'verb': verb, 'seconds': seconds, **request}))})\n",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_ANSWER_SECONDS + seconds,
                check=False,
            )
        except FileNotFoundError as error:
            raise ClusterError("ssh", None, "not installed here: install OpenSSH's client") from error
        except subprocess.TimeoutExpired as error:
            limit = _ANSWER_SECONDS + seconds
            raise ClusterError("host", host.name, f"no answer within {limit:.0f} s") from error
        lines = [line for line in done.stdout.splitlines() if line.startswith(agent.MARK)]
        if not lines:
            raise ClusterError("host", host.name, self._explained(host, done))
        answer = json.loads(lines[-1].removeprefix(agent.MARK))
        if "problem" in answer:
            raise ClusterError("host", host.name, quoted(answer["problem"]))
        return answer["answer"]

    def ask_all(
        self, hosts: Sequence[Host], verb: str, **request: Any
    ) -> tuple[dict[Host, Any], dict[Host, ClusterError]]:
        """Ask hosts at once and return the answers of those that gave one, and the errors of the others."""
        answers: dict[Host, Any] = {}
        errors: dict[Host, ClusterError] = {}

        def one(host: Host) -> None:
            try:
                answers[host] = self.ask(host, verb, **request)
            except ClusterError as error:
                errors[host] = error

        self.at_once(one, hosts)
        return {h: answers[h] for h in hosts if h in answers}, {h: errors[h] for h in hosts if h in errors}

    @staticmethod
    def at_once(call: Callable[[Host], None], hosts: Sequence[Host]) -> None:
        """Call for every host, for many at a time."""
        from concurrent.futures import ThreadPoolExecutor  # not needed to refuse a command line

        if hosts:
            with ThreadPoolExecutor(min(_AT_ONCE, len(hosts))) as pool:
                list(pool.map(call, hosts))

    def _shell(self, host: Host) -> str:
        """Return the command that every login shell understands: the first of these interpreters that is there."""
        named = host.python or self.python
        places = [named] if named else ['"$HOME"/' + PROVISIONED, *_own_python()]
        found = "".join(f"test -x {place} && exec {place} -; " for place in places)
        return f"sh -c 'cd; {found}exec python3 -'"

    def _explained(self, host: Host, done: subprocess.CompletedProcess[str]) -> str:
        said = done.stderr.strip()
        for pattern, text in _WORDS:
            if match := re.search(pattern, said):
                return text.format(*match.groups(), address=host.address)
        if done.returncode == _NO_PYTHON:
            where = host.python or self.python or f"~/{PROVISIONED}"
            return f"no Python there, neither {where} nor python3: provision it with ansible/site.yml, or --python"
        return quoted(said.splitlines()[-1]) if said else f"ssh ended with {done.returncode} and no word"


def _own_python() -> list[str]:
    """Return the interpreter that runs this: hosts that share a file system have it in the same place."""
    try:
        return [words.path(sys.executable, "python")]
    except UsageError:
        return []


@functools.cache
def _program() -> str:
    return Path(agent.__file__).read_text(encoding="utf-8")
