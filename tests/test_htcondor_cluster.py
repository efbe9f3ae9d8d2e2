"""The life of a cluster on a real HTCondor of one machine, as a user who is not root."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import fits, trixie
from hosts.fits import LINE, assert_same_bits
from hosts.htcondor import HTCondor
from hosts.jobs import result_of
from hosts.life import lives_and_ends, status
from hosts.trixie import System

pytestmark = [pytest.mark.slow, pytest.mark.full]
UP = ("up", "htcondor", "--memory", "600MB", "--scheduler-memory", "600MB", "--disk", "100MB")


@pytest.fixture(scope="module")
def condor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    if missing := trixie.missing():
        pytest.skip(f"{missing[0]} missing: needs root, and debootstrap")
    # A user may not look into pytest's own folders.
    with (
        tempfile.TemporaryDirectory(prefix="condor-", dir="/tmp") as own,
        trixie.running(HTCondor, tmp_path_factory.mktemp("condor"), Path(own)) as system,
    ):
        yield system


def test_a_cluster_lives_and_ends(condor: System, begin: Any, steps: Any, wait_until: Any) -> None:
    lives_and_ends(condor, UP, begin, steps, wait_until)
    assert not condor.jobs()


def test_a_fit_longer_than_its_workers_has_them_replaced(
    condor: System, begin: Any, steps: Any, wait_until: Any
) -> None:
    """By themselves: whoever reaches the end of his job starts again, whether or not a fit asks for it."""
    steps = condor.steps(steps, "steps2")
    life = ("--walltime", "80s", "--scheduler-walltime", "20min")
    assert condor.run(*UP, "--workers", 2, "--name", "brief", *life, "--wait").returncode == 0
    fit = begin(
        *("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", "brief", "--out", condor.own / "run2"),
        command=condor.clusterglm(),
        env=steps.env(2),
    )
    fit.until(lambda: steps.reached(2))
    first, seen = addresses(condor), set[str]()

    def followed() -> bool:
        seen.update(addresses(condor) - first)
        return len(seen) >= 2

    wait_until(followed, 200)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(condor.own / "run2", fits.undisturbed("proximal_gradient")["proximal_gradient"])
    assert condor.run("down", "brief").returncode == 0
    assert not condor.jobs()


def addresses(condor: System) -> set[str]:
    return {worker["address"] for worker in status(condor, "brief")["worker"]}


@pytest.mark.parametrize("options", [(), ("--nodes", 2)])
def test_one_job_fits(condor: System, wait_until: Any, options: tuple[object, ...]) -> None:
    """On one machine, and as two nodes of the parallel universe; its exit code is the fit's."""
    folder = condor.folder_of_tester(f"job{len(options)}")
    size = ("--workers-per-node", 2, "--memory", "600MB", "--disk", "100MB", *options)
    done = condor.run("script", "htcondor", *size)
    assert done.returncode == 0, done.stderr
    (folder / "job.sh").write_text(done.stdout)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    kept = {"PATH": path, "PYTHONPATH": str(trixie.CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "7"}

    def submitted(*words: str) -> str:
        command = condor.words("env", "-C", str(folder), "bash", "job.sh", *words, **kept)
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        job = said.strip().split(".")[0]
        wait_until(lambda: not condor.jobs(), 240)
        return job

    def ended(job: str) -> str:
        return str(condor.said("condor_history", job, "-limit", "1", "-af", "ExitCode"))

    job = submitted("admm", "--rows", "2e4")
    text = "".join(path.read_text() for path in folder.glob("clusterglm-*.out"))
    assert ended(job) == "0", text
    result = result_of(folder / "runs" / f"htcondor-{job}")
    assert (result["status"], result["workers"], result["blas_threads"]) == ("optimal", 4 if options else 2, 1)
    job = submitted("newton", "--rows", "2e4", "--max-passes", "1", "--start", "null", "--out", 'it\'s a "$(run)"')
    assert ended(job) == "3"
    assert (folder / 'it\'s a "$(run)"' / "result.json").exists()


def test_what_can_never_run_says_why(condor: System, wait_until: Any) -> None:
    assert (
        condor.run(*UP, "--workers", 1, "--name", "waits", "--directive", "requirements = Memory > 999999").returncode
        == 0
    )
    wait_until(lambda: "no match found" in condor.run("status", "waits").stdout, 120)
    assert condor.run("down", "waits").returncode == 0
    assert not condor.jobs()
