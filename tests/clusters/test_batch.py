"""The parts of a batch system's target that need none: tags, moves between sizes, scripts, a worker's first look."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterglm.clusters.batch import follow
from clusterglm.clusters.batch.folder import Folder
from clusterglm.clusters.batch.job import SCHEDULER, WORKER, Job, Tag, named, untag
from clusterglm.clusters.batch.options import seconds_of
from clusterglm.clusters.batch.reach import NOT_YET, wait_for_scheduler
from clusterglm.clusters.batch.scaling import moves, shares
from clusterglm.clusters.launcher import Plan, Size, configured
from clusterglm.clusters.targets.slurm import Slurm
from clusterglm.errors import UsageError

TAG = Tag("lab", "0123abcd", WORKER, Path("/home/me/clusters/lab-0123abcd"))


def test_a_tag_comes_back() -> None:
    assert untag(str(TAG)) == TAG
    assert untag(f"{TAG};later=1") == TAG


@given(st.text() | st.text("clusterglm;=nameuidrole/dir", max_size=60))
def test_a_foreign_comment_is_none_of_ours(text: str) -> None:
    found = untag(text)
    assert found is None or text.strip().startswith("clusterglm;")


def tasks(array: int, states: str) -> list[Job]:
    """Return the tasks of an array: r running, p pending, d delayed, e ending."""
    names = {"r": "running", "p": "pending", "d": "pending", "e": "ending"}
    return [
        Job(f"{array}_{i}", str(array), str(i), names[s], TAG, delayed=s == "d")  # type: ignore[arg-type]
        for i, s in enumerate(states)
    ]


def after(jobs: list[Job], workers: int, throttled: bool) -> int:
    """Return how many tasks run once the moves are made and the queue has done what it can."""
    found = moves(jobs, workers, throttled)
    gone = {job.id for job in found.leaving + found.forsaken}
    total = found.more
    for array in {job.job for job in jobs}:
        own = [job for job in jobs if job.job == array and job.id not in gone]
        running = sum(job.state == "running" for job in own)
        waiting = sum(job.state == "pending" and not job.delayed for job in own)
        total += min(running + waiting, max(running, found.throttles.get(array, 10**6)))
    return total


@given(st.lists(st.text("rpde", min_size=1, max_size=8), max_size=4), st.integers(1, 12), st.booleans())
def test_moves_bring_exactly_the_number_wanted(arrays: list[str], workers: int, throttled: bool) -> None:
    jobs = [job for i, states in enumerate(arrays) for job in tasks(10 + i, states)]
    assert after(jobs, workers, throttled) == workers
    found = moves(jobs, workers, throttled)
    assert 0 not in found.throttles.values()  # which Slurm takes for no limit
    assert throttled or not found.throttles


@given(st.integers(1, 5000), st.integers(1, 20), st.integers(1, 1000))
def test_arrays_are_as_many_as_the_largest_allows(workers: int, generations: int, most: int) -> None:
    found = shares(workers, generations, most)
    assert sum(at_once for _, at_once in found) == workers
    assert all(0 < at_once <= tasks <= most for tasks, at_once in found)


def test_a_job_is_known_by_its_name_and_folder(tmp_path: Path) -> None:
    assert named(TAG.job_name, str(TAG.folder), tmp_path) == TAG
    there = named(TAG.job_name, "", tmp_path)
    assert there is not None
    assert there.folder == tmp_path / "lab-0123abcd"
    for text in ("cglm-lab-worker", "cglm-lab-0123abcd-boss", "lab-0123abcd-worker", "cglm-Lab-0123abcd-worker"):
        assert named(text, str(TAG.folder), tmp_path) is None


def test_the_newest_leave_first() -> None:
    jobs = tasks(9, "rrpp") + tasks(10, "rr")
    found = moves(jobs, 1)
    assert [job.id for job in found.leaving] == ["10_1", "10_0", "9_1"]
    assert (found.throttles, found.forsaken, found.more) == ({"9": 1}, [], 0)


def test_what_waits_in_turn_is_told_apart_from_what_is_awaited() -> None:
    scheduler = Job("8", "8", "", "running", Tag("lab", "0123abcd", SCHEDULER, TAG.folder), node="n1", left="1:00")
    found = follow.members([*tasks(9, "rppp"), scheduler], 2)
    assert [(member.name, member.state) for member in found] == [
        ("scheduler-8", "running"),
        ("worker-9_0", "running"),
        ("worker-9_1", "pending"),
        ("workers", "reserve"),
    ]
    assert (
        follow.summary([*tasks(9, "rppp"), scheduler], 2) == "scheduler running, 1 workers running, 1 workers pending"
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("02:00:00", 7200), ("1-12:00:00", 129600), ("2-00", 172800), ("90min", 5400), (1800, 1800)]
)
def test_walltimes_are_read_as_batch_systems_write_them(text: object, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "x-1", "-5", "1-", ""])
def test_walltimes_that_could_mean_two_things_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--walltime"):
        seconds_of(text)


def plan(tmp_path: Path, workers: int = 4, **options: object) -> Plan:
    made: Plan = configured(Slurm, folder=str(tmp_path), **options).plan("lab", Size(workers))
    return made


def headers(text: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")}


def test_the_scripts_hold_what_was_asked_for(tmp_path: Path) -> None:
    found = plan(
        tmp_path,
        cores="4",
        memory="8GB",
        walltime="02:00:00",
        scheduler_walltime="1-00:00:00",
        partition="cpu",
        account="lab",
        qos="long",
        interface="ib0",
        modules="gcc/13 python",
        prologue=["export OMP_NUM_THREADS=16"],
        directive=["--exclusive"],
    )
    folder = found.steps["folder"]
    worker, scheduler = found.steps["worker.sh"], found.steps["scheduler.sh"]
    common = {"-p cpu", "-A lab", "-n 1", "-N 1", "--qos=long", "--exclusive", "--open-mode=append"}
    uid = folder[-8:]
    tag = f"--comment=clusterglm;name=lab;uid={uid};role={{}};dir={folder}"
    own = {"-J cglm-lab-worker", "--cpus-per-task=4", "--mem=7630M", "-t 02:00:00", "--requeue", tag.format("worker")}
    assert headers(worker) == common | own | {f"-o {folder}/logs/worker-%A_%a.log"}
    own = {"-J cglm-lab-scheduler", "--cpus-per-task=1", "--mem=1908M", "-t 24:00:00", "--no-requeue"}
    assert headers(scheduler) == common | own | {tag.format("scheduler"), f"-o {folder}/logs/scheduler-%j.log"}
    lines = worker.splitlines()
    assert lines.index("module load gcc/13 python") < lines.index("export OMP_NUM_THREADS=16")
    assert lines.index("export OMP_NUM_THREADS=16") < lines.index("export OMP_NUM_THREADS=1")
    words = lines[-1].split()
    for option, value in {
        "--nworkers": "4",
        "--nthreads": "1",
        "--memory-limit": "1900000000",
        "--lifetime": "6900s",
        "--interface": "ib0",
        "--name": '"lab-$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID"',
    }.items():
        assert words[words.index(option) + 1] == value
    # Thirteen generations in a day, one of them to spare.
    assert "--array=0-51%4" in found.steps["submit"]


def test_what_was_not_given_is_the_sites_to_say(tmp_path: Path) -> None:
    import dask.config

    from clusterglm.clusters.batch import site

    assert site.settings("slurm")["walltime"] == "00:30:00"
    own = {
        "queue": "theirs",
        "cores": 8,
        "memory": "16GB",
        "processes": 2,
        "walltime": "04:00:00",
        "job-extra-directives": ["--gres=gpu:1"],
        "job-directives-skip": ["--mem"],
        "job-script-prologue": ["source /site/profile"],
        "log-directory": str(tmp_path / "logs"),
    }
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in own.items()}):
        worker = plan(tmp_path).steps["worker.sh"]
        mine = plan(tmp_path, partition="mine", walltime="1h").steps["worker.sh"]
    assert {"-p theirs", "--cpus-per-task=8", "-t 04:00:00", "--gres=gpu:1"} <= headers(worker)
    assert not any(line.startswith("--mem") for line in headers(worker))
    assert "source /site/profile" in worker.splitlines()
    assert "--nworkers 2 --nthreads 4 --memory-limit 7600000000" in worker
    assert {"-p mine", "-t 01:00:00", "--gres=gpu:1"} <= headers(mine)
    assert not (tmp_path / "logs").exists()


def test_directives_that_a_site_refuses_are_left_out(tmp_path: Path) -> None:
    text = plan(tmp_path, skip=["--mem", "--comment", "-t"]).steps["worker.sh"]
    assert not [line for line in headers(text) if line.startswith(("--mem", "--comment", "-t"))]


NOTHING = """
import os, signal, sys
from pathlib import Path
before = signal.getsignal(signal.SIGINT)
from clusterglm.clusters.launcher import Size, configured
from clusterglm.clusters.targets.slurm import Slurm
configured(Slurm, folder=sys.argv[1]).plan("lab", Size(1))
assert signal.getsignal(signal.SIGINT) is before
assert not any("jobqueue" in path.name for path in Path(os.environ["DASK_CONFIG"]).glob("*"))
"""


def test_a_plan_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the signals, which dask-jobqueue's import takes, nor the user's settings, into which it copies a template."""
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    subprocess.run([sys.executable, "-c", NOTHING, str(tmp_path / "runs")], check=True)
    assert not (tmp_path / "runs").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_scripts_are_clean_shell(tmp_path: Path) -> None:
    import shutil

    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck not installed: apt-get install shellcheck")
    steps = plan(tmp_path, scratch="/scratch").steps
    for name in ("scheduler.sh", "worker.sh"):
        (tmp_path / name).write_text(steps[name])
        done = subprocess.run(["shellcheck", tmp_path / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_worker_waits_for_its_scheduler_and_gives_up_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    code, why = wait_for_scheduler(path, 0.1)
    assert (code, "the scheduler's job has not come" in why) == (NOT_YET, True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path.write_text(json.dumps({"address": f"tls://127.0.0.1:{port}"}))
        assert wait_for_scheduler(path, 1) == (0, "")
    assert wait_for_scheduler(path, 1) == (1, f"the scheduler at tls://127.0.0.1:{port} has ended")
    path.unlink()
    assert wait_for_scheduler(path, 30) == (1, "the scheduler has ended")


def test_a_folder_that_is_not_the_clusters_is_not_removed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "lab-0123abcd")
    folder.make({"worker.sh": "true"}, {"workers": 2})
    assert folder.plan()["workers"] == 2
    folder.want(3)
    assert folder.plan()["workers"] == 3
    for name, uid in (("other", "0123abcd"), ("lab", "ffffffff")):
        folder.remove(name, uid)
        assert folder.path.exists()
    (tmp_path / "lab-00000000").symlink_to(folder.path)
    Folder(tmp_path / "lab-00000000").remove("lab", "00000000")
    assert folder.path.exists()
    folder.remove("lab", "0123abcd")
    assert not folder.path.exists()
