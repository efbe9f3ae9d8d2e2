"""The life of a cluster, and one fit as one job, on a real OAR of one machine, as a user who is not root."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import trixie
from hosts.jobs import result_of
from hosts.life import lives_and_ends
from hosts.oar import OAR
from hosts.trixie import System

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(900)]
UP = ("up", "oar", "--memory", "600MB", "--scheduler-memory", "600MB", "--walltime", "30min")


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    if missing := trixie.missing():
        pytest.skip(f"{missing[0]} missing: needs root, and debootstrap")
    # A user may not look into pytest's own folders.
    with (
        tempfile.TemporaryDirectory(prefix="oar-", dir="/tmp") as own,
        trixie.running(OAR, tmp_path_factory.mktemp("oar"), Path(own)) as system,
    ):
        yield system


def test_a_cluster_lives_and_ends(queue: System, begin: Any, steps: Any, wait_until: Any) -> None:
    lives_and_ends(queue, UP, begin, steps, wait_until)
    wait_until(lambda: not queue.jobs(), 60)


def test_what_is_refused_or_held_or_ends_is_said_in_the_systems_words(queue: System, wait_until: Any) -> None:
    done = queue.run(*UP, "--workers", 1, "--name", "never", "--queue", "nope")
    assert done.returncode == 4
    assert "nope" in done.stderr.splitlines()[-1]
    done = queue.run(*UP, "--workers", 1, "--name", "never", "--directive", "--hold", "--wait")
    assert done.returncode == 4
    assert ", scheduler): held" in done.stderr.splitlines()[-1]
    done = queue.run(*UP, "--workers", 1, "--name", "never", "--python", "/no/such/python", "--wait")
    assert done.returncode == 4
    assert ": ended: Terminated, exit code 1" in done.stderr.splitlines()[-1]
    assert "/no/such/python: No such file or directory" in done.stderr.splitlines()[-1]
    wait_until(lambda: not queue.jobs(), 60)
    assert not queue.folders()


OARSUB = """#!/bin/bash
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
/usr/bin/oarsub "$@"; code=$?
[ "$count" != {call} ] || kill -KILL $PPID
exit $code
"""


@pytest.mark.parametrize("call", [0, 1])
def test_down_removes_what_a_killed_up_has_submitted(queue: System, wait_until: Any, call: int) -> None:
    folder = queue.folder_of_tester(f"kill{call}")
    (folder / "oarsub").write_text(OARSUB.format(folder=folder, call=call))
    (folder / "oarsub").chmod(0o755)
    done = queue.run(*UP, "--workers", 2, "--name", "killed", PATH=f"{folder}:/usr/bin:/bin")
    assert done.returncode != 0
    assert queue.jobs()
    shutil.rmtree(queue.own / "state")
    done = queue.run("down", "killed")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not queue.jobs(), 60)
    assert not queue.folders()


@pytest.mark.parametrize(("arguments", "code"), [("", 0), (" --max-passes 1 --start null", 3)])
def test_one_job_fits(queue: System, wait_until: Any, arguments: str, code: int) -> None:
    folder = queue.folder_of_tester(f"job{code}")
    done = queue.run("script", "oar", "--nodes", 1, "--workers-per-node", 2, "--memory", "600MB", "--walltime", "10min")
    assert done.returncode == 0, done.stderr
    (folder / "job.sh").write_text(done.stdout)
    (folder / "job.sh").chmod(0o755)
    os.chown(folder / "job.sh", trixie.USER, trixie.USER)
    search = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    (folder / "job.sh").write_text(
        done.stdout.replace("\nset -eu\n", f"\nset -eu\nexport PATH={search} PYTHONPATH={trixie.CHECKOUT}\n")
    )
    said = queue.said("env", "-C", str(folder), "oarsub", "-S", f"./job.sh newton --rows 2e4{arguments}")
    job = said.rpartition("OAR_JOB_ID=")[2].strip()
    wait_until(lambda: not queue.jobs(), 240)
    text = (folder / f"clusterglm-{job}.out").read_text()
    found = json.loads(queue.said("oarstat", "-f", "-J", "-j", job))[job]
    assert (found["state"], found["exit_code"] >> 8) == ("Terminated", code), text
    result = result_of(folder / "runs" / f"oar-{job}")
    assert (result["workers"], result["blas_threads"]) == (2, 1)
