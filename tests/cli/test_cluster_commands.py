"""The life of a local cluster across shells, and what becomes of it when a command is cut short."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterglm.cli import up
from clusterglm.clusters import workers
from clusterglm.clusters.launcher import Record, Size
from clusterglm.clusters.lookup import connect_cluster, lookup
from clusterglm.clusters.registry import Registry
from clusterglm.clusters.targets.local import Local
from clusterglm.errors import ClusterError, Interrupted

pytestmark = pytest.mark.slow
Cli = Callable[..., subprocess.CompletedProcess[str]]
Begin = Callable[..., subprocess.Popen[str]]


def family(name: str) -> list[psutil.Process]:
    """Return the processes that carry a cluster's tag, by this test's own reading of it."""
    found = []
    for process in psutil.process_iter():
        try:
            tags = process.environ()
        except (psutil.Error, OSError):
            continue
        ours = tags.get("CLUSTERGLM_STATE", "").startswith(os.environ["XDG_STATE_HOME"])
        if ours and tags.get("CLUSTERGLM_CLUSTER") == name and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
    return result


@pytest.fixture(scope="module")
def lab(cli: Cli) -> Iterator[dict[str, Any]]:
    """A cluster of two workers, started from a shell that exports eight threads."""
    options = ("--workers", 2, "--name", "lab", "--memory", "1GB")
    done = cli("up", "local", *options, "--json", OMP_NUM_THREADS="8", OPENBLAS_NUM_THREADS="8")
    assert (done.returncode, done.stderr) == (0, "")
    yield json.loads(done.stdout)
    assert cli("down", "lab").returncode == 0
    assert not family("lab")


def test_up_says_where_the_cluster_is(lab: dict[str, Any]) -> None:
    assert lab["name"] == "lab"
    assert lab["workers"] == 2
    assert lab["address"].startswith("tcp://127.0.0.1:")
    assert lab["dashboard"].startswith("http://127.0.0.1:")


def test_ls_and_dashboard_know_it(lab: dict[str, Any], cli: Cli) -> None:
    assert [(row["name"], row["state"]) for row in json.loads(cli("ls", "--json").stdout)] == [("lab", "up")]
    assert cli("ls").stdout.splitlines()[1].split()[:4] == ["lab", "local", "up", "2"]
    assert cli("dashboard", "lab").stdout == f"{lab['dashboard']}\n"


def test_status_asks_the_scheduler(lab: dict[str, Any], cli: Cli) -> None:
    done = cli("status", "lab", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["worker"]
    assert [(w["name"], w["threads"], w["memory"]) for w in found] == [("lab-0", 1, 10**9), ("lab-1", 1, 10**9)]
    assert "lab-1" in cli("status", "lab").stdout


def test_logs_are_there_for_each_process(lab: dict[str, Any], cli: Cli, wait_until: Any) -> None:
    done = cli("logs", "lab", "--lines", 5)
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("==>")] == [
        "scheduler",
        "worker-0",
        "worker-1",
    ]
    # A worker answers before its first line has been written.
    wait_until(lambda: "distributed" in cli("logs", "lab", "worker-1").stdout, 20)
    assert cli("logs", "lab", "worker-9").returncode == 2


def test_blas_has_one_thread_whatever_the_shell_exported(lab: dict[str, Any]) -> None:
    client = connect_cluster("lab")
    try:
        assert list(workers.limit_blas(client).values()) == [1, 1]
    finally:
        client.close()


def test_blas_is_limited_where_it_has_more(lab: dict[str, Any]) -> None:
    def many() -> None:
        from threadpoolctl import threadpool_limits

        threadpool_limits(2)

    client = connect_cluster("lab")
    try:
        client.run(many)
        assert list(workers.limit_blas(client).values()) == [2, 2]
        assert list(workers.blas_threads(client).values()) == [1, 1]
    finally:
        client.unregister_worker_plugin("clusterglm-one-thread")
        client.close()


def test_every_socket_listens_on_loopback(lab: dict[str, Any]) -> None:
    sockets = [c for process in family("lab") for c in process.net_connections() if c.status == "LISTEN"]
    assert len(sockets) >= 6
    assert {s.laddr.ip for s in sockets} == {"127.0.0.1"}


def test_scale_up_and_down_keeps_what_workers_hold(lab: dict[str, Any], cli: Cli) -> None:
    assert cli("scale", "lab", 3).returncode == 0
    client = connect_cluster("lab")
    try:
        held = client.map(lambda n: n * n, range(30), pure=False)
        client.gather(held)
        done = cli("scale", "lab", 1)
        assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
        assert client.gather(held) == [n * n for n in range(30)]
        assert len(workers.workers(client)) == 1
    finally:
        client.close()
    assert json.loads(cli("ls", "--json").stdout)[0]["workers"] == 1
    assert cli("scale", "lab", 2).returncode == 0


def test_a_name_in_use_is_refused(lab: dict[str, Any], cli: Cli) -> None:
    done = cli("up", "local", "--name", "lab", "--workers", 1)
    assert done.returncode == 4
    assert done.stderr == (
        f"error: --name (lab): in use since {lab['created']} on local: another name, or clusterglm down lab\n"
    )
    assert cli("status", "lab").returncode == 0


def test_an_unknown_name_is_answered_with_those_there_are(lab: dict[str, Any], cli: Cli) -> None:
    done = cli("status", "labb")
    assert done.returncode == 2
    assert done.stderr == "error: cluster (labb): not known: did you mean lab? One of lab\n"
    done = cli("down", "labb", "--if-exists")
    assert (done.returncode, done.stderr) == (0, "note: labb: not known\n")


def test_the_record_may_be_deleted(lab: dict[str, Any], cli: Cli) -> None:
    (Registry().folder / "lab.json").unlink()
    found = json.loads(cli("status", "lab", "--json").stdout)
    assert (found["address"], found["options"]) == (lab["address"], lab["options"])
    assert found["workers"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": os.getuid() + 1}, "belongs to user"),
        ({"host": "elsewhere"}, "run this command there"),
    ],
)
def test_a_foreign_record_is_refused(lab: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    registry = Registry()
    registry.create(dataclasses.replace(registry.load("lab"), name="foreign", **changes))
    try:
        with pytest.raises(ClusterError, match=message):
            connect_cluster("foreign")
    finally:
        (registry.folder / "foreign.json").unlink()


def test_a_reused_process_number_is_another_process(lab: dict[str, Any], cli: Cli) -> None:
    registry = Registry()
    record = registry.load("lab")
    stranger = {"scheduler": {"pid": os.getpid(), "started": psutil.Process().create_time() + 1}}
    registry.create(dataclasses.replace(record, name="reused", details=stranger))
    done = cli("status", "reused")
    assert done.returncode == 4
    assert done.stderr == (
        f"error: cluster (reused): pid {os.getpid()} is another process (start times differ): clusterglm down reused\n"
    )
    assert cli("down", "reused").returncode == 0
    assert psutil.pid_exists(os.getpid())


def test_a_dead_scheduler_is_told_at_once_and_its_workers_end(cli: Cli) -> None:
    assert cli("up", "local", "--name", "dead", "--workers", 1, "--memory", "1GB").returncode == 0
    record = lookup("dead")[1]
    os.kill(record.details["scheduler"]["pid"], signal.SIGKILL)
    since = time.monotonic()
    done = cli("status", "dead")
    assert done.returncode == 4
    assert done.stderr == f"error: cluster (dead): scheduler {record.address} is gone: clusterglm down dead\n"
    assert time.monotonic() - since < 10
    wait_for(lambda: not family("dead"), 30)
    assert cli("scale", "dead", 2).returncode == 4
    assert "gone" in cli("ls").stdout
    assert cli("down", "--expired").returncode == 0
    done = cli("down", "dead")
    assert (done.returncode, done.stderr) == (0, "note: dead: already down\n")


def test_two_at_once_have_one_winner(begin: Begin, cli: Cli) -> None:
    racers = [begin("up", "local", "--name", "race", "--workers", 1, "--memory", "1GB") for _ in range(2)]
    errors = [racer.communicate(timeout=120)[1] for racer in racers]
    assert sorted(racer.returncode for racer in racers) == [0, 4]
    assert "error: " in "".join(errors)
    assert len({p.environ()["CLUSTERGLM_ROLE"] for p in family("race")}) == 2
    assert cli("down", "race").returncode == 0
    assert not family("race")


def reached(name: str, stage: str) -> bool:
    record = Registry().read(name)
    if record is None or record.state == "down":
        return False
    return {"recorded": True, "started": len(record.details) == 3, "answered": bool(record.address)}[stage]


@pytest.mark.parametrize("stage", ["recorded", "started", "answered"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(begin: Begin, cli: Cli, home: Path, number: int, stage: str) -> None:
    up = begin("up", "local", "--name", "cut", "--workers", 2, "--memory", "1GB")
    wait_for(lambda: reached("cut", stage))
    up.send_signal(number)
    output, errors = up.communicate(timeout=30)
    assert (up.returncode, output) == (130, "")
    assert errors.startswith("interrupted: removed ")
    assert errors.count("\n") == 1
    assert not family("cut")
    assert not (home / "clusterglm" / "clusters" / "cut").exists()


def test_an_up_that_is_interrupted_while_it_is_recorded_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    create = Registry.create

    def interrupted(self: Registry, record: Record) -> None:
        create(self, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "create", interrupted)
    with pytest.raises(Interrupted, match="removed 0 processes"):
        up._launch(Local(), "early", Size(1), 60)
    assert Registry().load("early").state == "down"


@pytest.mark.parametrize("stage", ["recorded", "started", "answered"])
def test_down_removes_what_a_killed_up_left(begin: Begin, cli: Cli, home: Path, stage: str) -> None:
    up = begin("up", "local", "--name", "killed", "--workers", 2, "--memory", "1GB")
    wait_for(lambda: reached("killed", stage))
    up.kill()
    up.wait()
    done = cli("down", "killed")
    assert done.returncode == 0
    assert "processes found by tag and ended" in done.stderr
    assert not family("killed")
    assert not (home / "clusterglm" / "clusters" / "killed").exists()


def test_down_needs_neither_record_nor_folder(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Nor does it leave what the workers wrote elsewhere."""
    options = ("--name", "bare", "--workers", 1, "--memory", "1GB")
    assert cli("up", "local", *options, DASK_TEMPORARY_DIRECTORY=str(tmp_path)).returncode == 0
    [scratch] = tmp_path.iterdir()
    assert (scratch.name.startswith("clusterglm-bare-"), scratch.stat().st_mode & 0o777) == (True, 0o700)
    assert list(scratch.rglob("worker-*"))
    shutil.rmtree(home / "clusterglm" / "clusters" / "bare")
    for path in Registry().folder.glob("bare.*"):
        path.unlink()
    assert "bare" in cli("ls").stdout
    for line in ("status bare", "scale bare 2", "dashboard bare"):
        done = cli(*line.split())
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr == (
            "error: cluster (bare): runs, but its folder was removed and with it its address: clusterglm down bare\n"
        )
    assert cli("up", "local", "--name", "bare", "--workers", 1).returncode == 4
    assert cli("down", "bare").returncode == 0
    assert not family("bare")
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_that_cannot_be_written_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("up", "local", "--name", "full", "--workers", 1, "--memory", "1GB", "--scratch", tmp_path / "file")
    assert (done.returncode, done.stdout) == (4, "")
    assert re.match(r"error: --scratch \(.*\): not a directory: name a folder that can be written", done.stderr)
    assert not family("full")


