"""The life of a cluster on EC2, rehearsed: moto answers, its instances are namespaces that run their own user data."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts import ec2, killing

import clusterglm as package
from clusterglm.clusters import tls
from clusterglm.clusters.cloud import rehearsal
from clusterglm.clusters.cloud.ec2 import policy
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
Cli = Callable[..., Any]
UP = ("up", "ec2", "--fake")
ROWS, COLUMNS = 100_000, 6
LINE = ("--rows", ROWS, "--columns", COLUMNS, "--tol", 1e-5, "--start", "null", "--quiet")


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of all calls of AWS's API that commands of this file make."""
    return tmp_path_factory.mktemp("calls") / "calls"


@pytest.fixture(scope="module", autouse=True)
def _rehearsal(home: Path, calls: Path) -> Iterator[None]:
    """A rehearsal of this file's own, which stays until its last test so that what is left in it can be counted."""
    if why := ec2.missing():
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERGLM_REHEARSAL_LINGER", "600")
        patch.setenv("CALLS", str(calls))
        path = [str(killing.folder(calls.parent / "site")), os.environ["PYTHONPATH"]]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        yield
        rehearsal.end()


@pytest.fixture(scope="module")
def expected() -> Any:
    """The fit of the same rows in this process, without any cluster."""
    rows = local_rows(Synthetic(ROWS, COLUMNS))
    return package.fit(data=rows, solver="admm", family="binomial", lamduh=1.0, tol=1e-5, start="null")


def assert_same_bits(folder: Path, expected: Any) -> None:
    found = json.loads((folder / "result.json").read_text())
    assert np.array_equal(found["coefficients"], expected.coefficients)
    assert (found["objective"], found["passes"]) == (expected.objective, expected.passes)


def forget() -> None:
    """Delete all local state, keys included."""
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"))


@pytest.fixture(scope="module")
def lab(clusterglm: Cli, _rehearsal: None) -> Iterator[dict[str, Any]]:
    done = clusterglm(*UP, "--workers", 2, "--name", "lab", "--spot", "--json", env={"OMP_NUM_THREADS": "7"})
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    done = clusterglm("down", "lab")
    assert done.returncode == 0, done.stderr


