"""The life of a cluster on a real HTCondor of one machine, as a user who is not root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import fits, htcondor
from hosts.fits import LINE, assert_same_bits
from hosts.jobs import result_of

pytestmark = [pytest.mark.slow, pytest.mark.full]
UP = ("up", "htcondor", "--memory", "600MB", "--scheduler-memory", "600MB", "--disk", "100MB")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def own() -> Iterator[Path]:
    """A folder for a user who may not look into pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="condor-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def condor(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if missing := htcondor.missing():
        pytest.skip(f"{missing[0]} missing: needs root, and debootstrap")
    with htcondor.running(tmp_path_factory.mktemp("condor"), own) as running:
        yield running


@pytest.fixture(scope="module")
def line(condor: Any, own: Path) -> Callable[..., list[str]]:
    """The command line that runs clusterglm as the user."""
    kept = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": f"{own}/state", "XDG_DATA_HOME": f"{own}/data"}
    kept |= {"DASK_CONFIG": f"{own}/dask", "USER": "tester", "PYTHONDONTWRITEBYTECODE": "1"}

    def words(*arguments: object) -> list[str]:
        return list(condor.words(sys.executable, "-m", "clusterglm.cli", *map(str, arguments), **kept))

    return words


@pytest.fixture(scope="module")
def there(line: Any, condor: Any) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line(*arguments), capture_output=True, text=True, timeout=120, check=False)

    yield run
    assert run("down", "--all").returncode == 0
    assert not condor.jobs()


def test_a_cluster_lives_and_ends(
    condor: Any, there: Any, line: Any, begin: Any, own: Path, steps: Any, wait_until: Any
) -> None:
    expected = fits.undisturbed("proximal_gradient", "admm")
    steps = type(steps)(own / "steps")
    os.chown(own / "steps", htcondor.USER, htcondor.USER)
    done = there(*UP, "--workers", 2, "--name", "lab", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 2 workers running"
    shutil.rmtree(own / "state")
    assert there("ls").stdout.splitlines()[1].split()[:4] == ["lab", "htcondor", "up", "2"]
    fit = begin(
        *("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", "lab", "--out", own / "run"),
        command=line(),
        env=steps.env(2, 4),
    )
    fit.until(lambda: steps.reached(2))
    assert there("scale", "lab", 4).returncode == 0
    wait_until(lambda: len(json.loads(there("status", "lab", "--json").stdout)["worker"]) == 4)
    steps.go(2)
    fit.until(lambda: steps.reached(4))
    done = there("scale", "lab", 1)
    assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
    wait_until(lambda: len(condor.jobs()) == 2)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(own / "run", expected["proximal_gradient"])
    done = there("fit", "admm", *LINE, "--cluster", "lab", "--out", own / "admm", "--quiet")
    assert done.returncode == 0, done.stderr
    assert_same_bits(own / "admm", expected["admm"])
    assert len([text for text in there("logs", "lab").stdout.splitlines() if text.startswith("==> ")]) == 5
    shutil.rmtree(own / "state")
    done = there("down", "lab")
    assert done.returncode == 0, done.stderr
    assert not condor.jobs()
    assert not list((own / "data" / "clusterglm" / "clusters").iterdir())


def test_a_fit_longer_than_its_workers_has_them_replaced(
    condor: Any, there: Any, line: Any, begin: Any, own: Path, steps: Any, wait_until: Any
) -> None:
    """By themselves: whoever reaches the end of his job starts again, whether or not a fit asks for it."""
    steps = type(steps)(own / "steps2")
    os.chown(own / "steps2", htcondor.USER, htcondor.USER)
    life = ("--walltime", "80s", "--scheduler-walltime", "20min")
    assert there(*UP, "--workers", 2, "--name", "brief", *life, "--wait").returncode == 0
    fit = begin(
        *("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", "brief", "--out", own / "run2"),
        command=line(),
        env=steps.env(2),
    )
    fit.until(lambda: steps.reached(2))
    first, seen = addresses(there), set[str]()

    def followed() -> bool:
        seen.update(addresses(there) - first)
        return len(seen) >= 2

    wait_until(followed, 200)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(own / "run2", fits.undisturbed("proximal_gradient")["proximal_gradient"])
    assert there("down", "brief").returncode == 0
    assert not condor.jobs()


def addresses(there: Any) -> set[str]:
    return {worker["address"] for worker in json.loads(there("status", "brief", "--json").stdout)["worker"]}


@pytest.mark.parametrize("options", [(), ("--nodes", 2)])
def test_one_job_fits(condor: Any, there: Any, own: Path, wait_until: Any, options: tuple[object, ...]) -> None:
    """On one machine, and as two nodes of the parallel universe; its exit code is the fit's."""
    folder = own / f"job{len(options)}"
    folder.mkdir()
    os.chown(folder, htcondor.USER, htcondor.USER)
    size = ("--workers-per-node", 2, "--memory", "600MB", "--disk", "100MB", *options)
    done = there("script", "htcondor", *size)
    assert done.returncode == 0, done.stderr
    (folder / "job.sh").write_text(done.stdout)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    kept = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "7"}

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


def test_what_can_never_run_says_why(condor: Any, there: Any, wait_until: Any) -> None:
    assert (
        there(*UP, "--workers", 1, "--name", "waits", "--directive", "requirements = Memory > 999999").returncode == 0
    )
    wait_until(lambda: "no match found" in there("status", "waits").stdout, 120)
    assert there("down", "waits").returncode == 0
    assert not condor.jobs()
