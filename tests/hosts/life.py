"""The life of a cluster on a batch system in the trixie tree: what all of them have to stand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from hosts import fits
from hosts.fits import LINE, assert_same_bits
from hosts.trixie import System


def lives_and_ends(system: System, up: Sequence[object], begin: Any, steps: Any, wait_until: Any) -> None:
    """Start two workers, forget the state, scale 2, 4, 1 in a fit, fit again, forget again, and end: nothing stays."""
    expected, target, own = fits.undisturbed("proximal_gradient", "admm"), up[1], system.own
    steps = system.steps(steps, "steps")
    done = system.run(*up, "--workers", 2, "--name", "lab", "--wait", OPENBLAS_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "note: scheduler running, 2 workers running"
    shutil.rmtree(own / "state")
    assert system.run("ls").stdout.splitlines()[1].split()[:4] == ["lab", target, "up", "2"]
    fit = begin(
        *("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", "lab", "--out", own / "run"),
        command=system.clusterglm(),
        env=steps.env(2, 4),
    )
    fit.until(lambda: steps.reached(2))
    assert system.run("scale", "lab", 4).returncode == 0
    wait_until(lambda: len(status(system, "lab")["worker"]) == 4, 60)
    steps.go(2)
    fit.until(lambda: steps.reached(4))
    done = system.run("scale", "lab", 1)
    assert (done.returncode, done.stderr) == (0, "note: lab: 1 workers\n")
    wait_until(lambda: len(system.jobs()) == 2, 60)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(own / "run", expected["proximal_gradient"])
    done = system.run("fit", "admm", *LINE, "--cluster", "lab", "--out", own / "admm", "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    assert_same_bits(own / "admm", expected["admm"])
    assert json.loads(done.stdout)["blas_threads"] == 1
    assert len([text for text in system.run("logs", "lab").stdout.splitlines() if text.startswith("==> ")]) == 5
    shutil.rmtree(own / "state")
    done = system.run("down", "lab")
    assert done.returncode == 0, done.stderr
    assert not system.folders()


def status(system: System, name: str) -> Any:
    """Return what ``status --json`` says."""
    return json.loads(system.run("status", name, "--json").stdout)
