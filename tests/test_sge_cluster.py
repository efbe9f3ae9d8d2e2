"""The life of a cluster on a real Grid Engine over three hosts, each with an address and processes of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import fits
from hosts.fits import LINE, assert_same_bits

pytestmark = pytest.mark.slow
UP = ("up", "sge", "--memory", "600MB", "--scheduler-memory", "600MB")
COMMAND = [sys.executable, "-m", "clusterglm.cli"]


@pytest.fixture(scope="module")
def line(sge: Any) -> Callable[..., list[str]]:
    """The command line that runs clusterglm on the login node."""
    return lambda *arguments: sge.words(*COMMAND, *map(str, arguments))


@pytest.fixture(scope="module")
def there(line: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 120, "check": False}
        return subprocess.run(line(*arguments), env=os.environ | env, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture(scope="module", autouse=True)
def _own(sge: Any, there: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """State and folders of this module's own; whatever a test has left in the queue goes down."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        yield
        assert there("down", "--all").returncode == 0
        assert not sge.jobs()


def folders() -> list[Path]:
    return list(Path(os.environ["XDG_DATA_HOME"], "clusterglm", "clusters").glob("*"))


def forget() -> None:
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"))


def running(sge: Any) -> int:
    return sum(line.split()[4:5] == ["r"] for line in sge.jobs().splitlines())


def test_a_cluster_lives_and_ends(
    sge: Any, there: Any, line: Any, begin: Any, steps: Any, tmp_path: Path, wait_until: Any
) -> None:
    expected = fits.undisturbed("proximal_gradient", "admm")
    done = there(*UP, "--workers", 2, "--name", "lab", "--wait", OPENBLAS_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 2 workers running"
    forget()
    assert there("ls").stdout.splitlines()[1].split()[:4] == ["lab", "sge", "up", "2"]
    fit = begin(
        *("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", "lab", "--out", "run"),
        command=line(),
        env=steps.env(2, 4),
    )
    fit.until(lambda: steps.reached(2))
    assert there("scale", "lab", 4).returncode == 0
    wait_until(lambda: running(sge) == 5)
    wait_until(lambda: len(json.loads(there("status", "lab", "--json").stdout)["worker"]) == 4)
    steps.go(2)
    fit.until(lambda: steps.reached(4))
    done = there("scale", "lab", 1)
    assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
    wait_until(lambda: running(sge) == 2)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", expected["proximal_gradient"])
    assert "workers died" not in fit.said
    done = there("fit", "admm", *LINE, "--cluster", "lab", "--out", tmp_path / "admm", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "admm", expected["admm"])
    assert json.loads(done.stdout)["blas_threads"] == 1
    logs = [text.split()[1] for text in there("logs", "lab").stdout.splitlines() if text.startswith("==> ")]
    assert len(logs) == 5
    assert logs[0].startswith("scheduler-")
    assert all(re.fullmatch(r"worker-\d+_\d+", name) for name in logs[1:])
    forget()
    done = there("down", "lab")
    assert done.returncode == 0, done.stderr
    assert not sge.jobs()
    assert not folders()


def test_what_waits_says_why_and_what_can_never_run_is_refused(sge: Any, there: Any, wait_until: Any) -> None:
    done = there(*UP, "--workers", 1, "--name", "never", "--queue", "nope.q")
    assert done.returncode == 4
    assert 'sge: Unable to run job: Job was rejected because job requests unknown queue "nope.q"' in done.stderr
    done = there(*UP, "--workers", 1, "--name", "never", "--directive", "-h")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].endswith(", scheduler): held: Job is in hold state")
    assert not sge.jobs()
    assert not folders()
    assert there(*UP, "--workers", 1, "--name", "waits", "--scheduler-memory", "900TB").returncode == 0
    wait_until(lambda: "mem_free" in there("status", "waits").stdout)
    assert there("down", "waits").returncode == 0
    assert not sge.jobs()


@pytest.mark.full
def test_workers_that_come_first_give_their_places_to_the_scheduler(sge: Any, there: Any, wait_until: Any) -> None:
    """They have all six slots; its job waits until they go back into the queue."""
    sge.command("qmod", "-d", "*")
    assert there(*UP, "--workers", 6, "--name", "early").returncode == 0
    scheduler = min(text.split()[0] for text in sge.jobs().splitlines() if "cglm-early" in text)
    sge.command("qhold", scheduler)
    sge.command("qmod", "-e", "*")
    wait_until(lambda: running(sge) == 6)
    sge.command("qrls", scheduler)
    wait_until(lambda: json.loads(there("status", "early", "--json").stdout)["state"] == "up", 150)
    wait_until(lambda: len(json.loads(there("status", "early", "--json").stdout)["worker"]) == 5, 90)
    assert there("down", "early").returncode == 0
    assert not sge.jobs()


@pytest.mark.full
def test_workers_that_reach_their_walltime_are_followed_by_others(
    sge: Any, there: Any, line: Any, begin: Any, steps: Any, tmp_path: Path, wait_until: Any
) -> None:
    """Tasks of the throttled array, one after the other, while the fit goes on."""

    def names() -> set[str]:
        return {member["name"] for member in json.loads(there("status", "rolling", "--json").stdout)["worker"]}

    life = ("--walltime", "40s", "--scheduler-walltime", "20min")
    assert there(*UP, "--workers", 2, "--name", "rolling", *life, "--wait").returncode == 0
    solver = steps.solver("gradient_descent")
    fit = begin(*("fit", solver, *LINE, "--cluster", "rolling", "--out", "run"), command=line(), env=steps.env(2, 6))
    for hold in (2, 6):
        fit.until(lambda hold=hold: steps.reached(hold))
        before = names()
        wait_until(lambda before=before: len(now := names()) == 2 and not before & now, 150)
        steps.go(hold)
    assert fit.ended(150) == 0, fit.said
    assert_same_bits(tmp_path / "run", fits.undisturbed("gradient_descent")["gradient_descent"])
    assert there("down", "rolling").returncode == 0
    assert not sge.jobs()
    assert not folders()


QSUB = """#!/bin/bash
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
/usr/bin/qsub "$@"; code=$?
[ "$count" != {call} ] || kill -KILL $PPID
exit $code
"""


@pytest.mark.parametrize("call", [0, 1])
def test_down_removes_what_a_killed_up_has_submitted(sge: Any, there: Any, tmp_path: Path, call: int) -> None:
    path = tmp_path / "qsub"
    path.write_text(QSUB.format(folder=tmp_path, call=call))
    path.chmod(0o755)
    done = there(*UP, "--workers", 2, "--name", "killed", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode != 0
    assert "cglm-kille" in sge.jobs()
    forget()
    done = there("down", "killed")
    assert done.returncode == 0, done.stderr
    assert not sge.jobs()
    assert not folders()
