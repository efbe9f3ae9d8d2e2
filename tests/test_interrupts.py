"""Signals at any moment of a fit: 130 and nothing left, or 75 and a checkpoint; within 5 s, and no process remains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clusterglm as package

pytestmark = pytest.mark.slow
FIT = ("--rows", "1e5", "--workers", 2, "--memory", "1GB", "--tol", "1e-9", "--out", "out")
STARTING = "starting a local cluster"
WITHIN = 5.0


def when(moment: str, running: Any, steps: Any) -> Callable[[], object]:
    """Return the condition that a moment of the fit has come."""
    if moment.startswith("step"):
        return lambda: steps.reached(int(moment.removeprefix("step")))
    if moment.endswith((".npz", ".parquet", ".json", ".html")):
        return lambda: (Path(running.folder) / "out" / moment).exists()
    return {"worker": running.workers}.get(moment, lambda: moment in running.said)


@pytest.mark.parametrize(
    ("moment", "number", "group", "again"),
    [
        (STARTING, signal.SIGINT, True, 0),
        pytest.param(STARTING, signal.SIGTERM, False, 0, marks=pytest.mark.full),
        ("worker", signal.SIGINT, True, 0),
        pytest.param("worker", signal.SIGHUP, True, 5, marks=pytest.mark.full),
        ("loading", signal.SIGINT, False, 0),
        pytest.param("checkpoint.npz", signal.SIGINT, True, 0, marks=pytest.mark.full),
        ("step3", signal.SIGTERM, False, 0),
        pytest.param("step3", signal.SIGINT, True, 5, marks=pytest.mark.full),
        ("tasks.parquet", signal.SIGHUP, False, 0),
        ("model.json", signal.SIGINT, True, 5),
    ],
)
def test_a_signal_ends_the_fit(
    begin: Any, steps: Any, listing: Any, tmp_path: Path, moment: str, number: int, group: bool, again: int
) -> None:
    (tmp_path / "tmp").mkdir()
    environment = steps.env() | {"TMPDIR": str(tmp_path / "tmp")}
    running = begin("fit", steps.solver("gradient_descent"), *FIT, env=environment)
    running.until(when(moment, running, steps))
    since = time.monotonic()
    running.send(number, group)
    for _ in range(again):
        if running.process.poll() is None:
            running.send(number, group)
    code = running.ended()
    assert time.monotonic() - since < WITHIN
    assert "Traceback" not in running.said
    assert running.printed == ""
    saved = (tmp_path / "out" / "checkpoint.npz").exists()
    assert code == (75 if saved else 130), running.said
    assert saved or moment not in ("checkpoint.npz", "step3", "tasks.parquet", "model.json")
    words = f"interrupted: go on with: clusterglm fit {steps.solver('gradient_descent')} --resume out"
    assert running.said.endswith(f"\n{words if saved else 'interrupted'}\n")
    left = listing(tmp_path)
    assert not [name for name in left if name.startswith("tmp/") or "/." in name]
    assert saved or set(left) == {"tmp"}


def test_an_interrupted_fit_goes_on_to_the_same_bits(
    begin: Any, clusterglm: Any, steps: Any, shared_client: Any, tmp_path: Path
) -> None:
    solver, where = steps.solver("admm"), ("--scheduler", shared_client.scheduler.address)
    running = begin("fit", solver, "--rows", "1e5", *where, "--tol", "1e-4", "--out", "run", env=steps.env(hold=4))
    running.until(lambda: steps.reached(4))
    running.send(signal.SIGINT)
    assert running.ended(WITHIN) == 75, running.said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], len(result["coefficients"])) == ("interrupted", 15)
    steps.go()
    done = clusterglm("fit", solver, "--resume", "run", *where, cwd=tmp_path, env=steps.env())
    assert done.returncode == 0, done.stderr
    resumed = json.loads((tmp_path / "run" / "result.json").read_text())
    whole = package.fit(shared_client, solver="admm", rows=1e5, tol=1e-4).as_dict()
    assert (resumed["resumed"], whole["resumed"]) == (True, False)
    assert resumed["coefficients"] == whole["coefficients"].tolist()
    for key in ("objective", "certificate", "passes", "iterations", "status"):
        assert resumed[key] == whole[key]


def test_an_old_run_outlives_an_interrupted_overwrite(begin: Any, listing: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    (tmp_path / "out" / ".notes-of-mine").touch()
    before = listing(tmp_path)
    running = begin("fit", "gradient_descent", *FIT, "--overwrite")
    running.until(lambda: STARTING in running.said)
    running.send(signal.SIGINT)
    assert running.ended(5) == 130, running.said
    assert listing(tmp_path) == before


WHILE_IMPORTING = """
import os, signal, sys

def strike(event, args):
    if event == "import" and args[0] == "typer":
        os.kill(os.getpid(), signal.SIGINT)

sys.argv[1:] = ["--version"]
sys.addaudithook(strike)
from clusterglm.__main__ import main
main()
"""


def test_a_signal_that_meets_the_imports_leaves_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", WHILE_IMPORTING], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


WHILE_A_CLASS_IS_MADE = """
import os, signal, sys

def strike(frame, event, arg):
    code = frame.f_code
    if code.co_name == "__set_name__" and "dataclasses" in code.co_filename and "distributed" in sys.modules:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    sys.argv[1:] = ["fit", "gradient_descent", "--rows", "1e4", "--out", "out"]
    from clusterglm.__main__ import main
    sys.setprofile(strike)
    main()
"""


def test_a_signal_that_meets_the_making_of_a_class_is_none_of_our_errors(tmp_path: Path) -> None:
    """Python before 3.12 makes a RuntimeError of it."""
    done = subprocess.run(
        [sys.executable, "-c", WHILE_A_CLASS_IS_MADE], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.removeprefix(f"{STARTING}\n") == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


SWALLOWED = """
import gc, os, signal, time
from pathlib import Path
from clusterglm.signals import listen, one_interruption

def callback(phase, info):
    if phase == "start" and not hits:
        hits.append(phase)
        os.kill(os.getpid(), signal.SIGINT)
        hits.append(phase)  # the handler raises about here, and nothing gets out of a callback of the collector

hits = []
listen()
try:
    with one_interruption(Path("nowhere")):
        gc.callbacks.append(callback)
        gc.collect()
        signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_that_meets_the_garbage_collector_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


@pytest.mark.full
@pytest.mark.parametrize("step", range(25))
def test_a_signal_after_any_step(begin: Any, steps: Any, step: int, tmp_path: Path) -> None:
    running = begin("fit", steps.solver("gradient_descent"), *FIT, env=steps.env())
    running.until(lambda: steps.reached(step))
    running.send((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[step % 3], group=step % 2 == 0)
    assert running.ended(WITHIN) == 75
    assert (tmp_path / "out" / "checkpoint.npz").exists()
