"""Recording on real clusters: what is written, what is counted, what passes through, what a poor scheduler costs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from browser import CHROMIUM, Browser
from dask.utils import parse_timedelta

from clusterglm.report.capture import capture

if TYPE_CHECKING:
    from distributed import Client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    # A ring this short drops tasks within a test; no worker begins a new stretch of profile by itself.
    short = {
        "distributed.worker.profile.cycle": "1h",
        "distributed.scheduler.dashboard.status.task-stream-length": 500,
        "distributed.scheduler.dashboard.tasks.task-stream-length": 500,
    }
    with (
        dask.config.set(short),
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit="1GB"
        ) as cluster,
        Client(cluster) as connected,
    ):
        yield connected


def work(client: Client, tasks: int) -> None:
    client.gather(client.map(abs, range(tasks), pure=False))


def test_what_a_fit_leaves(client: Client, tmp_path: Path) -> None:
    with capture(client, tmp_path, "clusterglm fit admm --password=hunter2 <b>") as seen:
        work(client, 60)
    assert (seen.tasks, seen.tasks_dropped, seen.notes) == (60, 0, [])
    assert {path.name for path in tmp_path.iterdir()} == {
        "tasks.parquet",
        "task-stream.html",
        "performance-report.html",
    }
    table = pq.read_table(tmp_path / "tasks.parquet")
    assert table.column_names == ["name", "key", "worker", "thread", "start", "stop", "action", "nbytes"]
    assert table.column("action").to_pylist().count("compute") == 60
    addresses = set(client.scheduler_info(n_workers=-1)["workers"])
    assert set(table.column("worker").to_pylist()) <= addresses
    assert set(seen.memory) <= addresses
    assert all(peak > 10_000_000 for peak in seen.memory.values())
    report = (tmp_path / "performance-report.html").read_text()
    assert "hunter2" not in report
    assert "work(client, 60)" not in report  # the caller's source code
    assert "docs.dask.org/en/latest/_static" not in report
    assert 0 < seen.seconds < 30


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_the_profile_is_of_this_fit_however_short(client: Client, tmp_path: Path) -> None:
    client.submit(spin, 2, pure=False).result()
    with capture(client, tmp_path) as seen:
        client.submit(spin, 0.5, pure=False).result()
    assert seen.notes == []
    report = (tmp_path / "performance-report.html").read_text()
    [shown] = re.findall(r'\["name",\["","__call__"\]\],\["time",\["([^"]+)"', report)
    assert 0 < parse_timedelta(shown) < 1.5


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium fonts-dejavu-core")
def test_the_pages_open_without_a_network(client: Client, tmp_path: Path) -> None:
    with capture(client, tmp_path) as seen:
        work(client, 60)
    assert seen.notes == []
    browser = Browser()
    try:
        for name in ("task-stream.html", "performance-report.html"):
            page = browser.open(tmp_path / name)
            assert page.state["idle"]
            assert (page.errors, page.requests) == ([], [])
        stream = browser.open(tmp_path / "task-stream.html")
        assert min(stream.colours) > 3
    finally:
        browser.close()


def test_dropped_tasks_are_counted(client: Client, tmp_path: Path) -> None:
    with capture(client, tmp_path) as seen:
        work(client, 700)
    assert (seen.tasks, seen.tasks_dropped) == (700, 200)
    assert seen.notes == ["note: the scheduler kept the last 500 of 700 tasks: the task stream shows these"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_passes_at_once_and_leaves_nothing(
    client: Client, tmp_path: Path, error: type[BaseException]
) -> None:
    begun = time.monotonic()
    with pytest.raises(error, match="mine"), capture(client, tmp_path):
        raise error("mine")
    assert time.monotonic() - begun < 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_went_away_is_a_note(client: Client, tmp_path: Path) -> None:
    with capture(client, tmp_path / "gone") as seen:
        work(client, 3)
    assert seen.tasks == 3
    assert [note.split(":")[1].strip() for note in seen.notes] == [
        "tasks.parquet",
        "task-stream.html",
        "performance-report.html",
    ]


POOR = """
import asyncio, sys
sys.modules["bokeh"] = None
from distributed import Scheduler, Worker

async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        async with Worker(scheduler.address, host="127.0.0.1", nthreads=1, dashboard=False):
            print(scheduler.address, flush=True)
            await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.fixture
def poor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """A scheduler that somebody else started, without bokeh and without clusterglm on its path."""
    from distributed import Client

    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", POOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    connected = Client(address)
    yield process, connected
    connected.close(timeout=1)
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_scheduler_without_bokeh_costs_one_page(poor: tuple[subprocess.Popen[str], Client], tmp_path: Path) -> None:
    with capture(poor[1], tmp_path) as seen:
        work(poor[1], 20)
    assert seen.tasks == 20
    assert seen.notes == ["note: performance-report.html: not drawn: the scheduler has no bokeh"]
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.parquet", "task-stream.html"}


def test_a_scheduler_that_hangs_is_not_waited_for(
    poor: tuple[subprocess.Popen[str], Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    monkeypatch.setattr("clusterglm.report.capture.LIMIT", 2.0)
    begun = time.monotonic()
    with capture(poor[1], tmp_path) as seen:
        work(poor[1], 5)
        poor[0].send_signal(signal.SIGSTOP)
        begun = time.monotonic()
    assert time.monotonic() - begun < 6
    assert seen.notes
    assert not list(tmp_path.glob("*.html"))
    poor[0].send_signal(signal.SIGCONT)
