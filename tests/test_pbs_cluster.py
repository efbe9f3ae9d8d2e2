"""The life of a cluster through PBS's commands over a real Slurm of three nodes.

This ``qstat`` shows neither variables nor the tasks of an array: what waits counts as one, and folders are found by the
names of jobs. What PBS Pro and Torque print is held in tests/clusters/test_batch_systems.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import fits
from hosts.fits import LINE, assert_same_bits

pytestmark = pytest.mark.slow
UP = ("up", "pbs", "--memory", "1gb", "--scheduler-memory", "1gb", "--interface", "lo")


@pytest.fixture(scope="module", autouse=True)
def _own(pbs: Any, clusterglm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """State and folders of this module's own; whatever a test has left in the queue goes down."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        yield
        assert clusterglm("down", "--all").returncode == 0
        pbs.cancel_all()


def folders() -> list[Path]:
    return list(Path(os.environ["XDG_DATA_HOME"], "clusterglm", "clusters").glob("*"))


def forget() -> None:
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"))


def running(pbs: Any) -> int:
    return sum("RUNNING" in line for line in pbs.jobs())


def test_a_cluster_lives_and_ends(
    pbs: Any, clusterglm: Any, begin: Any, steps: Any, tmp_path: Path, wait_until: Any
) -> None:
    expected = fits.undisturbed("proximal_gradient", "admm")
    shell = {"OPENBLAS_NUM_THREADS": "7"}
    done = clusterglm(*UP, "--workers", 2, "--name", "lab", "--walltime", "10min", "--wait", env=shell)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 2 workers running"
    found = pbs.command("squeue", "-h", "-o", "%C %m %l").splitlines()
    assert found == ["1 954M 10:00"] * 3
    forget()
    assert clusterglm("ls").stdout.splitlines()[1].split()[:4] == ["lab", "pbs", "up", "2"]
    solver = steps.solver("proximal_gradient")
    fit = begin("fit", solver, *LINE, "--cluster", "lab", "--out", "run", env=steps.env(2, 4))
    fit.until(lambda: steps.reached(2))
    assert clusterglm("scale", "lab", 4).returncode == 0
    wait_until(lambda: len(json.loads(clusterglm("status", "lab", "--json").stdout)["worker"]) == 4)
    steps.go(2)
    fit.until(lambda: steps.reached(4))
    done = clusterglm("scale", "lab", 1)
    assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
    wait_until(lambda: running(pbs) == 2)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", expected["proximal_gradient"])
    assert "workers died" not in fit.said
    done = clusterglm("fit", "admm", *LINE, "--cluster", "lab", "--out", tmp_path / "admm", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "admm", expected["admm"])
    assert json.loads(done.stdout)["blas_threads"] == 1
    logs = [text.split()[1] for text in clusterglm("logs", "lab").stdout.splitlines() if text.startswith("==> ")]
    assert len(logs) == 5
    assert logs[0].startswith("scheduler-")
    forget()
    done = clusterglm("down", "lab")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not pbs.jobs())  # this qstat takes for ended what is ending
    assert not folders()


@pytest.mark.full
def test_a_fit_longer_than_its_workers_has_them_replaced(
    pbs: Any, clusterglm: Any, begin: Any, steps: Any, tmp_path: Path, wait_until: Any
) -> None:
    life = ("--walltime", "40s", "--scheduler-walltime", "20min")
    assert clusterglm(*UP, "--workers", 2, "--name", "brief", *life, "--wait").returncode == 0
    solver = steps.solver("proximal_gradient")
    fit = begin("fit", solver, *LINE, "--cluster", "brief", "--out", "run", env=steps.env(2))
    fit.until(lambda: steps.reached(2))
    wait_until(lambda: running(pbs) == 1, 90)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", fits.undisturbed("proximal_gradient")["proximal_gradient"])
    assert clusterglm("down", "brief").returncode == 0


def test_what_is_refused_ends_up_with_the_systems_words(pbs: Any, clusterglm: Any) -> None:
    done = clusterglm(*UP, "--workers", 1, "--name", "never", "--queue", "nope")
    assert done.returncode == 4
    assert "invalid partition specified: nope" in done.stderr
    assert not pbs.jobs()
    assert not folders()


QSUB = """#!/bin/bash
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
{real} "$@"; code=$?
[ "$count" != {call} ] || kill -KILL $PPID
exit $code
"""


@pytest.mark.parametrize("call", [0, 1])
def test_down_removes_what_a_killed_up_has_submitted(
    pbs: Any, clusterglm: Any, tmp_path: Path, wait_until: Any, call: int
) -> None:
    path = tmp_path / "qsub"
    path.write_text(QSUB.format(folder=tmp_path, call=call, real=shutil.which("qsub")))
    path.chmod(0o755)
    search = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert clusterglm(*UP, "--workers", 2, "--name", "killed", env={"PATH": search}).returncode == -9
    assert pbs.jobs()
    forget()
    done = clusterglm("down", "killed")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not pbs.jobs())  # this qstat takes for ended what is ending
    assert not folders()
