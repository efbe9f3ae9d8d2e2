"""From an address to a client, or to an error within seconds."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from clusterglm.clusters import workers
from clusterglm.clusters.connect import connect, disconnect, read_scheduler_file
from clusterglm.errors import ClusterError, UsageError

Spawn = Callable[..., subprocess.Popen[str]]
Foreign = tuple[Path, subprocess.Popen[str]]


@pytest.mark.parametrize(
    "address", ["", "nonsense", "tcp://", "tcp://host", "host:0", "host:99999", "ftp://host:1", "h:1/x", "a b:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not an address: write tcp://HOST:PORT"):
        connect(address)


def test_a_closed_port_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    since = time.monotonic()
    with pytest.raises(ClusterError, match=rf"--scheduler \(127.0.0.1:{port}\): scheduler 127.0.0.1:{port} is gone"):
        connect(f"127.0.0.1:{port}")
    assert time.monotonic() - since < 1


def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(ClusterError, match=r"host \(no-such-host.invalid\): does not resolve here"):
        connect("tcp://no-such-host.invalid:8786")


@pytest.mark.parametrize("kind", ["silent", "web"])
def test_something_else_at_the_port_is_told_within_the_limit(kind: str) -> None:
    if kind == "silent":
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        close = server.close
    else:
        web = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        port = web.server_address[1]
        thread = threading.Thread(target=web.serve_forever)
        thread.start()

        def close() -> None:
            web.shutdown()
            thread.join()
            web.server_close()

    since = time.monotonic()
    try:
        with pytest.raises(ClusterError, match=f"no Dask scheduler answers at 127.0.0.1:{port}"):
            connect(f"127.0.0.1:{port}", timeout=2)
    finally:
        close()
    assert time.monotonic() - since < 10


def test_keys_that_are_missing_are_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"--scheduler \(tls://127.0.0.1:{port}\): needs TLS keys: name them"):
            connect(f"tls://127.0.0.1:{port}")


def keys(folder: Path) -> dict[str, str]:
    """Write a throw-away pair of keys, readable by their owner alone; return Dask's settings that name the files."""
    from distributed.security import Security

    folder.mkdir(mode=0o700)
    made = Security.temporary()
    texts = {"ca.pem": made.tls_ca_file, "cert.pem": made.tls_client_cert, "key.pem": made.tls_client_key}
    for name, text in texts.items():
        with open(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(text)
    settings = {"distributed.comm.tls.ca-file": str(folder / "ca.pem")}
    for role in ("scheduler", "client", "worker"):
        settings |= {f"distributed.comm.tls.{role}.{part}": str(folder / f"{part}.pem") for part in ("cert", "key")}
    return settings


@pytest.mark.slow
def test_a_scheduler_behind_tls_answers_to_its_own_keys_alone(tmp_path: Path, spawn: Spawn) -> None:
    import dask.config

    own, other = keys(tmp_path / "own"), keys(tmp_path / "other")
    names = {f"DASK_{key.upper().replace('.', '__').replace('-', '_')}": value for key, value in own.items()}
    path = tmp_path / "scheduler.json"
    words = ("--host", "tls://127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", path)
    spawn("-m", "distributed.cli.dask_scheduler", *words, **names)
    address = read_scheduler_file(path, timeout=60)
    assert address.startswith("tls://127.0.0.1:")
    with dask.config.set(own):
        connect(address).close()
    with dask.config.set(other), pytest.raises(ClusterError, match="no Dask scheduler answers at tls"):
        connect(address, timeout=5)
    with pytest.raises(ClusterError, match="no Dask scheduler answers at tcp"):
        connect(address.replace("tls", "tcp"), timeout=5)


def test_a_pipe_is_no_scheduler_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ClusterError, match=r"--scheduler-file \(.*pipe\): not a regular file"):
        read_scheduler_file(tmp_path / "pipe")


def test_a_scheduler_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    writer = threading.Timer(0.3, lambda: path.write_text(json.dumps({"address": "tcp://127.0.0.1:1"})))
    writer.start()
    try:
        assert read_scheduler_file(path, timeout=20) == "tcp://127.0.0.1:1"
    finally:
        writer.join()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file after 1 s: is its scheduler running?"),
        ("{", "not the scheduler file of a Dask scheduler"),
        ("[]", "not the scheduler file"),
        ('{"id": 1}', "not the scheduler file"),
    ],
)
def test_a_wrong_scheduler_file_is_told_within_the_limit(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "scheduler.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ClusterError, match=message):
        read_scheduler_file(path, timeout=1)


@pytest.fixture
def foreign(tmp_path: Path, spawn: Spawn) -> Foreign:
    """A cluster that someone else started: eight BLAS threads, and another clusterglm on its worker."""
    other = tmp_path / "other" / "clusterglm-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: clusterglm\nVersion: 99.0\n")
    path = tmp_path / "scheduler.json"
    loopback = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", path)
    spawn("-m", "distributed.cli.dask_scheduler", *loopback, "--port", 0)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    root = str(Path(__file__).parents[2])
    worker = spawn(
        *("-m", "distributed.cli.dask_worker", *loopback, "--no-dashboard", "--nthreads", 2, "--no-nanny"),
        *("--local-directory", tmp_path),
        PYTHONPATH=os.pathsep.join((str(other.parent), root)),
        **threads,
    )
    return path, worker


@pytest.mark.slow
def test_other_versions_are_refused_with_a_table_or_allowed(foreign: Foreign) -> None:
    path, _ = foreign
    address = read_scheduler_file(path, timeout=60)
    client = connect(address, allow_version_mismatch=True)
    try:
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(ClusterError, match=r"versions \(clusterglm\): not the same everywhere") as caught:
            connect(address)
        table = str(caught.value).splitlines()[1:]
        assert [line.split()[0] for line in table[1:3]] == ["here", "scheduler"]
        assert table[3].split()[1] == "99.0"
        assert list(workers.limit_blas(client).values()) == [2]
        assert list(workers.blas_threads(client).values()) == [1]
    finally:
        client.close()


def test_a_client_that_cannot_be_closed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster:
        client = connect(cluster.scheduler_address)
        whole = client._close

        async def stuck(*_: Any, **__: Any) -> None:
            await asyncio.sleep(3600)

        monkeypatch.setattr(client, "_close", stuck)
        disconnect(client, 0.1)
        client.close()  # as the interpreter does at its end: nothing left to wait for, and nothing to show
        monkeypatch.setattr(client, "_close", whole)
        client.status = "running"
        disconnect(client)
        assert client.status == "closed"
