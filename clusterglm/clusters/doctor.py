"""What is missing before anything is started, for every target: the checks that it needs, in order."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterglm.clusters import checks
from clusterglm.clusters.checks import Finding
from clusterglm.clusters.cloud.ec2 import preflight
from clusterglm.clusters.hosts import agent, fitness, reach
from clusterglm.clusters.launcher import Size
from clusterglm.clusters.targets.ansible import Ansible, playbooks
from clusterglm.clusters.targets.ec2 import Ec2
from clusterglm.clusters.targets.jobqueue import JobQueue
from clusterglm.clusters.targets.oncloud import OnCloud
from clusterglm.clusters.targets.onhosts import OnHosts
from clusterglm.errors import ClusterError, ClusterglmError

_PYTHON_SECONDS = 60.0  # from a file system that is slow


def examine(launcher: Any) -> Iterator[Finding]:
    """Look at everything that a target needs, with its options; what cannot be looked at is a finding too."""
    yield from checks.machine()
    if isinstance(launcher, OnHosts):
        yield from _hosts(launcher)
    elif isinstance(launcher, JobQueue):
        yield from _queue(launcher)
    elif isinstance(launcher, Ec2):
        yield from preflight.examine(launcher)
    elif isinstance(launcher, OnCloud):
        yield _cloud(launcher)
    else:
        yield from checks.local()


def _cloud(launcher: OnCloud) -> Finding:
    """Look whether a cloud takes the credentials, by questions that cost nothing."""
    try:
        provider = launcher.provider()
        provider.check()
        found = provider.servers()
    except ClusterError as error:
        return Finding(launcher.target, "does not answer", str(error))
    return Finding(launcher.target, f"answers, {len(found)} machines of clusters in it")


def _queue(launcher: JobQueue) -> Iterator[Finding]:
    """Look at a batch system's commands and answers, and at what its nodes must find."""
    target = launcher.target
    yield checks.program(launcher.commands.submission("job")[0], f"run this on a login node of {target}")
    try:
        jobs = launcher.commands.jobs() if launcher.commands.here() else None
        yield (
            Finding("queue", "does not answer", f"run this on a login node of {target}")
            if jobs is None
            else Finding("queue", f"answers, {len(jobs)} jobs of clusters in it")
        )
    except ClusterError as error:
        yield Finding("queue", "does not answer", str(error))
    try:
        plan = launcher.plan("doctor", Size(1))
    except ClusterglmError as error:
        yield Finding("scripts", "cannot be written", str(error))
        return
    yield Finding("scripts", "can be written")
    yield checks.shared_folder(Path(plan.steps["folder"]).parent, "--folder")
    yield _python(launcher.python or sys.executable)
    yield checks.interface(launcher.scheduler_interface or launcher.interface)


def _python(path: str) -> Finding:
    """Return what the nodes' Python has; it has that on the nodes too, where they see the same file."""
    if not Path(path).exists():
        return Finding("python", path, "no such file here: --python must be one that the nodes see")
    try:
        asked = Path(agent.__file__).read_text(encoding="utf-8") + "\nprint(json.dumps(_versions()))\n"
        done = subprocess.run(
            [path, "-"], input=asked, cwd="/", capture_output=True, text=True, timeout=_PYTHON_SECONDS, check=True
        )
        probe = {"versions": json.loads(done.stdout)}
    except (OSError, subprocess.SubprocessError, ValueError):
        return Finding("python", path, "does not run: --python must be a Python that has clusterglm")
    missing = [name for name, version in probe["versions"].items() if version == "missing"]
    wrong = f"no {' and no '.join(missing)} there: --python must be one that has clusterglm" if missing else ""
    wrong = wrong or fitness.versions(probe, fitness.our_versions())
    return Finding("python", f"{path}, {probe['versions']['python']}", wrong)


def _hosts(launcher: OnHosts) -> Iterator[Finding]:
    """Look at every host over SSH, and at the ports between them and this machine."""
    yield checks.program("ssh", "install OpenSSH's client", "-V")
    if isinstance(launcher, Ansible):
        yield checks.program("ansible-playbook", "pip install 'clusterglm[ansible]'")
        yield Finding("playbooks", str(playbooks()), "" if playbooks().is_dir() else "install clusterglm anew")
    try:
        hosts = launcher.inventory
        allow = bool(getattr(launcher, "allow_version_mismatch", None)) or isinstance(launcher, Ansible)
        before = time.monotonic()
        found, why = fitness.examine(launcher.channel, hosts.every, getattr(launcher, "scratch", None), allow)
    except ClusterglmError as error:
        yield Finding("hosts", "cannot be asked", str(error))
        return
    seconds = time.monotonic() - before
    yield Finding("inventory", f"{len(hosts.every)} hosts, {len(hosts.workers)} for workers, asked in {seconds:.1f} s")
    for host in hosts.every:
        if host in why:
            yield Finding(host.name, "cannot take part", why[host])
        else:
            missing = fitness.interface(found[host], getattr(launcher, "interface", None))
            yield Finding(host.name, fitness.summary(found[host]), missing)
    well = [host for host in hosts.every if host not in why]
    heads = [host for host in hosts.schedulers if host in well]
    if heads:
        yield from reach.ports(launcher.channel, heads[0], well, getattr(launcher, "port", None))
