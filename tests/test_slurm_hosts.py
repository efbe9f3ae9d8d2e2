"""A cluster on a real Slurm over three hosts, each with an address, a name and processes of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import fits
from hosts import hosts as namespaces
from hosts import slurm as slurm_
from hosts.fits import LINE, assert_same_bits

pytestmark = pytest.mark.slow
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if missing := slurm_.missing() + namespaces.missing():
        pytest.skip(f"{missing[0]} missing: needs root, and slurm-wlm and munge")
    with slurm_.running_over_hosts(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def there(slurm: Any, tmp_path: Path) -> Iterator[Cli]:
    """Run clusterglm on the login node."""
    own = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_DATA_HOME": str(tmp_path / "data")}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = slurm.words(sys.executable, "-m", "clusterglm.cli", *map(str, arguments), host="login")
        environment = os.environ | slurm.environment | own
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)

    yield run
    assert run("down", "--all").returncode == 0
    assert not slurm.jobs()


def test_workers_on_several_hosts_in_several_arrays(slurm: Any, there: Cli, tmp_path: Path) -> None:
    expected = fits.undisturbed("admm")["admm"]
    done = there(
        "up", "slurm", "--workers", 5, "--memory", "500MB", "--scheduler-memory", "500MB", "--name", "lab", "--wait"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"job \d+ is the scheduler, job \d+ and \d+ the workers, ", done.stderr
    )  # an array has three tasks
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 5 workers running"
    found = json.loads(there("status", "lab", "--json").stdout)
    addresses = {worker["host"] for worker in found["worker"]}
    assert addresses == {slurm.hosts.addresses[name] for name in ("n1", "n2", "n3")}
    done = there("fit", "admm", *LINE, "--cluster", "lab", "--out", tmp_path / "run", "--quiet")
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "run", expected)
    shutil.rmtree(tmp_path / "state")
    done = there("down", "lab")
    assert done.returncode == 0, done.stderr
    assert not slurm.jobs()
