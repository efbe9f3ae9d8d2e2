"""Fits on Slurm that are struck twice each, by a seeded draw; and ``up`` killed at each command that it calls.

Bits are those of an undisturbed fit, or the end is exit code 4 with a checkpoint from which they come. ``down`` leaves
neither a job nor a process.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hosts import fits
from hosts.fits import LINE, assert_same_bits
from hosts.strikes import cancel, kill, requeue

pytestmark = [pytest.mark.slow, pytest.mark.full]
FITS = 30
NAME = "matrix"
UP = ("up", "slurm", "--memory", "600MB", "--scheduler-memory", "600MB", "--interface", "lo")
BETWEEN = ("--min-workers", 1, "--max-workers", 3)
HOLDS = (2, 4)
SOLVERS = ("admm", "gradient_descent", "proximal_gradient")
struck: Counter[str] = Counter()


def folders() -> list[Path]:
    return list(Path(os.environ["XDG_DATA_HOME"], "clusterglm", "clusters").glob("*"))


def processes(slurm: Any, task: str = "") -> list[psutil.Process]:
    """Return the processes of the tests' jobs, or of one task of an array."""
    found = []
    for process in psutil.process_iter():
        try:
            tags = process.environ()
        except (psutil.Error, OSError):
            continue
        own = f"{tags.get('SLURM_ARRAY_JOB_ID')}_{tags.get('SLURM_ARRAY_TASK_ID')}"
        if tags.get("SLURM_CONF") == slurm.environment["SLURM_CONF"] and "SLURM_JOB_ID" in tags and task in ("", own):
            found.append(process)
    return found


def scheduler_node(slurm: Any) -> str:
    return str(slurm.command("squeue", "-h", "-t", "R", "-n", f"cglm-{NAME}-scheduler", "-o", "%N"))


def running(slurm: Any) -> list[tuple[str, str]]:
    """Return (task, node) of the workers, those first that do not share a node with the scheduler."""
    scheduler = scheduler_node(slurm)
    lines = slurm.command("squeue", "-h", "-r", "-t", "R", "-n", f"cglm-{NAME}-worker", "-o", "%i %N").splitlines()
    return sorted(((task, node) for task, node in map(str.split, lines)), key=lambda found: found[1] == scheduler)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return fits.undisturbed(*SOLVERS)


@pytest.fixture(scope="module", autouse=True)
def _clean(slurm: Any, clusterglm: Any) -> Iterator[None]:
    yield
    assert clusterglm("down", "--all").returncode == 0
    assert not slurm.jobs()
    _, left = psutil.wait_procs(processes(slurm), timeout=20)
    assert not left
    assert not folders()
    print(f"struck: {sum(struck.values())} times, {dict(struck)}")


@pytest.fixture
def cluster(slurm: Any, clusterglm: Any, wait_until: Any) -> str:
    """A cluster of three workers, the one of the test before where that has left it."""
    if clusterglm("status", NAME).returncode != 0:
        clusterglm("down", NAME, "--if-exists")
        done = clusterglm(*UP, "--workers", 3, "--name", NAME, "--scheduler-walltime", "2h", "--wait")
        assert done.returncode == 0, done.stderr
    assert clusterglm("scale", NAME, 3).returncode == 0
    wait_until(lambda: len(running(slurm)) == 3, 180)
    return NAME


def drain(slurm: Any, task: str, node: str) -> None:
    """Lose a node, but for the scheduler's, of which other strikes take care."""
    if node == scheduler_node(slurm):
        cancel(slurm, task, node)
        return
    slurm.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    slurm.command("scontrol", "update", f"NodeName={node}", "State=RESUME")


def kill_process(slurm: Any, task: str, words: str) -> None:
    """Kill the process with these words in its command line; a job that has just started is cancelled instead."""
    for each in processes(slurm, task):
        with contextlib.suppress(psutil.Error):
            if words in " ".join(each.cmdline()):
                each.kill()
                return
    cancel(slurm, task, "")


