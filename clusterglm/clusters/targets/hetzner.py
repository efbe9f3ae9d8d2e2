"""``hetzner``: servers of Hetzner Cloud. Its firewalls do not hold on private networks, and members talk over one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud.provider import Order, Request
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.onpaper import OnPaper, labels


@dataclass(frozen=True)
class Hetzner(OnPaper):
    """Servers on Hetzner Cloud: requests only (--dry-run), not rehearsed."""

    target: ClassVar[str] = "hetzner"
    own_words: ClassVar[Mapping[str, str]] = {
        "instance_type": "server_type",
        "region": "location",
        "image": "image",
        "key_name": "ssh_keys",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"instance_type": "ccx33", "region": "fsn1", "image": "ubuntu-24.04"}
    halted: ClassVar[str] = "a server that has ended by itself is off, and still paid for"

    region: str | None = option(help="The location.  [default: fsn1]", parse=words.word)
    key_name: str | None = option(help="A key of yours, to log in with; opens port 22 to you.", parse=words.word)

    def wall(self, name: str, ranges: list[str], ports: list[int]) -> list[Request]:
        """Return the requests for the network, and for the firewall of the machines with the cluster's label."""
        selector, named = {"selector": f"clusterglm-cluster={name}"}, {"clusterglm-cluster": name}
        subnet = {"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.0.0/24"}
        network = {"name": f"clusterglm-{name}", "ip_range": "10.0.0.0/16", "subnets": [subnet], "labels": named}
        rules = [{"direction": "in", "protocol": "tcp", "port": str(port), "source_ips": ranges} for port in ports]
        firewall = {"name": f"clusterglm-{name}", "labels": named, "rules": rules if ranges else []}
        firewall["apply_to"] = [{"type": "label_selector", "label_selector": selector}]
        return [Request("POST", "networks", network), Request("POST", "firewalls", firewall)]

    def machine(self, order: Order, name: str, kind: str, script: str) -> list[Request]:
        """Return the request for a server."""
        asked = dict(order.options)
        body = {"name": name, "server_type": kind, "image": asked["image"], "location": asked["location"]}
        body |= {"ssh_keys": [asked["ssh_keys"]]} if "ssh_keys" in asked else {}
        body |= {"labels": labels(order, name), "networks": ["NETWORK"], "start_after_create": True}
        return [Request("POST", "servers", body | {"user_data": script})]
