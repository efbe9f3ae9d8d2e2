"""``azure``: virtual machines of Azure, each with an interface and an address, in a resource group that is there."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud.provider import Order, Request
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.onpaper import OnPaper, labels

_NETWORK, _COMPUTE = "Microsoft.Network", "Microsoft.Compute"
_VERSIONS = {_NETWORK: "2024-05-01", _COMPUTE: "2024-07-01"}
_WITH_MACHINE = {"deleteOption": "Delete"}


@dataclass(frozen=True)
class Azure(OnPaper):
    """Virtual machines on Azure: requests only (--dry-run), not rehearsed."""

    target: ClassVar[str] = "azure"
    own_words: ClassVar[Mapping[str, str]] = {
        "instance_type": "vmSize",
        "region": "location",
        "project": "resourceGroup",
        "subscription": "subscriptionId",
        "image": "imageReference",
        "disk": "diskSizeGB",
        "network": "virtualNetwork",
        "key_name": "keyData",
        "spot": "priority",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "instance_type": "Standard_D8s_v5",
        "region": "eastus",
        "project": "RESOURCE-GROUP",
        "subscription": "SUBSCRIPTION",
        "image": "Canonical:ubuntu-24_04-lts:server:latest",
        "disk": 40,
        "network": "VNET",
        "key_name": "PUBLIC-KEY",  # Azure starts no Linux machine without a key or a password
    }
    halted: ClassVar[str] = "a machine that has ended by itself is stopped but not released, and still paid for"

    region: str | None = option(help="The location.  [default: eastus]", parse=words.word)
    project: str | None = option(help="The resource group.", parse=words.word)
    subscription: str | None = option(help="The subscription, by its id.", parse=words.word)
    disk: int | None = option(help="Disk of each machine, such as 100GB.  [default: 40GB]", parse=of.gigabytes)
    network: str | None = option(help="The virtual network; its subnet named default is taken.", parse=words.word)
    key_name: str | None = option(help="A public key, to log in with; opens port 22 to you.", parse=words.word)
    spot: bool | None = option(help="Workers on spot machines.", parse=of.switch, flag=True)

    def wall(self, name: str, ranges: list[str], ports: list[int]) -> list[Request]:
        """Return the request for the network security group, whose own rules let members reach each other."""
        rule = {"priority": 1000, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourcePortRange": "*"}
        rule |= {"sourceAddressPrefixes": ranges, "destinationAddressPrefix": "*"}
        rule |= {"destinationPortRanges": [str(port) for port in ports]}
        rules = [{"name": "clusterglm", "properties": rule}] if ranges else []
        body = {"location": self.value("region"), "tags": {"clusterglm-cluster": name}}
        return [
            self._put(
                _NETWORK, "networkSecurityGroups", f"clusterglm-{name}", body | {"properties": {"securityRules": rules}}
            )
        ]

    def machine(self, order: Order, name: str, kind: str, script: str) -> list[Request]:
        """Return the requests for an address, an interface, and the machine with which both are deleted."""
        asked = dict(order.options)
        common = {"location": asked["location"], "tags": labels(order, name)}
        address = {"sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}}
        subnet = self._id(_NETWORK, "virtualNetworks", asked["virtualNetwork"]) + "/subnets/default"
        public = {"id": self._id(_NETWORK, "publicIPAddresses", name), "properties": _WITH_MACHINE}
        configuration = {"subnet": {"id": subnet}, "publicIPAddress": public}
        wall = {"id": self._id(_NETWORK, "networkSecurityGroups", f"clusterglm-{order.name}")}
        interface = {
            "networkSecurityGroup": wall,
            "ipConfigurations": [{"name": name, "properties": configuration}],
        }
        publisher, offer, sku, version = str(asked["imageReference"]).split(":")
        image = {"publisher": publisher, "offer": offer, "sku": sku, "version": version}
        disk = {"createOption": "FromImage", "diskSizeGB": asked["diskSizeGB"], **_WITH_MACHINE}
        key = {"path": "/home/clusterglm/.ssh/authorized_keys", "keyData": asked["keyData"]}
        attached = {"id": self._id(_NETWORK, "networkInterfaces", name), "properties": _WITH_MACHINE}
        machine: dict[str, Any] = {
            "hardwareProfile": {"vmSize": kind},
            "storageProfile": {"imageReference": image, "osDisk": disk},
            "osProfile": {
                "computerName": name,
                "adminUsername": "clusterglm",
                "customData": base64.b64encode(script.encode()).decode(),
                "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
            },
            "networkProfile": {"networkInterfaces": [attached]},
        }
        if asked.get("priority") and not name.endswith("-scheduler"):
            machine |= {"priority": "Spot", "evictionPolicy": "Delete"}
        return [
            self._put(_NETWORK, "publicIPAddresses", name, common | address),
            self._put(_NETWORK, "networkInterfaces", name, common | {"properties": interface}),
            self._put(_COMPUTE, "virtualMachines", name, common | {"properties": machine}),
        ]

    def _id(self, provider: str, kind: str, name: object) -> str:
        subscription, group = self.value("subscription"), self.value("project")
        return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{provider}/{kind}/{name}"

    def _put(self, provider: str, kind: str, name: str, body: dict[str, Any]) -> Request:
        return Request("PUT", f"{self._id(provider, kind, name)}?api-version={_VERSIONS[provider]}", body)
