"""Hosts by name and by inventory, the way to them, and their agent: nothing that a shell could take wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clusterglm.clusters.hosts import agent, fitness, workers
from clusterglm.clusters.hosts.channel import Channel
from clusterglm.clusters.hosts.host import Host, parse_hosts, read_host, read_hosts
from clusterglm.clusters.launcher import Size, configured
from clusterglm.clusters.targets.ssh import Ssh
from clusterglm.errors import ClusterError, ClusterglmError, UsageError

INI = """
[dask_scheduler]
head ansible_host=10.0.0.9 ansible_user=ann ansible_port=2222

[dask_worker]
node[1:3]

[all:vars]
ansible_ssh_common_args="-o ProxyJump=gate"
"""
YAML = """
all:
  children:
    dask_scheduler:
      hosts:
        head: {ansible_host: 10.0.0.9, ansible_user: ann, ansible_port: 2222}
    dask_worker:
      hosts:
        node1:
        node2:
        node3:
  vars:
    ansible_ssh_common_args: -o ProxyJump=gate
"""


def test_hosts_are_named_with_user_and_port() -> None:
    text = parse_hosts(" a, ann@b.example.org,[fe80::1]:2222,10.0.0.7 ")
    assert parse_hosts(text) == text
    hosts = read_hosts(text).every
    assert [(host.name, host.user, host.port) for host in hosts] == [
        ("a", "", 0), ("b.example.org", "ann", 0), ("[fe80::1]", "", 2222), ("10.0.0.7", "", 0)
    ]  # fmt: skip
    assert [read_host(host.written) for host in hosts] == list(hosts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "-oProxyCommand=x",
            "--hosts (-oProxyCommand=x): not a host: write a,b,c or user@a:2222, or name an inventory",
        ),
        ("a,b;id", "--hosts (b;id): not a host"),
        ("a,$(id)", "--hosts ($(id)): not a host"),
        ("a b", "--hosts (a b): not a host"),
        ("a,,b", "--hosts (): not a host"),
        ("", "--hosts (): not a host"),
        ("a'b", "--hosts (a'b): not a host"),
        ("a:99999", "--hosts (a:99999): not a host"),
        ("a,b,a", "--hosts (a): named twice: a host runs one worker"),
        ("-u@a", "--hosts (-u@a): not a host"),
    ],
)
def test_what_is_no_host_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=r".") as caught:
        parse_hosts(text)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--hosts: missing: name hosts a,b,c or an inventory"),
        ({"hosts": "/no/such/inventory.yml"}, "--hosts (/no/such/inventory.yml): no such inventory"),
        ({"hosts": "a", "python": "/x/'; id #"}, "--python (/x/'; id #): letters, digits"),
        ({"hosts": "a", "scratch": "tmp"}, "--scratch (tmp): must be an absolute path"),
        ({"hosts": "a", "known_hosts": "/no/such"}, "--known-hosts (/no/such): no such file"),
        ({"hosts": "a", "interface": "-x"}, "--interface (-x): not the name of a network interface"),
        ({"hosts": "a", "port": "70000"}, "--port (70000): more than"),
        ({"hosts": "a", "scheduler_host": "b"}, "--scheduler-host (b): not among the hosts: a"),
        ({"hosts": "a", "min_workers": "0"}, "--min-workers (0): must be at least 1"),
    ],
)
def test_options_are_refused_before_anything_is_started(options: dict[str, str], words: str) -> None:
    with pytest.raises(ClusterglmError, match=r".") as caught:
        configured(Ssh, **options).plan("lab", Size(1))
    assert str(caught.value).startswith(words)
    with pytest.raises(UsageError, match="more than the 2 hosts"):
        configured(Ssh, hosts="a,b").plan("lab", Size(3))


@pytest.mark.parametrize(("name", "text"), [("hosts.ini", INI), ("hosts.yml", YAML)])
def test_an_inventory_says_what_ssh_is_told(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    hosts = read_hosts(parse_hosts(path))
    assert [host.name for host in hosts.every] == ["head", "node1", "node2", "node3"]
    assert [host.name for host in hosts.schedulers] == ["head"]
    assert [host.name for host in hosts.workers] == ["node1", "node2", "node3"]
    words = Channel(config="/c", known_hosts="/k h").command(hosts.every[0])
    assert words[-8:] == ["-l", "ann", "-p", "2222", "-o", "ProxyJump=gate", "--", "10.0.0.9"]
    assert 'UserKnownHostsFile="/k h"' in words
    assert hosts.every[0].written == "ann@10.0.0.9:2222"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("all: {hosts: {a: {ansible_host: '-oProxyCommand=x'}}}", "a: not a host that ssh can be told"),
        ("all: {hosts: {a: {ansible_host: '{{ lookup }}'}}}", "a: ansible_host must be a plain word here"),
        ("all: {}", "names no host"),
        ("all: [", ""),
        ("- 1", ""),
    ],
)
def test_a_bad_inventory_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "inventory.yml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r".") as caught:
        read_hosts(str(path))
    assert str(caught.value).startswith(f"inventory ({path}): {words}")
    assert len(str(caught.value).splitlines()) == 1


def test_host_keys_are_checked_whatever_the_configuration_says(tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("ssh not installed: apt-get install openssh-client")
    config = tmp_path / "config"
    config.write_text("Host *\n  StrictHostKeyChecking no\n  BatchMode no\n  ForwardAgent yes\n  RemoteCommand id\n")
    command = Channel(config=str(config)).command(Host("a", "a", arguments=("-o", "StrictHostKeyChecking=no")), "-G")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"stricthostkeychecking true", "batchmode yes", "forwardagent no"} <= set(said)
    assert not [line for line in said if line.startswith("remotecommand") and line != "remotecommand none"]


def ask(home: Path, verb: str, **request: Any) -> Any:
    """Run the agent as a host does: its text and the request on standard input."""
    text = (
        Path(agent.__file__).read_text()
        + f"\nmain({json.dumps(json.dumps({'verb': verb, 'seconds': 0, **request}))})\n"
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=text,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.removeprefix(agent.MARK))


def test_the_agent_needs_nothing_but_python(tmp_path: Path) -> None:
    assert ask(tmp_path, "look") == {"answer": {}}
    assert ask(tmp_path, "stop", name="nobody") == {"answer": {"ended": 0}}
    found = ask(tmp_path, "probe")["answer"]
    assert fitness.versions(found, fitness.our_versions()) == ""
    (tmp_path / ".local" / "state" / "clusterglm" / "hosts").chmod(0o777)
    assert "is not its owner's alone: chmod 700" in ask(tmp_path, "probe")["problem"]


def test_a_start_that_comes_after_down_is_refused(tmp_path: Path) -> None:
    """An ``up`` that was killed leaves ssh behind: what it has sent may come late."""
    name = f"late{os.getpid()}"  # the agent sees the processes of all tests on this machine
    killed, another = (f"{name}-0000000{number}" for number in (1, 2))

    def start(cluster: str) -> str:
        request = {"role": "worker", "line": "sleep 60", "files": {"plan.json": "{}"}}
        return str(ask(tmp_path, "start", cluster=cluster, **request).get("problem", "started"))

    base = tmp_path / ".local" / "state" / "clusterglm" / "hosts"
    assert ask(tmp_path, "stop", name=name, cluster=killed) == {"answer": {"ended": 0}}
    assert start(killed) == "the cluster was taken down meanwhile"
    assert [path.suffix for path in base.iterdir()] == [".lock"]
    try:
        assert start(another) == "started"
        assert ask(tmp_path, "stop", name=name, roles=["worker"]) == {"answer": {"ended": 1}}
        assert start(another) == "started"  # nobody has taken it down
    finally:
        assert ask(tmp_path, "stop", name=name) == {"answer": {"ended": 1}}
    assert start(another) == "the cluster was taken down meanwhile"


def test_of_clusters_that_were_taken_down_the_last_are_known(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        for number in range(250):
            agent._take_down(lock, [f"{'x' * 31}-{number:08x}", f"lab-{number:08x}"])
        known = agent._taken_down(lock)
    finally:
        os.close(lock)
    assert len(known) == 200
    assert known[-1] == "lab-000000f9"


def test_units_of_systemd_are_asked_for_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No systemd runs in tests: a stand-in writes down what it is told."""
    said = tmp_path / "said"
    stand_in = tmp_path / "systemd-run"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{said}\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(agent, "_systemd", lambda: [str(stand_in), "--user"])
    agent._detach(["python", "-m", "x"], "lab-0a1b2c3d", "worker", tmp_path, 10**9)
    assert said.read_text().splitlines() == [
        *("--user", "--quiet", "--collect", "--unit=clusterglm-lab-0a1b2c3d-worker", "--property=Type=exec"),
        *(f"--property=Standard{stream}=append:{tmp_path}/worker.log" for stream in ("Output", "Error")),
        *(f"--working-directory={tmp_path}", "--setenv=CLUSTERGLM_TAG=lab-0a1b2c3d/worker"),
        *("--property=MemoryMax=1000000000", "--", "python", "-m", "x"),
    ]


