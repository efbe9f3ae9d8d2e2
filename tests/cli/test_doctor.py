"""``clusterglm doctor``: one line a finding, a cure where something is missing, and exit code 0 only if all is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_this_machine_is_well(clusterglm: Any) -> None:
    done = clusterglm("doctor", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())
    found = json.loads(clusterglm("doctor", "local", "--json", env={"OMP_NUM_THREADS": "7"}).stdout)
    assert [finding["what"] for finding in found] == [
        *("versions", "settings", "state directory", "BLAS threads", "loopback", "open files", "memory")
    ]
    assert found[3]["said"] == "1 in clusters (here OMP_NUM_THREADS=7)"


@pytest.mark.parametrize(
    "target",
    [
        "slurm",
        "htcondor",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("pbs", "sge", "lsf", "oar", "moab")),
    ],
)
def test_what_a_batch_system_lacks_is_said_with_its_cure(clusterglm: Any, target: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    wrong = ("--python", "/no/such/python", "--interface", "nope0", "--folder", "/tmp/nowhere/clusters")
    done = clusterglm("doctor", target, *wrong, env={"PATH": str(tmp_path / "bin")})
    assert done.returncode == 4
    assert done.stderr.startswith("error: doctor (")
    lines = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert f"not installed: run this on a login node of {target}" in lines[0]
    text = "\n".join(lines)
    for cure in (
        "--folder names one that all nodes see",
        "--python must be one that the nodes see",
        "(nope0) is not among",
    ):
        assert cure in text


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/usr/bin/python3", "no dask and no distributed and no numpy"),
        ("/bin/true", "does not run"),
    ],
)
def test_the_nodes_python_is_asked_what_it_has(clusterglm: Any, python: str, words: str) -> None:
    found = json.loads(clusterglm("doctor", "slurm", "--python", python, "--json").stdout)
    (finding,) = (finding for finding in found if finding["what"] == "python")
    assert words in finding["said"] + finding["cure"]


def test_a_cloud_without_credentials(clusterglm: Any, tmp_path: Path) -> None:
    nothing = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "HOME": str(tmp_path)}
    done = clusterglm("doctor", "ec2", env=nothing | {"AWS_EC2_METADATA_DISABLED": "true"})
    assert done.returncode == 4
    assert "WRONG  AWS              does not answer: --region: missing: give it, or set AWS_REGION" in done.stdout


def test_hosts_must_be_named(clusterglm: Any) -> None:
    done = clusterglm("doctor", "ssh")
    assert done.returncode == 4
    assert "WRONG  hosts            cannot be asked: --hosts: missing: name hosts a,b,c or an inventory" in done.stdout


@pytest.mark.slow
def test_hosts_are_looked_at_before_anything_runs(lab: Any, clusterglm: Any) -> None:
    hosts = ",".join(lab.nodes)
    done = clusterglm("doctor", "ssh", hosts, "--port", 8786, before=lab.desk)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    address = f"node1 at {lab.addresses['node1']}:8786"
    assert [line.split(None, 2)[2] for line in lines[-2:]] == [f"{address}, from 3 of 3 hosts", f"{address}, from here"]
    assert not lab.left()
    lab.end_sshd("node2")
    try:
        done = clusterglm("doctor", "ssh", hosts, "--interface", "ib0", "--port", 22, before=lab.desk)
    finally:
        lab.sshd("node2")
    assert done.returncode == 4
    text = done.stdout
    assert "WRONG  node2            cannot take part: connection refused: is sshd running, on another port?" in text
    assert text.count("no interface ib0: --interface is one of eth0, lo") == 3
    assert "node1 cannot listen: port 22: address already in use: --port names another" in text
