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


def test_what_can_never_run_says_why(condor: Any, there: Any, wait_until: Any) -> None:
    assert (
        there(*UP, "--workers", 1, "--name", "waits", "--directive", "requirements = Memory > 999999").returncode == 0
    )
    wait_until(lambda: "no match found" in there("status", "waits").stdout, 120)
    assert there("down", "waits").returncode == 0
    assert not condor.jobs()
