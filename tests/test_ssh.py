"""Clusters on four hosts over SSH: each has an address, an sshd, a root file system and processes of its own.

Whatever is cut, killed, full or misconfigured: one clear line, the bits of a fit on this machine, and nothing left.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clusterglm as package
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

pytestmark = pytest.mark.slow
ALL = "node1,node2,node3,node4"
UP = ("up", "ssh", "--memory", "1GB", "--cores", "1")
ROWS, COLUMNS = 100_000, 6
LINE = ("--rows", ROWS, "--columns", COLUMNS, "--tol", 1e-5, "--start", "null")


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    """The fit of the same rows in this process, without any cluster."""
    rows = local_rows(Synthetic(ROWS, COLUMNS))
    return package.fit(data=rows, solver="admm", family="binomial", lamduh=1.0, tol=1e-5, start="null")


def assert_same_bits(folder: Path, expected: Any) -> None:
    found = json.loads((folder / "result.json").read_text())
    assert np.array_equal(found["coefficients"], expected.coefficients)
    for key in ("objective", "passes", "iterations", "status"):
        assert found[key] == getattr(expected, key)


@pytest.fixture(scope="module")
def desk(lab: Any, clusterglm: Any) -> Callable[..., Any]:
    """Run one command line at the lab's desk."""

    def run(*arguments: object, **words: Any) -> Any:
        return clusterglm(*arguments, before=lab.desk, **words)

    return run


def forget() -> None:
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"), ignore_errors=True)


@pytest.fixture(scope="module")
def running(lab: Any, desk: Any) -> Iterator[dict[str, Any]]:
    """A cluster of all four hosts, started from a shell that exports seven threads."""
    shell = {"OMP_NUM_THREADS": "7", "DASK_CLUSTERGLM__DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s"}
    done = desk(*UP, "--hosts", ALL, "--name", "lab", "--json", env=shell)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    done = desk("down", "lab", "--if-exists")
    assert done.returncode == 0, done.stderr
    assert not lab.left()


def test_a_fit_has_the_bits_of_this_machine(running: Any, desk: Any, undisturbed: Any, tmp_path: Path) -> None:
    done = desk("fit", "admm", *LINE, "--cluster", "lab", "--quiet", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "run", undisturbed)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["workers"], result["blas_threads"]) == (4, 1)


def test_processes_are_units_where_systemd_runs(running: Any, lab: Any) -> None:
    assert lab.systemd == ["node1", "node4"]
    units = {
        node: lab.run(node, "systemctl", "list-units", "--no-legend", "--plain", "clusterglm-*") for node in lab.systemd
    }
    found = {node: sorted(line.split()[0] for line in text.splitlines()) for node, text in units.items()}
    name = found["node4"][0].removesuffix("-worker.service")
    assert found == {
        "node1": [f"{name}-scheduler.service", f"{name}-worker.service"],
        "node4": [f"{name}-worker.service"],
    }
    assert all(" active running " in f" {' '.join(text.split())} " for text in units.values())


def test_keys_are_their_owners_alone_and_on_no_command_line(running: Any, lab: Any) -> None:
    modes = lab.run("node3", "find", "/root/.local/state/clusterglm", "-path", "*tls/*", "-printf", "%m %f\n").split(
        "\n"
    )
    assert sorted(modes) == ["600 ca.pem", "600 cert.pem", "600 key.pem"]
    folders = lab.run("node3", "find", "/root/.local/state/clusterglm", "-type", "d", "-printf", "%m\n").split()
    assert set(folders) == {"700"}
    for node in lab.nodes:
        assert "PRIVATE KEY" not in lab.run(
            node, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '"
        )


def test_beyond_loopback_everything_speaks_tls(running: Any, lab: Any, desk: Any) -> None:
    listening = {line.split()[3] for line in lab.run("node1", "ss", "-ltnH").splitlines()}
    ports = {address.rpartition(":")[2] for address in listening if not address.startswith("127.0.0.1:")}
    assert len(ports - {"22"}) == 3  # the scheduler, the worker and its nanny; no dashboard
    for port in ports - {"22"}:
        done = desk("fit", "admm", "--rows", "1e4", "--scheduler", f"tcp://10.77.0.11:{port}", "--timeout", "2s")
        assert done.returncode == 4


