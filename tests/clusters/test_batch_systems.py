"""What each batch system is asked for, and how its answers are read: by the manual where it has not been at hand."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.clusters.batch.job import WORKER, Job
from clusterglm.clusters.batch.reach import NOT_YET
from clusterglm.clusters.launcher import Plan, Size, configured
from clusterglm.clusters.targets import TARGETS, lsf, oar, pbs, sge
from clusterglm.errors import UsageError

SYSTEMS = {name: target for name, target in TARGETS.items() if target.parts == "jobs"}
FULL = {"cores": "4", "memory": "8GB", "walltime": "02:00:00", "scheduler_walltime": "1-00:00:00"}
ME = getpass.getuser()


def plan(target: str, tmp_path: Path, workers: int = 4, **options: object) -> Plan:
    made: Plan = configured(SYSTEMS[target], folder=str(tmp_path), **options).plan("lab", Size(workers))
    return made


def asked(text: str, mark: str) -> list[str]:
    return [line.removeprefix(f"{mark} ") for line in text.splitlines() if line.startswith(f"{mark} ")]


@pytest.mark.parametrize(
    ("target", "mark", "options", "expected"),
    [
        (
            "pbs",
            "#PBS",
            {"queue": "small", "account": "lab", "project": "sky", "directive": ["-m n"]},
            ["-N cglm-NAME-worker", "-q small", "-A lab", "-l select=1:ncpus=4:mem=7630mb", "-l walltime=02:00:00",
             "-m n", "-P sky", "-j oe", "-o FOLDER/logs/", "-r y"],
        ),
        ("pbs", "#PBS", {"dialect": "torque"}, ["-l nodes=1:ppn=4,mem=7630mb"]),
        ("pbs", "#PBS", {"resource_spec": "select=1:ncpus=4:mem=8gb:ngpus=1"}, ["-l select=1:ncpus=4:mem=8gb:ngpus=1"]),
        (
            "sge",
            "#$",
            {"queue": "all.q", "project": "sky", "pe": "shm", "memory_resource": "h_vmem"},
            ["-N cglm-NAME-worker", "-q all.q", "-P sky", "-l h_vmem=1908M", "-l h_rt=02:00:00", "-cwd", "-j y",
             "-pe shm 4", "-S /bin/bash", "-o FOLDER/logs/", "-r y"],
        ),
        ("sge", "#$", {}, ["-pe smp 4", "-l mem_free=1908M"]),
        (
            "lsf",
            "#BSUB",
            {"queue": "normal", "project": "sky"},
            ["-J cglm-NAME-worker", "-q normal", '-P "sky"', "-n 4", '-R "span[hosts=1]"', "-M 8000000", "-W 02:00",
             '-R "rusage[mem=7630]"', '-Jd "clusterglm;name=lab;uid=UID;role=worker;dir=FOLDER"',
             "-o FOLDER/logs/worker-%J_%I.lsf", "-r"],
        ),
        (
            "oar",
            "#OAR",
            {"queue": "default", "project": "sky"},
            ["-n cglm-NAME-worker", "-q default", "--project sky", "-l /nodes=1/core=4,walltime=02:00:00", "-d FOLDER",
             "-O FOLDER/logs/worker-%jobid%.oar", "-E FOLDER/logs/worker-%jobid%.oar"],
        ),
        (
            "htcondor",
            "#CONDOR",
            {"accounting_group": "sky", "directive": ["request_gpus = 1"]},
            ["batch_name = cglm-NAME-worker", '+ClusterGLM = "clusterglm;name=lab;uid=UID;role=worker;dir=FOLDER"',
             "universe = vanilla", "executable = /bin/bash",
             'arguments = "FOLDER/worker.sh $(ClusterId) $(ProcId)"', "transfer_executable = False",
             "should_transfer_files = IF_NEEDED", "initialdir = FOLDER", "request_cpus = 4",
             "on_exit_remove = ExitBySignal == False && ExitCode != 0", "request_memory = 7630",
             "periodic_remove = JobStatus == 2 && time() - EnteredCurrentStatus > 7200", "accounting_group = sky",
             "request_gpus = 1"],
        ),
        (
            "moab",
            "#MSUB",
            {"queue": "batch", "account": "lab"},
            ["-N cglm-NAME-worker", "-q batch", "-A lab", "-l nodes=1:ppn=4,mem=7630mb", "-l walltime=02:00:00",
             "-j oe", "-o FOLDER/logs/", "-r y"],
        ),
    ],
)  # fmt: skip
def test_a_job_asks_for_what_was_asked_for(
    tmp_path: Path, target: str, mark: str, options: dict[str, Any], expected: list[str]
) -> None:
    steps = plan(target, tmp_path, **FULL, **options).steps
    name = Path(steps["folder"]).name
    words = {"NAME": name, "UID": name[-8:], "FOLDER": steps["folder"]}

    def full(line: str) -> str:
        for word, value in words.items():
            line = line.replace(word, value)
        return line

    found = asked(steps["worker.sh"], mark)
    if len(expected) > 3:
        assert found == [full(line) for line in expected]
    assert set(map(full, expected)) <= set(found)
    assert any("24:00" in line or "> 86400" in line for line in asked(steps["scheduler.sh"], mark))


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("pbs", ["qsub F/scheduler.sh", "qsub -W depend=after:JOB -J 0-3 F/worker.sh"]),
        ("sge", ["qsub -terse F/scheduler.sh", "qsub -terse -t 1-52 -tc 4 F/worker.sh"]),
        ("lsf", ["bsub < F/scheduler.sh", "bsub -w 'started(JOB)' -ti -J 'N[1-52]%4' < F/worker.sh"]),
        ("oar", ["oarsub -S F/scheduler.sh", "oarsub --array 4 -S F/worker.sh"]),
        (
            "htcondor",
            [
                "sed -n 's/^#CONDOR //p' F/scheduler.sh | condor_submit -terse - -queue 1",
                "sed -n 's/^#CONDOR //p' F/worker.sh | condor_submit -terse - -queue 4",
            ],
        ),
        ("moab", ["msub F/scheduler.sh", "msub -W depend=after:JOB -t 0-3 F/worker.sh"]),
    ],
)
def test_the_commands_that_submit(tmp_path: Path, target: str, lines: list[str]) -> None:
    steps = plan(target, tmp_path, **FULL).steps
    folder = Path(steps["folder"])
    assert steps["submit"].splitlines() == [
        line.replace("F/", f"{folder}/").replace("N[", f"{folder.name}[") for line in lines
    ]


@pytest.mark.parametrize("target", SYSTEMS)
def test_scripts_are_clean_shell_that_holds_libraries_to_one_thread(tmp_path: Path, target: str) -> None:
    steps = plan(target, tmp_path, prologue=["export OMP_NUM_THREADS=16"], scratch="/scratch").steps
    for name in ("scheduler.sh", "worker.sh"):
        lines = steps[name].splitlines()
        assert lines.index("export OMP_NUM_THREADS=16") < lines.index("export OMP_NUM_THREADS=1")
        assert subprocess.run(["bash", "-n"], input=steps[name], text=True, check=False).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck not installed: apt-get install shellcheck")
    (tmp_path / "worker.sh").write_text(steps["worker.sh"])
    done = subprocess.run(["shellcheck", tmp_path / "worker.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("target", "variables", "log", "worker"),
    [
        ("pbs", "PBS_JOBID=12[5].server PBS_ARRAY_INDEX=5", "worker-12_5.log", "lab-12-5"),
        ("pbs", "PBS_JOBID=12.server", "worker-12_0.log", "lab-12-0"),
        ("moab", "PBS_JOBID=12[5].server PBS_ARRAYID=5", "worker-12_5.log", "lab-12-5"),
        ("sge", "JOB_ID=12 SGE_TASK_ID=5", "worker-12_5.log", "lab-12-5"),
        ("lsf", "LSB_JOBID=12 LSB_JOBINDEX=5", "worker-12_5.log", "lab-12-5"),
        ("oar", "OAR_JOB_ID=12", "worker-12_0.log", "lab-12-0"),
        ("htcondor", "", "worker-12_5.log", "lab-12-5"),
    ],
)
def test_every_task_has_a_log_and_a_name_of_its_own(
    tmp_path: Path, target: str, variables: str, log: str, worker: str
) -> None:
    """As the shell makes them of what the system tells a job."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    steps = plan(target, tmp_path, python=str(tmp_path / "python")).steps
    logs = Path(steps["folder"], "logs")
    logs.mkdir(parents=True)
    given = ["env", *variables.split(), "bash", "-s", "12", "5"]
    subprocess.run(given, input=steps["worker.sh"], text=True, check=True)
    (found,) = logs.iterdir()
    assert found.name == log
    words = found.read_text().split()
    assert words[words.index("--name") + 1] == worker


