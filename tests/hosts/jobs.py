"""Jobs of one-job scripts, submitted to the tests' batch systems, and what has become of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent


class Jobs:
    """Submits jobs to the tests' Slurm from a folder, and looks at what has become of them."""

    system = "slurm"
    command: tuple[str, ...] = ("sbatch", "--parsable")

    def __init__(self, slurm: Any, folder: Path, wait_until: Callable[..., Any]) -> None:
        self.slurm, self.folder, self.wait_until = slurm, folder, wait_until
        self.environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "7"}

    def submit(self, *words: object, **environment: str) -> str:
        done = subprocess.run(
            [*self.command, *map(str, words)],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    def run(self, job: str) -> Path:
        return self.folder / "runs" / f"{self.system}-{job}"

    def said(self, job: str) -> str:
        """Return what the job has printed, on whatever stream."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"*[-.]*{job}*")) if path.is_file())

    def until(self, job: str, condition: Callable[[], Any]) -> None:
        def met() -> Any:
            assert self.shown(job, "JobState") in ("PENDING", "CONFIGURING", "RUNNING"), self.said(job)
            return condition()

        self.wait_until(met, 120)

    def ended(self, job: str) -> str:
        """Wait for a job's end and return ``STATE EXITCODE``, once nothing of it runs any more."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait_until(lambda: self.shown(job, "JobState") in over and not self._queued(job), 120)
        _, left = psutil.wait_procs(list(self.processes(job)), timeout=10)
        assert not left
        return f"{self.shown(job, 'JobState')} {self.shown(job, 'ExitCode')}"

    def shown(self, job: str, what: str) -> str:
        words = self.slurm.command("scontrol", "show", "job", job, "-o").split()
        return next((word.removeprefix(f"{what}=") for word in words if word.startswith(f"{what}=")), "")

    def processes(self, job: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                tags = process.environ()
            except (psutil.Error, OSError):
                continue
            if tags.get("SLURM_CONF") == self.slurm.environment["SLURM_CONF"] and tags.get("SLURM_JOB_ID") == job:
                found.append(process)
        return found

    def _queued(self, job: str) -> bool:
        return any(line.split()[0] == job for line in self.slurm.jobs())


class PBSJobs(Jobs):
    """The same through PBS's commands, which hand a job's words on in the environment."""

    system = "pbs"
    command = ("qsub",)


def result_of(run: Path) -> dict[str, Any]:
    """Return what stands in the run's result."""
    return dict(json.loads((run / "result.json").read_text()))
