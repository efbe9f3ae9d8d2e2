"""``local``: a scheduler and workers on this machine that outlive the shell, listening on loopback only.

Every process carries the cluster's name in its environment from birth. So a cluster can be found, scaled and ended
without its record, and a process number that the system has given to someone else is never taken for ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clusterglm import config
from clusterglm.clusters import registry, settings, words
from clusterglm.clusters.connect import connect, read_scheduler_file
from clusterglm.clusters.launcher import Member, Plan, Record, Size, State, option
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers
from clusterglm.units import parse_count, parse_duration, parse_memory

if TYPE_CHECKING:
    import psutil
    from distributed import Client

_TAG, _ROLE, _STATE, _OPTIONS = "CLUSTERGLM_CLUSTER", "CLUSTERGLM_ROLE", "CLUSTERGLM_STATE", "CLUSTERGLM_OPTIONS"
_SCHEDULER, _WORKER = "scheduler", "worker-"
_GRACE_SECONDS = 3.0
_DEATH_SECONDS = 60  # a worker without a scheduler gives up


def _threads(value: Any, what: str) -> int:
    return parse_count(value, what, of="threads")


@dataclass(frozen=True)
class Local:
    """Processes on this machine, on loopback."""

    target: ClassVar[str] = "local"
    parts: ClassVar[str] = "processes"

    threads_per_worker: int = option(
        help="Compute threads of one worker process.", parse=_threads, setting="threads-per-worker"
    )
    memory: int | None = option(
        help="Memory of one worker, such as 4GB; by default an equal share of 85 % of the machine's.",
        parse=parse_memory,
        setting="memory",
    )
    scratch: str | None = option(
        help="A folder for rows on disk; by default Dask's temporary-directory, else the cluster's own folder.",
        parse=words.path,
    )
    idle_timeout: int = option(
        help="End the cluster after it has been idle for so long.", parse=parse_duration, setting="idle-timeout"
    )

    def default_workers(self) -> int:
        """Return the setting ``workers``, or else the cores of this machine."""
        return int(config.get("workers") or settings.cores())

    def plan(self, name: str, size: Size) -> Plan:
        """Return the command lines: the scheduler's, then one per worker."""
        import dask.config

        memory = self.memory or settings.memory_share(size.workers)
        scratch = self.scratch or dask.config.get("temporary-directory")
        launcher = dataclasses.replace(self, memory=memory, scratch=scratch and str(Path(scratch).absolute()))
        steps = {_SCHEDULER: launcher._scheduler(name)}
        steps |= {f"{_WORKER}{index}": launcher._worker(name, index) for index in range(size.workers)}
        return Plan(name, self.target, size, steps, options=dataclasses.asdict(launcher))

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],  # noqa: ARG002  it takes seconds
    ) -> Record:
        """Start the processes and wait until the workers answer.

        Raises
        ------
        ClusterError
            A process died (with the last line of its log), or the workers did not answer within ``timeout`` seconds.
        """
        timeout = timeout or config.get("start-timeout")
        until = time.monotonic() + timeout
        settings.check_open_files(plan.size.workers, each=4)
        folder = _fresh(registry.run_folder(plan.name))
        record = dataclasses.replace(record, options=plan.options)
        scratch = _scratch(plan.name, plan.options)
        try:
            scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ClusterError("--scratch", scratch, f"{reason}: name a folder that can be written") from error
        started: dict[str, subprocess.Popen[bytes]] = {}
        for role, line in plan.steps.items():
            started[role] = _start(role, line, folder)
            record = _with_process(record, role, started[role].pid)
            save(record)
        while not (folder / "scheduler.json").exists():
            _check_alive(started, folder)
            _check_time(until, timeout, 0, plan)
            time.sleep(0.05)
        record = dataclasses.replace(record, **_addresses(folder))
        save(record)
        client = _connected(record, started, folder, until)
        try:
            while (arrived := len(known_workers(client))) < plan.size.workers:
                _check_alive(started, folder)
                _check_time(until, timeout, arrived, plan)
                time.sleep(0.1)
        finally:
            client.close()
        return dataclasses.replace(record, state="up")

    def find(self, name: str) -> Record | None:
        """Return the record of a running cluster from the tags of its processes."""
        processes = _processes(name)
        if not processes:
            return None
        oldest = min(processes, key=lambda found: found.process.create_time())
        created = datetime.fromtimestamp(oldest.process.create_time(), UTC).isoformat(timespec="seconds")
        record = Record(
            name=name,
            target=self.target,
            workers=len({found.role for found in processes if found.role.startswith(_WORKER)}),
            host=socket.gethostname(),
            user=os.getuid(),
            created=created,
            state="up",
            options=oldest.options,
            **_addresses(registry.run_folder(name)),
        )
        for found in processes:
            if found.leader:
                record = _with_process(record, found.role, found.process.pid)
        return record

    def names(self) -> list[str]:
        """Return the names of the clusters whose processes run on this machine under this state directory."""
        return sorted({found.cluster for found in _processes()})

    def state(self, record: Record) -> State:
        """Return ``gone`` where the scheduler's process has ended.

        Raises
        ------
        ClusterError
            The record belongs to another machine, which alone can tell.
        """
        if record.state == "down":
            return "down"
        if record.host != socket.gethostname():
            cure = f"its processes run on {record.host}: run this command there"
            raise ClusterError("cluster", record.name, cure)
        alive = _is_process(record.details.get(_SCHEDULER)) or any(
            found.role == _SCHEDULER for found in _processes(record.name)
        )
        return record.state if alive else "gone"

    def obituary(self, record: Record) -> str:
        """Return whether the scheduler ended, or its process number now belongs to another process."""
        import psutil

        known = record.details.get(_SCHEDULER) or {}
        with contextlib.suppress(psutil.Error, KeyError, TypeError, ValueError):
            if psutil.Process(known["pid"]).create_time() != known["started"]:
                return f"pid {known['pid']} is another process (start times differ)"
        return f"scheduler {record.address} is gone"

    def members(self, record: Record) -> list[Member]:  # noqa: ARG002
        """Return nothing: the scheduler knows all of its workers."""
        return []

    def scale(self, record: Record, workers: int, timeout: float) -> Record:
        """Start workers, or retire those with the highest numbers: what they hold moves to the others first."""
        settings.check_open_files(workers, each=4)
        present = {found.role: found for found in _processes(record.name) if found.leader}
        numbers = sorted(int(role.removeprefix(_WORKER)) for role in present if role.startswith(_WORKER))
        if not self.memory:
            raise AssertionError("a launched cluster has a memory limit in its record")
        until = time.monotonic() + timeout
        client = connect(record.address, what="cluster", value=record.name, cure=f"clusterglm down {record.name}")
        try:
            if workers < len(numbers):
                leaving = numbers[workers:]
                names = [f"{record.name}-{number}" for number in leaving]
                client.retire_workers(names=names, close_workers=True)
                for number in leaving:
                    _wait_ended(present[f"{_WORKER}{number}"].process, until, timeout)
                    record.details.pop(f"{_WORKER}{number}", None)
            free = (number for number in range(workers + len(numbers)) if number not in numbers)
            folder = registry.run_folder(record.name)
            started = {}
            for number, _ in zip(free, range(workers - len(numbers)), strict=False):
                role = f"{_WORKER}{number}"
                started[role] = _start(role, self._worker(record.name, number), folder)
                record = _with_process(record, role, started[role].pid)
            while (arrived := len(known_workers(client))) != workers:
                _check_alive(started, folder)
                if time.monotonic() > until:
                    cure = f"see clusterglm logs {record.name}, or raise --timeout"
                    raise ClusterError("workers", f"{arrived} of {workers} after {timeout:.0f} s", cure)
                time.sleep(0.1)
        finally:
            client.close()
        return dataclasses.replace(record, workers=workers)

    def logs(self, record: Record) -> Iterator[tuple[str, Path]]:
        """Yield (process, file) of each log, the scheduler's first."""
        found = registry.run_folder(record.name).glob("*.log")
        for path in sorted(found, key=lambda path: (path.stem != _SCHEDULER, len(path.stem), path.stem)):
            yield path.stem, path

    def stop(self, record: Record) -> int:
        """End all processes of the cluster, and remove its folder; return how many members there were."""
        import psutil

        members: set[str] = set()
        until = time.monotonic() + _GRACE_SECONDS
        while processes := _processes(record.name):
            # Asked first, so that logs end in order; then, and whatever was born meanwhile, killed.
            patient = time.monotonic() < until and not members
            for found in processes:
                members.add(found.role)
                if patient and found.leader:
                    _signal(found.process.terminate)
                elif not patient:
                    _signal(found.process.kill)
            psutil.wait_procs([found.process for found in processes], timeout=_GRACE_SECONDS if patient else 1.0)
        for folder in (_scratch(record.name, record.options), registry.run_folder(record.name)):
            shutil.rmtree(folder, ignore_errors=True)
        return len(members)

    def _scheduler(self, name: str) -> str:
        folder = registry.run_folder(name)
        return self._line(
            *(name, _SCHEDULER, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"),
            *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(folder / "scheduler.json")),
            *("--idle-timeout", f"{self.idle_timeout}s"),
        )

    def _worker(self, name: str, number: int) -> str:
        folder = registry.run_folder(name)
        return self._line(
            *(name, f"{_WORKER}{number}", "distributed.cli.dask_worker", "--host", "127.0.0.1", "--no-dashboard"),
            *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(folder / "scheduler.json")),
            *("--name", f"{name}-{number}", "--nthreads", str(self.threads_per_worker)),
            *("--memory-limit", str(self.memory), "--local-directory", str(_scratch(name, dataclasses.asdict(self)))),
            *("--death-timeout", f"{_DEATH_SECONDS}s"),
        )

    def _line(self, name: str, role: str, module: str, *arguments: str) -> str:
        tags = {_TAG: name, _ROLE: role, _STATE: str(registry.state_path())}
        tags[_OPTIONS] = json.dumps(dataclasses.asdict(self))
        # The scheduler makes a folder too.
        own = settings.dask_settings() | {"temporary-directory": str(_scratch(name, dataclasses.asdict(self)))}
        variables = tags | settings.WORKER_ENVIRONMENT | settings.dask_environment(own)
        assignments = [f"{key}={value}" for key, value in variables.items()]
        return shlex.join(["env", *assignments, sys.executable, "-m", module, *arguments])