@pytest.mark.parametrize(("target", "code"), [("sge", 99), ("htcondor", 0), ("pbs", 1), ("oar", 1)])
def test_a_worker_that_comes_before_its_scheduler_goes_back_into_the_queue(
    tmp_path: Path, target: str, code: int
) -> None:
    """Where the system cannot let it wait there from the first: it would keep the place that the scheduler needs."""
    (tmp_path / "python").write_text("#!/bin/sh\nexit $TOLD\n")
    (tmp_path / "python").chmod(0o755)
    steps = plan(target, tmp_path, python=str(tmp_path / "python")).steps
    Path(steps["folder"], "logs").mkdir(parents=True)
    for told, ends in ((NOT_YET, code), (1, 1)):
        variables = ["OAR_JOB_ID=1", "PBS_JOBID=1", "JOB_ID=1", "SGE_TASK_ID=1", f"TOLD={told}"]
        script = "qdel() { :; }\n" + steps["worker.sh"]
        done = subprocess.run(["env", *variables, "bash", "-s", "1", "2"], input=script, text=True, check=False)
        assert done.returncode == ends


@settings(max_examples=30, deadline=None)
@given(
    text=st.text(max_size=30) | st.sampled_from(["a\n#PBS -q x", "$(id)", "`id`", "a;id", "-x", "a b", "'", '"', "\0"])
)
@pytest.mark.parametrize("target", SYSTEMS)
def test_no_words_of_a_user_become_directives_or_shell(target: str, text: str) -> None:
    """They are refused, or a script has as many lines as without them and the words stand in one of them."""
    launcher = SYSTEMS[target]
    names = {
        "queue",
        "account",
        "project",
        "pe",
        "resource_spec",
        "partition",
        "qos",
        "accounting_group",
        "disk",
    } & set(launcher.__dataclass_fields__)
    plain = len(configured(launcher).plan("lab", Size(2)).steps["worker.sh"].splitlines())
    for name in sorted(names):
        try:
            made = configured(launcher, **{name: text}).plan("lab", Size(2)).steps["worker.sh"]
        except UsageError:
            continue
        assert len(made.splitlines()) <= plain + 1
        assert all(line.startswith("#") for line in made.splitlines() if text in line and "$" in text)


