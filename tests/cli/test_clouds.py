"""The life of a cluster on clouds other than EC2, rehearsed: fakes answer, machines are live namespaces."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hosts import ec2 as machines
from hosts import killing

import clusterglm as package
from clusterglm.clusters.cloud import rehearsal
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
Cli = Callable[..., Any]
ROWS, COLUMNS = 100_000, 6
LINE = ("--rows", ROWS, "--columns", COLUMNS, "--tol", 1e-5, "--start", "null", "--quiet")
CLOUDS = ("digitalocean", "gcp")
MOST_REQUESTS = {"digitalocean": 16, "gcp": 22}  # of an ``up`` without a fault, questions that are repeated once


@pytest.fixture(scope="module", autouse=True)
def _rehearsal(home: Path) -> Iterator[None]:
    """One rehearsal of both clouds, which stays until the last test so that what is left in it can be counted."""
    for cloud in CLOUDS:
        if why := rehearsal.missing(cloud):
            pytest.skip(why)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERGLM_REHEARSAL_LINGER", "600")
        yield
        rehearsal.end()


@pytest.fixture(autouse=True)
def _nothing_is_left(_rehearsal: None, clusterglm: Cli, wait_until: Any) -> Iterator[None]:
    yield
    for cloud in CLOUDS:
        if rehearsal.shown(cloud):
            wait_until(lambda cloud=cloud: rehearsal.shown(cloud)["empty"], 5)


def forget() -> None:
    """Delete all local state, keys included."""
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"))


@pytest.mark.parametrize("cloud", ["digitalocean", pytest.param("gcp", marks=pytest.mark.full)])
def test_a_whole_life_without_local_state(cloud: str, clusterglm: Cli, tmp_path: Path, wait_until: Any) -> None:
    def parts() -> set[str]:
        return {server["name"].removeprefix("dask-lab-") for server in rehearsal.shown(cloud)["servers"]}

    done = clusterglm("up", cloud, "--fake", "--workers", 2, "--name", "lab", "--idle-timeout", "20min")
    assert done.returncode == 0, done.stderr
    assert parts() == {"scheduler", "worker-0", "worker-1"}
    forget()
    assert clusterglm("ls").stdout.splitlines()[1].split()[:4] == ["lab", cloud, "up", "2"]
    forget()
    done = clusterglm("scale", "lab", 3)
    assert (done.returncode, done.stderr) == (0, "note: lab: 3 workers\n")
    forget()
    done = clusterglm("fit", "admm", *LINE, "--cluster", "lab", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    rows = local_rows(Synthetic(ROWS, COLUMNS))
    expected = package.fit(data=rows, solver="admm", family="binomial", lamduh=1.0, tol=1e-5, start="null")
    assert np.array_equal(found["coefficients"], expected.coefficients)
    assert clusterglm("scale", "lab", 1).returncode == 0
    wait_until(lambda: parts() == {"scheduler", "worker-0"}, 10)  # what is shown outside is a moment old
    status = json.loads(clusterglm("status", "lab", "--json").stdout)
    assert [member["name"] for member in status["member"]] == ["dask-lab-scheduler", "dask-lab-worker-0"]
    assert status["workers"] == 1
    assert "Registered to" in clusterglm("logs", "lab", "worker-0").stdout
    if shutil.which("sshd"):
        assert clusterglm("ssh", "lab", "--on", "worker-0", "--", "echo", "in").stdout == "in\n"
    forget()
    assert clusterglm("down", "lab").stderr == "note: lab: 2 machines ended\n"
    assert clusterglm("ls").stdout == ""


@pytest.mark.parametrize("cloud", [pytest.param("digitalocean", marks=pytest.mark.full), "gcp"])
def test_a_machine_that_does_not_come_up_is_told_and_removed(cloud: str, clusterglm: Cli) -> None:
    line = ("up", cloud, "--fake", "--workers", 1, "--name", "bad", "--first", "echo no such disk; exit 7")
    done = clusterglm(*line)
    assert done.returncode == 4
    assert "error: dask-bad-scheduler: its boot failed: " in done.stderr
    assert ("no such disk" in done.stderr) == (cloud == "gcp")  # the other shows nobody a console
    assert clusterglm("ls").stdout == ""


@pytest.mark.parametrize("cloud", ["digitalocean", pytest.param("gcp", marks=pytest.mark.full)])
def test_down_removes_what_a_killed_up_has_started(cloud: str, clusterglm: Cli, begin: Any, wait_until: Any) -> None:
    running = begin("up", cloud, "--fake", "--workers", 2, "--name", "killed", "--first", "sleep 2")
    wait_until(lambda: rehearsal.shown(cloud).get("servers"))
    running.kill()
    running.communicate()
    forget()
    done = clusterglm("down", "killed")
    assert (done.returncode, done.stderr) == (0, "note: killed: 1 machines ended\n")


@pytest.mark.full
def test_a_cluster_that_was_started_anew_on_another_machine_is_found(clusterglm: Cli, tmp_path: Path) -> None:
    state = Path(os.environ["XDG_STATE_HOME"], "clusterglm")
    line = ("up", "digitalocean", "--fake", "--workers", 1, "--name", "lab")
    assert clusterglm(*line).returncode == 0
    shutil.copytree(state, tmp_path / "here")
    assert clusterglm("down", "lab").returncode == 0
    assert clusterglm(*line).returncode == 0
    forget()
    shutil.copytree(tmp_path / "here", state)  # as if the other two commands had been on another machine
    done = clusterglm("status", "lab", env={"DASK_CLUSTERGLM__CONNECT_TIMEOUT": "5s"})
    assert done.returncode == 0, done.stderr
    assert clusterglm("down", "lab").returncode == 0


@pytest.mark.full
def test_the_machines_may_run_a_container(clusterglm: Cli) -> None:
    line = ("up", "digitalocean", "--fake", "--workers", 1, "--name", "boxed", "--docker-image", "lab/dask:1")
    done = clusterglm(*line)
    assert done.returncode == 0, done.stderr
    forget()
    assert clusterglm("scale", "boxed", 2).returncode == 0
    assert clusterglm("down", "boxed").stderr == "note: boxed: 3 machines ended\n"


@pytest.mark.full
@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_has_ended_by_itself_is_gone_and_removed_as_expired(cloud: str, clusterglm: Cli, wait_until: Any) -> None:
    assert clusterglm("up", cloud, "--fake", "--workers", 1, "--name", "idle").returncode == 0
    folder = psutil.Process(rehearsal.process()).cmdline()[-1]
    for server in rehearsal.shown(cloud)["servers"]:
        Path(folder, server["id"], "halt").touch()  # as its own shutdown(8) does there
    wait_until(lambda: not any(server["alive"] for server in rehearsal.shown(cloud)["servers"]))
    assert clusterglm("ls").stdout.splitlines()[1].split()[:3] == ["idle", cloud, "gone"]
    forget()
    done = clusterglm("down", "--expired")
    assert done.returncode == 0, done.stderr
    assert "idle: its scheduler has ended: 2 machines and all that belongs to it removed" in done.stderr
    assert clusterglm("ls").stdout == ""


@pytest.mark.full
@pytest.mark.parametrize(
    ("cloud", "request_number"), [(cloud, number) for cloud, most in MOST_REQUESTS.items() for number in range(most)]
)
def test_down_removes_what_an_up_killed_before_any_request_has_started(
    cloud: str, request_number: int, clusterglm: Cli, tmp_path: Path, wait_until: Any
) -> None:
    sent = tmp_path / "requests"
    path = os.pathsep.join([str(killing.folder(tmp_path / "site")), os.environ["PYTHONPATH"]])
    env = {"REQUESTS": str(sent), "AT": str(request_number), "PYTHONPATH": path}
    done = clusterglm("up", cloud, "--fake", "--workers", 2, "--name", "killed", env=env)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    if request_number % 2:
        forget()  # names and tags say enough
    down = clusterglm("down", "killed", "--if-exists")
    assert down.returncode == 0, down.stderr
    wait_until(lambda: rehearsal.shown(cloud)["empty"], 5)
    requests = sent.read_text().splitlines()
    assert len(requests) < MOST_REQUESTS[cloud]
    print(f"{cloud}, before {request_number}, after {requests[-1:]}")


@pytest.mark.full
def test_a_spot_machine_of_googles_that_is_taken_back_changes_no_bit(
    clusterglm: Cli, begin: Any, steps: Any, tmp_path: Path, wait_until: Any
) -> None:
    done = clusterglm("up", "gcp", "--fake", "--workers", 2, "--name", "lab", "--spot")
    assert done.returncode == 0, done.stderr
    line = ("fit", steps.solver("admm"), *LINE, "--lamduh", 1, "--cluster", "lab", "--out", tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in steps.env(1).items():
            patch.setenv(name, value)
        running = begin(*line)
    wait_until(lambda: steps.reached(1) or running.poll() is not None)
    (machine,) = (item for item in rehearsal.shown("gcp")["servers"] if item["name"] == "dask-lab-worker-1")
    machines.notice(machine["id"])
    wait_until(lambda: sum(item["alive"] for item in rehearsal.shown("gcp")["servers"]) == 2)  # it has gone by itself
    steps.go(1)
    assert running.wait(120) == 0, running.communicate()
    rows = local_rows(Synthetic(ROWS, COLUMNS))
    expected = package.fit(data=rows, solver="admm", family="binomial", lamduh=1.0, tol=1e-5, start="null")
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert np.array_equal(found["coefficients"], expected.coefficients)
    # One of its name is there again, by the fit or now, and not the one that is off and still paid for.
    assert clusterglm("scale", "lab", 2).returncode == 0
    wait_until(lambda: [item["alive"] for item in rehearsal.shown("gcp")["servers"]] == [True] * 3, 10)
    servers = rehearsal.shown("gcp")["servers"]
    machines.notice(next(item["id"] for item in servers if item["name"] == "dask-lab-worker-1"))
    wait_until(lambda: not all(item["alive"] for item in rehearsal.shown("gcp")["servers"]))
    cure = "note: lab: 1 of 2 machines have workers: clusterglm scale lab 2\n"
    assert clusterglm("status", "lab").stderr == cure
    assert clusterglm("scale", "lab", 2).returncode == 0
    assert clusterglm("down", "lab").stderr == "note: lab: 3 machines ended\n"
