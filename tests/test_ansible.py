"""The playbooks: well formed; and on four hosts from nothing to a fit, a second run without a change, and away."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from packaging.requirements import Requirement

from clusterglm.clusters import settings, tls

ROOT = Path(__file__).parents[1]
ANSIBLE = ROOT / "ansible"
BIN = Path(sys.executable).parent
CONFIGURED = os.environ | {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in words]
    return subprocess.run(
        command, env=CONFIGURED | environment, capture_output=True, text=True, timeout=280, check=False
    )


def defaults(role: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ANSIBLE / "roles" / role / "defaults" / "main.yml").read_text()))


@pytest.mark.slow
def test_the_playbooks_pass_the_strictest_profile(tmp_path: Path) -> None:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = run(BIN / "ansible-lint", "--offline", "-q", ANSIBLE, PATH=path, ANSIBLE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for playbook in ("site.yml", "teardown.yml"):
        words = (
            BIN / "ansible-playbook",
            "-i",
            ANSIBLE / "inventory.example.yml",
            "--syntax-check",
            ANSIBLE / playbook,
        )
        assert run(*words, ANSIBLE_HOME=str(tmp_path)).returncode == 0


def test_the_script_for_hosts_without_systemd_is_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck not installed: apt-get install shellcheck")
    done = run("shellcheck", ANSIBLE / "roles" / "cluster_files" / "files" / "session.sh")
    assert done.returncode == 0, done.stdout


def test_every_knob_is_commented() -> None:
    for path in ANSIBLE.glob("roles/*/defaults/main.yml"):
        blocks = path.read_text().removeprefix("---\n").split("\n\n")
        assert all(block.startswith("# ") for block in blocks), path


def test_the_roles_tell_processes_what_up_ssh_tells_them() -> None:
    told = settings.WORKER_ENVIRONMENT | settings.dask_environment(settings.dask_settings())
    assert defaults("cluster_files")["cluster_files_environment"] == told
    text = (ANSIBLE / "roles" / "dask_worker" / "templates" / "worker.sh.j2").read_text()
    rendered = render("dask_worker", "worker.sh")
    for name in tls.variables(Path("/folder/tls")):
        assert f"export {name}=" in rendered, text


def test_the_lock_holds_everything_that_clusterglm_needs() -> None:
    lines = (ANSIBLE / "roles" / "python_env" / "files" / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[wanted.name]), text


def render(role: str, template: str) -> str:
    """Render a template of a role as Ansible does, for a host of systemd."""
    variables: dict[str, Any] = defaults("python_env") | defaults("cluster_files") | defaults(role)
    variables |= {"cluster_files_folder": "/folder", "cluster_files_name": "lab", "cluster_files_uid": "0a1b2c3d"}
    variables |= {"ansible_facts": {"user_id": "researcher"}, "python_env_path": "/env", "ansible_managed": "Ansible"}
    variables |= {"dask_worker_threads": 4, "dask_worker_memory": "1GB", "dask_worker_scheduler": "tls://a:8786"}
    engine = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    engine.filters |= {"combine": lambda one, other: one | other, "quote": str}
    text = (ANSIBLE / "roles" / role / "templates" / f"{template}.j2").read_text()
    return engine.from_string(text).render(inventory_hostname="node1", **variables)


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze not installed: apt-get install systemd")
    command = tmp_path / f"{name}.sh"
    command.write_text(render(f"dask_{name}", f"{name}.sh"))
    command.chmod(0o755)
    unit = tmp_path / f"clusterglm-lab-{name}.service"
    unit.write_text(render(f"dask_{name}", f"{name}.service").replace("/folder", str(tmp_path)))
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, done.stderr
    assert run("sh", "-n", command).returncode == 0


def inventory(folder: Path, lab: Any, source: str, **variables: Any) -> Path:
    """Write an inventory of the lab, whose hosts see the packages of this environment beside their own clusterglm."""
    packages = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    given = {
        "python_env_python": sys.executable,
        "python_env_source": source,
        "python_env_lock": "",
        "python_env_pip_arguments": "--no-deps --no-index",
        "python_env_shared_packages": [str(packages)],
        "ansible_python_interpreter": "/usr/bin/python3",
        "dask_worker_threads": 1,
        "dask_worker_memory": "1GB",
    }
    groups = {"dask_scheduler": {"hosts": {"node1": None}}, "dask_worker": {"hosts": dict.fromkeys(lab.nodes)}}
    path = folder / "inventory.yml"
    path.write_text(yaml.safe_dump({"all": {"children": groups, "vars": given | variables}}))
    return path


def changed(text: str) -> dict[str, int]:
    return {host: int(count) for host, count in re.findall(r"^(node\d) +: .*changed=(\d+)", text, re.M)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    return str(next(folder.glob("*.whl")))


class Desk:
    """Runs commands and playbooks at the lab's desk."""

    def __init__(self, lab: Any, folder: Path, wheel: str) -> None:
        self.lab, self.inventory = lab, inventory(folder, lab, wheel)
        self.env = CONFIGURED | os.environ | {"ANSIBLE_HOME": str(folder / "ansible")}
        self.env["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [*self.lab.desk, *map(str, words)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=280, check=False)

    def clusterglm(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "clusterglm.cli", *words)

    def playbook(self, name: str, *words: str) -> dict[str, int]:
        """Return how many tasks have changed something, by host."""
        reach = ("-i", self.inventory, f"--ssh-extra-args=-F {self.lab.config}")
        done = self.run("ansible-playbook", *reach, "-e", "cluster_files_name=lab", *words, ANSIBLE / name)
        assert done.returncode == 0, done.stdout + done.stderr
        return changed(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_bare_hosts_to_a_fit_and_away(lab: Any, tmp_path: Path, wheel: str) -> None:
    desk = Desk(lab, tmp_path, wheel)
    done = desk.clusterglm("up", "ansible", desk.inventory, "--name", "lab", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["target"], record["workers"]) == ("ansible", 4)
    assert record["address"] == f"tls://{lab.addresses['node1']}:8786"
    log = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "lab", "site.log").read_text()
    assert all(changed(log).values()), log
    assert desk.playbook("site.yml", "-e", "verify_rows=0") == dict.fromkeys(lab.nodes, 0)
    assert len(json.loads(desk.clusterglm("status", "lab", "--json").stdout)["worker"]) == 4
    for node, role in (("node1", "scheduler"), ("node1", "worker"), ("node4", "worker")):  # on the others: sessions
        unit = f"clusterglm-lab-{role}"
        assert lab.run(node, "systemctl", "is-active", unit) == "active"
        assert lab.run(node, "systemctl", "is-enabled", unit) == "enabled"
    done = desk.clusterglm("down", "lab")
    assert (done.returncode, done.stderr) == (0, "note: lab: 5 processes ended\n")
    assert not lab.left()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_playbooks_alone_rehearse_scale_and_remove_all(lab: Any, tmp_path: Path, wheel: str, wait_until: Any) -> None:
    desk = Desk(lab, tmp_path, wheel)
    assert all(desk.playbook("site.yml", "--check").values())
    assert not lab.left()
    assert all(desk.playbook("site.yml").values())
    row = desk.clusterglm("ls", "--hosts", desk.inventory).stdout.splitlines()[1].split()
    assert row[:4] == ["lab", "ansible", "up", "4"]
    lab.run("node4", "systemctl", "kill", "--signal=KILL", "clusterglm-lab-worker")  # and it is started again
    wait_until(lambda: lab.run("node4", "systemctl", "show", "-P", "NRestarts", "clusterglm-lab-worker") == "1", 60)
    scaled = desk.clusterglm("scale", "lab", 2).stderr
    log = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "lab", "scale.log")
    assert scaled == "note: lab: 2 workers\n", log.read_text()
    assert len(json.loads(desk.clusterglm("status", "lab", "--json").stdout)["worker"]) == 2
    assert any(desk.playbook("teardown.yml", "-e", "python_env_state=absent").values())
    assert desk.playbook("teardown.yml", "-e", "python_env_state=absent") == dict.fromkeys(lab.nodes, 0)
    assert not lab.left()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_hosts_that_let_nobody_in_let_the_cluster_in(lab: Any, tmp_path: Path, wheel: str) -> None:
    """A small fit runs over hosts that drop all but SSH; afterwards their rules are the old ones."""
    if shutil.which("iptables") is None:
        pytest.skip("iptables not installed: apt-get install iptables")
    desk = Desk(lab, tmp_path, wheel)
    firewall = ("-e", "cluster_files_firewall=true")
    try:
        for node in lab.nodes:
            for rule in (
                "-i lo -j ACCEPT",
                "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
                "-p tcp --dport 22 -j ACCEPT",
            ):
                lab.run(node, "iptables", "-A", "INPUT", *rule.split())
            lab.run(node, "iptables", "-P", "INPUT", "DROP")
        before = {node: lab.run(node, "iptables", "-S") for node in lab.nodes}
        assert all(desk.playbook("site.yml", *firewall).values())  # which ends with a fit on all workers
        assert desk.playbook("site.yml", *firewall, "-e", "verify_rows=0") == dict.fromkeys(lab.nodes, 0)
        assert all(desk.playbook("teardown.yml", *firewall).values())
        assert {node: lab.run(node, "iptables", "-S") for node in lab.nodes} == before
        assert not lab.left()
    finally:
        for node in lab.nodes:
            lab.run(node, "iptables", "-P", "INPUT", "ACCEPT")
            lab.run(node, "iptables", "-F", "INPUT")


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("task", ["python_env : Make the environment", "dask_scheduler : Start", "dask_worker : Start"])
def test_down_removes_what_a_killed_up_has_made(
    lab: Any, tmp_path: Path, wheel: str, wait_until: Any, task: str, number: signal.Signals
) -> None:
    """It dies while a task runs on the hosts."""
    desk = Desk(lab, tmp_path, wheel)
    log = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "half", "site.log")
    log.unlink(missing_ok=True)
    line = [*lab.desk, sys.executable, "-m", "clusterglm.cli", "up", "ansible", str(desk.inventory), "--name", "half"]
    up = subprocess.Popen(line, env=desk.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: f"TASK [{task}" in (log.read_text() if log.exists() else "") or up.poll() is not None, 120)
    up.send_signal(number)
    said = up.communicate(timeout=280)[0]
    assert up.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), said
    if number == signal.SIGTERM:
        assert not lab.left()
    done = desk.clusterglm("down", "half")
    assert done.returncode == 0, done.stderr
    assert not lab.left()
    assert not log.parent.exists()


