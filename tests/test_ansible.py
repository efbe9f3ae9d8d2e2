"""The playbook, run for real on this machine: the second run changes nothing, and the environment fits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def play(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "python_env_source": str(next(folder.glob("*.whl"), "clusterglm")),
        "python_env_path": str(folder / "env"),
        "python_env_python": sys.executable,
        "ansible_python_interpreter": sys.executable,
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    for name, value in variables.items():
        command += ["-e", f"{name}={value}"]
    environment = os.environ | {"ANSIBLE_HOME": str(folder / "ansible"), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        [*command, *arguments, str(ROOT / "ansible" / "site.yml")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def changed(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"changed=(\d+)", done.stdout)
    assert found is not None
    return int(found[1])


@pytest.mark.full  # a minute, nearly all of it pip's
def test_the_playbook_provisions_this_machine_once(tmp_path: Path) -> None:
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True)
    assert changed(play(tmp_path)) == 1
    version = subprocess.run([tmp_path / "env" / "bin" / "clusterglm", "--version"], capture_output=True, check=True)
    assert version.stdout.strip()
    assert changed(play(tmp_path)) == 0


@pytest.mark.slow
def test_the_playbook_is_well_formed(tmp_path: Path) -> None:
    assert play(tmp_path, "--syntax-check").returncode == 0


@pytest.mark.slow
def test_an_old_interpreter_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    done = play(tmp_path, "-e", f"python_env_python={old}")
    assert done.returncode != 0
    assert "is 3.9: set python_env_python to 3.11 or newer" in done.stdout
    assert not (tmp_path / "env").exists()
