"""One-job scripts on real batch systems: the fit's answer and exit code, its folder, and nothing left running."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts.jobs import Jobs, result_of

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
FIT = ("admm", "--rows", "2e4")
SMALL = ("--nodes=3", "--ntasks-per-node=2", "--mem-per-cpu=600M", "--time=10")


@pytest.fixture(scope="module")
def coefficients(clusterglm: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What the same fit finds on this machine."""
    done = clusterglm("fit", *FIT, "--workers", 2, "--json", "--quiet", cwd=tmp_path_factory.mktemp("here"))
    return list(json.loads(done.stdout)["coefficients"])


@pytest.fixture
def jobs(slurm: Any, tmp_path: Path, wait_until: Any) -> Jobs:
    return Jobs(slurm, tmp_path, wait_until)


def test_the_script_of_launch_fits_on_several_nodes(jobs: Jobs, coefficients: list[float]) -> None:
    job = jobs.submit(*SMALL, LAUNCH / "slurm.sbatch", *FIT)
    assert jobs.ended(job) == "COMPLETED 0:0", jobs.said(job)
    result = result_of(jobs.run(job))
    assert result["coefficients"] == coefficients
    assert (result["status"], result["workers"], result["blas_threads"]) == ("optimal", 6, 1)
    assert f"report      {jobs.run(job)}/report.html" in jobs.said(job)
    assert "srun" not in jobs.said(job)
    cluster = jobs.run(job) / "cluster"
    assert {path.name for path in cluster.iterdir()} == {"scheduler.log", *(f"worker-{i}.log" for i in range(6))}
    limit = 600 * 2**20 * 9 // 10
    assert result["memory"]["limit"] == pytest.approx(limit, rel=0.01)


@pytest.mark.full  # the script of launch/ is the same text
def test_the_script_of_the_command_holds_its_fit(jobs: Jobs, clusterglm: Any, coefficients: list[float]) -> None:
    options = ("--workers", 4, "--memory", "600MB", "--walltime", "10min", "--partition", "debug", "--interface", "lo")
    options += ("--python", sys.executable, "--prologue", "export OPENBLAS_NUM_THREADS=5", "--scratch", jobs.folder)
    done = clusterglm("script", "slurm", *options, "--", *FIT, "--out", "my run")
    assert (done.returncode, done.stderr) == (0, "")
    (jobs.folder / "job.sh").write_text(done.stdout)
    job = jobs.submit("job.sh", "--max-passes", "50")
    assert jobs.ended(job) == "COMPLETED 0:0", jobs.said(job)
    result = result_of(jobs.folder / "my run")
    assert result["coefficients"] == coefficients
    assert (result["workers"], result["blas_threads"]) == (4, 1)
    assert "tls://127.0.0.1:" in (jobs.run(job) / "cluster" / "scheduler.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("newton", "--rows", "2e4", "--max-passes", "1", "--start", "null"), 3, "max_passes"),
        pytest.param(
            ("newton", "--rows", "2e4", "--penalty", "l1"), 2, "newton needs a smooth penalty", marks=pytest.mark.full
        ),
        (("admm", "--data", "nowhere.parquet", "--target", "y", "--family", "binomial"), 5, "nowhere.parquet"),
        ((), 2, "usage: sbatch"),
    ],
)
def test_the_job_ends_with_the_exit_code_of_the_fit(
    jobs: Jobs, arguments: tuple[str, ...], code: int, words: str
) -> None:
    job = jobs.submit(*SMALL, "--nodes=2", LAUNCH / "slurm.sbatch", *arguments)
    assert jobs.ended(job) == f"FAILED {code}:0", jobs.said(job)
    assert words in jobs.said(job)


def test_workers_that_cannot_start_end_the_job(jobs: Jobs, clusterglm: Any) -> None:
    text = clusterglm("script", "slurm").stdout
    broken = text.replace("dask worker", "dask worker --nanny-port nonsense")
    assert broken != text
    (jobs.folder / "job.sh").write_text(broken)
    job = jobs.submit(*SMALL, "job.sh", *FIT)
    assert jobs.ended(job) == "FAILED 4:0", jobs.said(job)
    assert "no worker is left: see" in jobs.said(job)


def test_a_scheduler_that_cannot_start_ends_the_job(jobs: Jobs, clusterglm: Any) -> None:
    (jobs.folder / "job.sh").write_text(clusterglm("script", "slurm", "--interface", "nowhere0").stdout)
    job = jobs.submit(*SMALL, "job.sh", *FIT)
    assert jobs.ended(job) == "FAILED 4:0", jobs.said(job)
    assert "nowhere0" in jobs.said(job)


def test_the_signal_before_the_walltime_leaves_a_checkpoint(jobs: Jobs, steps: Any, coefficients: list[float]) -> None:
    held = jobs.submit(*SMALL, LAUNCH / "slurm.sbatch", steps.solver("admm"), *FIT[1:], **steps.env(hold=2))
    jobs.until(held, lambda: steps.reached(2))
    jobs.slurm.command("scancel", "--batch", "--signal=TERM", held)
    steps.go()
    assert jobs.ended(held) == "FAILED 75:0", jobs.said(held)
    assert "go on with: clusterglm fit" in jobs.said(held)
    again = jobs.submit(
        *SMALL, "--nodes=2", LAUNCH / "slurm.sbatch", steps.solver("admm"), "--resume", jobs.run(held), **steps.env()
    )
    assert jobs.ended(again) == "COMPLETED 0:0", jobs.said(again)
    result = result_of(jobs.run(held))
    assert (result["coefficients"], result["resumed"]) == (coefficients, True)


def test_a_job_that_is_cancelled_leaves_a_checkpoint_and_nothing_running(jobs: Jobs, steps: Any) -> None:
    job = jobs.submit(*SMALL, LAUNCH / "slurm.sbatch", steps.solver("admm"), *FIT[1:], **steps.env(hold=2))
    jobs.until(job, lambda: steps.reached(2))
    assert len(jobs.processes(job)) > 12  # a nanny and a worker a task
    jobs.slurm.command("scancel", job)
    assert jobs.ended(job).startswith("CANCELLED")
    assert (jobs.run(job) / "checkpoint.npz").exists()


@pytest.mark.full  # test_slurm_faults requeues too
def test_a_job_that_is_requeued_goes_on(jobs: Jobs, steps: Any, coefficients: list[float]) -> None:
    job = jobs.submit(*SMALL, "--requeue", LAUNCH / "slurm.sbatch", steps.solver("admm"), *FIT[1:], **steps.env(hold=2))
    jobs.until(job, lambda: steps.reached(2) and (jobs.run(job) / "checkpoint.npz").exists())
    jobs.slurm.command("scontrol", "requeue", job)
    jobs.wait_until(lambda: "BeginTime" in jobs.shown(job, "Reason"))
    steps.go()
    jobs.slurm.command("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert jobs.ended(job) == "COMPLETED 0:0", jobs.said(job)
    result = result_of(jobs.run(job))
    assert (result["coefficients"], result["resumed"]) == (coefficients, True)
