"""The folder of a run: claimed by one fit, whole files only, and checkpoints from which the same bits come."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clusterglm as package
from clusterglm import run_folder
from clusterglm.errors import ClusterError, DataError, UsageError
from clusterglm.glm.problem import Recorded
from clusterglm.run_folder import claim, load_checkpoint, shell_word, versions, write_whole

JOURNAL = [
    Recorded(1, "k", (np.array(2.0), np.arange(6.0).reshape(2, 3))),
    Recorded(1, "of which there are too many", None),
    Recorded(3, "l", (np.array([np.inf]),)),
]
FINGERPRINT = {"data": {"rows": 3}, "request": {"solver": "newton"}, "version": versions()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- files and the lock


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    with claim(tmp_path / "run") as run:
        run.save(JOURNAL, FINGERPRINT)
    journal, fingerprint = load_checkpoint(tmp_path / "run")
    assert fingerprint == FINGERPRINT
    for old, new in zip(JOURNAL, journal, strict=True):
        assert (old.passes, old.key) == (new.passes, new.key)
        assert (old.total is None) == (new.total is None)
        pairs = zip(old.total or (), new.total or (), strict=True)
        assert all(np.array_equal(a, b) and a.shape == b.shape for a, b in pairs)
    assert names(tmp_path / "run") == {"checkpoint.npz"}


def test_a_run_without_a_checkpoint_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claim(tmp_path / "runs" / "deep" / "run"):
        raise RuntimeError
    assert names(tmp_path) == set()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError), claim(tmp_path / "empty"):
        raise RuntimeError
    assert names(tmp_path) == {"empty"}


def test_a_run_with_a_checkpoint_stays(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), claim(tmp_path / "run") as run:
        run.save(JOURNAL, FINGERPRINT)
        raise RuntimeError
    assert names(tmp_path / "run") == {"checkpoint.npz"}


def test_an_older_run_is_replaced_when_there_is_something_to_replace_it_with(tmp_path: Path) -> None:
    for name in ("result.json", "report.html", "checkpoint.npz", ".mine-too", "mine.txt"):
        (tmp_path / name).write_text("old")
    with pytest.raises(UsageError, match=r"--out \(.*\): holds a run: another name, --resume, or --overwrite"):
        claim(tmp_path).__enter__()
    with pytest.raises(RuntimeError), claim(tmp_path, overwrite=True):
        raise RuntimeError
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    with claim(tmp_path, overwrite=True) as run:
        run.save(JOURNAL, FINGERPRINT)
    assert names(tmp_path) == {"checkpoint.npz", ".mine-too", "mine.txt"}


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        claim(tmp_path).__enter__()
    assert names(tmp_path) == {"mine.txt"}


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in (".checkpoint.npz-812-3", ".result.json-812-4", ".bashrc-812-4", ".checkpoint.npz-mine-3"):
        (tmp_path / name).touch()
    with claim(tmp_path, overwrite=True) as run:
        run.save(JOURNAL, FINGERPRINT)
    assert names(tmp_path) == {"checkpoint.npz", ".bashrc-812-4", ".checkpoint.npz-mine-3"}


def test_a_folder_in_use_names_its_holder(tmp_path: Path) -> None:
    with claim(tmp_path / "run"):
        text = rf"--out \(.*\): another fit \(pid {os.getpid()} on .+\) is writing there: another name"
        with pytest.raises(ClusterError, match=text):
            claim(tmp_path / "run").__enter__()
        with pytest.raises(ClusterError, match=text):
            claim(tmp_path / "run", overwrite=True).__enter__()


@pytest.mark.parametrize("name", ["x" * 300, "loop/run", "file/run", "/proc/run"])
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="not writable"):
        claim(tmp_path / name).__enter__()
    assert names(tmp_path) == {"file", "loop"}


def test_words_for_the_shell_are_one_line_and_come_back(tmp_path: Path) -> None:
    for name in ("run", "a b", "it's", 'say "x"', "two\nlines", "tab\t\x1b[31m", "\udcff\udc80", "schäfer", "$(x)`y`"):
        word = shell_word(name)
        assert word.isprintable()
        assert word.isascii()
        told = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
        assert told == os.fsencode(name)


@pytest.fixture
def tiny_disk() -> Callable[..., Any]:
    """``with tiny_disk(folder, size) as words``: a file system of ``size`` kB, for root; elsewhere a limit on files,
    which ``words`` give to the process."""

    @contextlib.contextmanager
    def mounted(folder: Path, size: int) -> Iterator[dict[str, Any]]:
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            limit = (size * 250, size * 250)
            yield {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)}
            return
        try:
            yield {}
        finally:
            subprocess.run(["umount", folder], check=True)

    return mounted


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ClusterError, match=r"old \(file too large\): 0\.1 MB needed"):
            write_whole(tmp_path / "old", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "old"}


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def bad_checkpoints(folder: Path) -> dict[str, bytes]:
    with claim(folder / "good") as run:
        run.save(JOURNAL, FINGERPRINT)
    good = (folder / "good" / "checkpoint.npz").read_bytes()
    evil = np.empty(1, dtype=object)
    evil[0] = Evil(folder / "ran")
    array, archive, meta = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, evil, allow_pickle=True)
    np.savez(archive, meta=evil, values=evil)
    np.savez(meta, meta=np.frombuffer(b'{"schema": 2, "fingerprint": []}', dtype=np.uint8), values=np.empty(0))
    return {
        "pickle": pickle.dumps(Evil(folder / "ran")),
        "array of objects": array.getvalue(),
        "archive of objects": archive.getvalue(),
        "no fingerprint": meta.getvalue(),
        "empty": b"",
        "text": b"hello",
        **{f"cut at {size}": good[:size] for size in range(10, len(good), 97)},
        "zeros inside": good[:80] + bytes(200) + good[280:],
    }


def test_no_checkpoint_runs_code_and_what_is_broken_is_refused(tmp_path: Path) -> None:
    for kind, content in bad_checkpoints(tmp_path).items():
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / "checkpoint.npz").write_bytes(content)
        with pytest.raises(DataError, match="not readable as a checkpoint"):
            load_checkpoint(tmp_path / "bad")
        assert not (tmp_path / "ran").exists(), kind


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    with claim(tmp_path / "run") as run:
        run.save(JOURNAL, FINGERPRINT | {"version": {"clusterglm": "0.0.1", "numpy": np.__version__}})
    with pytest.raises(UsageError, match="made with other versions: start again with a new --out"):
        load_checkpoint(tmp_path / "run")


def _race(folder: Path, mine: int, barrier: Any, count: int) -> None:
    for i in range(count):
        barrier.wait(60)
        won = False
        try:
            with claim(folder / f"run-{i}") as run:
                won = True
                run.save(JOURNAL, FINGERPRINT)
                barrier.wait(60)
        except (ClusterError, UsageError):
            if won:
                raise
            barrier.wait(60)
        (folder / f"{i}-{mine}-{'won' if won else 'lost'}").touch()


@pytest.mark.slow
def test_of_two_fits_on_one_folder_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    racers = [context.Process(target=_race, args=(tmp_path, mine, barrier, 50)) for mine in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
        assert racer.exitcode == 0
    assert len(list(tmp_path.glob("*-won"))) == len(list(tmp_path.glob("*-lost"))) == 50
    assert all(names(tmp_path / f"run-{i}") == {"checkpoint.npz"} for i in range(50))


# --- resuming

ROWS = {"rows": 20_000, "columns": 5}


class Copies:
    """Progress that keeps a copy of the run folder after every iteration, as a kill there would leave it."""

    def __init__(self, run: Path, copies: Path) -> None:
        self.run, self.copies = run, copies
        self.notes: list[str] = []

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def rows(self, done: int, total: int, seconds: float) -> None: ...

    def iteration(self, row: Any, null_objective: float, rows: int) -> None:
        shutil.copytree(self.run, self.copies / f"{row.iteration}", ignore=shutil.ignore_patterns(".lock"))


def bits(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    keys = ("coefficients", "objective", "certificate", "passes", "iterations", "status", "command")
    return {key: result[key] for key in keys}


def resumed_everywhere(client: Any, folder: Path, patch: pytest.MonkeyPatch, solver: str, every: int) -> int:
    """Fit, resume from the checkpoint of every ``every``-th iteration, compare, and return how many there were."""
    patch.setattr(run_folder, "_LEAST_SECONDS", 0.0)
    patch.setattr(run_folder, "_IDLE", 0)
    copies = folder / "copies"
    options = ROWS | {"tol": 1e-7, "solver": solver}
    package.fit(client, out=folder / "run", progress=Copies(folder / "run", copies), **options)
    expected = bits(folder / "run")
    # The first iterate may come with the look at the rows: then there is no pass to resume from.
    saved = [copy for copy in copies.iterdir() if (copy / "checkpoint.npz").exists()]
    assert len(list(copies.iterdir())) - len(saved) <= 1
    chosen = sorted(saved, key=lambda path: int(path.name))[::every]
    for copy in chosen:
        assert package.fit(client, resume=copy).resumed
        assert bits(copy) == expected, copy.name
    return len(chosen)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "every"), [("admm", 5), ("lbfgs", 3)])
def test_a_resumed_fit_gives_the_same_bits(
    shared_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str, every: int
) -> None:
    assert resumed_everywhere(shared_client, tmp_path, monkeypatch, solver, every) >= 2


@pytest.mark.full
@pytest.mark.timeout(900)
def test_fifty_kills_fifty_times_the_same_bits(
    shared_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    for solver in ("admm", "newton", "lbfgs", "proximal_gradient", "gradient_descent"):
        (tmp_path / solver).mkdir()
        count += resumed_everywhere(shared_client, tmp_path / solver, monkeypatch, solver, 1)
    assert count >= 50


KILLED_IN_A_WRITE = """
import os, signal, sys
from clusterglm import cli, run_folder

