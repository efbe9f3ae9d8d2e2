"""The life of a cluster on EC2, rehearsed: moto answers, its instances are namespaces that run their own user data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts import ec2

import clusterglm as package
from clusterglm.clusters.cloud import rehearsal
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
Cli = Callable[..., Any]
UP = ("up", "ec2", "--fake")
ROWS, COLUMNS = 100_000, 6
LINE = ("--rows", ROWS, "--columns", COLUMNS, "--tol", 1e-5, "--start", "null", "--quiet")


@pytest.fixture(scope="module", autouse=True)
def _rehearsal(home: Path) -> Iterator[None]:
    """A rehearsal of this file's own, which stays until its last test so that what is left in it can be counted."""
    if why := ec2.missing():
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERGLM_REHEARSAL_LINGER", "600")
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
    done = clusterglm(*UP, "--workers", 2, "--name", "lab", "--json", env={"OMP_NUM_THREADS": "7"})
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    clusterglm("down", "lab")


def test_everything_is_tagged_and_walled_at_birth(lab: dict[str, Any]) -> None:
    found = ec2.everything()
    assert {kind: len(items) for kind, items in found.items()} == {"machines": 3, "groups": 1, "volumes": 3}
    for item in (*found["machines"], *found["volumes"], *found["groups"]):
        tags = {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        assert tags["clusterglm:cluster"] == "lab"
        assert {"clusterglm:expires", "clusterglm:owner", "clusterglm:version"} <= tags.keys()
    assert {item["MetadataOptions"]["HttpTokens"] for item in found["machines"]} == {"required"}
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
            assert address in {private, "127.0.0.1"} or (address, port) == ("*", "8786"), where


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
