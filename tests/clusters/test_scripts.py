"""The text of one-job scripts: what is in launch/, what options make of it, and that no word of a user's gets out."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from clusterglm.clusters.launcher import configured
from clusterglm.clusters.scripts import SCRIPTS
from clusterglm.errors import UsageError

LAUNCH = Path(__file__).parents[2] / "launch"
README = LAUNCH.parent / "README.md"
FILES = {"slurm": "slurm.sbatch"} | {
    system: f"{system}.sh" for system in ("pbs", "sge", "lsf", "oar", "moab", "htcondor")
}
SYSTEMS = sorted(SCRIPTS)
PIECES = [*"ab1-=/ :;'\"$`\\\n\r\t#!&|<>(){}*?~%é\0", "#SBATCH ", "$(id)", "/x"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def script(system: str, *fit: str, **options: Any) -> str:
    return str(configured(SCRIPTS[system], **options).script(fit))


def directives(system: str, text: str) -> list[str]:
    mark = SCRIPTS[system].mark + " "
    return [line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark)]


def shellcheck(text: str) -> None:
    subprocess.run(["shellcheck", "-s", "bash", "-"], input=text, text=True, check=True)


def test_every_system_has_its_script_in_launch() -> None:
    assert set(FILES) == set(SCRIPTS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_scripts_of_launch_are_those_without_options(system: str) -> None:
    text = (LAUNCH / FILES[system]).read_text()
    assert text == script(system)
    assert 25 <= len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 120
    shellcheck(text)


OPTIONS: dict[str, Any] = {
    "nodes": "2",
    "workers_per_node": "3",
    "memory": "1500MB",
    "walltime": "26h",
    "job_name": "night",
    "account": "lab",
    "interface": "ib0",
    "scratch": "/scratch/me",
    "python": "/opt/venv/bin/python",
    "modules": "gcc/13 python/3.12",
    "prologue": ["ulimit -c 0", "conda activate 'my env'"],
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_options_have_their_places(system: str) -> None:
    text = script(system, "admm", "--data", "a b.parquet", **OPTIONS)
    shellcheck(text)
    lines = text.splitlines()
    order = [lines.index(line) for line in ("module load gcc/13 python/3.12", *OPTIONS["prologue"], "set -eu")]
    threads = next(i for i, line in enumerate(lines) if line.startswith("export OMP_NUM_THREADS=1 "))
    assert order == sorted(order)
    assert order[-1] < threads
    assert "export PATH=/opt/venv/bin:$PATH" in lines
    workers = 2 if system == "htcondor" else 1  # of the first machine, and of the others
    assert text.count("--interface ib0") == 1 + workers
    assert text.count("--local-directory /scratch/me") == workers
    assert "set -- admm --data 'a b.parquet' \"$@\"" in lines
    assert any("26:00" in line or "> 93600" in line for line in directives(system, text))


@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_is_asked_for_that_was_not_said(system: str) -> None:
    text = script(system)
    assert not {"account", "partition", "queue", "qos"} & set(
        " ".join(directives(system, text)).replace("=", " ").split()
    )
    assert "module load gcc" not in text


def test_directives_of_slurm() -> None:
    given = {"partition": "short", "qos": "high", "constraint": "a&b|[c*2]", "account": "lab", "reservation": "r"}
    found = directives(
        "slurm", script("slurm", directive=["--gres=gpu:1"], skip=["--mem-per-cpu"], memory="1500MB", **given)
    )
    assert found == [
        "--job-name=clusterglm",
        "--account=lab",
        "--partition=short",
        "--qos=high",
        "--constraint=a&b|[c*2]",
        "--reservation=r",
        "--nodes=8",
        "--ntasks-per-node=8",
        "--cpus-per-task=1",
        "--time=02:00:00",
        "--signal=B:TERM@60",
        "--gres=gpu:1",
    ]
    assert "SLURM_MEM_PER_CPU:-1431" in script("slurm", memory="1500MB")
    assert "--mem-per-cpu=1431M" in directives("slurm", script("slurm", memory="1500MB"))
    anywhere = directives("slurm", script("slurm", workers="50"))
    assert "--ntasks=50" in anywhere
    assert not [line for line in anywhere if line.startswith(("--nodes", "--ntasks-per-node"))]
    with pytest.raises(UsageError, match="give one of them"):
        script("slurm", workers="50", workers_per_node="2")


def test_directives_of_pbs() -> None:
    given = {"nodes": "2", "workers_per_node": "4", "memory": "1GiB", "queue": "small", "account": "lab"}
    text = script("pbs", skip=["-V"], directive=["-m n"], **given)
    assert directives("pbs", text) == [
        "-N clusterglm",
        "-A lab",
        "-q small",
        "-l select=2:ncpus=4:mpiprocs=4:mem=4096mb",
        "-l walltime=02:00:00",
        "-m n",
    ]
    assert "exec pbs_tmrsh " in text
    torque = script("pbs", dialect="torque", **given)
    assert "-l nodes=2:ppn=4,pmem=1024mb" in directives("pbs", torque)
    assert "exec pbsdsh -h " in torque
    assert "exec ssh -o BatchMode=yes " in script("pbs", starter="ssh")
    with pytest.raises(UsageError, match="did you mean torque"):
        script("pbs", dialect="torqe")


ASKED = {
    "sge": [
        "-N clusterglm",
        "-A lab",
        "-q small",
        "-pe mpi 8",
        "-l h_rt=26:00:00",
        "-l mem_free=1024M",
        "-V -cwd -j y -S /bin/bash",
    ],
    "lsf": [
        "-J clusterglm",
        "-P lab",
        "-q small",
        "-n 8",
        '-R "span[ptile=4] rusage[mem=4096]"',
        "-W 26:00",
        "-o clusterglm-%J.out -wa USR2 -wt 2",
    ],
    "oar": [
        "-n clusterglm",
        "--project lab",
        "-q small",
        "-l nodes=2/core=4,walltime=26:00:00",
        "-O clusterglm-%jobid%.out",
        "-E clusterglm-%jobid%.out",
        "--checkpoint 60",
    ],
    "htcondor": [
        "batch_name = clusterglm",
        "universe = parallel",
        "machine_count = 2",
        "accounting_group = lab",
        "request_cpus = 4",
        "request_memory = 4096",
        "periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > 93600",
        "output = clusterglm-$(ClusterId)-$(Node).out",
        "error = clusterglm-$(ClusterId)-$(Node).out",
        "executable = /bin/bash",
        "should_transfer_files = NO",
        "getenv = True",
        'environment = "CLUSTERGLM_JOB=$(ClusterId)"',
    ],
    "moab": [
        "-N clusterglm",
        "-A lab",
        "-q small",
        "-l nodes=2:ppn=4,pmem=1024mb",
        "-l walltime=26:00:00",
        "-V -j oe",
    ],
}


@pytest.mark.parametrize("system", ASKED)
def test_directives_of_other_systems(system: str) -> None:
    """As their manuals have them."""
    given = {"nodes": "2", "workers_per_node": "4", "memory": "1GiB", "queue": "small", "account": "lab"}
    if system == "htcondor":
        del given["queue"]  # there is one alone
    text = script(system, walltime="26h", **given)
    assert directives(system, text) == ASKED[system]
    assert "--memory-limit 921MiB" in text


def test_slots_of_grid_engine() -> None:
    assert "-pe orte 30" in directives("sge", script("sge", workers="30", pe="orte"))
    assert "-l h_vmem=1024M" in directives("sge", script("sge", memory="1GiB", memory_resource="h_vmem"))
    with pytest.raises(UsageError, match="leave it out"):
        script("sge", workers="30", nodes="2")


@pytest.mark.parametrize("system", SYSTEMS)
@hypothesis.settings(deadline=None)
@hypothesis.given(value=TEXT, field=st.data())
def test_no_word_becomes_a_line_or_a_command(system: str, value: str, field: Any) -> None:
    """Whatever an option holds, it is refused, or the script has the lines that it always has but for a word in one."""
    own = ("prologue", "directive", "skip", *(["nodes"] if system == "htcondor" else []))  # a number, and more lines
    names = [item.name for item in dataclasses.fields(SCRIPTS[system]) if item.name not in own]
    try:
        text = script(system, **{field.draw(st.sampled_from(names)): value})
    except UsageError:
        return
    usual = script(system).split("\n")
    assert len(text.split("\n")) <= len(usual) + 1
    for line in set(text.split("\n")) - set(usual):
        if line.startswith("#"):
            assert re.fullmatch(r"[\w .,:+@/&|()*\[\]=~>-]+", line.replace('"', "").lstrip("#$"), re.ASCII)
            assert line.count('"') in (0, 2)  # those of LSF's own
        else:
            assert not set(value.strip()) & set("\"'`$;&|()<>*?#!\\\n\r"), line


@hypothesis.settings(deadline=None)
@hypothesis.given(fit=st.lists(TEXT, min_size=1, max_size=4))
def test_the_words_of_a_fit_reach_it_as_they_are(fit: list[str]) -> None:
    try:
        text = script("slurm", *fit)
    except UsageError:
        assert any(character in word for word in fit for character in "\0\n")
        return
    line = next(line for line in text.split("\n") if line.startswith("set -- ") and line.endswith(' "$@"'))
    assert shlex.split(line)[2:-1] == fit


REFUSED = [
    (("--partition", "a b"), "--partition (a b)"),
    (("--account", "x\n#SBATCH --wrap=id"), "--account"),
    (("--directive", "--wrap=$(id)"), "--directive"),
    (("--prologue", "#SBATCH --uid=0"), "would be read as a directive"),
    (("--python", "python3"), "--python (python3): must be an absolute path"),
    (("--nodes", "0"), "--nodes (0): must be at least 1"),
    (("--walltime", "soon"), "--walltime (soon): not a duration"),
    (("--memory", "1MB"), "--memory (1MB): less than"),
    (("--", "admn", "--rows", "1e5"), "admn"),
    (("--", "admm", "--rows", "many"), "--rows (many)"),
    (("--", "--rows", "1e5"), "SOLVER: missing"),
    (("--", "newton", "--rows", "1e5", "--penalty", "l1"), "newton needs a smooth penalty"),
    (("--", "admm", "--rows", "1e5", "--cluster", "lab"), "--cluster (lab): the job has a cluster of its own"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_the_command_refuses_what_the_job_would(clusterglm: Any, arguments: tuple[str, ...], words: str) -> None:
    done = clusterglm("script", "slurm", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_settings_of_sites_in_the_readme_are_taken(clusterglm: Any) -> None:
    rows = re.findall(r"^\| .* \| (`--.*`) \|$", README.read_text().split("## One batch job")[1], re.M)
    lines = [line for row in rows for line in re.findall("`(.*?)`", row)]
    assert len(lines) > 10
    together = shlex.split(" ".join(line for line in lines if "--workers " not in line))
    done = clusterglm("script", "slurm", *together)
    assert (done.returncode, done.stderr) == (0, "")
    for line in lines:
        script("slurm", **given(shlex.split(line)))


def given(line: list[str]) -> dict[str, Any]:
    """Return the options of a command line; the repeated ones as lists."""
    found: dict[str, Any] = {}
    for option, value in zip(line[::2], line[1::2], strict=True):
        name = option.removeprefix("--").replace("-", "_")
        if name in ("prologue", "directive", "skip"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def test_the_command_prints_the_script(clusterglm: Any) -> None:
    done = clusterglm("script", "slurm")
    assert (done.returncode, done.stdout) == (0, (LAUNCH / "slurm.sbatch").read_text())
    done = clusterglm(
        "script", "slurm", "--nodes", "2", "--prologue", "a", "--prologue", "b", "--", "admm", "--rows", "1e5"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\na\nb\n" in done.stdout
    assert 'set -- admm --rows 1e5 "$@"' in done.stdout
