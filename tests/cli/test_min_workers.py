"""``fit --min-workers``: wait for so many, begin, and use those that come later."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_a_fit_waits_for_as_many_workers_as_it_needs(cli: Any, begin: Any, home: Any, tmp_path: Any) -> None:
    assert cli("up", "local", "--workers", 1, "--memory", "1GB", "--name", "few").returncode == 0
    fit = ("fit", "admm", "--rows", "2e4", "--json", "--cluster", "few")
    waiting = begin(*fit, "--min-workers", 2, "--out", tmp_path / "run")
    assert waiting.stderr.readline() == "waiting for workers: 1 of 2 have come\n"
    assert cli("scale", "few", 2).returncode == 0
    output, words = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, words
    alone = cli("fit", "admm", "--rows", "2e4", "--json", "--workers", 1, "--out", tmp_path / "alone")
    one, two = json.loads(alone.stdout), json.loads(output)
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["coefficients"] == two["coefficients"]
    late = cli(*fit, "--min-workers", 3, "--timeout", "1s", "--out", tmp_path / "late")
    assert late.returncode == 4
    assert "error: workers (2 of 3 after 1 s): see their logs, raise --timeout, or lower --min-workers" in late.stderr
    assert not (tmp_path / "late").exists()
    lost = begin(*fit, "--min-workers", 3, "--out", tmp_path / "lost")
    assert lost.stderr.readline() == "waiting for workers: 2 of 3 have come\n"
    assert cli("down", "few").returncode == 0
    _, words = lost.communicate(timeout=60)
    assert (lost.returncode, words.splitlines()[-1].endswith("the scheduler is gone")) == (4, True), words


@pytest.mark.full  # test_slurm_faults keeps between two numbers too
def test_a_fit_has_as_many_workers_as_it_may_and_gives_them_back(cli: Any, home: Any, tmp_path: Any) -> None:
    assert cli("up", "local", "--workers", 1, "--memory", "1GB", "--name", "grows").returncode == 0
    fit = ("fit", "admm", "--rows", "2e5", "--json", "--cluster", "grows")
    done = cli(*fit, "--min-workers", 1, "--max-workers", 3, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workers"] > 1
    assert json.loads(cli("status", "grows", "--json").stdout)["workers"] == 1
    assert cli("down", "grows").returncode == 0


@pytest.mark.full  # half a minute of waiting
def test_workers_that_are_waited_for_keep_their_scheduler_awake(cli: Any, begin: Any, home: Any, tmp_path: Any) -> None:
    up = cli("up", "local", "--workers", 1, "--memory", "1GB", "--name", "brief", "--idle-timeout", "8s")
    assert up.returncode == 0
    waited = cli("fit", "admm", "--rows", "2e4", "--cluster", "brief", "--min-workers", 2, "--timeout", "14s")
    assert "workers (1 of 2 after 14 s)" in waited.stderr
    assert cli("down", "brief").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--min-workers", "2"), "--min-workers (2): belongs to a running cluster"),
        (("--min-workers", "0", "--cluster", "lab"), "--min-workers (0): must be at least 1"),
        (("--max-workers", "2"), "--max-workers (2): belongs to a cluster that `clusterglm up` started"),
        (
            ("--min-workers", "3", "--max-workers", "2", "--cluster", "lab"),
            "--max-workers (2): fewer than --min-workers 3",
        ),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(cli: Any, arguments: tuple[str, ...], words: str) -> None:
    done = cli("fit", "admm", "--rows", "2e4", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
