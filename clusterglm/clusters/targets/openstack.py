"""``openstack``: servers of Nova behind a security group of Neutron, on a network that is there."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud.provider import Order, Request
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.onpaper import OnPaper, labels


@dataclass(frozen=True)
class OpenStack(OnPaper):
    """Servers on OpenStack: requests only (--dry-run), not rehearsed."""

    target: ClassVar[str] = "openstack"
    own_words: ClassVar[Mapping[str, str]] = {
        "instance_type": "flavorRef",
        "image": "imageRef",
        "region": "region",
        "network": "uuid",
        "external_network": "floating_network_id",
        "key_name": "key_name",
    }
    defaults: ClassVar[Mapping[str, Any]] = {"instance_type": "FLAVOR", "image": "IMAGE", "network": "NETWORK"}
    halted: ClassVar[str] = "a server that has ended by itself is shut off, and keeps its place"

    region: str | None = option(help="The region; by default as OpenStack's own settings say.", parse=words.word)
    network: str | None = option(help="The network, by its id.", parse=words.word)
    key_name: str | None = option(help="A key of yours, to log in with; opens port 22 to you.", parse=words.word)
    external_network: str | None = option(
        help="The network, by its id, of the scheduler's floating address; by default it has none.", parse=words.word
    )

    def wall(self, name: str, ranges: list[str], ports: list[int]) -> list[Request]:
        """Return the requests for the security group and its rules."""
        group = {"name": f"clusterglm-{name}", "description": f"clusterglm {name}"}
        common: dict[str, Any] = {"security_group_id": "GROUP", "direction": "ingress", "ethertype": "IPv4"}
        each: list[dict[str, Any]] = [
            {"protocol": "tcp", "port_range_min": port, "port_range_max": port, "remote_ip_prefix": addresses}
            for port in ports
            for addresses in ranges
        ]
        rules = [*each, {"remote_group_id": "GROUP"}]
        made = [Request("POST", "v2.0/security-groups", {"security_group": group})]
        return made + [
            Request("POST", "v2.0/security-group-rules", {"security_group_rule": common | rule}) for rule in rules
        ]

    def machine(self, order: Order, name: str, kind: str, script: str) -> list[Request]:
        """Return the request for a server, and for the scheduler's floating address."""
        asked = dict(order.options)
        body = {"name": name, "flavorRef": kind, "imageRef": asked["imageRef"], "networks": [{"uuid": asked["uuid"]}]}
        body |= {"key_name": asked["key_name"]} if "key_name" in asked else {}
        body |= {"security_groups": [{"name": f"clusterglm-{order.name}"}], "metadata": labels(order, name)}
        sent = [
            Request("POST", "servers", {"server": body | {"user_data": base64.b64encode(script.encode()).decode()}})
        ]
        if name.endswith("-scheduler") and "floating_network_id" in asked:
            floating = {"floating_network_id": asked["floating_network_id"], "port_id": "PORT"}
            sent.append(Request("POST", "v2.0/floatingips", {"floatingip": floating}))
        return sent
