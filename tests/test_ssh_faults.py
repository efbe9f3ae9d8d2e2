"""What goes wrong with hosts before a cluster runs: each is one clear line, and nothing is left running anywhere."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
HOSTS = "node1,node2,node3,node4"
UP = ("up", "ssh", "--memory", "1GB", "--cores", "1", "--name", "never")


@pytest.fixture(scope="module")
def desk(lab: Any, clusterglm: Any) -> Callable[..., Any]:
    """Run one command line at the lab's desk."""

    def run(*arguments: object, **words: Any) -> Any:
        return clusterglm(*arguments, before=lab.desk, **words)

    return run


@pytest.fixture
def other_host(lab: Any) -> Iterator[str]:
    """A host that a test may spoil: it is made anew afterwards."""
    yield "node2"
    lab.kill("node2")
    lab.make("node2")


def refused(done: Any, lab: Any) -> str:
    """Return the line of an ``up`` that was refused, and see that nothing runs and no state is left."""
    assert done.returncode == 4, done.stdout + done.stderr
    assert not lab.left()
    assert not Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "never").exists()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: looking")]
    assert len(lines) == 1, done.stderr
    return str(lines[0])


def test_an_unknown_host_key(lab: Any, desk: Any, tmp_path: Path) -> None:
    known = tmp_path / "known hosts"
    lines = lab.known_hosts.read_text().splitlines()
    known.write_text("\n".join(line for line in lines if lab.addresses["node3"] not in line) + "\n")
    line = refused(desk(*UP, "--hosts", HOSTS, "--known-hosts", known), lab)
    assert line == "error: host (node3): host key not in known_hosts: log in once by ssh, or --known-hosts FILE"


