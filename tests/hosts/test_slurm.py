"""The tests' own Slurm runs jobs on several nodes, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from hosts import slurm as machinery

pytestmark = pytest.mark.slow


def test_jobs_run_on_four_nodes(slurm: Any, tmp_path: Path, wait_until: Any) -> None:
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH -N4 -n4 -o {tmp_path}/out\nsrun sh -c 'echo \"$SLURMD_NODENAME\"'\n")
    assert slurm.command("sbatch", "--parsable", str(script)).isdigit()
    wait_until(lambda: not slurm.jobs())
    assert sorted((tmp_path / "out").read_text().split()) == ["n1", "n2", "n3", "n4"]


def test_it_ends_with_all_its_processes(slurm: Any, tmp_path: Path) -> None:
    with machinery.running(tmp_path / "own", nodes=1) as own:
        assert own.command("sbatch", "--parsable", "--wrap", "sleep 600", "-o", "/dev/null").isdigit()
        family = [child for daemon in own.daemons for child in psutil.Process(daemon.pid).children(recursive=True)]
        family += [psutil.Process(daemon.pid) for daemon in own.daemons]
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left
