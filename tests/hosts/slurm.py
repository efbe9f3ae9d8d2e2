"""A real Slurm of several nodes on this machine, in a folder of its own: nothing in /etc, no systemd, no root needed.

Or, with root, over hosts that are made of namespaces (hosts.py): the controller on ``login``, and a node each.

The CPUs and memory of a node are what the configuration says. Every daemon is a child of the process that started it,
is ended by its number, and is told by the kernel to go where that process is killed. Partitions: ``debug`` (the
default) and ``short`` (two minutes at most).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hosts import hosts

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "setpriv")
NODE_MEMORY = 4000  # MB
_START_SECONDS, _STOP_SECONDS = 30.0, 20.0
S = TypeVar("S", bound="Slurm")


def missing() -> list[str]:
    """Return the programs that are not installed here; the daemons' folder is rarely on a user's path."""
    return [name for name in PROGRAMS if _program(name) is None]


class Slurm:
    """A running Slurm; ``nodes`` of ``cpus`` each. Its commands need ``environment``."""

    def __init__(self, folder: Path, nodes: int = 4, cpus: int = 2) -> None:
        self.folder, self.nodes = folder, nodes
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool", "log"):
            (folder / name).mkdir(parents=True, mode=0o755)
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        (folder / "slurm.conf").write_text(self._configuration(cpus))
        # Many containers and namespaces have no /sys/fs/cgroup: slurmd then must not look for it.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n")

    def start(self) -> None:
        """Start the daemons and wait until every node is idle."""
        where = self.folder
        # --force: else munged refuses a socket below a folder of mode 0700, which pytest's are.
        munge = ["munged", "--foreground", "--force", f"--key-file={where}/munge.key", f"--socket={where}/munge.sock"]
        munge += [f"--pid-file={where}/munged.pid", f"--seed-file={where}/seed", f"--log-file={where}/log/munged.log"]
        self._daemon(*munge)
        self._until(lambda: (where / "munge.sock").exists())
        self._daemon("slurmctld", "-D")
        for number in range(1, self.nodes + 1):
            self._daemon("slurmd", "-D", "-N", f"n{number}", host=f"n{number}")
        self._until(lambda: self.command("sinfo", "-h", "-t", "idle", "-o", "%D") == str(self.nodes))

    def stop(self) -> None:
        """Cancel all jobs, and end the daemons, the controller last."""
        with contextlib.suppress(subprocess.SubprocessError, OSError, AssertionError):
            self.cancel_all()
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *words: str) -> str:
        """Run a command of Slurm's and return what it printed, empty where it failed."""
        environment = os.environ | self.environment
        options = {"capture_output": True, "text": True, "timeout": 30, "check": False}
        done = subprocess.run(self.words(*words, host="login"), env=environment, **options)  # type: ignore[call-overload]
        return str(done.stdout).strip() if done.returncode == 0 else ""

    def jobs(self) -> list[str]:
        """Return the jobs in the queue, one a task: ``ID NAME STATE REASON``."""
        return self.command("squeue", "-h", "-r", "-o", "%i %j %T %r").splitlines()

    def cancel_all(self) -> None:
        """Cancel whatever is in the queue, and wait until it is empty."""
        if jobs := sorted({line.split()[0].split("_")[0] for line in self.jobs()}):
            self.command("scancel", *jobs)
        self._until(lambda: not self.jobs())

    def _configuration(self, cpus: int) -> str:
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(self.nodes + 1)
        nodes = [f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}" for port in ports[1:]]
        return _configuration(self.folder, f"{host}(127.0.0.1)", ports[0], nodes, cpus)

    def words(self, *words: str, host: str = "") -> list[str]:
        """Return the command line that runs a command on a host."""
        return list(words)

    def _daemon(self, program: str, *arguments: str, host: str = "login") -> None:
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inner = self.words("env", *variables, _program(program) or program, *arguments, host=host)
        with (self.folder / "log" / "daemons.out").open("ab") as log:
            self.daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *inner],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the tests, which end these
                )
            )

    def _until(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + _START_SECONDS
        while not condition():
            dead = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            assert not dead, f"ended: {dead}; see {self.folder}/log"
            assert time.monotonic() < until, f"Slurm waited for in vain: see {self.folder}/log"
            time.sleep(0.05)


class SlurmOverHosts(Slurm):
    """The same over hosts: a node each, and a controller on ``login``, where commands are run; arrays of few tasks."""

    def __init__(self, folder: Path, nodes: int = 3, cpus: int = 2, most_tasks: int = 3) -> None:
        self.most_tasks = most_tasks
        (folder / "hosts").mkdir(parents=True)
        self.hosts = hosts.Hosts(folder / "hosts", ["login", *(f"n{i}" for i in range(1, nodes + 1))], {})
        super().__init__(folder, nodes, cpus)

    def start(self) -> None:
        self.hosts.start()
        super().start()

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.hosts.stop()

    def _configuration(self, cpus: int) -> str:
        addresses = self.hosts.addresses
        nodes = [f"NodeHostname={name} NodeAddr={addresses[name]} Port=6818" for name in self.hosts.names[1:]]
        return _configuration(self.folder, f"login({addresses['login']})", 6817, nodes, cpus, self.most_tasks)

    def words(self, *words: str, host: str = "") -> list[str]:
        return self.hosts.command(host, *words)


@contextlib.contextmanager
def running(folder: Path, nodes: int = 4, cpus: int = 2) -> Iterator[Slurm]:
    """Run a Slurm for the length of a ``with`` block."""
    yield from _run(Slurm(folder, nodes, cpus))


@contextlib.contextmanager
def running_over_hosts(folder: Path) -> Iterator[SlurmOverHosts]:
    """Run a Slurm over three hosts for the length of a ``with`` block."""
    yield from _run(SlurmOverHosts(folder))


def _run(slurm: S) -> Iterator[S]:
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago: no two Slurms on a machine may share one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _configuration(
    folder: Path, controller: str, port: int, nodes: Sequence[str], cpus: int, most_tasks: int = 1001
) -> str:
    """Return a configuration; of each node in ``nodes`` the words that say where it is."""
    import getpass

    user = getpass.getuser()
    settings = {
        "ClusterName": f"test{port}",
        "SlurmctldHost": controller,
        "SlurmctldPort": port,
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.sock",
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool" / "%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.%n.pid",
        "SlurmctldLogFile": folder / "log" / "slurmctld.log",
        "SlurmdLogFile": folder / "log" / "slurmd.%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": 2,
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=100000",
        "SlurmdParameters": "config_overrides",  # more CPUs than this machine has
        "DefMemPerCPU": 500,
        "ReturnToService": 2,
        "KillWait": 5,
        "MinJobAge": 300,
        "InactiveLimit": 0,
        "SlurmctldTimeout": 30,
        "SlurmdTimeout": 30,
        "MaxArraySize": most_tasks,
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    for number, where in enumerate(nodes, start=1):
        lines.append(f"NodeName=n{number} {where} CPUs={cpus} RealMemory={NODE_MEMORY} State=UNKNOWN")
    lines.append("PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
    lines.append("PartitionName=short Nodes=ALL MaxTime=00:02:00 State=UP")
    return "\n".join(lines) + "\n"