PBS_PRO = """Job Id: 1234.pbs
    Job_Name = cglm-lab-0123abcd-scheduler
    Job_Owner = ME@login1.example.org
    job_state = R
    queue = small
    exec_host = cx3-2-29/0*1
    Variable_List = PBS_O_HOME=/rds/general/user/me/home,PBS_O_LANG=en_GB.UTF-8,
\tPBS_O_WORKDIR=/rds/general/user/me/home/.local/share/clusterglm/clusters/la
\tb-0123abcd,PBS_O_HOST=login1.example.org
    comment = Job run at Mon Feb 13 at 19:00 on (cx3-2-29:ncpus=1)

Job Id: 1235[].pbs
    Job_Name = cglm-lab-0123abcd-worker
    Job_Owner = ME@login1.example.org
    job_state = B
    array = True

Job Id: 1235[0].pbs
    Job_Name = cglm-lab-0123abcd-worker
    Job_Owner = ME@login1.example.org
    job_state = R
    exec_host = cx3-2-30/1*4
    Variable_List = PBS_O_WORKDIR=/rds/general/user/me/home/.local/share/cluster
\tglm/clusters/lab-0123abcd

Job Id: 1235[1].pbs
    Job_Name = cglm-lab-0123abcd-worker
    Job_Owner = ME@login1.example.org
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus
    estimated.start_time = Tue Feb 14 02:10:01 2023

Job Id: 1235[2].pbs
    Job_Name = cglm-lab-0123abcd-worker
    Job_Owner = ME@login1.example.org
    job_state = H
    Hold_Types = u

Job Id: 1235[3].pbs
    Job_Name = cglm-lab-0123abcd-worker
    Job_Owner = ME@login1.example.org
    job_state = H
    Hold_Types = s
    depend = after:1234.pbs@pbs

Job Id: 1236.pbs
    Job_Name = cglm-lab-0123abcd-worker
    Job_Owner = somebody@login1.example.org
    job_state = R

Job Id: 1237.pbs
    Job_Name = big-mpi
    Job_Owner = ME@login1.example.org
    job_state = R
"""
TORQUE = """Job Id: 88.torque
    Job_Name = cglm-lab-0123abcd-scheduler
    Job_Owner = ME@login
    job_state = C
    exit_status = 271

Job Id: 89[1].torque
    Job_Name = cglm-lab-0123abcd-worker-1
    Job_Owner = ME@login
    job_state = E
    exec_host = node3/0+node3/1
    Variable_List = PBS_ARRAYID=1,PBS_O_WORKDIR=/home/me/lab-0123abcd
"""


def brief(jobs: list[Job]) -> list[tuple[str, ...]]:
    return [(job.id, job.job, job.task, job.role, job.state, job.node, job.reason, job.starts) for job in jobs]


