"""``nebius``: instances of Nebius AI Cloud, each with a disk that is made first. Its requests are protocol buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud.provider import Order, Request
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.onpaper import OnPaper, labels

_GB = 10**9
_GIBIBYTE = 2**30


@dataclass(frozen=True)
class Nebius(OnPaper):
    """Instances on Nebius AI Cloud: requests only (--dry-run), not rehearsed."""

    target: ClassVar[str] = "nebius"
    own_words: ClassVar[Mapping[str, str]] = {
        "instance_type": "preset",
        "platform": "platform",
        "project": "parent_id",
        "image": "image_family",
        "disk": "size_gibibytes",
        "network": "subnet_id",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "instance_type": "8vcpu-32gb",
        "platform": "cpu-d3",
        "project": "PROJECT",
        "image": "ubuntu24.04-driverless",
        "disk": 64,
        "network": "SUBNET",
    }
    halted: ClassVar[str] = "an instance that has ended by itself is stopped, and its disk still paid for"

    platform: str | None = option(help="The platform.  [default: cpu-d3]", parse=words.word)
    project: str | None = option(help="The project.", parse=words.word)
    disk: int | None = option(help="Disk of each machine, such as 100GB.  [default: 64GB]", parse=of.gigabytes)
    network: str | None = option(help="The subnet, by its id.", parse=words.word)

    def wall(self, name: str, ranges: list[str], ports: list[int]) -> list[Request]:
        """Return the requests for the security group and its rules."""
        metadata = {"parent_id": self.value("project"), "name": f"clusterglm-{name}"}
        made = [
            Request("create", "nebius.vpc.v1.SecurityGroup", {"metadata": metadata, "spec": {"network_id": "NETWORK"}})
        ]
        rules: list[dict[str, Any]] = [{"source_cidrs": ranges, "destination_ports": ports}] if ranges else []
        rules.append({"source_security_group_id": "GROUP"})
        for number, rule in enumerate(rules):
            protocol = "TCP" if "destination_ports" in rule else "ANY"
            spec = {"access": "ALLOW", "protocol": protocol, "ingress": rule}
            of_rule = {"parent_id": "GROUP", "name": f"clusterglm-{name}-{number}"}
            made.append(Request("create", "nebius.vpc.v1.SecurityRule", {"metadata": of_rule, "spec": spec}))
        return made

    def machine(self, order: Order, name: str, kind: str, script: str) -> list[Request]:
        """Return the requests for a disk and its instance."""
        asked = dict(order.options)
        metadata = {"parent_id": asked["parent_id"], "labels": labels(order, name)}
        image = {"image_family": asked["image_family"]}
        size = -(-int(asked["size_gibibytes"]) * _GB // _GIBIBYTE)
        disk = {"source_image_family": image, "size_gibibytes": size, "type": "NETWORK_SSD"}
        network = {"name": "eth0", "subnet_id": asked["subnet_id"], "ip_address": {}, "public_ip_address": {}}
        network["security_groups"] = [{"id": "GROUP"}]
        instance = {"resources": {"platform": asked["platform"], "preset": kind}, "network_interfaces": [network]}
        instance |= {"boot_disk": {"attach_mode": "READ_WRITE", "existing_disk": {"id": "DISK"}}}
        return [
            Request(
                "create", "nebius.compute.v1.Disk", {"metadata": metadata | {"name": f"{name}-disk"}, "spec": disk}
            ),
            Request(
                "create",
                "nebius.compute.v1.Instance",
                {"metadata": metadata | {"name": name}, "spec": instance | {"cloud_init_user_data": script}},
            ),
        ]
