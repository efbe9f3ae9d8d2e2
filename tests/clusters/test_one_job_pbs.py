"""One-job scripts through PBS's commands: on this node without a node file, on several with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hosts.jobs import PBSJobs, result_of

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
FIT = ("admm", "--rows", "2e4")
SMALL = ("-l", "select=1:ncpus=2:mpiprocs=2:mem=2400mb")  # of several -l this front end keeps the last alone
NODE_FILE = ("--prologue", "export PBS_NODEFILE=$(TMPDIR=$PWD generate_pbs_nodefile)")


@pytest.fixture
def jobs(pbs: Any, tmp_path: Path, wait_until: Any) -> PBSJobs:
    return PBSJobs(pbs, tmp_path, wait_until)


@pytest.fixture(scope="module")
def coefficients(clusterglm: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What the same fit finds on this machine."""
    done = clusterglm("fit", *FIT, "--workers", 2, "--json", "--quiet", cwd=tmp_path_factory.mktemp("here"))
    return list(json.loads(done.stdout)["coefficients"])


def test_the_script_of_launch_fits_on_one_node(jobs: PBSJobs, coefficients: list[float]) -> None:
    job = jobs.submit(*SMALL, LAUNCH / "pbs.sh", FIT="admm --rows 2e4", NCPUS="2")
    assert jobs.ended(job) == "COMPLETED 0:0", jobs.said(job)
    result = result_of(jobs.run(job))
    assert result["coefficients"] == coefficients
    assert (result["status"], result["workers"], result["blas_threads"]) == ("optimal", 2, 1)
    assert "note: no PBS_NODEFILE: all workers run on this node" in jobs.said(job)


@pytest.mark.full
def test_a_script_with_a_node_file_fits_on_several_nodes(
    jobs: PBSJobs, clusterglm: Any, coefficients: list[float]
) -> None:
    size = ("--nodes", 3, "--workers-per-node", 2, "--memory", "600MB", "--walltime", "10min", "--interface", "lo")
    done = clusterglm("script", "pbs", *size, *NODE_FILE, "--", *FIT)
    assert (done.returncode, done.stderr) == (0, "")
    (jobs.folder / "job.sh").write_text(done.stdout)
    job = jobs.submit("job.sh")
    assert jobs.ended(job) == "COMPLETED 0:0", jobs.said(job)
    result = result_of(jobs.run(job))
    assert result["coefficients"] == coefficients
    assert (result["workers"], result["blas_threads"]) == (6, 1)
    logs = {path.name for path in (jobs.run(job) / "cluster").iterdir()}
    assert logs == {"scheduler.log", "worker-n1.log", "worker-n2.log", "worker-n3.log"}


@pytest.mark.full
@pytest.mark.parametrize(
    ("fit", "code", "words"),
    [
        ("newton --rows 2e4 --max-passes 1 --start null", 3, "max_passes"),
        ("", 2, "usage: qsub -v FIT="),
    ],
)
def test_the_job_ends_with_the_exit_code_of_the_fit(jobs: PBSJobs, fit: str, code: int, words: str) -> None:
    job = jobs.submit(*SMALL, LAUNCH / "pbs.sh", FIT=fit, NCPUS="2")
    assert jobs.ended(job) == f"FAILED {code}:0", jobs.said(job)
    assert words in jobs.said(job)


def test_nodes_on_which_nothing_starts_end_the_job(jobs: PBSJobs, clusterglm: Any) -> None:
    broken = clusterglm("script", "pbs", "--nodes", 1, *NODE_FILE).stdout.replace("--nworkers", "--nworkers nonsense")
    (jobs.folder / "job.sh").write_text(broken)
    job = jobs.submit(*SMALL, "job.sh", FIT="admm --rows 2e4")
    assert jobs.ended(job) == "FAILED 4:0", jobs.said(job)
    assert "no worker is left: see" in jobs.said(job)


@pytest.mark.full  # Slurm's test shows the same way out
def test_a_job_that_is_deleted_leaves_a_checkpoint_and_goes_on(
    jobs: PBSJobs, clusterglm: Any, steps: Any, coefficients: list[float]
) -> None:
    size = ("--nodes", 3, "--workers-per-node", 2, "--memory", "600MB", "--walltime", "10min")
    (jobs.folder / "job.sh").write_text(clusterglm("script", "pbs", *size, *NODE_FILE).stdout)
    job = jobs.submit("job.sh", FIT=f"{steps.solver('admm')} --rows 2e4", **steps.env(hold=2))
    jobs.until(job, lambda: steps.reached(2))
    jobs.slurm.command("qdel", job)
    assert jobs.ended(job).startswith("CANCELLED")
    steps.go()
    again = jobs.submit("job.sh", FIT=f"{steps.solver('admm')} --resume {jobs.run(job)}", **steps.env())
    assert jobs.ended(again) == "COMPLETED 0:0", jobs.said(again)
    result = result_of(jobs.run(job))
    assert (result["coefficients"], result["resumed"]) == (coefficients, True)
