"""What goes wrong on Slurm: jobs refused, held, cancelled, requeued, nodes lost, ``up`` killed.

The bits are the same, or the end is a clear one with nothing in the queue.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import fits
from hosts.fits import LINE, assert_same_bits
from hosts.strikes import cancel, kill, requeue

from clusterglm.clusters.lookup import connect_cluster
from clusterglm.clusters.workers import workers

pytestmark = pytest.mark.slow
UP = ("up", "slurm", "--memory", "1GB", "--scheduler-memory", "1GB", "--interface", "lo")


def folders() -> list[Path]:
    return list(Path(os.environ["XDG_DATA_HOME"], "clusterglm", "clusters").glob("*"))


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return fits.undisturbed("gradient_descent", "proximal_gradient", "admm")


@pytest.fixture(autouse=True)
def _alone(slurm: Any, clusterglm: Any) -> Iterator[None]:
    """End what a test that failed has left, but for the cluster that several share."""
    yield
    for name in {line.split()[1] for line in slurm.jobs()}:
        if not name.startswith("cglm-lab-"):
            slurm.command("scancel", "-n", name)
    for row in json.loads(clusterglm("ls", "--json").stdout or "[]"):
        if row["name"] != "lab":
            clusterglm("down", row["name"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--partition", "nope"), "slurm: sbatch: error: invalid partition specified: nope; sbatch: error: Batch job"),
        (
            ("--memory", "9TB"),
            "slurm: sbatch: error: Memory specification can not be satisfied; sbatch: error: Batch job",
        ),
        (("--directive", "--hold"), "slurm (job ID, scheduler): held: JobHeldUser"),
        (("--directive", "--hold", "--wait"), "slurm (job ID, scheduler): held: JobHeldUser"),
        (("--partition", "short", "--walltime", "1h"), "slurm (job ID, scheduler): held: PartitionTimeLimit"),
        (("--python", "/no/such/python", "--wait"), "slurm (job ID, scheduler): ended: FAILED, exit code "),
    ],
)
def test_what_can_never_run_ends_up_with_the_systems_words(
    slurm: Any, clusterglm: Any, options: tuple[str, ...], words: str
) -> None:
    done = clusterglm(*UP, "--workers", 2, "--name", "never", *options)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 4
    job = error.partition("job ")[2].partition(",")[0]
    assert error.startswith("error: " + words.replace("ID", job))
    assert not slurm.jobs()
    assert not folders()
    assert clusterglm("down", "never").stderr == "note: never: already down\n"


SBATCH = """#!/bin/bash
# The real one, but the command that calls it is struck before or after the call of this number.
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
[ "$count-{when}" != {call}-before ] || {{ kill -{number} $PPID; sleep 0.5; }}
{real} "$@"; code=$?
[ "$count-{when}" != {call}-after ] || kill -{number} $PPID
touch {folder}/ended-$count
exit $code
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [0, 1])
def test_down_removes_what_a_killed_up_has_submitted(
    slurm: Any, clusterglm: Any, wait_until: Any, tmp_path: Path, call: int, when: str, number: signal.Signals
) -> None:
    path = tmp_path / "sbatch"
    real = shutil.which("sbatch")
    path.write_text(SBATCH.format(folder=tmp_path, call=call, when=when, number=number.value, real=real))
    path.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = clusterglm(*UP, "--workers", 2, "--name", "killed", "--wait", env=env)
    assert done.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    if number == signal.SIGKILL:  # a submission outlives its command
        wait_until((tmp_path / f"ended-{call}").exists)
    records = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "records")
    if number == signal.SIGKILL and call and when == "after":
        shutil.rmtree(records)  # the queue says enough
    assert clusterglm("down", "killed", "--if-exists").returncode == 0
    assert not slurm.jobs()
    assert not folders()


REFUSES = """#!/bin/bash
# The real one, but the call of this number is refused.
count=$(cat {folder}/count 2>/dev/null || echo 0); echo $((count + 1)) > {folder}/count
[ "$count" != {call} ] || {{ echo "{name}: error: not now" >&2; exit 1; }}
exec {real} "$@"
"""


@pytest.mark.parametrize(("name", "call"), [("sbatch", 1), ("squeue", 0), ("squeue", 1)])
def test_a_command_that_fails_in_up_leaves_nothing(
    slurm: Any, clusterglm: Any, tmp_path: Path, name: str, call: int
) -> None:
    path = tmp_path / name
    path.write_text(REFUSES.format(folder=tmp_path, call=call, name=name, real=shutil.which(name)))
    path.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = clusterglm(*UP, "--workers", 2, "--name", "refused", "--wait", env=env)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == f"error: slurm: {name}: error: not now"
    assert not slurm.jobs()
    assert not folders()