def test_state_that_was_deleted_is_found_on_the_hosts(running: Any, desk: Any, tmp_path: Path) -> None:
    forget()
    assert desk("ls").stdout == ""
    row = desk("ls", "--hosts", ALL).stdout.splitlines()[1].split()
    assert row[:5] == ["lab", "ssh", "up", "4", running["address"]]
    forget()
    found = json.loads(desk("status", "lab", "--json", "--hosts", "node2").stdout)  # which knows of the others
    assert {key: found[key] for key in ("address", "workers", "created")} == {
        key: running[key] for key in ("address", "workers", "created")
    }
    assert [member["state"] for member in found["member"]] == [
        "worker runs", "scheduler runs, worker runs", "worker runs", "worker runs"
    ]  # fmt: skip
    keys = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "lab", "tls")
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()} == {0o600}


def test_scale_and_logs(running: Any, desk: Any, lab: Any) -> None:
    assert desk("scale", "lab", 2).stderr == "note: lab: 2 workers\n"
    assert len(json.loads(desk("status", "lab", "--json").stdout)["worker"]) == 2
    assert sum("dask_worker" in line for node in lab.nodes for line in lab.processes(node)) == 2
    assert desk("scale", "lab", 4).stderr == "note: lab: 4 workers\n"
    heads = [line for line in desk("logs", "lab", "--lines", 1).stdout.splitlines() if line.startswith("==> ")]
    assert next(line.split()[1] for line in heads) == "scheduler-node1"
    assert len(heads) == 5
    done = desk("scale", "lab", 5)
    assert (done.returncode, done.stderr) == (2, "error: N (5): more than the 4 hosts: a host has one worker\n")


def test_a_name_in_use_is_refused(running: Any, desk: Any) -> None:
    forget()
    done = desk(*UP, "--hosts", ALL, "--name", "lab")
    assert done.returncode == 4
    assert "error: --name (lab): its processes still run: another name, or clusterglm down lab" in done.stderr


def test_a_host_cut_off_in_a_fit_changes_no_bit(
    running: Any, lab: Any, begin: Any, desk: Any, steps: Any, tmp_path: Path, undisturbed: Any
) -> None:
    """It is given up after its silence, and its rows are made again elsewhere."""
    desk("status", "lab", "--hosts", ALL)
    fit = begin(
        "fit", steps.solver("admm"), *LINE, "--cluster", "lab", "--out", "run", env=steps.env(2), before=lab.desk
    )
    fit.until(lambda: steps.reached(2))
    lab.cut("node4")
    try:
        steps.go()
        assert fit.ended(120) == 0, fit.said
        assert_same_bits(tmp_path / "run", undisturbed)
        rows = [row.split() for row in desk("status", "lab").stdout.splitlines() if row.startswith("node4")]
        assert rows[0][1] == "unreachable"
    finally:
        lab.mend("node4")


def test_a_host_killed_in_a_fit_changes_no_bit(
    running: Any, lab: Any, begin: Any, desk: Any, steps: Any, tmp_path: Path, undisturbed: Any
) -> None:
    fit = begin(
        "fit", steps.solver("admm"), *LINE, "--cluster", "lab", "--out", "run", env=steps.env(2), before=lab.desk
    )
    fit.until(lambda: steps.reached(2))
    lab.kill("node3")
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", undisturbed)
    done = desk("scale", "lab", 4)
    assert done.returncode == 4
    assert "host (node3): no" in done.stderr
    lab.make("node3")
    assert desk("scale", "lab", 4).stderr == "note: lab: 4 workers\n"


def test_down_leaves_no_process_on_any_host_without_local_state(running: Any, desk: Any, lab: Any) -> None:
    forget()
    done = desk("down", "lab", "--hosts", ALL)
    assert (done.returncode, done.stderr) == (0, "note: lab: 5 processes ended\n")
    assert not lab.left()
    assert desk("ls", "--hosts", ALL).stderr == "note: no cluster is up: start one with clusterglm up local\n"
