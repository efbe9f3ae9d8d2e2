"""Scripts for systems that cannot be had here, run as plain scripts: the variables and programs of a job are made up.

It holds what is ours: the fit's answer and exit code, workers wherever the node file says, and that nothing stays. What
the systems do with the directives, and their ways to other nodes, is not shown by it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hosts.jobs import result_of

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
FIT = ("admm", "--rows", "2e4")
# What brings a command to another node, how many words precede the node, and the variables of a job.
SYSTEMS = {
    "sge": ("qrsh", 2, {"JOB_ID": "7"}, "PE_HOSTFILE"),
    "lsf": ("blaunch", 0, {"LSB_JOBID": "7"}, "LSB_DJOB_HOSTFILE"),
    "oar": ("oarsh", 0, {"OAR_JOB_ID": "7"}, "OAR_NODEFILE"),
    "moab": ("pbsdsh", 1, {"PBS_JOBID": "7.server", "PBS_O_WORKDIR": "."}, "PBS_NODEFILE"),
}


class Rehearsal:
    """A job of one node file that names this host, for one worker, and another for two."""

    def __init__(self, system: str, folder: Path) -> None:
        program, words, variables, node_file = SYSTEMS[system]
        self.system, self.folder = system, folder
        here = socket.gethostname().split(".")[0]
        lines = [f"{here} 1 all.q", "elsewhere.site 2 all.q"] if system == "sge" else [here, *["elsewhere.site"] * 2]
        (folder / "nodes").write_text("\n".join(lines) + "\n")
        commands = folder / "bin"
        commands.mkdir()
        (commands / program).write_text(f'#!/bin/sh\nshift {words}\necho "to $1"\nshift\nexec "$@"\n')
        (commands / program).chmod(0o755)
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        mark = {"REHEARSAL": str(folder), "PATH": path, "OMP_NUM_THREADS": "7"}
        self.environment = os.environ | mark | variables | {node_file: str(folder / "nodes")}
        self.run = folder / "runs" / f"{system}-7"

    def start(self, script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> str:
        """Return what a job has said, once it has ended and nothing of it runs any more."""
        said, _ = process.communicate(timeout=120)
        _, left = psutil.wait_procs(self.processes(), timeout=10)
        assert not left
        return said

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("REHEARSAL") == str(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def rehearse(tmp_path: Path) -> Any:
    made: list[Rehearsal] = []

    def make(system: str) -> Rehearsal:
        made.append(Rehearsal(system, tmp_path))
        return made[-1]

    yield make
    for rehearsal in made:
        for process in rehearsal.processes():
            process.kill()


@pytest.fixture(scope="module")
def coefficients(clusterglm: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What the same fit finds in a cluster of its own."""
    done = clusterglm("fit", *FIT, "--workers", 2, "--json", "--quiet", cwd=tmp_path_factory.mktemp("here"))
    return list(json.loads(done.stdout)["coefficients"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_script_of_launch_fits(rehearse: Callable[..., Rehearsal], system: str, coefficients: list[float]) -> None:
    job = rehearse(system)
    given = {"FIT": " ".join(FIT)} if system in ("lsf", "moab") else {}
    process = job.start(LAUNCH / f"{system}.sh", *(() if given else FIT), **given)
    said = job.ended(process)
    assert process.returncode == 0, said
    result = result_of(job.run)
    assert result["coefficients"] == coefficients
    assert (result["workers"], result["blas_threads"]) == (3, 1)
    cluster = job.run / "cluster"
    assert {path.name for path in cluster.glob("worker*")} == {f"worker-{node}.log" for node in nodes(job)}
    assert (cluster / "worker-elsewhere.site.log").read_text().startswith("to elsewhere.site\n")
    assert not (cluster / "tls").exists()


def nodes(job: Rehearsal) -> set[str]:
    return {line.split()[0] for line in (job.folder / "nodes").read_text().splitlines()}


@pytest.mark.parametrize("system", ["lsf", "oar"])
def test_the_signal_before_the_walltime_leaves_a_checkpoint(
    rehearse: Callable[..., Rehearsal], steps: Any, wait_until: Any, system: str
) -> None:
    job = rehearse(system)
    process = job.start(LAUNCH / f"{system}.sh", steps.solver("admm"), *FIT[1:], **steps.env(hold=2))
    wait_until(lambda: steps.reached(2) or process.poll() is not None, 120)
    os.killpg(process.pid, signal.SIGUSR2)  # as these systems do, to all processes of the job
    steps.go()
    said = job.ended(process)
    assert process.returncode == 75, said
    assert (job.run / "checkpoint.npz").exists()