@dataclass(frozen=True)
class _Found:
    """A process that carries a cluster's tag. The leader of a member is the one that was started for it."""

    process: psutil.Process
    cluster: str
    role: str
    leader: bool
    options: dict[str, Any]


def _processes(name: str | None = None) -> list[_Found]:
    import psutil

    found = []
    state = str(registry.state_path())
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            tags = process.environ()
            cluster = tags.get(_TAG)
            if cluster is None or tags.get(_STATE) != state or (name is not None and cluster != name):
                continue
            options = json.loads(tags.get(_OPTIONS, "{}"))
            found.append(_Found(process, cluster, tags[_ROLE], os.getsid(process.pid) == process.pid, options))
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return found


def _start(role: str, line: str, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{role}.log").open("ab") as log:
        return subprocess.Popen(
            shlex.split(line),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )


def _fresh(folder: Path) -> Path:
    registry.private_folder(folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    return registry.private_folder(folder)


def _scratch(name: str, options: Mapping[str, Any]) -> Path:
    """Return the workers' folder, this cluster's alone: those of other state directories may have its name."""
    folder = registry.run_folder(name)
    if (root := options.get("scratch")) is None:
        return folder / "scratch"
    return Path(root, f"clusterglm-{name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}")


def _addresses(folder: Path) -> dict[str, Any]:
    path = folder / "scheduler.json"
    if not path.exists():
        return {}
    address = read_scheduler_file(path)
    port = json.loads(path.read_text())["services"].get("dashboard")
    return {"address": address, "dashboard": f"http://127.0.0.1:{port}/status" if port else ""}


def _with_process(record: Record, role: str, pid: int) -> Record:
    import psutil

    started = psutil.Process(pid).create_time()
    return dataclasses.replace(record, details=record.details | {role: {"pid": pid, "started": started}})


def _is_process(known: dict[str, Any] | None) -> bool:
    """Return whether a remembered process still runs: the same number and the same start."""
    import psutil

    if not known:
        return False
    try:
        process = psutil.Process(known["pid"])
        return bool(process.create_time() == known["started"] and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, KeyError, TypeError, ValueError):  # also of a record that someone else has written
        return False


def _check_alive(started: dict[str, subprocess.Popen[bytes]], folder: Path) -> None:
    dead = {role: code for role, process in started.items() if (code := process.poll()) is not None}
    if dead:
        role, code = next(iter(dead.items()))
        lines = (folder / f"{role}.log").read_text(errors="replace").strip().splitlines() or ["(empty log)"]
        raise ClusterError("local", f"{role}, exit {code}", f"{len(dead)} processes died at the start: {lines[-1]}")


def _connected(record: Record, started: dict[str, subprocess.Popen[bytes]], folder: Path, until: float) -> Client:
    """Return a client of the new scheduler, which may be busy, or may have ended itself meanwhile."""
    while True:
        try:
            return connect(record.address, what="--name", value=record.name)
        except ClusterError:
            _check_alive(started, folder)
            if time.monotonic() > until:
                raise


def _check_time(until: float, timeout: float, arrived: int, plan: Plan) -> None:
    if time.monotonic() > until:
        cure = "raise --timeout, or ask for fewer"
        raise ClusterError("workers", f"{arrived} of {plan.size.workers} after {timeout:.0f} s", cure)


def _wait_ended(process: psutil.Process, until: float, timeout: float) -> None:
    import psutil

    try:
        process.wait(max(0.1, until - time.monotonic()))
    except psutil.TimeoutExpired as error:
        cure = "it still hands over its data: raise --timeout"
        raise ClusterError("worker", process.pid, f"not retired after {timeout:.0f} s: {cure}") from error


def _signal(send: Callable[[], None]) -> None:
    import psutil

    try:
        send()
    except psutil.NoSuchProcess:
        return
