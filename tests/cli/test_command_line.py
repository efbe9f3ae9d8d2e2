"""What is refused before anything starts, and how the command line speaks."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("up locall", "TARGET (locall): not known: did you mean local? One of local"),
        ("up slurm", "--workers: missing: say how many jobs"),
        ("up slurm --workers 1 --partition a;b", "--partition (a;b): letters, digits and"),
        ("up slurm --workers 1 --account --wrap", "--account (--wrap): letters, digits and"),
        ("up slurm --workers 1 --walltime 30", "--walltime (30): write 02:00:00"),
        ("up slurm --workers 1 --folder runs", "--folder (runs): must be an absolute path"),
        ("upp", "command (upp): not known: did you mean up?"),
        ("up local --wrokers 2", "option (--wrokers): not known: did you mean --workers?"),
        ("up local --workers 0", "--workers (0): must be at least 1"),
        ("up local --workers -1", "--workers (-1): must be at least 1"),
        ("up local --workers many", "--workers (many): not a count of workers"),
        ("up local --workers 1e9", "--workers (1e9): more than the configured limit of 4096: lower it, or --yes"),
        ("up local --threads-per-worker 0", "--threads-per-worker (0): must be at least 1"),
        ("up local --memory abc", "--memory (abc): not a size: write 4GB or 4GiB"),
        ("up local --memory 0", "--memory (0): not a size"),
        ("up local --memory 1KB", "--memory (1KB): less than the 250.0 MB that a worker needs: write 1GB"),
        ("up local --workers 4000", "--workers (4000): leaves "),
        ("up local --idle-timeout 25:99", "--idle-timeout (25:99): not a duration: write 2h or 02:00:00"),
        ("up local --timeout never", "--timeout (never): not a duration"),
        ("up local --name ../x", "--name (../x): lower-case letters, digits and -"),
        ("up local --name -rf", "--name (-rf): lower-case letters, digits and -"),
        ("up local --workers", "option '--workers' requires an argument: see clusterglm --help"),
        ("status", "missing argument 'NAME': see clusterglm status --help"),
        ("status a/b", "cluster (a/b): lower-case letters"),
        ("status x", "cluster (x): not known: no cluster is up"),
        ("scale x 0", "N (0): must be at least 1"),
        ("scale x 2", "cluster (x): not known"),
        ("logs x", "cluster (x): not known"),
        ("dashboard x", "cluster (x): not known"),
        ("down x", "cluster (x): not known"),
        ("down", "down: give names, or --all, or --expired"),
        ("down x --all", "down: give names, or --all, or --expired"),
    ],
)
def test_a_wrong_line_is_refused_in_one_line(cli: Cli, home: Path, line: str, message: str) -> None:
    done = cli(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not list((home / "clusterglm").glob("clusters/*"))


def test_a_wrong_setting_is_refused_by_every_command(cli: Cli, tmp_path: Path) -> None:
    done = cli("ls", DASK_CLUSTERGLM__WORKERS="many")
    assert (done.returncode, done.stderr) == (2, "error: DASK_CLUSTERGLM__WORKERS (many): must be a whole number\n")
    (tmp_path / "clusterglm.yaml").write_text("clusterglm: {worker: 4}")
    done = cli("ls", DASK_CONFIG=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        "error: clusterglm.yaml (worker): not a key: did you mean workers?\n",
    )


@pytest.mark.parametrize("line", ["-h", "--help", "up -h", "up local --help", "down -h"])
def test_help_goes_to_stdout(cli: Cli, line: str) -> None:
    done = cli(*line.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: clusterglm")


def test_a_dry_run_prints_the_commands_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("up", "local", "--workers", 2, "--name", "lab", "--dry-run", XDG_STATE_HOME=str(tmp_path / "state"))
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("#")] == [
        "# scheduler",
        "# worker-0",
        "# worker-1",
    ]
    assert done.stdout.count("OMP_NUM_THREADS=1 ") == 3
    assert "0.0.0.0" not in done.stdout
    assert not (tmp_path / "state").exists()
    plan = json.loads(cli("up", "local", "--workers", 2, "--dry-run", "--json").stdout)
    assert list(plan["steps"]) == ["scheduler", "worker-0", "worker-1"]


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("up", "local", "--workers", "0", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_closed_stdout_is_no_failure(cli: Cli) -> None:
    shell = f"{sys.executable} -m clusterglm.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_locale_without_letters_is_no_failure(cli: Cli) -> None:
    done = cli("status", "schäfer", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", TERM="dumb")
    assert done.returncode == 2
    assert done.stderr.isascii()
    assert "Traceback" not in done.stderr


def test_no_control_characters_on_a_terminal(cli: Cli) -> None:
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-m", "clusterglm.cli", "-h"], stdout=follower, env={**os.environ, "NO_COLOR": "1"})
    os.close(follower)
    shown = os.read(leader, 10_000)
    os.close(leader)
    assert b"\x1b" not in shown


@pytest.mark.parametrize("kind", ["file", "shared", "link"])
def test_a_state_directory_that_cannot_be_ours_is_refused(cli: Cli, tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "state").touch()
    elif kind == "shared":
        (tmp_path / "state" / "clusterglm").mkdir(parents=True)
        (tmp_path / "state" / "clusterglm").chmod(0o777)
    else:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "clusterglm").symlink_to(tmp_path)
    done = cli("ls", XDG_STATE_HOME=str(tmp_path / "state"))
    assert done.returncode == 4
    assert done.stderr.startswith("error: state directory (")
    assert "set XDG_STATE_HOME" in done.stderr or "chmod 700" in done.stderr


def test_a_corrupt_record_is_reported_and_kept(cli: Cli, tmp_path: Path) -> None:
    records = tmp_path / "clusterglm" / "records"
    for folder in (records.parent, records):
        folder.mkdir(mode=0o700)
    (records / "a.json").write_text('{"schema": 3}')
    (records / "b.json").write_text("")
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    for command in ("status", "down", "logs"):
        done = cli(command, "a", **environment)
        assert done.returncode == 4
        assert done.stderr.startswith("error: record a.json (schema 3): written by a newer clusterglm: upgrade")
    done = cli("ls", **environment)
    assert done.returncode == 0
    assert done.stderr.count("warning: record ") == 2
    assert cli("down", "--all", **environment).returncode == 4
    assert (records / "a.json").read_text() == '{"schema": 3}'
