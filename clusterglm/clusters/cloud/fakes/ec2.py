"""EC2 as moto answers for it, with images to be found and consoles that show what machines have really printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clusterglm.clusters.cloud import userdata
from clusterglm.clusters.cloud.fakes import Instance, World

REGION = "us-east-1"
_REGIONS = (REGION, "eu-west-1")
_PORT = 5000
_QUOTA = 640.0  # vCPUs that may run at a time, as in an account of some age
_VARIABLES = {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_PORT}",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "rehearsal",
    "AWS_SECRET_ACCESS_KEY": "rehearsal",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_SERVICES = ("EC2", "SSM", "SERVICE_QUOTAS", "PRICING")
_REAL = ("AWS_PROFILE", "AWS_SESSION_TOKEN", *(f"AWS_ENDPOINT_URL_{name}" for name in _SERVICES))


class Moto:
    """A moto server in this process, and what it says of its instances."""

    variables = _VARIABLES

    def __init__(self, folder: Path, console: Callable[[str], str]) -> None:
        folder.mkdir()
        images = folder / "images.json"
        images.write_text(json.dumps([_image("x86_64", "amd64"), _image("arm64", "arm64")]))
        os.environ |= {"MOTO_AMIS_PATH": str(images), "AWS_EC2_METADATA_DISABLED": "true"}
        import botocore.session

        _serve(console)
        self.ec2 = botocore.session.Session().create_client(
            "ec2",
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{_PORT}",
            aws_access_key_id="booter",
            aws_secret_access_key="booter",  # noqa: S106  moto asks for some
        )

    def running(self) -> list[Instance]:
        """Return the instances that are running."""
        return [
            Instance(
                item["InstanceId"],
                item["PrivateIpAddress"],
                item.get("PublicIpAddress"),
                partial(self._script, item["InstanceId"]),
                item.get("InstanceLifecycle") == "spot",
            )
            for item in self._instances()
            if item["State"]["Name"] == "running"
        ]

    def halted(self, identity: str) -> None:
        """Terminate or stop an instance, as it was started to be."""
        found = self._attribute(identity, "instanceInitiatedShutdownBehavior")
        if found["InstanceInitiatedShutdownBehavior"].get("Value") == "terminate":
            self.ec2.terminate_instances(InstanceIds=[identity])
        else:
            self.ec2.stop_instances(InstanceIds=[identity])

    def shown(self) -> dict[str, Any]:
        """Return the instances, groups and volumes as EC2 shows them."""
        instances = self._instances()
        empty = all(item["State"]["Name"] == "terminated" for item in instances)
        groups = self.ec2.describe_security_groups()["SecurityGroups"]
        volumes = self.ec2.describe_volumes()["Volumes"]
        return {"empty": empty, "instances": instances, "groups": groups, "volumes": volumes}

    def _instances(self) -> list[dict[str, Any]]:
        pages = self.ec2.get_paginator("describe_instances").paginate()
        return [item for page in pages for reservation in page["Reservations"] for item in reservation["Instances"]]

    def _attribute(self, identity: str, name: str) -> dict[str, Any]:
        return dict(self.ec2.describe_instance_attribute(InstanceId=identity, Attribute=name))

    def _script(self, identity: str) -> str:
        return userdata.unpacked(str(self._attribute(identity, "userData")["UserData"].get("Value", "")))


def _missing() -> str:
    try:
        import moto.server  # noqa: F401
    except ImportError:
        return "moto is not installed: pip install 'clusterglm[rehearsal]'"
    return ""


def _serve(console: Callable[[str], str]) -> None:
    """Start the server, whose GetConsoleOutput shows what the machines have really printed, and which has quotas."""
    import base64
    import logging

    from moto.core.responses import ActionResult
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
    from moto.ec2.responses.general import General
    from moto.server import ThreadedMotoServer
    from moto.servicequotas.models import ServiceQuotasBackend

    def get_console_output(self: Any) -> ActionResult:
        identity = self._get_param("InstanceId")
        output = base64.b64encode(console(identity).encode()).decode()
        return ActionResult({"InstanceId": identity, "Output": output})

    def get_service_quota(_: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        return {"ServiceCode": service_code, "QuotaCode": quota_code, "Value": _QUOTA}

    # All of them would take moto half a minute to make.
    RegionsAndZonesBackend.regions = [each for each in RegionsAndZonesBackend.regions if each.name in _REGIONS]
    General.get_console_output = get_console_output
    ServiceQuotasBackend.get_service_quota = get_service_quota
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=_PORT, verbose=False).start()


def _image(architecture: str, name: str) -> dict[str, Any]:
    """Return a stand-in for the image that is looked for."""
    return {
        "ami_id": f"ami-{architecture.replace('_', '')}0000rehearsal",
        "name": f"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{name}-server-20260901",
        "description": "a rehearsal",
        "owner_id": "099720109477",
        "public": True,
        "virtualization_type": "hvm",
        "architecture": architecture,
        "state": "available",
        "image_type": "machine",
        "hypervisor": "xen",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
        "creation_date": "2026-09-01T00:00:00.000Z",
    }


WORLD = World(_REAL, _missing, Moto)
