"""What goes wrong on EC2: ``up`` killed at each of its calls, no capacity, throttling, failures, machines that die.

Whatever it is, it is told in one line, and after ``down`` there is nothing left in the account.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts import ec2, killing

import clusterglm as package
from clusterglm.clusters.cloud import rehearsal
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
Cli = Callable[..., Any]
UP = ("up", "ec2", "--fake", "--workers", 2)
MOST_CALLS = 28  # of an ``up`` without a fault; the number depends on how long the machines take


@pytest.fixture(scope="module", autouse=True)
def _rehearsal() -> Iterator[None]:
    """A rehearsal of this file's own, which stays until its last test."""
    if why := ec2.missing():
        pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERGLM_REHEARSAL_LINGER", "3600")
        yield
        rehearsal.end()


@pytest.fixture
def faults(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return the environment of a command that meets a fault."""
    site = killing.folder(tmp_path / "site")

    def at(call: int = -1, fault: str = "", action: str = "") -> dict[str, str]:
        calls = tmp_path / f"calls-{len(list(tmp_path.glob('calls-*')))}"
        path = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
        return {"CALLS": str(calls), "AT": str(call), "FAULT": fault, "ACTION": action, "PYTHONPATH": path}

    return at


@pytest.fixture(autouse=True)
def _nothing_is_left(_rehearsal: None, clusterglm: Cli) -> Iterator[None]:
    yield
    if rehearsal.process() is not None:
        assert ec2.left() == ec2.NOTHING


def killed(clusterglm: Cli, faults: Any, call: int, when: str, action: str = "") -> list[str]:
    """Kill ``up`` at a call, take down what it has left without any record, and return the calls that it made."""
    env = faults(call, f"kill-{when}", action)
    done = clusterglm(*UP, "--name", "killed", env=env)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    if call % 2:
        shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm", "records"))  # the tags say enough
    down = clusterglm("down", "killed", "--if-exists")
    assert down.returncode == 0, down.stderr
    assert ec2.left() == ec2.NOTHING, f"killed {when} call {call}"
    assert clusterglm("ls").stdout == ""
    return Path(env["CALLS"]).read_text().split()


@pytest.mark.parametrize(("action", "call"), [("RunInstances", 2)])  # the first one is a dry run
def test_down_removes_what_a_killed_up_has_started(clusterglm: Cli, faults: Any, action: str, call: int) -> None:
    assert killed(clusterglm, faults, call, "after", action)[: call + 1] == [action] * (call + 1)


@pytest.mark.full
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", range(MOST_CALLS))
def test_down_removes_what_an_up_killed_at_any_call_has_started(
    clusterglm: Cli, faults: Any, call: int, when: str
) -> None:
    calls = killed(clusterglm, faults, call, when)
    assert len(calls) < MOST_CALLS
    print(f"{when} {call}: {calls[-1]}")


@pytest.mark.parametrize(
    ("action", "call", "code", "words"),
    [
        ("RunInstances", 2, "VcpuLimitExceeded", "the account's quota: fewer --workers"),
        ("RunInstances", 0, "UnauthorizedOperation", "ask whoever runs the account for that right"),
        ("DescribeSubnets", 0, "RequestExpired", "the credentials have expired"),
    ],
)
def test_a_refusal_is_told_with_its_cure_and_leaves_nothing(
    clusterglm: Cli, faults: Any, action: str, call: int, code: str, words: str
) -> None:
    done = clusterglm(*UP, "--name", "refused", env=faults(call, code, action))
    assert done.returncode == 4
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert f"{code}: injected: {words}" in error
    assert ec2.left() == ec2.NOTHING


@pytest.mark.full
def test_where_no_spot_machine_is_free_an_ordinary_one_is_taken(clusterglm: Cli, faults: Any) -> None:
    done = clusterglm(*UP, "--name", "cheap", "--spot", env=faults(3, "MaxSpotInstanceCountExceeded", "RunInstances"))
    assert done.returncode == 0, done.stderr
    words = "no spot machine in us-east-1a (MaxSpotInstanceCountExceeded), trying an ordinary one in us-east-1a"
    assert words in done.stderr
    kinds = sorted(item.get("InstanceLifecycle", "ordinary") for item in ec2.everything()["machines"])
    assert kinds == ["ordinary", "ordinary", "spot"]
    assert clusterglm("down", "cheap").returncode == 0


@pytest.mark.full
def test_where_a_zone_is_full_the_next_one_is_taken(clusterglm: Cli, faults: Any) -> None:
    full = faults(1, "InsufficientInstanceCapacity", "RunInstances")
    done = clusterglm(*UP, "--name", "roaming", env=full)
    assert done.returncode == 0, done.stderr
    words = "no ordinary machine in us-east-1a (InsufficientInstanceCapacity), trying an ordinary one in us-east-1b"
    assert f"dask-roaming-scheduler: {words}" in done.stderr
    zones = {item["Placement"]["AvailabilityZone"] for item in ec2.everything()["machines"]}
    assert zones == {"us-east-1b"}  # the workers are with their scheduler
    assert clusterglm("down", "roaming").returncode == 0


@pytest.mark.full
def test_rights_that_only_tell_more_may_be_missing(clusterglm: Cli, faults: Any) -> None:
    env = faults(0, "AccessDeniedException", "ServiceQuotasV20190624.GetServiceQuota")
    done = clusterglm(*UP, "--name", "poor", env=env)
    assert done.returncode == 0, done.stderr
    assert "note: quota: not checked: quota (L-1216C47A): AccessDeniedException" in done.stderr
    assert clusterglm("down", "poor").returncode == 0


@pytest.mark.full
def test_throttling_and_failures_of_aws_are_waited_out(clusterglm: Cli, faults: Any) -> None:
    done = clusterglm(*UP, "--name", "patient", env=faults(fault="every-3:RequestLimitExceeded"))
    assert done.returncode == 0, done.stderr
    assert clusterglm("down", "patient", env=faults(fault="every-4:InternalError")).returncode == 0


@pytest.mark.full  # Dask takes a minute to notice a machine that says no goodbye
def test_a_machine_that_dies_in_the_middle_of_a_fit_changes_no_bit(
    clusterglm: Cli, begin: Any, steps: Any, tmp_path: Path, wait_until: Any
) -> None:
    rows = local_rows(Synthetic(100_000, 6))
    expected = package.fit(data=rows, solver="admm", family="binomial", lamduh=1.0, tol=1e-5, start="null")
    assert clusterglm(*UP, "--name", "lossy").returncode == 0
    line = ("--rows", 100_000, "--columns", 6, "--lamduh", 1, "--tol", 1e-5, "--start", "null", "--cluster", "lossy")
    running = begin("fit", steps.solver("admm"), *line, "--out", tmp_path / "run", env=steps.env(2))
    running.until(lambda: steps.reached(2))
    lost = next(item for item in ec2.everything()["machines"] if "worker-0" in str(item["Tags"]))
    ec2.terminate(lost["InstanceId"])
    wait_until(lambda: len(ec2.everything()["machines"]) == 2)
    steps.go()
    running.process.wait(120)
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert np.array_equal(found["coefficients"], expected.coefficients)
    assert clusterglm("down", "lossy").returncode == 0
