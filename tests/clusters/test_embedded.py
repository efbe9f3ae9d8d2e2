"""The cluster of a fit without a cluster: one BLAS thread, loopback only, and gone with its owner, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client

from clusterglm.clusters import workers
from clusterglm.clusters.embedded import embedded
from clusterglm.clusters.settings import check_open_files
from clusterglm.errors import ClusterError

pytestmark = pytest.mark.slow
Spawn = Callable[..., subprocess.Popen[str]]
Cluster = tuple[Client, Callable[[int], None]]

OWNER = """
import sys, time
from clusterglm.clusters.embedded import embedded

def busy():
    import numpy as np
    x, until = np.ones((900, 900)), time.monotonic() + 60
    while time.monotonic() < until:
        x @ x

if __name__ == "__main__":
    print("starting", flush=True)
    try:
        with embedded(2, memory=10**9) as (client, ask_for):
            tasks = [client.submit(busy, pure=False) for _ in range(3)]
            print("ready", flush=True)
            client.gather(tasks)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def forked(child: psutil.Process) -> bool:
    """Return whether this is a live process of a cluster."""
    try:
        return "multiprocessing-fork" in " ".join(child.cmdline())
    except psutil.Error:  # it has ended
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "8")  # as a user's shell may have it
        with embedded(2, memory=10**9) as found:
            yield found
        assert os.environ["OMP_NUM_THREADS"] == "8"
    assert not [child for child in psutil.Process().children() if forked(child)]


def test_workers_are_as_asked_for(cluster: Cluster) -> None:
    found = workers.workers(cluster[0])
    assert [(w.threads, w.memory) for w in found] == [(1, 10**9), (1, 10**9)]
    assert all(10**7 < peak < 10**9 for peak in workers.peak_memory(cluster[0]).values())


def test_blas_has_one_thread_whatever_the_shell_exports(cluster: Cluster) -> None:
    assert list(workers.blas_threads(cluster[0]).values()) == [1, 1]


def test_every_socket_listens_on_loopback(cluster: Cluster) -> None:
    ours = [os.getpid(), *cluster[0].run(os.getpid).values()]  # a batch system of another test may listen elsewhere
    sockets = [c for pid in ours for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    assert len(sockets) >= 6
    assert {s.laddr.ip for s in sockets} == {"127.0.0.1"}


def test_the_scheduler_has_the_settings_that_survive_faults(cluster: Cluster) -> None:
    def settings(dask_scheduler: object) -> list[object]:
        import dask

        keys = ("scheduler.worker-ttl", "scheduler.allowed-failures", "scheduler.work-stealing")
        return [dask.config.get(f"distributed.{key}") for key in keys]

    assert cluster[0].run_on_scheduler(settings) == ["30s", 20, False]


def test_a_killed_worker_comes_back_with_one_blas_thread(cluster: Cluster) -> None:
    client, _ = cluster
    before = client.run(os.getpid)
    victim = next(iter(before.values()))
    os.kill(victim, signal.SIGKILL)
    until = time.monotonic() + 60
    while len(now := client.run(os.getpid, on_error="ignore")) < 2 or victim in now.values():
        assert time.monotonic() < until
    assert list(workers.blas_threads(client).values()) == [1, 1]


def test_ask_for_brings_more_workers(cluster: Cluster) -> None:
    client, ask_for = cluster
    ask_for(3)
    client.wait_for_workers(3, timeout=60)


@pytest.mark.parametrize("moment", ["starting", "ready"])
@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGINT, True),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.full),
        (signal.SIGTERM, False),
        (signal.SIGKILL, False),
        (signal.SIGHUP, True),
    ],
)
def test_nothing_outlives_the_owner(tmp_path: Path, spawn: Spawn, number: int, group: bool, moment: str) -> None:
    program = tmp_path / "owner.py"
    program.write_text(OWNER)
    owner = spawn(program, TMPDIR=str(tmp_path))
    assert owner.stdout is not None
    family: set[psutil.Process] = set()
    assert owner.stdout.readline() == "starting\n"
    if moment == "ready":
        assert owner.stdout.readline() == "ready\n"
    else:
        while len(family := set(psutil.Process(owner.pid).children(recursive=True))) < 2:  # the first worker is born
            assert owner.poll() is None
    family |= set(psutil.Process(owner.pid).children(recursive=True))
    since = time.monotonic()
    (os.killpg if group else os.kill)(owner.pid, number)
    _, errors = owner.communicate(timeout=30)
    assert owner.returncode == (130 if number == signal.SIGINT else -number)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    if number == signal.SIGINT:
        assert errors == ""
        assert time.monotonic() - since < 5
        assert not list(tmp_path.glob("clusterglm-*"))


def test_scratch_lies_in_dasks_temporary_directory(tmp_path: Path) -> None:
    import dask.config

    from clusterglm.clusters.embedded import _scratch_folder

    with dask.config.set({"temporary-directory": str(tmp_path / "big")}), _scratch_folder() as folder:
        assert folder.parent == tmp_path / "big"
    assert not folder.exists()
    (tmp_path / "file").touch()
    unusable = {"temporary-directory": str(tmp_path / "file")}
    with dask.config.set(unusable), pytest.raises(ClusterError, match="name a folder"), _scratch_folder():
        raise AssertionError


def test_scratch_of_killed_owners_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spawn: Spawn) -> None:
    from clusterglm.clusters.embedded import _scratch_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = spawn("-c", "")
    gone.wait()
    dead, alive = (tmp_path / f"clusterglm-scratch-{pid}-x" for pid in (gone.pid, os.getppid()))
    for folder in (dead, alive):
        folder.mkdir()
    with _scratch_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not dead.exists()
        assert alive.exists()
    assert not folder.exists()


def test_too_few_open_files_are_refused_before_anything_starts() -> None:
    with pytest.raises(ClusterError, match=r"open files \(\d+\): 1000000000 workers need about \d+: ulimit -n"):
        check_open_files(10**9, each=10)


def test_workers_that_do_not_arrive_in_time_are_an_error() -> None:
    with pytest.raises(ClusterError, match=r"workers \(\d of 2 after 0 s\)"), embedded(2, memory=10**9, timeout=0.1):
        pass