def kill_worker(slurm: Any, task: str, node: str) -> None:
    kill_process(slurm, task, "spawn_main")


def kill_nanny(slurm: Any, task: str, node: str) -> None:
    kill_process(slurm, task, "dask_worker")


def freeze(slurm: Any, task: str, node: str) -> None:
    """Stop the processes of a task for good; Slurm's KILL ends them, when somebody cancels it."""
    for each in processes(slurm, task):
        with contextlib.suppress(psutil.Error):
            each.suspend()
    slurm.command("scancel", task)


STRIKES: tuple[Callable[..., None], ...] = (cancel, kill, requeue, drain, kill_worker, kill_nanny, freeze)


@pytest.mark.parametrize("seed", range(FITS))
def test_a_fit_that_is_struck_has_the_same_bits(
    slurm: Any,
    cluster: str,
    begin: Any,
    clusterglm: Any,
    steps: Any,
    tmp_path: Path,
    wait_until: Any,
    undisturbed: Any,
    seed: int,
) -> None:
    draw = random.Random(seed)
    name = draw.choice(SOLVERS)
    solver, env = steps.solver(name), steps.env(*HOLDS)
    line = ("fit", solver, *LINE, "--cluster", cluster, *BETWEEN, "--out", "run")
    fit = begin(*line, env=env)
    resumed = ("fit", solver, "--resume", "run", "--cluster", cluster, *BETWEEN)
    for hold in HOLDS:
        fit.until(lambda hold=hold: steps.reached(hold), 120)
        end = draw.random()
        if end < 0.1:  # the scheduler's job is cancelled: another cluster, and the fit goes on there
            struck["scheduler cancelled"] += 1
            slurm.command("scancel", "-n", f"cglm-{NAME}-scheduler")
            steps.go(hold)
            assert fit.ended(60) == 4
            assert fit.said.endswith(f": the scheduler is gone: clusterglm fit {solver} --resume run\n")
            assert clusterglm("down", NAME).returncode == 0
            assert clusterglm(*UP, "--workers", 3, "--name", NAME, "--wait").returncode == 0
            fit = begin(*resumed, env=env)
        elif end < 0.2:
            struck["fit killed"] += 1
            fit.send(signal.SIGKILL)
            fit.ended()
            steps.go(hold)
            fit = begin(*resumed, env=env)
        else:
            for task, node in running(slurm)[: 1 + (end > 0.8)]:
                strike = draw.choice(STRIKES)
                struck[strike.__name__] += 1
                strike(slurm, task, node)
            steps.go(hold)
    assert fit.ended(180) == 0, fit.said
    assert_same_bits(tmp_path / "run", undisturbed[name])


COMMAND = """#!/bin/bash
# The real one, but the command that calls it is killed behind the call of this number.
exec 9>{folder}/lock; flock 9
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
flock -u 9
{real} "$@"; code=$?
[ "$count" != {call} ] || kill -KILL $PPID
exit $code
"""


@pytest.mark.parametrize("call", range(12))
def test_up_may_be_killed_at_any_command_that_it_calls(slurm: Any, clusterglm: Any, tmp_path: Path, call: int) -> None:
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        path = tmp_path / name
        path.write_text(COMMAND.format(folder=tmp_path, call=call, real=shutil.which(name)))
        path.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = clusterglm(*UP, "--workers", 2, "--name", "killed", "--wait", env=env)
    struck["up killed"] += done.returncode == -signal.SIGKILL
    assert done.returncode in (0, -signal.SIGKILL)
    assert clusterglm("down", "killed", "--if-exists").returncode == 0
    assert not [job for job in slurm.jobs() if "killed" in job]
    assert not [folder for folder in folders() if folder.name.startswith("killed")]


def test_there_were_enough_of_them() -> None:
    print(f"struck: {sum(struck.values())} times, {dict(struck)}")
    assert sum(struck.values()) >= 50