run_folder._LEAST_SECONDS, run_folder._IDLE = 0.0, 0
writes = 0

def strike(event, args):  # the file is complete, and not yet in its place
    global writes
    if event == "os.rename" and str(args[1]).endswith("checkpoint.npz"):
        writes += 1
        if writes == int(os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    sys.addaudithook(strike)
    cli.main()
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_costs_one_pass(
    shared_client: Any, clusterglm: Any, tmp_path: Path, listing: Any
) -> None:
    (tmp_path / "killed.py").write_text(KILLED_IN_A_WRITE)
    where = ("--scheduler", shared_client.scheduler.address)
    fit = ["fit", "admm", "--rows", "20000", "--columns", "5", "--tol", "1e-7", *where, "--out"]
    command = [sys.executable, "killed.py", *fit, "run"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "KILL_AT": "6"}, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    journal, _ = load_checkpoint(tmp_path / "run")
    assert len(journal) == 5
    assert len([name for name in names(tmp_path / "run") if name.startswith(".checkpoint.npz-")]) == 1
    assert package.fit(shared_client, resume=tmp_path / "run").resumed
    package.fit(shared_client, out=tmp_path / "other", solver="admm", tol=1e-7, **ROWS)
    assert bits(tmp_path / "run") | {"command": 0} == bits(tmp_path / "other") | {"command": 0}
    assert not [name for name in names(tmp_path / "run") if name.startswith(".")]


@pytest.mark.slow
def test_what_a_resumed_fit_may_not_change(
    shared_client: Any, clusterglm: Any, steps: Any, tmp_path: Path, listing: Any
) -> None:
    data, run = tmp_path / "t.csv", tmp_path / "run"
    random = np.random.default_rng(0)
    table = np.column_stack([random.random((300, 2)), random.random(300) < 0.5])
    np.savetxt(data, table, delimiter=",", header="a,b,y", comments="")
    options = {"target": "y", "family": "binomial", "max_passes": 5, "tol": 1e-6}
    package.fit(shared_client, solver="gradient_descent", data=data, out=run, **options)
    before, written = listing(tmp_path), data.stat().st_mtime_ns

    def refused(**changes: Any) -> str:
        with pytest.raises(UsageError) as error:
            package.fit(shared_client, resume=run, **changes)
        return error.value.cure

    same = ": the same options, or a new --out"
    assert refused(solver="newton") == f"made with solver gradient_descent{same}"
    assert refused(alpha=0.5) == f"made with --alpha None{same}"
    assert refused(seed=3) == f"made with --seed 20009{same}"
    assert refused(features="a") == f"made with --features None{same}"
    done = clusterglm("fit", "newton", "--resume", "run", cwd=tmp_path)
    words = f"error: --resume (run): made with solver gradient_descent{same}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", words)
    with data.open("a") as file:
        file.write("0.5,0.5,1\n")
    assert refused() == "made with other data: start again with a new --out"
    os.truncate(data, len(before["t.csv"]))
    assert listing(tmp_path) == before
    table[:, 0] /= 2  # written, it has the same length
    np.savetxt(data, table, delimiter=",", header="a,b,y", comments="")
    os.utime(data, ns=(written, written))
    assert len(data.read_bytes()) == len(before["t.csv"])
    assert refused() == "made with other data: start again with a new --out"
    os.utime(data, ns=(0, 0))
    assert refused() == "made with other data: start again with a new --out"


