"""A real Grid Engine over hosts of their own (hosts.py): a master on ``login``, and a host of two slots each for jobs.

The machine's own /var/lib/gridengine and /var/spool/gridengine stay as they are: copies lie over them, on these hosts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hosts import hosts

PROGRAMS = {"sge_qmaster": "gridengine-master", "sge_execd": "gridengine-exec", "qconf": "gridengine-client"}
SLOTS = 2
_LIBRARY, _SPOOL = "/var/lib/gridengine", "/var/spool/gridengine"
_ADMIN = "sgeadmin"
_PORT = 6444  # inside the site alone
_SECONDS = 30.0
ENVIRONMENT = {
    "SGE_ROOT": _LIBRARY,
    "SGE_CELL": "default",
    "SGE_QMASTER_PORT": str(_PORT),
    "SGE_EXECD_PORT": str(_PORT + 1),
}


def missing() -> list[str]:
    """Return what is not installed here."""
    return hosts.missing() + [package for program, package in PROGRAMS.items() if _program(program) is None]


class GridEngine:
    """A running Grid Engine. ``command`` runs its commands, as on a login node."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        library, spool = folder / "library", folder / "spool"
        shutil.copytree(_LIBRARY, library, symlinks=True)
        common = library / "default" / "common"
        for name in ("act_qmaster", "accounting"):
            (common / name).unlink(missing_ok=True)
        (common / "act_qmaster").write_text("login\n")
        for name in ("execd", "spooldb", "qmaster/job_scripts"):
            (spool / name).mkdir(parents=True)
        for path in (library / "default", spool, *(library / "default").rglob("*"), *spool.rglob("*")):
            shutil.chown(path, _ADMIN, _ADMIN)
        spool.chmod(0o755)
        self.hosts = hosts.Hosts(folder, ["login", *self.nodes], {_LIBRARY: library, _SPOOL: spool})
        self.files = folder

    def start(self) -> None:
        """Start master and hosts, and wait until every host has reported."""
        self.hosts.start()
        scripts = "/usr/share/gridengine/scripts/init_cluster"
        self._as_admin(scripts, _LIBRARY, "default", f"{_SPOOL}/spooldb", _ADMIN)
        self.command("sge_qmaster")
        self._until(lambda: self._tried("qconf", "-sh") is not None)
        self.command("qconf", "-as", "login")
        # Jobs of root, a glance at the queue every second, the last words of jobs at once.
        self._edit("-sconf", "-Mconf", "global", min_uid="0", min_gid="0", load_report_time="00:00:05",
                   gid_range="20000-20100", execd_spool_dir=f"{_SPOOL}/execd",
                   reporting_params="accounting=true reporting=false flush_time=00:00:01")  # fmt: skip
        self._edit("-ssconf", "-Msconf", "scheduler", schedule_interval="0:0:1", flush_submit_sec="1",
                   flush_finish_sec="1", schedd_job_info="true", job_load_adjustments="NONE",
                   load_formula="slots")  # fmt: skip
        self._add("-Ahgrp", "group", group_name="@allhosts", hostlist="NONE")
        self._add("-Ap", "environment", pe_name="mpi", slots="999", user_lists="NONE", xuser_lists="NONE",
                  start_proc_args="NONE", stop_proc_args="NONE", allocation_rule="$round_robin", control_slaves="TRUE",
                  job_is_first_task="TRUE", urgency_slots="min", accounting_summary="TRUE",
                  qsort_args="NONE")  # fmt: skip
        queue = self.command("qconf", "-sq")
        self._file("queue", _changed(queue, qname="all.q", hostlist="@allhosts", slots=str(SLOTS), pe_list="mpi",
                                     load_thresholds="NONE", shell="/bin/bash",
                                     shell_start_mode="unix_behavior"))  # fmt: skip
        self.command("qconf", "-Aq", str(self.files / "queue"))
        for node in self.nodes:
            self._add("-Ae", node, hostname=node, load_scaling="NONE", complex_values="NONE", user_lists="NONE",
                      xuser_lists="NONE", projects="NONE", xprojects="NONE", usage_scaling="NONE",
                      report_variables="NONE")  # fmt: skip
            self.command("qconf", "-aattr", "hostgroup", "hostlist", node, "@allhosts")
            subprocess.run(self._on(node, "sge_execd"), check=True, capture_output=True, timeout=60)
        self._until(lambda: self.command("qhost").count("lx-") == len(self.nodes))

    def stop(self) -> None:
        """End everything with the hosts."""
        self.hosts.stop()

    def command(self, *words: str) -> str:
        """Run a command on the login node and return what it printed; AssertionError where it has failed."""
        done = subprocess.run(self._on("login", *words), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def words(self, *words: str) -> list[str]:
        """Return the command line that runs a command of Grid Engine's on the login node."""
        return self._on("login", *words)

    def jobs(self) -> str:
        """Return what is in the queue."""
        return self.command("qstat", "-u", "*")

    def _on(self, host: str, *words: str) -> list[str]:
        program = _program(words[0]) or words[0]
        return self.hosts.command(host, "env", *(f"{k}={v}" for k, v in ENVIRONMENT.items()), program, *words[1:])

    def _as_admin(self, *words: str) -> None:
        admin = ("setpriv", f"--reuid={_ADMIN}", f"--regid={_ADMIN}", "--clear-groups", _program(words[0]) or words[0])
        self.command(*admin, *words[1:])

    def _tried(self, *words: str) -> str | None:
        with contextlib.suppress(AssertionError):
            return self.command(*words)
        return None

    def _file(self, name: str, text: str) -> None:
        (self.files / name).write_text(text + "\n")

    def _edit(self, show: str, modify: str, name: str, **values: str) -> None:
        self._file(name, _changed(self.command("qconf", show), **values))
        self.command("qconf", modify, str(self.files / name))

    def _add(self, add: str, name: str, **values: str) -> None:
        self._file(name, "\n".join(f"{key} {value}" for key, value in values.items()))
        self.command("qconf", add, str(self.files / name))

    def _until(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < until, f"Grid Engine waited for in vain: see {self.files}"
            time.sleep(0.1)


@contextlib.contextmanager
def running(folder: Path, nodes: int = 3) -> Iterator[GridEngine]:
    """Run a Grid Engine for the length of a ``with`` block."""
    engine = GridEngine(folder, nodes)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


def _changed(text: str, **values: str) -> str:
    """Return a configuration with these values; a line may go on behind a backslash."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [line for line in lines if line.strip() and not line.startswith("#")]
    kept = [line for line in found if line.split()[0] not in values]
    return "\n".join([*kept, *(f"{key} {value}" for key, value in values.items())])


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
