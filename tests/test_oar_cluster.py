"""The life of a cluster, and one fit as one job, on a real OAR of one machine, as a user who is not root."""

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
from hosts import fits, oar
from hosts.fits import LINE, assert_same_bits
from hosts.jobs import result_of

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(900)]
UP = ("up", "oar", "--memory", "600MB", "--scheduler-memory", "600MB", "--walltime", "30min")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def own() -> Iterator[Path]:
    """A folder for a user who may not look into pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="oar-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def queue(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if missing := oar.missing():
        pytest.skip(f"{missing[0]} missing: needs root, and debootstrap")
    with oar.running(tmp_path_factory.mktemp("oar"), own) as running:
        yield running


@pytest.fixture(scope="module")
def line(queue: Any, own: Path) -> Callable[..., list[str]]:
    """The command line that runs clusterglm as the user."""
    kept = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": f"{own}/state", "XDG_DATA_HOME": f"{own}/data"}
    kept |= {"DASK_CONFIG": f"{own}/dask", "USER": "tester", "PYTHONDONTWRITEBYTECODE": "1"}

    def words(*arguments: object, **more: str) -> list[str]:
        return list(queue.words(sys.executable, "-m", "clusterglm.cli", *map(str, arguments), **kept, **more))

    return words


@pytest.fixture(scope="module")
def there(line: Any, queue: Any) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line(*arguments, **more), capture_output=True, text=True, timeout=120, check=False)

    yield run
    assert run("down", "--all").returncode == 0
    assert not queue.jobs()


def status(there: Any, name: str) -> Any:
    return json.loads(there("status", name, "--json").stdout)


def folders(own: Path) -> list[Path]:
    return list((own / "data" / "clusterglm" / "clusters").iterdir())


def test_a_cluster_lives_and_ends(
    queue: Any, there: Any, line: Any, begin: Any, own: Path, steps: Any, wait_until: Any
) -> None:
    expected = fits.undisturbed("proximal_gradient", "admm")
    steps = type(steps)(own / "steps")
    os.chown(own / "steps", oar.USER, oar.USER)
    done = there(*UP, "--workers", 2, "--name", "lab", "--wait", OPENBLAS_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 2 workers running"
    shutil.rmtree(own / "state")
    assert there("ls").stdout.splitlines()[1].split()[:4] == ["lab", "oar", "up", "2"]
    fit = begin(
        *("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", "lab", "--out", own / "run"),
        command=line(),
        env=steps.env(2, 4),
    )
    fit.until(lambda: steps.reached(2))
    assert there("scale", "lab", 4).returncode == 0
    wait_until(lambda: len(status(there, "lab")["worker"]) == 4, 60)
    steps.go(2)
    fit.until(lambda: steps.reached(4))
    done = there("scale", "lab", 1)
    assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
    wait_until(lambda: len(queue.jobs()) == 2, 60)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(own / "run", expected["proximal_gradient"])
    done = there("fit", "admm", *LINE, "--cluster", "lab", "--out", own / "admm", "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    assert_same_bits(own / "admm", expected["admm"])
    assert json.loads(done.stdout)["blas_threads"] == 1
    assert len([text for text in there("logs", "lab").stdout.splitlines() if text.startswith("==> ")]) == 5
    shutil.rmtree(own / "state")
    done = there("down", "lab")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not queue.jobs(), 60)
    assert not folders(own)


def test_what_is_refused_or_held_or_ends_is_said_in_the_systems_words(
    queue: Any, there: Any, own: Path, wait_until: Any
) -> None:
    done = there(*UP, "--workers", 1, "--name", "never", "--queue", "nope")
    assert done.returncode == 4
    assert "nope" in done.stderr.splitlines()[-1]
    done = there(*UP, "--workers", 1, "--name", "never", "--directive", "--hold", "--wait")
    assert done.returncode == 4
    assert ", scheduler): held" in done.stderr.splitlines()[-1]
    done = there(*UP, "--workers", 1, "--name", "never", "--python", "/no/such/python", "--wait")
    assert done.returncode == 4
    assert ": ended: Terminated, exit code 1" in done.stderr.splitlines()[-1]
    assert "/no/such/python: No such file or directory" in done.stderr.splitlines()[-1]
    wait_until(lambda: not queue.jobs(), 60)
    assert not folders(own)


OARSUB = """#!/bin/bash
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
/usr/bin/oarsub "$@"; code=$?
[ "$count" != {call} ] || kill -KILL $PPID
exit $code
"""


@pytest.mark.parametrize("call", [0, 1])
def test_down_removes_what_a_killed_up_has_submitted(
    queue: Any, there: Any, own: Path, wait_until: Any, call: int
) -> None:
    folder = own / f"kill{call}"
    folder.mkdir()
    os.chown(folder, oar.USER, oar.USER)
    (folder / "oarsub").write_text(OARSUB.format(folder=folder, call=call))
    (folder / "oarsub").chmod(0o755)
    done = there(*UP, "--workers", 2, "--name", "killed", PATH=f"{folder}:/usr/bin:/bin")
    assert done.returncode != 0
    assert queue.jobs()
    shutil.rmtree(own / "state")
    done = there("down", "killed")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not queue.jobs(), 60)
    assert not folders(own)


@pytest.mark.parametrize(("arguments", "code"), [("", 0), (" --max-passes 1 --start null", 3)])
def test_one_job_fits(queue: Any, there: Any, own: Path, wait_until: Any, arguments: str, code: int) -> None:
    folder = own / f"job{code}"
    folder.mkdir()
    done = there("script", "oar", "--nodes", 1, "--workers-per-node", 2, "--memory", "600MB", "--walltime", "10min")
    assert done.returncode == 0, done.stderr
    (folder / "job.sh").write_text(done.stdout)
    (folder / "job.sh").chmod(0o755)
    for path in (folder, folder / "job.sh"):
        os.chown(path, oar.USER, oar.USER)
    search = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    (folder / "job.sh").write_text(
        done.stdout.replace("\nset -eu\n", f"\nset -eu\nexport PATH={search} PYTHONPATH={ROOT}\n")
    )
    said = queue.said("env", "-C", str(folder), "oarsub", "-S", f"./job.sh newton --rows 2e4{arguments}")
    job = said.rpartition("OAR_JOB_ID=")[2].strip()
    wait_until(lambda: not queue.jobs(), 240)
    text = (folder / f"clusterglm-{job}.out").read_text()
    found = json.loads(queue.said("oarstat", "-f", "-J", "-j", job))[job]
    assert (found["state"], found["exit_code"] >> 8) == ("Terminated", code), text
    result = result_of(folder / "runs" / f"oar-{job}")
    assert (result["workers"], result["blas_threads"]) == (2, 1)
