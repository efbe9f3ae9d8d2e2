"""The command line, run as processes against a state directory of the test module's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "clusterglm.cli"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory; whatever cluster is left in it goes down at the end."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder
        subprocess.run([*COMMAND, "down", "--all"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cli(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one command line and return what it printed."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture
def begin(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command line without waiting for it; it is killed after the test if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def batch(slurm: Any, home: Path) -> Iterator[Any]:
    """The tests' Slurm, with clusters' folders beside the state; whatever a test has left in its queue goes down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        yield slurm
        subprocess.run([*COMMAND, "down", "--all"], check=True, capture_output=True)
        assert not slurm.jobs()
