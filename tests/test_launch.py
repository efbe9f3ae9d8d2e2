"""The scripts of ``launch/``, run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_local_sh_fits_and_leaves_nothing(tmp_path: Path) -> None:
    environment = ENVIRONMENT | {"CLUSTERGLM_TEST_LAUNCH": str(tmp_path), "OMP_NUM_THREADS": "8"}
    command = [LAUNCH / "local.sh", "2", "admm", "--rows", "2e4", "--json", "--quiet"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    result = json.loads(done.stdout)
    assert result["status"] == "optimal"
    assert (result["workers"], result["blas_threads"]) == (2, 1)
    # Python's resource tracker sees the end of the worker that it served, and then ends by itself.
    left = [process for process in psutil.process_iter() if _marked(process, str(tmp_path))]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get("CLUSTERGLM_TEST_LAUNCH") == mark)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def test_local_sh_says_how_it_is_called() -> None:
    done = subprocess.run(
        [LAUNCH / "local.sh"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "launch/local.sh WORKERS SOLVER" in done.stderr