def test_what_the_qstat_of_pbs_pro_says() -> None:
    found = pbs.listed(PBS_PRO.replace("ME", ME))
    assert brief(found) == [
        ("1234.pbs", "1234.pbs", "", "scheduler", "running", "cx3-2-29", "", ""),
        ("1235[0].pbs", "1235[].pbs", "0", "worker", "running", "cx3-2-30", "", ""),
        ("1235[1].pbs", "1235[].pbs", "1", "worker", "pending", "",
         "Not Running: Insufficient amount of resource: ncpus", "Tue Feb 14 02:10:01 2023"),
        ("1235[2].pbs", "1235[].pbs", "2", "worker", "held", "", "Hold_Types u", ""),
        ("1235[3].pbs", "1235[].pbs", "3", "worker", "pending", "", "", ""),
    ]  # fmt: skip
    assert {str(job.tag.folder) for job in found[:2]} == {
        "/rds/general/user/me/home/.local/share/clusterglm/clusters/lab-0123abcd"
    }
    assert (found[1].member, found[1].worker) == ("worker-1235_0", "lab-1235-0")


def test_what_the_qstat_of_torque_says() -> None:
    (job,) = pbs.listed(TORQUE.replace("ME", ME))
    assert (job.id, job.job, job.task, job.state) == ("89[1].torque", "89[].torque", "1", "ending")
    assert (job.node, str(job.tag.folder)) == ("node3", "/home/me/lab-0123abcd")


BJOBS = """88^0^RUN^hostA^-^1:30 L^clusterglm;name=lab;uid=0123abcd;role=scheduler;dir=/home/me/lab-0123abcd^-
89^1^RUN^4*hostB^-^1:30 L^clusterglm;name=lab;uid=0123abcd;role=worker;dir=/home/me/lab-0123abcd^-
89^2^PEND^-^Mar 3 14:02^-^clusterglm;name=lab;uid=0123abcd;role=worker;dir=/home/me/lab-0123abcd^Not enough slots;
89^3^PSUSP^-^-^-^clusterglm;name=lab;uid=0123abcd;role=worker;dir=/home/me/lab-0123abcd^Suspended by its user
89^4^EXIT^hostA^-^-^clusterglm;name=lab;uid=0123abcd;role=worker;dir=/home/me/lab-0123abcd^-
90^0^RUN^hostC^-^-^some ^ description^-
"""


def test_what_bjobs_says() -> None:
    assert brief(lsf.listed(BJOBS)) == [
        ("88", "88", "", "scheduler", "running", "hostA", "", ""),
        ("89[1]", "89", "1", "worker", "running", "hostB", "", ""),
        ("89[2]", "89", "2", "worker", "pending", "", "Not enough slots;", "Mar 3 14:02"),
        ("89[3]", "89", "3", "worker", "held", "", "Suspended by its user", ""),
    ]


OARSTAT = """{
   "71" : {"Job_Id" : 71, "array_id" : 71, "array_index" : 1, "name" : "cglm-lab-0123abcd-scheduler", "owner" : "ME",
      "state" : "Running", "assigned_network_address" : ["node-1"], "launchingDirectory" : "/home/me/lab-0123abcd",
      "message" : "Karma = 0.0"},
   "72" : {"Job_Id" : 72, "array_id" : 72, "array_index" : 1, "name" : "cglm-lab-0123abcd-worker", "owner" : "ME",
      "state" : "Waiting", "assigned_network_address" : [], "launchingDirectory" : "/home/me/lab-0123abcd",
      "message" : "FIFO scheduling OK", "scheduledStart" : 1795804015},
   "73" : {"Job_Id" : 73, "array_id" : 72, "array_index" : 2, "name" : "cglm-lab-0123abcd-worker", "owner" : "ME",
      "state" : "Error", "assigned_network_address" : [], "launchingDirectory" : "/home/me/lab-0123abcd"},
   "74" : {"Job_Id" : 74, "array_id" : 74, "array_index" : 1, "name" : null, "owner" : "ME", "state" : "Running",
      "assigned_network_address" : ["node-2"], "launchingDirectory" : "/home/me"}
}
"""


def test_what_oarstat_says() -> None:
    found = oar.listed(OARSTAT.replace("ME", ME))
    assert brief(found) == [
        ("71", "71", "", "scheduler", "running", "node-1", "", ""),
        (
            "72",
            "72",
            "",
            "worker",
            "pending",
            "",
            "FIFO scheduling OK",
            time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(1795804015)),
        ),
    ]
    assert oar.listed("") == []


def test_what_grid_engine_says_of_a_job_that_cannot_run() -> None:
    text = f"""==============================================================
job_number:                 7
submission_time:            Fri Nov 27 14:02:11 2026
owner:                      {ME}
sge_o_workdir:              /home/me/lab-0123abcd
job_name:                   cglm-lab-0123abcd-worker
error reason    1:          11/27/2026 14:02:11 [0:4711]: can't chdir to /home/me/lab-0123abcd
scheduling info:            queue instance "all.q@node1" dropped because it is full
"""
    ((tag, reason),) = sge.details(text).values()
    assert (tag.role, str(tag.folder)) == (WORKER, "/home/me/lab-0123abcd")
    assert "can't chdir" in reason