def local(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Make the environment on this machine."""
    given = {"python_env_path": str(folder / "env"), "ansible_python_interpreter": sys.executable}
    play = (
        BIN / "ansible-playbook",
        "-i",
        "localhost,",
        "-c",
        "local",
        "--tags",
        "python_env",
        "-e",
        json.dumps(given),
    )
    return run(*play, *words, ANSIBLE / "site.yml", ANSIBLE_HOME=str(folder / "ansible"))


@pytest.mark.full  # a minute, nearly all of it pip's
def test_an_environment_from_a_folder_of_wheels_alone(tmp_path: Path, wheel: str) -> None:
    wheels, lock = tmp_path / "wheels", ANSIBLE / "roles" / "python_env" / "files" / "requirements.lock"
    words = [sys.executable, "-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", wheels, "-r", lock]
    subprocess.run(words, check=True)
    shutil.copy(wheel, wheels)
    given = {"python_env_wheels": str(wheels), "python_env_source": Path(wheel).name}
    given |= {"python_env_python": sys.executable, "python_env_pip_arguments": "-q"}
    done = local(tmp_path, "-e", json.dumps(given))
    assert done.returncode == 0, done.stdout + done.stderr
    version = subprocess.run([tmp_path / "env" / "bin" / "clusterglm", "--version"], capture_output=True, check=True)
    assert version.stdout.strip()
    done = local(tmp_path, "-e", json.dumps(given))
    assert "changed=0" in done.stdout, done.stdout


@pytest.mark.slow
def test_an_old_interpreter_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    done = local(tmp_path, "-e", f"python_env_python={old}")
    assert done.returncode != 0
    assert "is 3.9: set python_env_python to 3.11 or newer" in done.stdout
    assert not (tmp_path / "env").exists()