def test_an_interrupted_wait_leaves_nothing(slurm: Any, begin: Any) -> None:
    """All nodes are taken, so it waits in the queue and says so."""
    slurm.command("sbatch", "-N4", "--exclusive", "--wrap", "sleep 600", "-o", "/dev/null")
    up = begin(*UP, "--workers", 2, "--name", "waits", "--wait")
    up.until(lambda: "scheduler pending (Resources" in up.said or "scheduler pending (Priority" in up.said)
    up.send(signal.SIGINT)
    assert up.ended() == 130
    assert up.said.splitlines()[-1] == "interrupted: removed 5 jobs"
    assert [line.split()[1] for line in slurm.jobs()] == ["wrap"]
    slurm.cancel_all()
    assert not folders()


def test_pending_is_shown_with_its_reason_and_a_fit_waits_for_it(slurm: Any, clusterglm: Any, begin: Any) -> None:
    slurm.command("sbatch", "-N4", "--exclusive", "--wrap", "sleep 600", "-o", "/dev/null")
    assert clusterglm(*UP, "--workers", 2, "--name", "queued").returncode == 0
    assert clusterglm("ls").stdout.splitlines()[1].split()[:4] == ["queued", "slurm", "pending", "2"]
    done = clusterglm("status", "queued", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["state"] == "pending"
    assert [member["state"] for member in found["member"]] == ["pending"] * 3 + ["reserve"]
    done = clusterglm("fit", "newton", "--rows", 1000, "--cluster", "queued", "--timeout", "1s")
    assert done.returncode == 4
    assert "is pending" in done.stderr
    assert clusterglm("scale", "queued", 1).returncode == 4
    fit = begin("fit", "newton", "--rows", 1000, "--cluster", "queued")
    fit.until(lambda: "waiting for queued: its scheduler is pending (" in fit.said)
    slurm.command("scancel", "-n", "wrap")
    assert fit.ended(120) == 0, fit.said
    assert clusterglm("down", "queued").returncode == 0


@pytest.fixture(scope="module")
def lab(slurm: Any, clusterglm: Any) -> Iterator[str]:
    done = clusterglm(*UP, "--workers", 2, "--name", "lab", "--wait")
    assert done.returncode == 0, done.stderr
    yield "lab"
    assert clusterglm("down", "lab").returncode == 0
    assert not slurm.jobs()
    assert not folders()


def running_tasks(slurm: Any) -> list[str]:
    lines = slurm.command("squeue", "-h", "-r", "-t", "R", "-n", "cglm-lab-worker", "-o", "%i %N").splitlines()
    return sorted(lines)


def lose_node(slurm: Any, task: str, node: str) -> None:
    slurm.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    slurm.command("scontrol", "update", f"NodeName={node}", "State=RESUME")


@pytest.mark.parametrize("strike", [cancel, kill, requeue, lose_node])
def test_a_lost_job_changes_no_bit_and_is_replaced(
    slurm: Any,
    lab: str,
    begin: Any,
    steps: Any,
    tmp_path: Path,
    wait_until: Any,
    undisturbed: Any,
    clusterglm: Any,
    strike: Callable[..., None],
) -> None:
    """Slurm lets what it has requeued wait for two minutes; ``scale`` brings others in their place."""
    assert clusterglm("scale", lab, 2).returncode == 0
    wait_until(lambda: len(running_tasks(slurm)) == 2)
    fit = begin("fit", steps.solver("admm"), *LINE, "--cluster", lab, "--out", "run", env=steps.env(2))
    fit.until(lambda: steps.reached(2))
    before = running_tasks(slurm)
    scheduler = slurm.command("squeue", "-h", "-t", "R", "-n", "cglm-lab-scheduler", "-o", "%N")
    task, node = next(line.split() for line in before if strike is not lose_node or line.split()[1] != scheduler)
    strike(slurm, task, node)
    wait_until(lambda: task not in [line.split()[0] for line in running_tasks(slurm)])
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", undisturbed["admm"])


def test_scaling_in_a_fit_changes_no_bit(
    slurm: Any, lab: str, begin: Any, clusterglm: Any, steps: Any, tmp_path: Path, wait_until: Any, undisturbed: Any
) -> None:
    fit = begin("fit", steps.solver("proximal_gradient"), *LINE, "--cluster", lab, "--out", "run", env=steps.env(2, 4))
    fit.until(lambda: steps.reached(2))
    client = connect_cluster(lab)
    try:
        assert clusterglm("scale", lab, 4).returncode == 0
        wait_until(lambda: len(workers(client)) == 4)
        steps.go(2)
        fit.until(lambda: steps.reached(4))
        assert clusterglm("scale", lab, 1).returncode == 0
        assert len(workers(client)) == 1
    finally:
        client.close()
    steps.go(4)
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", undisturbed["proximal_gradient"])
    assert "workers died" not in fit.said
    assert clusterglm("scale", lab, 2).returncode == 0


def test_a_fit_keeps_between_two_numbers_of_workers(
    slurm: Any, lab: str, begin: Any, clusterglm: Any, steps: Any, tmp_path: Path, wait_until: Any, undisturbed: Any
) -> None:
    """It asks for more, has those that go replaced, and gives back in the end what it alone has needed."""
    few = ("--min-workers", 1, "--max-workers", 4)
    solver = steps.solver("gradient_descent")
    fit = begin("fit", solver, *LINE, "--cluster", lab, *few, "--out", "run", env=steps.env(2, 6))
    fit.until(lambda: steps.reached(2))
    wait_until(lambda: len(running_tasks(slurm)) == 4)
    for task in [line.split()[0] for line in running_tasks(slurm)][:3]:
        slurm.command("scancel", task)
    wait_until(lambda: len(running_tasks(slurm)) < 4)
    steps.go()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", undisturbed["gradient_descent"])
    wait_until(lambda: len(running_tasks(slurm)) == 1)
    assert clusterglm("scale", lab, 2).returncode == 0


def test_a_cancelled_scheduler_leaves_a_checkpoint(
    slurm: Any, begin: Any, clusterglm: Any, steps: Any, tmp_path: Path, wait_until: Any, undisturbed: Any
) -> None:
    assert clusterglm(*UP, "--workers", 2, "--name", "mortal", "--wait").returncode == 0
    solver = steps.solver("gradient_descent")
    fit = begin("fit", solver, *LINE, "--cluster", "mortal", "--out", "run", env=steps.env(5))
    fit.until(lambda: steps.reached(5))
    slurm.command("scancel", "-n", "cglm-mortal-scheduler")
    steps.go()
    assert fit.ended(30) == 4
    assert fit.said.endswith(f": the scheduler is gone: clusterglm fit {solver} --resume run\n")
    # What waited behind the workers finds no scheduler, says so, and leaves the queue by itself.
    wait_until(lambda: not [line for line in slurm.jobs() if "mortal" in line], 90)
    done = clusterglm("status", "mortal")
    assert done.returncode == 4
    assert "error: cluster (mortal): the scheduler's job ended: CANCELLED" in done.stderr
    assert clusterglm("down", "mortal").returncode == 0
    assert not [folder for folder in folders() if folder.name.startswith("mortal")]
    done = clusterglm(
        "fit", solver, "--resume", "run", "--workers", 1, "--memory", "1GB", cwd=tmp_path, env=steps.env()
    )
    assert done.returncode == 0, done.stderr
    assert_same_bits(tmp_path / "run", undisturbed["gradient_descent"])


@pytest.mark.full
def test_workers_that_reach_their_walltime_are_followed_by_others(
    slurm: Any, begin: Any, clusterglm: Any, steps: Any, tmp_path: Path, wait_until: Any, undisturbed: Any
) -> None:
    options = ("--walltime", "20s", "--scheduler-walltime", "10min")
    assert clusterglm(*UP, "--workers", 2, "--name", "rolling", *options, "--wait").returncode == 0
    fit = begin(
        "fit", steps.solver("gradient_descent"), *LINE, "--cluster", "rolling", "--out", "run", env=steps.env(2, 6)
    )
    fit.until(lambda: steps.reached(2))
    client = connect_cluster("rolling")
    try:
        for hold in (2, 6):
            fit.until(lambda hold=hold: steps.reached(hold))
            before = {worker.name for worker in workers(client)}
            wait_until(lambda before=before: not before & {worker.name for worker in workers(client)}, 90)
            wait_until(lambda: len(workers(client)) == 2)
            steps.go(hold)
    finally:
        client.close()
    assert fit.ended(120) == 0, fit.said
    assert_same_bits(tmp_path / "run", undisturbed["gradient_descent"])
    assert clusterglm("down", "rolling").returncode == 0
    assert not [line for line in slurm.jobs() if "rolling" in line]
