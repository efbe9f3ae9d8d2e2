"""The life of a cluster on a real Slurm: no process of ours between two commands, and an empty queue afterwards."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterglm.clusters import workers
from clusterglm.clusters.lookup import connect_cluster
from clusterglm.clusters.registry import Registry

pytestmark = pytest.mark.slow
Cli = Callable[..., subprocess.CompletedProcess[str]]
UP = ("up", "slurm", "--memory", "1GB", "--scheduler-memory", "1GB", "--interface", "lo")
FIT = ("fit", "admm", "--rows", "2e5", "--quiet", "--json")


def folders(home: Path) -> list[Path]:
    return list((home / "data" / "clusterglm" / "clusters").glob("*"))


@pytest.fixture(scope="module")
def lab(cli: Cli, batch: Any, home: Path) -> Iterator[dict[str, Any]]:
    """A cluster of four workers, started from a shell that exports seven threads."""
    shell = {"OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "7", "SBATCH_PARTITION": "short", "SLURM_NTASKS": "9"}
    done = cli(*UP, "--workers", 4, "--name", "lab", "--partition", "debug", "--wait", "--json", **shell)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 4 workers running"
    yield json.loads(done.stdout)
    done = cli("down", "lab")
    assert (done.returncode, done.stderr) == (0, f"note: lab: {done.stderr.split()[2]} jobs ended\n")
    assert not batch.jobs()
    assert not folders(home)


def test_up_says_where_the_cluster_is(lab: dict[str, Any]) -> None:
    assert (lab["name"], lab["target"], lab["workers"]) == ("lab", "slurm", 4)
    assert lab["address"].startswith("tls://127.0.0.1:")


def test_the_jobs_are_what_was_asked_for(lab: dict[str, Any], batch: Any) -> None:
    found = batch.command("squeue", "-h", "-r", "-t", "R", "-o", "%j %P %C %m %l").splitlines()
    assert sorted(found) == ["cglm-lab-scheduler debug 1 954M 30:00", *["cglm-lab-worker debug 1 954M 30:00"] * 4]


def test_keys_and_scripts_are_their_owners_alone(lab: dict[str, Any], home: Path) -> None:
    (folder,) = folders(home)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "tls").iterdir()} == {0o600}
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("worker.sh", "plan.json")} == {0o600}


def test_no_key_stands_anywhere_but_in_its_file(lab: dict[str, Any], home: Path, batch: Any) -> None:
    """Not in records, scripts and logs, nor in what every process is told."""
    (folder,) = folders(home)
    secret = folder / "tls" / "key.pem"
    line = secret.read_text().splitlines()[1]
    files = [*Registry().folder.rglob("*"), *folder.rglob("*")]
    assert [path for path in files if path.is_file() and line in path.read_text(errors="replace")] == [secret]
    told = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            tags = process.environ()
            if tags.get("SLURM_CONF") == batch.environment["SLURM_CONF"] and "SLURM_JOB_ID" in tags:
                told.append(f"{tags} {process.cmdline()}")
    assert len(told) >= 5
    assert not [text for text in told if line in text or "PRIVATE KEY" in text]


def test_a_fit_runs_on_it(lab: dict[str, Any], cli: Cli, tmp_path: Path) -> None:
    done = cli(*FIT, "--cluster", "lab", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["workers"], result["blas_threads"]) == ("optimal", 4, 1)


def test_blas_has_one_thread_whatever_the_shell_exported(lab: dict[str, Any]) -> None:
    client = connect_cluster("lab")
    try:
        assert list(workers.blas_threads(client).values()) == [1] * 4
    finally:
        client.close()


def test_the_registry_may_be_deleted(lab: dict[str, Any], cli: Cli) -> None:
    shutil.rmtree(Registry().folder)
    assert cli("ls").stdout.splitlines()[1].split()[:4] == ["lab", "slurm", "up", "4"]
    found = json.loads(cli("status", "lab", "--json").stdout)
    assert {key: found[key] for key in ("address", "workers", "options")} == {
        key: lab[key] for key in ("address", "workers", "options")
    }
    assert [member["state"] for member in found["member"]] == [*["running"] * 5, "reserve"]
    shutil.rmtree(Registry().folder)
    done = cli("logs", "lab", "--lines", 3)
    assert len([line for line in done.stdout.splitlines() if line.startswith("==> ")]) == 5


def test_scale_up_and_down_keeps_what_workers_hold(lab: dict[str, Any], cli: Cli, batch: Any, wait_until: Any) -> None:
    client = connect_cluster("lab")
    try:
        held = client.map(lambda n: n * n, range(30), pure=False)
        client.gather(held)
        done = cli("scale", "lab", 1)
        assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
        assert client.gather(held) == [n * n for n in range(30)]
        assert len(workers.workers(client)) == 1
        wait_until(lambda: sum("RUNNING" in line for line in batch.jobs()) == 2)
        assert json.loads(cli("ls", "--json").stdout)[0]["workers"] == 1
        assert cli("scale", "lab", 6).returncode == 0
        wait_until(lambda: len(workers.workers(client)) == 6)
        assert client.gather(held) == [n * n for n in range(30)]
    finally:
        client.close()


def test_a_name_in_use_is_refused(lab: dict[str, Any], cli: Cli, batch: Any) -> None:
    before = len(batch.jobs())
    done = cli(*UP, "--name", "lab", "--workers", 1)
    assert done.returncode == 4
    assert done.stderr.startswith("error: --name (lab): in use since ")
    shutil.rmtree(Registry().folder)
    done = cli(*UP, "--name", "lab", "--workers", 1)
    assert done.stderr == "error: --name (lab): its jobs still run: another name, or clusterglm down lab\n"
    assert len(batch.jobs()) == before


def test_it_returns_at_once_and_another_shell_takes_it_down(
    cli: Cli, batch: Any, home: Path, wait_until: Any, lab: dict[str, Any]
) -> None:
    done = cli(*UP, "--workers", 2, "--name", "second")
    assert done.returncode == 0, done.stderr
    assert "address" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("note: scheduler ")
    wait_until(lambda: cli("status", "second").returncode == 0 and "tls://" in cli("ls").stdout.split("second")[1])
    shutil.rmtree(Registry().folder)
    done = cli("down", "second")
    assert (done.returncode, done.stderr) == (0, f"note: second: {done.stderr.split()[2]} jobs ended\n")
    assert not [line for line in batch.jobs() if "second" in line]
    assert [path.name[:4] for path in folders(home)] == ["lab-"]
    assert cli("status", "lab").returncode == 0