def test_what_keeps_a_host_from_taking_part() -> None:
    ours = fitness.our_versions()
    assert fitness.versions({"versions": ours | {"dask": "1.0"}}, ours).startswith(
        f"dask 1.0 (here {ours['dask']}): install"
    )
    assert fitness.clock({"time": 1000.0}, 1001.0, 1002.0) == ""
    assert fitness.clock({"time": 8201.0}, 1000.0, 1002.0).startswith("its clock is 2 h 00 min ahead of ours")
    assert fitness.room({"free": {"/tmp": 5 * 10**6}}) == "5.0 MB free in /tmp: make room, or --scratch"
    assert fitness.interface({"interfaces": ["eth0"]}, "ib0") == "no interface ib0: --interface is one of eth0"


def test_names_of_workers_tell_hosts_apart() -> None:
    found = ["lab-gpu", "lab-gpu-1", "lab-gpu-1-0", "lab-gpu-1-1", "lab-gpu-0"]
    assert workers.of_host(found, "lab", Host("gpu", "gpu"), 1) == ["lab-gpu"]
    assert workers.of_host(found, "lab", Host("gpu-1", "gpu-1"), 1) == ["lab-gpu-1"]
    assert workers.of_host(found, "lab", Host("gpu-1", "gpu-1"), 2) == ["lab-gpu-1-0", "lab-gpu-1-1"]


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="does not resolve here: give an address"):
        Channel().ask(Host("no-such-host.invalid", "no-such-host.invalid"), "look")