def test_workers_that_do_not_come_are_given_up(cli: Cli) -> None:
    done = cli("up", "local", "--name", "late", "--workers", 8, "--memory", "1GB", "--timeout", 1)
    assert done.returncode == 4
    assert re.match(r"error: workers \(\d of 8 after 1 s\): raise --timeout", done.stderr)
    assert not family("late")
    assert cli("down", "late").stderr == "note: late: already down\n"


def test_processes_that_die_at_the_start_are_reported_with_their_last_words(cli: Cli) -> None:
    wrong = {"DASK_CLUSTERGLM__DISTRIBUTED__SCHEDULER__WORKER_TTL": "'5 parsecs'"}
    done = cli("up", "local", "--name", "ill", "--workers", 1, "--memory", "1GB", **wrong)
    assert done.returncode == 4
    assert done.stderr.startswith("error: local (scheduler, exit 1): 1 processes died at the start: KeyError: ")
    assert "parsecs" in done.stderr
    assert not family("ill")


def test_a_cluster_being_taken_down_is_refused(lab: dict[str, Any], cli: Cli) -> None:
    with Registry().holding("lab", "down"):
        with pytest.raises(ClusterError, match=rf"being taken down by pid {os.getpid()} on {socket.gethostname()}"):
            connect_cluster("lab")
        assert cli("scale", "lab", 3).returncode == 4


def test_an_idle_cluster_ends_by_itself(cli: Cli) -> None:
    done = cli("up", "local", "--name", "idle", "--workers", 1, "--memory", "1GB", "--idle-timeout", "6s")
    assert done.returncode == 0
    wait_for(lambda: not family("idle"), 60)
    done = cli("up", "local", "--name", "idle", "--workers", 1, "--memory", "1GB")
    assert done.returncode == 0
    assert "has ended: its record is replaced" in done.stderr
    assert cli("down", "idle").returncode == 0