def test_a_solver_of_ones_own_must_be_named_again(steps: Any, tmp_path: Path) -> None:
    """A checkpoint that names a file of Python would otherwise run it."""
    _checkpoint_of(tmp_path / "own", steps.solver("admm"))
    with pytest.raises(UsageError, match=r"made with a solver of its own: name .*steps\.py:admm too"):
        package.fit(resume=tmp_path / "own")


def _checkpoint_of(folder: Path, solver: str) -> None:
    with claim(folder) as run:
        run.save(JOURNAL, FINGERPRINT | {"request": {"solver": solver, "rows": 10}})


@pytest.mark.slow
def test_more_passes_go_on_where_fewer_ended(shared_client: Any, tmp_path: Path) -> None:
    few = package.fit(shared_client, out=tmp_path / "run", solver="gradient_descent", tol=1e-3, max_passes=6, **ROWS)
    assert few.status == "max_passes"
    journal, _ = load_checkpoint(tmp_path / "run")
    assert len(journal) >= few.iterations  # all of them, however soon one came after another
    more = package.fit(shared_client, resume=tmp_path / "run", max_passes=1000, tol=1e-7)
    whole = package.fit(shared_client, solver="gradient_descent", tol=1e-7, **ROWS)
    assert more.status == whole.status == "optimal"
    assert np.array_equal(more.coefficients, whole.coefficients)
    assert (more.passes, more.resumed, whole.resumed) == (whole.passes, True, False)


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 64], ids=["before the checkpoint", "in the report"])
def test_a_full_disk_ends_a_fit_without_half_a_file(
    shared_client: Any, clusterglm: Any, tmp_path: Path, tiny_disk: Any, size: int
) -> None:
    where = ("--scheduler", shared_client.scheduler.address)
    with tiny_disk(tmp_path / "disk", size) as words:
        disk = tmp_path / "disk"
        done = clusterglm("fit", "newton", "--rows", 20_000, *where, "--out", "disk/run", cwd=tmp_path, **words)
        assert (done.returncode, done.stdout) == (4, "")
        assert "Traceback" not in done.stderr
        error = done.stderr.splitlines()[-1]
        assert re.match(
            r"error: disk/run/[a-z.]+ \((no space left on device|file too large)\): [0-9.]+ MB needed", error
        )
        if size == 4:
            assert names(disk) == set()
            return
        assert not [name for name in names(disk / "run") if name.startswith(".")]
        shutil.move(disk / "run", tmp_path / "run")
    load_checkpoint(tmp_path / "run")
    assert error.endswith(": clusterglm fit --resume disk/run")
    assert clusterglm("fit", "--resume", "run", *where, cwd=tmp_path).returncode == 0
    assert {"result.json", "report.html", "performance-report.html"} <= names(tmp_path / "run")
