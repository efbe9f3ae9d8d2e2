"""``ansible``: hosts that Ansible provisions, with services that stay: the playbooks of ``ansible/``, run from here."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterglm.clusters import registry
from clusterglm.clusters.connect import connect
from clusterglm.clusters.hosts import workers
from clusterglm.clusters.hosts.host import ansible
from clusterglm.clusters.launcher import Plan, Record, Size, option
from clusterglm.clusters.targets.onhosts import OnHosts
from clusterglm.errors import ClusterError, UsageError, quoted
from clusterglm.units import parse_duration

_SITE, _TEARDOWN = "site.yml", "teardown.yml"
_FATAL = re.compile(r"^fatal: \[(?P<host>[^\]]+?)(?: -> [^\]]+)?\]: (?:FAILED|UNREACHABLE)! => (?P<what>.*)$", re.M)
_DIE_WITH_PARENT = 1  # Linux: PR_SET_PDEATHSIG
_SECONDS = 3600.0


@dataclass(frozen=True)
class Ansible(OnHosts):
    """Hosts of an Ansible inventory: a Python environment, a scheduler and workers as services, by ansible/site.yml."""

    target: ClassVar[str] = "ansible"

    idle_timeout: int | None = option(help="End the cluster after it has been idle for so long.", parse=parse_duration)

    def plan(self, name: str, size: Size) -> Plan:
        """Return the command lines of both playbooks."""
        if self.hosts is None or not self.hosts.startswith("/"):
            raise UsageError(
                "--hosts", self.hosts, "missing: name an inventory with groups dask_scheduler, dask_worker"
            )
        if size.workers > (hosts := len(self.inventory.workers)):
            raise UsageError("--workers", size.workers, f"more than the {hosts} hosts: a host has one worker")
        steps = {
            "site": shlex.join(self._command(_SITE, name, dask_worker_count=size.workers)),
            "teardown": shlex.join(self._command(_TEARDOWN, name)),
        }
        return Plan(name, self.target, size, steps, options=dataclasses.asdict(self))

    def launch(
        self,
        plan: Plan,
        record: Record,
        save: Callable[[Record], None],
        timeout: float | None,
        tell: Callable[[str], None],
    ) -> Record:
        """Run the playbook, which ends with a small fit on all workers, and return the record of what is there then.

        Raises
        ------
        ClusterError
            A task failed on a host, in its own words.
        """
        hosts = {host.name: host.written for host in self.inventory.every}
        record = dataclasses.replace(record, options=plan.options, details={"hosts": hosts})
        save(record)
        log = registry.cluster_folder(plan.name) / "site.log"
        tell(f"ansible-playbook provisions {len(hosts)} hosts: {log}")
        self._play(shlex.split(plan.steps["site"]), log, timeout)
        found = self.find(plan.name)
        if found is None:
            raise ClusterError("ansible", plan.name, f"no scheduler runs: see {log}")
        return dataclasses.replace(found, created=record.created, workers=plan.size.workers)

    def scale(self, record: Record, workers_: int, timeout: float) -> Record:
        """Let so many hosts have a worker, by the playbook; what those hold that leave moves to the others first."""
        hosts = self.inventory.workers
        if workers_ > len(hosts):
            raise UsageError("N", workers_, f"more than the {len(hosts)} hosts: a host has one worker")
        client = connect(
            self.reached(record), what="cluster", value=record.name, timeout=timeout, keys=Path(record.details["keys"])
        )
        try:
            heads = tuple(f"{record.name}-{host.name}" for host in hosts[workers_:])
            leaving = [name for name in workers.names(client) if name in heads or name.rpartition("-")[0] in heads]
            if leaving:
                client.retire_workers(names=leaving, close_workers=True)
        finally:
            client.close()
        log = registry.cluster_folder(record.name) / "scale.log"
        self._play(self._command(_SITE, record.name, dask_worker_count=workers_), log, None)
        return dataclasses.replace(record, workers=workers_)

    def stop(self, record: Record) -> int:
        """Run the playbook that removes what the other has made, but for the Python environment.

        Raises
        ------
        ClusterError
            A task failed on a host, or a host is out of reach. On all others nothing is left.
        """
        hosts = self.of_cluster(record)
        answers, _ = self.channel.ask_all(hosts, "look", name=record.name)
        running = sum(len(part["roles"]) for found in answers.values() for part in found.values())
        log = registry.cluster_folder(record.name) / "teardown.log"
        self._play(self._command(_TEARDOWN, record.name), log, None)
        shutil.rmtree(registry.run_folder(record.name), ignore_errors=True)
        return running

    def _command(self, playbook: str, name: str, **variables: Any) -> list[str]:
        given = {"cluster_files_name": name, **variables}
        if self.idle_timeout is not None:
            given["dask_scheduler_idle_timeout"] = f"{self.idle_timeout}s"
        ssh = [
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "BatchMode=yes",
            *(["-F", self.ssh_config] if self.ssh_config else []),
        ]
        ssh += ["-o", f'UserKnownHostsFile="{self.known_hosts}"'] if self.known_hosts else []
        words = [ansible("ansible-playbook") or "ansible-playbook", "-i", str(self.hosts)]
        return [*words, f"--ssh-extra-args={shlex.join(ssh)}", "-e", json.dumps(given), str(playbooks() / playbook)]

    def _play(self, command: list[str], log: Path, timeout: float | None) -> None:
        """Run a playbook, its words into a file; it ends with this process."""
        variables = {"ANSIBLE_CONFIG": str(playbooks() / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
        libc = ctypes.CDLL(None)
        try:
            with log.open("w", encoding="utf-8") as file:
                process = subprocess.Popen(
                    command,
                    env=os.environ | variables,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=lambda: libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM),
                )
        except FileNotFoundError as error:
            raise ClusterError("ansible-playbook", None, "not installed: pip install 'clusterglm[ansible]'") from error
        try:
            code = process.wait(timeout or _SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(
                "ansible", log.name, f"not done within {timeout or _SECONDS:.0f} s: see {log}"
            ) from error
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code:
            raise _failure(log.read_text(encoding="utf-8", errors="replace"), code)


def playbooks() -> Path:
    """Return the folder of the playbooks: in the package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    folders = [package / "ansible", package.parent / "ansible"]
    return next((folder for folder in folders if (folder / _SITE).exists()), folders[0])


def _failure(text: str, code: int) -> ClusterError:
    """Return what a playbook has failed at, by the first host that says so."""
    for match in _FATAL.finditer(text):
        said = match["what"]
        try:
            found = json.loads(said)
            said = str(found.get("stderr") or found.get("msg") or said)
        except ValueError:
            pass
        last = [line for line in said.strip().splitlines() if line.strip()]
        return ClusterError("host", match["host"], quoted(last[-1] if last else "failed without a word"))
    last = [line for line in text.splitlines() if line.startswith(("ERROR", "[ERROR]"))]
    return ClusterError("ansible-playbook", f"exit {code}", quoted(last[0] if last else "see its log"))