def test_a_host_key_that_has_changed(lab: Any, desk: Any, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    other = " ".join((lab.folder / "other_key.pub").read_text().split()[:2])
    known.write_text(lab.known_hosts.read_text() + f"{lab.addresses['node3']} {other}\n")
    text = known.read_text().splitlines()
    known.write_text(
        "\n".join(line for line in text if not (lab.addresses["node3"] in line and other not in line)) + "\n"
    )
    line = refused(desk(*UP, "--hosts", HOSTS, "--known-hosts", known), lab)
    assert line == "error: host (node3): its host key has changed: where that is right, ssh-keygen -R node3"


def test_a_key_that_the_host_does_not_take(lab: Any, desk: Any, other_host: str) -> None:
    lab.run(other_host, "cp", str(lab.folder / "other_key.pub"), "/run/authorized_keys")
    line = refused(desk(*UP, "--hosts", HOSTS), lab)
    assert line == "error: host (node2): login refused (publickey): ssh-add your key, or name it in ssh_config"


def test_a_host_without_python(lab: Any, desk: Any, other_host: str) -> None:
    lab.run(other_host, "rm", sys.executable)
    lab.over_ssh(other_host, "while found=$(command -v python3); do rm $found; done")
    line = refused(desk(*UP, "--hosts", HOSTS), lab)
    assert line.startswith("error: host (node2): no Python there, neither ~/.local/share/clusterglm/env/bin/python nor")
    assert line.endswith("python3: provision it with ansible/site.yml, or --python")


def test_a_python_without_clusterglm(lab: Any, desk: Any) -> None:
    done = desk(*UP, "--hosts", HOSTS, "--python", "/usr/bin/python3")
    assert done.returncode == 4
    lines = done.stderr.splitlines()
    assert lines[-5] == "error: hosts (4 of 4): cannot take part: put them right"
    missing = "no dask and no distributed and no numpy and no clusterglm in /usr/bin/python3"
    assert lines[-1].startswith(f"  node4: {missing}")
    assert not lab.left()


def test_a_full_disk(lab: Any, desk: Any, other_host: str) -> None:
    lab.run(other_host, "mkdir", "-p", "/root/.local/state")
    lab.run(other_host, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/root/.local/state")
    line = refused(desk(*UP, "--hosts", HOSTS), lab)
    assert line == "error: host (node2): no space left on device in /root/.local/state/clusterglm/hosts"


def test_a_host_that_lost_its_clock(lab: Any, desk: Any) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime not installed: apt-get install faketime")
    lab.sshd("node3", f"SetEnv=LD_PRELOAD={library} FAKETIME=-3d")
    try:
        line = refused(desk(*UP, "--hosts", HOSTS), lab)
    finally:
        lab.sshd("node3")
    assert line == "error: host (node3): its clock is 72 h 00 min behind ours: set it there, chronyc makestep"


def test_half_of_the_hosts_down(lab: Any, desk: Any) -> None:
    for node in ("node1", "node3"):
        lab.end_sshd(node)
    try:
        done = desk(*UP, "--hosts", HOSTS)
        assert done.returncode == 4
        assert done.stderr.splitlines()[-3:] == [
            "error: hosts (2 of 4): cannot take part: put them right, or --min-workers 2",
            "  node1: connection refused: is sshd running, on another port?",
            "  node3: connection refused: is sshd running, on another port?",
        ]
        done = desk(*UP, "--hosts", HOSTS, "--min-workers", 2)
        assert done.returncode == 0, done.stderr
        assert "note: node1 is left out: connection refused" in done.stderr
        assert done.stdout.splitlines()[-1].split() == ["workers", "2"]
        assert lab.addresses["node2"] in done.stdout  # the scheduler is on the first that is there
        assert desk("down", "never").stderr == "note: never: 3 processes ended\n"
    finally:
        for node in ("node1", "node3"):
            lab.sshd(node)
    assert not lab.left()


@pytest.mark.full
def test_hosts_behind_a_gate(lab: Any, desk: Any, tmp_path: Path) -> None:
    """Of two hosts that know no way to the desk, all that is said comes through a third."""
    config = tmp_path / "config"
    config.write_text("Host node3 node4\n  ProxyJump node1\n" + lab.config.read_text())
    env = {"DASK_CLUSTERGLM__SSH_CONFIG": str(config)}
    for node in ("node3", "node4"):
        lab.run(node, "ip", "route", "add", "blackhole", lab.addresses["desk"])
    try:
        done = desk(*UP, "--hosts", "node3,node4", env=env)
        assert done.returncode == 0, done.stderr
        assert desk("down", "never", env=env).stderr == "note: never: 3 processes ended\n"
    finally:
        for node in ("node3", "node4"):
            lab.run(node, "ip", "route", "del", "blackhole", lab.addresses["desk"])
    assert not lab.left()
    assert not [line for line in lab.run("node1", "ps", "-eo", "args").splitlines() if line.startswith("ssh ")]


SSH = """#!/bin/bash
# The real one, but the command that calls it is struck before or after the call of this number.
for ((count = 0; ; count++)); do mkdir "{folder}/$count" 2>/dev/null && break; done
[ "$count-{when}" != {call}-before ] || {{ kill -{number} $PPID; sleep 0.5; }}
{real} "$@"; code=$?
[ "$count-{when}" != {call}-after ] || kill -{number} $PPID
exit $code
"""
# Of two hosts: 0-1 look for the name, 2-3 look at the hosts, 4 starts the scheduler, 5-6 start workers.
_IN_CI = [(4, "after", signal.SIGKILL), (5, "after", signal.SIGTERM)]
CASES = [
    pytest.param(*case, marks=[] if case in _IN_CI else pytest.mark.full)
    for case in itertools.product((2, 4, 5, 6), ("before", "after"), (signal.SIGKILL, signal.SIGTERM))
]


@pytest.mark.parametrize(("call", "when", "number"), CASES)
def test_down_removes_what_a_killed_up_has_started(
    lab: Any, desk: Any, tmp_path: Path, call: int, when: str, number: signal.Signals
) -> None:
    path = tmp_path / "ssh"
    path.write_text(SSH.format(folder=tmp_path, call=call, when=when, number=number.value, real=shutil.which("ssh")))
    path.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = desk(*UP, "--hosts", "node1,node2", env=env)
    assert done.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), done.stderr
    if number == signal.SIGKILL and call > 2:
        shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"))  # the hosts say enough
    elif number == signal.SIGTERM:
        assert not lab.left()
    assert desk("down", "never", "--if-exists", "--hosts", "node1,node2").returncode == 0
    assert not lab.left()
