"""What tests ask of a rehearsal of EC2 beside the commands: what is left in it, and what its machines listen on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from clusterglm.clusters.cloud import rehearsal

_CLIENT = """
import json, botocore.session
ec2 = botocore.session.Session().create_client(
    "ec2", "us-east-1", endpoint_url="http://127.0.0.1:5000", aws_access_key_id="t", aws_secret_access_key="t")
"""
_LEFT = (
    _CLIENT
    + """
machines = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
groups = [g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"]
print(json.dumps({"machines": machines, "groups": groups, "volumes": ec2.describe_volumes()["Volumes"]}, default=str))
"""
)


def missing() -> str:
    """Return why no rehearsal is possible here, an empty string where it is."""
    return rehearsal.missing()


def inside(*command: str) -> str:
    """Run a command in all namespaces of the rehearsal and return what it printed."""
    line = ["nsenter", "-t", str(rehearsal.process()), "-U", "--preserve-credentials", "-n", "-m", "--", *command]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def everything() -> dict[str, list[dict[str, Any]]]:
    """Return the machines that are not gone, the groups but the network's own, and the volumes, as EC2 shows them."""
    found: dict[str, list[dict[str, Any]]] = json.loads(inside(sys.executable, "-c", _LEFT))
    found["machines"] = [item for item in found["machines"] if item["State"]["Name"] != "terminated"]
    return found


def call(code: str) -> str:
    """Run lines of Python that have a client ``ec2`` of the rehearsal, and return what they print."""
    return inside(sys.executable, "-c", _CLIENT + code)


def terminate(identity: str) -> None:
    """End a machine as EC2 itself would take it away."""
    call(f"ec2.terminate_instances(InstanceIds=[{identity!r}])")


def notice(identity: str) -> None:
    """Tell a spot machine, of any cloud, that it will be taken back."""
    content = {"action": "terminate", "time": "2026-11-27T19:00:00Z"}
    (_folder(identity) / "instance-action").write_text(json.dumps(content))


def left() -> dict[str, int]:
    """Return how many of each are left."""
    return {kind: len(found) for kind, found in everything().items()}


NOTHING = {"machines": 0, "groups": 0, "volumes": 0}


def on(machine: dict[str, Any], *command: str) -> str:
    """Run a command in the network of a machine and return what it printed."""
    return inside("ip", "netns", "exec", f"cglm-{machine['InstanceId'][-8:]}", *command)


def listening(machine: dict[str, Any]) -> set[str]:
    """Return the addresses and ports on which a machine listens, ``*`` for all addresses."""
    lines = on(machine, "ss", "-ltnH").splitlines()
    return {line.split()[3].replace("0.0.0.0", "*").replace("[::]", "*") for line in lines}


def files(machine: dict[str, Any], folder: str) -> list[str]:
    """Return the paths of the files under a folder of ours on a machine."""
    return [str(path) for path in (_folder(machine["InstanceId"]) / "srv" / "clusterglm" / folder).rglob("*")]


def _folder(identity: str) -> Path:
    return Path(psutil.Process(rehearsal.process()).cmdline()[-1], identity)
