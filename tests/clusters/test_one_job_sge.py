"""One-job scripts on a real Grid Engine over three hosts, each with an address and processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hosts.jobs import result_of

# CI runs a cluster's life on the same Grid Engine (test_sge_cluster.py), and this script rehearsed.
pytestmark = [pytest.mark.slow, pytest.mark.full]

LAUNCH = Path(__file__).parents[2] / "launch"
FIT = ("admm", "--rows", "2e4")
FIVE = ("-pe", "mpi", "5", "-l", "mem_free=600M")


@pytest.fixture(scope="module")
def coefficients(clusterglm: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What the same fit finds in a cluster of its own."""
    done = clusterglm("fit", *FIT, "--workers", 2, "--json", "--quiet", cwd=tmp_path_factory.mktemp("here"))
    return list(json.loads(done.stdout)["coefficients"])


class Jobs:
    """Submits jobs from the login node, and looks at what has become of them."""

    def __init__(self, engine: Any, folder: Path, wait_until: Callable[..., Any]) -> None:
        self.engine, self.folder, self.wait_until = engine, folder, wait_until
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "7", "ONE_JOB": str(folder)}

    def submit(self, *words: object, **environment: str) -> str:
        done = subprocess.run(
            self.engine.words("qsub", "-terse", *map(str, words)),
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, job: str) -> Path:
        return self.folder / "runs" / f"sge-{job}"

    def said(self, job: str) -> str:
        return "".join(path.read_text() for path in self.folder.glob(f"*.*o{job}"))

    def until(self, job: str, condition: Callable[[], Any]) -> None:
        def met() -> Any:
            found = condition()
            assert found or self.queued(job), self.said(job)
            return found

        self.wait_until(met, 120)

    def queued(self, job: str) -> bool:
        return any(line.split()[:1] == [job] for line in self.engine.jobs().splitlines())

    def ended(self, job: str) -> int:
        """Wait for a job's end and return its exit code, once nothing of it runs any more."""
        self.wait_until(lambda: not self.queued(job), 120)
        _, left = psutil.wait_procs(self.processes(), timeout=20)
        assert not left
        accounts = self.engine.files / "library" / "default" / "common" / "accounting"

        def line() -> list[str]:
            lines = accounts.read_text().splitlines() if accounts.exists() else []
            return next((fields for text in lines if (fields := text.split(":"))[5:6] == [job]), [])

        return int(self.wait_until(line, 60)[12])

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("ONE_JOB") == str(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def jobs(sge: Any, tmp_path: Path, wait_until: Any) -> Jobs:
    return Jobs(sge, tmp_path, wait_until)


def test_the_script_of_launch_fits_on_several_hosts(jobs: Jobs, coefficients: list[float]) -> None:
    job = jobs.submit(*FIVE, LAUNCH / "sge.sh", *FIT)
    assert jobs.ended(job) == 0, jobs.said(job)
    result = result_of(jobs.run(job))
    assert result["coefficients"] == coefficients
    assert (result["status"], result["workers"], result["blas_threads"]) == ("optimal", 5, 1)
    cluster = jobs.run(job) / "cluster"
    logs = {path.name: path.read_text() for path in cluster.iterdir()}
    assert set(logs) == {"scheduler.log", *(f"worker-node{number}.log" for number in (1, 2, 3))}
    assert {address for address in ("10.77.0.11", "10.77.0.12", "10.77.0.13") if address in logs["scheduler.log"]}


def test_the_script_of_the_command_holds_its_fit(jobs: Jobs, clusterglm: Any) -> None:
    options = ("--workers", 3, "--memory", "600MB", "--queue", "all.q", "--interface", "eth0")
    line = ("newton", "--rows", "2e4", "--max-passes", "1", "--start", "null")
    done = clusterglm("script", "sge", *options, "--", *line)
    assert (done.returncode, done.stderr) == (0, "")
    (jobs.folder / "job.sh").write_text(done.stdout)
    job = jobs.submit("job.sh")
    assert jobs.ended(job) == 3, jobs.said(job)
    assert "max_passes" in jobs.said(job)
    assert result_of(jobs.run(job))["workers"] == 3


def test_a_job_that_is_deleted_leaves_nothing_running_and_goes_on(
    jobs: Jobs, steps: Any, coefficients: list[float]
) -> None:
    job = jobs.submit(*FIVE, LAUNCH / "sge.sh", steps.solver("admm"), *FIT[1:], **steps.env(hold=2))
    jobs.until(job, lambda: steps.reached(2) and (jobs.run(job) / "checkpoint.npz").exists())
    assert len(jobs.processes()) > 8
    jobs.engine.command("qdel", job)
    assert jobs.ended(job) == 137  # killed: Grid Engine gives no notice
    again = jobs.submit(*FIVE, LAUNCH / "sge.sh", steps.solver("admm"), "--resume", jobs.run(job), **steps.env())
    assert jobs.ended(again) == 0, jobs.said(again)
    result = result_of(jobs.run(job))
    assert (result["coefficients"], result["resumed"]) == (coefficients, True)