def test_everything_is_tagged_and_walled_at_birth(lab: dict[str, Any]) -> None:
    found = ec2.everything()
    assert {kind: len(items) for kind, items in found.items()} == {"machines": 3, "groups": 1, "volumes": 3}
    for item in (*found["machines"], *found["volumes"], *found["groups"]):
        tags = {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        assert tags["clusterglm:cluster"] == "lab"
        assert {"clusterglm:expires", "clusterglm:owner", "clusterglm:version"} <= tags.keys()
    assert {item["MetadataOptions"]["HttpTokens"] for item in found["machines"]} == {"required"}
    assert {item["Encrypted"] for item in found["volumes"]} == {True}
    (rules,) = (group["IpPermissions"] for group in found["groups"])
    by_address = [rule for rule in rules if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in by_address] == [(8786, 8786)]
    assert [each["CidrIp"] for each in by_address[0]["IpRanges"]] == ["172.31.0.1/32"]
    (inner,) = (rule for rule in rules if not rule["IpRanges"])
    assert [pair["GroupId"] for pair in inner["UserIdGroupPairs"]] == [found["groups"][0]["GroupId"]]


def test_only_the_schedulers_port_is_open_to_more_than_members(lab: dict[str, Any]) -> None:
    for machine in ec2.everything()["machines"]:
        private = machine["PrivateIpAddress"]
        for where in ec2.listening(machine):
            address, _, port = where.rpartition(":")
            known = address in {private, "127.0.0.1", "169.254.169.254"} or (address, port) == ("*", "8786")
            assert known or (address, port) == ("*", "8722"), where


def test_a_fit_from_a_second_process_and_from_a_third_without_state(
    lab: dict[str, Any], clusterglm: Cli, expected: Any, tmp_path: Path
) -> None:
    for folder in ("second", "third"):
        done = clusterglm("fit", "admm", *LINE, "--cluster", "lab", "--out", tmp_path / folder)
        assert done.returncode == 0, done.stderr
        assert_same_bits(tmp_path / folder, expected)
        result = json.loads((tmp_path / folder / "result.json").read_text())
        assert (result["solver"], result["blas_threads"]) == ("admm", 1)
        forget()
    assert clusterglm("ls").stdout.splitlines()[1].split()[:4] == ["lab", "ec2", "up", "2"]
    assert "Registered to" in clusterglm("logs", "lab", "worker-1").stdout


def test_the_machines_run_this_very_clusterglm_handed_over(lab: dict[str, Any]) -> None:
    for machine in ec2.everything()["machines"]:
        files = ec2.files(machine, "code")
        assert any(path.endswith("clusterglm/glm/kernels.py") for path in files)
        assert any("clusterglm/glm/__pycache__/kernels" in path for path in files)  # it was imported from there


def test_scaling_in_the_middle_of_a_fit_changes_no_bit(
    lab: dict[str, Any],
    clusterglm: Cli,
    begin: Any,
    steps: Any,
    expected: Any,
    tmp_path: Path,
    wait_until: Any,
    monkeypatch: Any,
) -> None:
    fit = ("fit", steps.solver("admm"), *LINE, "--lamduh", 1, "--cluster", "lab", "--out", tmp_path / "run")
    for name, value in steps.env(1, 2, 3).items():
        monkeypatch.setenv(name, value)
    running = begin(*fit)
    for step, workers in ((1, 4), (2, 1), (3, 2)):
        wait_until(lambda step=step: steps.reached(step) or running.poll() is not None)
        assert running.poll() is None, running.communicate()
        done = clusterglm("scale", "lab", workers)
        assert (done.returncode, done.stderr) == (0, f"note: lab: {workers} workers\n")
        steps.go(step)
    assert running.wait(120) == 0
    assert_same_bits(tmp_path / "run", expected)
    assert len(ec2.everything()["machines"]) == 3


def test_a_spot_machine_that_is_taken_back_in_the_middle_of_a_fit_changes_no_bit(
    lab: dict[str, Any], clusterglm: Cli, begin: Any, steps: Any, expected: Any, tmp_path: Path, wait_until: Any
) -> None:
    fit = ("fit", steps.solver("admm"), *LINE, "--lamduh", 1, "--cluster", "lab", "--out", tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in steps.env(1).items():
            patch.setenv(name, value)
        running = begin(*fit)
    wait_until(lambda: steps.reached(1) or running.poll() is not None)
    (machine,) = (item for item in ec2.everything()["machines"] if "worker-1" in str(item["Tags"]))
    assert machine["InstanceLifecycle"] == "spot"
    ec2.notice(machine["InstanceId"])
    wait_until(lambda: len(ec2.everything()["machines"]) == 2)  # it has gone by itself
    steps.go(1)
    assert running.wait(120) == 0, running.communicate()
    assert_same_bits(tmp_path / "run", expected)
    assert clusterglm("scale", "lab", 2).returncode == 0


def open_to() -> dict[int, list[str]]:
    """The ports that the group opens to addresses."""
    (group,) = ec2.everything()["groups"]
    rules = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    return {rule["FromPort"]: [each["CidrIp"] for each in rule["IpRanges"]] for rule in rules}


def test_a_machine_is_entered_by_ssh_while_its_port_is_open(lab: dict[str, Any], clusterglm: Cli) -> None:
    done = clusterglm("ssh", "lab", "--on", "worker-1", "--", "echo $SSH_CONNECTION; exit 7")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split()[0] == "172.31.0.1"
    assert done.stdout.split()[3] == "8722"
    assert open_to() == {8786: ["172.31.0.1/32"]}
    assert "--on (worker-7): not known: did you mean worker-1?" in clusterglm("ssh", "lab", "--on", "worker-7").stderr
    # Another key than the cluster's is no host of ours.
    known = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "lab", "tls", "key.pem")
    ours = known.read_bytes()
    known.write_bytes((tls.make(known.parents[2] / "other") / "key.pem").read_bytes())
    try:
        assert clusterglm("ssh", "lab", "--", "true").returncode == 255
    finally:
        known.write_bytes(ours)
        shutil.rmtree(known.parents[2] / "other")


def test_ansible_reaches_all_machines_while_their_port_is_open(
    lab: dict[str, Any], clusterglm: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
    ansible = Path(sys.executable).with_name("ansible")
    file = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "lab", "inventory.yml")
    written = file.read_text()  # by up and scale
    line = ("ssh", "lab", "--inventory", file, "--")
    done = clusterglm(*line, ansible, "-i", file, "all", "-m", "raw", "-a", "echo to $SSH_CONNECTION")
    assert done.returncode == 0, done.stdout + done.stderr
    machines = len(ec2.everything()["machines"])
    reached = [text.split() for text in done.stdout.splitlines() if text.startswith("to ")]
    assert len({words[3] for words in reached}) == len(reached) == machines
    assert {words[1] for words in reached} == {"172.31.0.1"}
    assert open_to() == {8786: ["172.31.0.1/32"]}
    assert (file.stat().st_mode & 0o777) == 0o600
    assert file.read_text() == written
    file = tmp_path / "inventory.yml"
    line = ("ssh", "lab", "--inventory", file, "--")
    for _ in range(2):  # its own file is written again
        assert clusterglm(*line, "sh", "-c", "exit 5").returncode == 5
    assert file.read_text() == written
    file.write_text("mine")
    done = clusterglm(*line, "true")
    cure = "is there, and not of clusterglm's making: name another"
    assert (done.returncode, done.stderr) == (2, f"error: --inventory ({file}): {cure}\n")
    assert file.read_text() == "mine"


@pytest.mark.full
def test_the_playbooks_provision_them_as_they_do_any_hosts(
    lab: dict[str, Any], clusterglm: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run makes an environment on each machine, the second changes nothing."""
    root, bin = Path(__file__).parents[2], Path(sys.executable).parent
    wheel = ("-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, root)
    subprocess.run([sys.executable, *map(str, wheel)], check=True)
    given = {
        "python_env_path": f"{tmp_path}/{{{{ inventory_hostname }}}}",  # the machines' disks are one in a rehearsal
        "python_env_python": sys.executable,
        "python_env_source": str(next(tmp_path.glob("*.whl"))),
        "python_env_lock": "",
        "python_env_pip_arguments": "--no-deps --no-index",
        "python_env_shared_packages": [next(entry for entry in sys.path if entry.endswith("site-packages"))],
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    (tmp_path / "given.json").write_text(json.dumps(given))
    for name, value in {"HOME": tmp_path / "ansible", "CONFIG": root / "ansible" / "ansible.cfg", "NOCOLOR": 1}.items():
        monkeypatch.setenv(f"ANSIBLE_{name}", str(value))
    file = tmp_path / "inventory.yml"
    play = (bin / "ansible-playbook", "-i", file, "--tags", "python_env", "-e", f"@{tmp_path}/given.json")
    for changes in (True, False):
        done = clusterglm("ssh", "lab", "--inventory", file, "--", *play, root / "ansible" / "site.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        changed = dict(re.findall(r"^([\w-]+) +: .*changed=(\d+)", done.stdout, re.M))
        assert len(changed) == len(ec2.everything()["machines"])
        assert {count != "0" for count in changed.values()} == {changes}, done.stdout
    for name in changed:
        assert subprocess.run([tmp_path / name / "bin" / "clusterglm", "--version"], check=False).returncode == 0


def test_the_dashboard_is_reached_by_a_tunnel(lab: dict[str, Any], begin: Any, wait_until: Any) -> None:
    running = begin("dashboard", "lab")
    url = running.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    assert url.endswith("/status")
    assert open_to()[8722] == ["172.31.0.1/32"]
    page = ec2.inside(sys.executable, "-c", f"from urllib.request import urlopen; print(urlopen({url!r}).read())")
    assert "Dask" in page
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0, running.communicate()
    assert 8722 not in open_to()


def test_who_has_moved_is_told_and_let_in_again(lab: dict[str, Any], clusterglm: Cli) -> None:
    (group,) = ec2.everything()["groups"]
    rule = "GroupId=%r, IpProtocol='tcp', FromPort=8786, ToPort=8786, CidrIp=%r"
    ec2.call(f"ec2.revoke_security_group_ingress({rule % (group['GroupId'], '172.31.0.1/32')})")
    ec2.call(f"ec2.authorize_security_group_ingress({rule % (group['GroupId'], '203.0.113.5/32')})")
    (machine,) = (item for item in ec2.everything()["machines"] if "-scheduler" in str(item["Tags"]))
    ec2.on(machine, "ip", "route", "add", "blackhole", "172.31.0.1/32")  # moto's groups are no walls
    short = {"DASK_CLUSTERGLM__CONNECT_TIMEOUT": "2s"}
    for command in (("status", "lab"), ("fit", "admm", *LINE, "--cluster", "lab")):
        done = clusterglm(*command, env=short)
        assert done.returncode == 4
        words = "its wall is open to 203.0.113.5/32, and your address is 172.31.0.1 now: clusterglm status lab --reopen"
        assert words in done.stderr
    ec2.on(machine, "ip", "route", "del", "blackhole", "172.31.0.1/32")
    done = clusterglm("status", "lab", "--reopen")
    assert (done.returncode, done.stderr) == (0, "note: lab: open to 172.31.0.1/32\n")
    assert open_to() == {8786: ["172.31.0.1/32"]}


def test_a_fit_tells_its_cost_and_takes_the_cluster_down(
    lab: dict[str, Any], clusterglm: Cli, expected: Any, tmp_path: Path
) -> None:
    done = clusterglm("fit", "admm", *LINE, "--cluster", "lab", "--out", tmp_path / "run", "--then-down")
    assert (done.returncode, done.stderr) == (0, "note: lab: 3 machines ended\n")
    assert_same_bits(tmp_path / "run", expected)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["cost"] == pytest.approx(3 * 0.4094 / 3600 * sum(result["seconds"].values()), rel=0.5)
    assert ec2.left() == ec2.NOTHING
    assert clusterglm("down", "lab").stderr == "note: lab: already down\n"


def test_a_boot_that_fails_is_told_and_leaves_nothing(clusterglm: Cli) -> None:
    done = clusterglm(*UP, "--workers", 1, "--name", "bad", "--first", "echo no such disk; exit 7")
    assert done.returncode == 4
    words = done.stderr.splitlines()
    assert words[-3].startswith("error: dask-bad-scheduler: its boot failed: ")
    assert [word.strip() for word in words[-2:]] == ["no such disk", "clusterglm: ended with 7"]
    assert "bad" not in clusterglm("ls").stdout
    assert not [m for m in ec2.everything()["machines"] if {"Key": "clusterglm:cluster", "Value": "bad"} in m["Tags"]]


def test_what_does_not_fit_into_the_quota_is_refused_before_anything_is_started(clusterglm: Cli) -> None:
    done = clusterglm(*UP, "--workers", 80, "--name", "big", "--yes")
    assert done.returncode == 4
    words = "quota (L-1216C47A): of 640 vCPUs 0 are in use, and these machines have 648: fewer --workers, or ask AWS"
    assert words in done.stderr
    assert ec2.left() == ec2.NOTHING


def test_the_policy_names_every_call_of_this_life_and_no_other(clusterglm: Cli, calls: Path) -> None:
    """All that the commands of this file have asked of AWS, so it is the last one."""
    made = "AvailabilityZone='us-east-1a', Size=8, TagSpecifications=[{'ResourceType': 'volume', 'Tags': %r}]"
    tags = [{"Key": "clusterglm:cluster", "Value": "lost"}, {"Key": "clusterglm:expires", "Value": "20260101t000000z"}]
    ec2.call(f"ec2.create_volume({made % tags})")
    done = clusterglm("down", "--expired", "--any-owner")
    assert done.returncode == 0, done.stderr
    assert "lost: its life ended at 2026-01-01 00:00 UTC: 0 machines and all" in done.stderr
    assert ec2.left() == ec2.NOTHING
    done = clusterglm("doctor", "ec2", "--fake")
    assert done.returncode == 0, done.stdout
    assert "ok     quota            640 vCPUs of standard machines, 0 of them in use" in done.stdout
    services = {"AmazonSSM": "ssm", "ServiceQuotasV20190624": "servicequotas"}
    asked = [call.rpartition(".") for call in set(calls.read_text().split())]
    found = {f"{services.get(service, service or 'ec2')}:{action}" for service, _, action in asked}
    rights = {a for each in policy.least(False, False)["Statement"] for a in each["Action"]}
    # To tag at birth is a right of its own, and prices are asked for without any cluster.
    assert found == rights - {"ec2:CreateTags", "pricing:GetProducts"}
