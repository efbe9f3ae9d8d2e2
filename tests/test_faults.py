"""Killed workers, clusters and fits: the same bits, or a checkpoint from which they come, and nothing that stays."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import clusterglm as package
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.result import Result

pytestmark = pytest.mark.slow
ROWS, COLUMNS = 100_000, 6
# From the null model, which is the same for rows that are generated and for those in this process.
OPTIONS = {"rows": ROWS, "columns": COLUMNS, "tol": 1e-5, "start": "null"}
LINE = ("--rows", ROWS, "--columns", COLUMNS, "--tol", 1e-5, "--start", "null")


def undisturbed(solver: str) -> Result:
    """Return the fit of the same rows in this process, without any cluster."""
    rows = local_rows(Synthetic(ROWS, COLUMNS))
    lamduh = None if solver in ("newton", "gradient_descent") else 1.0
    return package.fit(data=rows, solver=solver, family="binomial", lamduh=lamduh, tol=1e-5, start="null")


def assert_same_bits(found: dict[str, Any], solver: str) -> None:
    expected = undisturbed(solver)
    assert np.array_equal(found["coefficients"], expected.coefficients)
    for key in ("objective", "passes", "iterations", "status"):
        assert found[key] == getattr(expected, key)


def result_in(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


class At:
    """Progress that strikes once, when an iteration has been reached."""

    def __init__(self, iteration: int, strike: Callable[[], object]) -> None:
        self.when, self.strike = iteration, strike

    def phase(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...

    def rows(self, done: int, total: int, seconds: float) -> None: ...

    def iteration(self, row: Any, null_objective: float, rows: int) -> None:
        if row.iteration == self.when:
            self.strike()


@pytest.fixture
def mortal() -> Iterator[Any]:
    """A client whose workers die; a nanny may give up one that dies twice, so nobody else gets this cluster."""
    from clusterglm.clusters.embedded import embedded

    with embedded(2, memory=10**9) as found:
        yield found


@pytest.mark.parametrize(("solver", "killed"), [("admm", 2), ("proximal_gradient", 1), ("newton", 1), ("newton", 2)])
def test_killed_workers_change_no_bit(mortal: Any, solver: str, killed: int) -> None:
    client, ask_for = mortal
    pids = list(client.run(os.getpid).values())

    def strike() -> None:
        for pid in pids[:killed]:
            os.kill(pid, signal.SIGKILL)

    found = package.fit(client, solver=solver, ask_for=ask_for, progress=At(2, strike), **OPTIONS)
    assert not any(psutil.pid_exists(pid) for pid in pids[:killed])
    assert_same_bits(vars(found), solver)


def test_a_frozen_worker_changes_no_bit() -> None:
    """Its connections stay open, so that only its silence tells (``worker-ttl``, of which Dask allows 5 s at least)."""
    import dask.config

    from clusterglm.clusters.embedded import embedded

    ttl = {"clusterglm.distributed.scheduler.worker-ttl": "5s"}
    with dask.config.set(ttl), embedded(2, memory=10**9) as (client, ask_for):
        frozen = next(iter(client.run(os.getpid).values()))

        def strike() -> None:
            os.kill(frozen, signal.SIGSTOP)

        found = package.fit(client, solver="newton", ask_for=ask_for, progress=At(2, strike), **OPTIONS)
        assert frozen not in client.run(os.getpid).values()
    assert not psutil.pid_exists(frozen)
    assert_same_bits(vars(found), "newton")


def test_rows_that_move_to_other_workers_change_no_bit(mortal: Any) -> None:
    """They arrive at addresses of any alignment (data/chunk.py)."""
    client, ask_for = mortal
    before = set(client.run(os.getpid))

    def strike() -> None:
        ask_for(4)
        client.wait_for_workers(4, timeout=60)
        for address in before:
            client.retire_workers([address], close_workers=True)
        assert not before & set(client.run(os.getpid))

    found = package.fit(client, solver="admm", progress=At(2, strike), **OPTIONS)
    assert_same_bits(vars(found), "admm")


def test_a_worker_that_the_system_kills_under_the_command_changes_no_bit(
    begin: Any, steps: Any, tmp_path: Path
) -> None:
    running = begin(
        "fit", steps.solver("admm"), *LINE, "--workers", 2, "--memory", "1GB", "--out", "run", env=steps.env(hold=3)
    )
    running.until(lambda: steps.reached(3))
    victim = running.workers()[0]
    victim.kill()
    steps.go()
    assert running.ended() == 0
    assert "Traceback" not in running.said
    assert_same_bits(result_in(tmp_path / "run"), "admm")


@pytest.fixture
def lab(clusterglm: Any) -> Iterator[list[psutil.Process]]:
    """A cluster that ``up`` has started; yields its scheduler and its workers."""
    done = clusterglm("up", "local", "--workers", 2, "--name", "lab", "--memory", "1GB", "--json")
    assert done.returncode == 0, done.stderr
    found = [p for p in psutil.process_iter() if _of_lab(p)]
    yield sorted(found, key=lambda process: process.create_time())
    clusterglm("down", "lab", "--if-exists")
    assert not [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def _of_lab(process: psutil.Process) -> bool:
    try:
        tags = process.environ()
    except (psutil.Error, OSError):
        return False
    ours = tags.get("CLUSTERGLM_STATE", "").startswith(os.environ["XDG_STATE_HOME"])
    return ours and tags.get("CLUSTERGLM_CLUSTER") == "lab"


def test_a_killed_fit_leaves_its_cluster_empty_and_a_killed_scheduler_a_checkpoint(
    begin: Any, clusterglm: Any, steps: Any, lab: list[psutil.Process], tmp_path: Path, wait_until: Any
) -> None:
    from clusterglm.clusters.lookup import connect_cluster

    solver = steps.solver("proximal_gradient")
    first = begin("fit", solver, *LINE, "--cluster", "lab", "--out", "a", env=steps.env(hold=3))
    first.until(lambda: steps.reached(3))
    first.send(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    client = connect_cluster("lab")
    wait_until(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0, 5)

    second = begin("fit", solver, *LINE, "--cluster", "lab", "--out", "b", env=steps.env(hold=5))
    second.until(lambda: steps.reached(5))
    scheduler = next(p for p in lab if p.environ()["CLUSTERGLM_ROLE"] == "scheduler")
    scheduler.kill()
    steps.go()
    since = time.monotonic()
    assert second.ended(20) == 4
    assert time.monotonic() - since < 10
    words = r"error: cluster (tcp://127.0.0.1:"
    assert second.said.splitlines()[-1].startswith(words)
    assert second.said.endswith(f": the scheduler is gone: clusterglm fit {solver} --resume b\n")
    assert "Traceback" not in second.said, second.said
    client.close(timeout=1)

    gone = clusterglm("fit", "newton", "--rows", 100, "--cluster", "lab", cwd=tmp_path)
    assert gone.returncode == 4
    assert gone.stderr.startswith("error: --cluster (lab): ")
    assert gone.stderr.endswith(": clusterglm down lab\n")
    assert not (tmp_path / "runs").exists()

    for name in "ab":
        go_on = ("fit", solver, "--resume", name, "--workers", 1, "--memory", "1GB")
        done = clusterglm(*go_on, cwd=tmp_path, env=steps.env())
        assert done.returncode == 0, done.stderr
        assert_same_bits(result_in(tmp_path / name), "proximal_gradient")


def test_nothing_outlives_a_killed_fit_and_another_can_have_its_folder(
    begin: Any, clusterglm: Any, steps: Any, tmp_path: Path
) -> None:
    fit = ("fit", steps.solver("newton"), *LINE, "--workers", 1, "--memory", "1GB", "--out", "run")
    running = begin(*fit, env=steps.env(hold=2))
    running.until(lambda: steps.reached(2))
    refused = clusterglm(*fit, "--overwrite", cwd=tmp_path, env=steps.env())
    assert refused.returncode == 4
    assert refused.stderr.startswith(f"error: --out (run): another fit (pid {running.pid} on ")
    running.send(signal.SIGKILL)
    assert running.ended() == -signal.SIGKILL
    steps.go()
    assert clusterglm(*fit, "--overwrite", cwd=tmp_path, env=steps.env()).returncode == 0
    assert_same_bits(result_in(tmp_path / "run"), "newton")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
