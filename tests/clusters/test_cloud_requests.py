"""The requests for clouds that have not been rehearsed, held to what their own SDKs send and know."""

from __future__ import annotations

import importlib
import itertools
import json
from typing import Any

import pytest

from clusterglm.clusters.launcher import Plan, Size, configured
from clusterglm.clusters.targets import TARGETS
from clusterglm.errors import ClusterError

KEY, RANGE = "mine", "203.0.113.5/32"


def requests(plan: Plan) -> list[tuple[str, str, Any]]:
    """Return the requests of a plan, as method, path and body, those for the scheduler's machine before a worker's."""
    lines = [line for step, text in plan.steps.items() if ": requests" in step for line in text.splitlines()]
    starts = [i for i, line in enumerate(lines) if line[:1].isalpha()] + [len(lines)]
    return [
        (*lines[begin].split(" ", 1), json.loads("\n".join(lines[begin + 1 : end])))
        for begin, end in itertools.pairwise(starts)
    ]


def planned(cloud: str, **given: Any) -> list[tuple[str, str, Any]]:
    return requests(configured(TARGETS[cloud], allow_cidr=[RANGE], **given).plan("demo", Size(2)))


class Sent(Exception):
    """What an SDK was about to send."""


def test_hetzners_requests_are_those_of_hcloud(monkeypatch: pytest.MonkeyPatch) -> None:
    import hcloud
    from hcloud import firewalls, images, locations, networks, server_types, ssh_keys
    from requests import Session

    def refuse(_: Session, method: str, url: str, **words: Any) -> None:
        raise Sent(method, url.removeprefix("https://api.hetzner.cloud/v1/"), words["json"])

    monkeypatch.setattr(Session, "request", refuse)
    client, found = hcloud.Client("t"), planned("hetzner", region="nbg1", key_name=KEY)
    label = {"clusterglm-cluster": "demo"}
    selector = firewalls.domain.FirewallResourceLabelSelector("clusterglm-cluster=demo")
    words = {"direction": "in", "protocol": "tcp", "source_ips": [RANGE]}
    subnet = networks.domain.NetworkSubnet("10.0.0.0/24", type="cloud", network_zone="eu-central")
    calls = [
        lambda: client.networks.create("clusterglm-demo", "10.0.0.0/16", subnets=[subnet], labels=label),
        lambda: client.firewalls.create(
            "clusterglm-demo",
            rules=[firewalls.domain.FirewallRule(port=port, **words) for port in ("8786", "22")],
            labels=label,
            resources=[firewalls.domain.FirewallResource("label_selector", label_selector=selector)],
        ),
        *(
            lambda role=role, name=name: client.servers.create(
                f"dask-demo-{name}",
                server_types.domain.ServerType(name="ccx33"),
                images.domain.Image(name="ubuntu-24.04"),
                location=locations.domain.Location(name="nbg1"),
                ssh_keys=[ssh_keys.domain.SSHKey(name=KEY)],
                networks=[networks.domain.Network(id="NETWORK")],
                labels=label | {"clusterglm-role": role},
                user_data="(the user data below)",
            )
            for role, name in (("scheduler", "scheduler"), ("worker", "worker-0"))
        ),
    ]
    for call, request in zip(calls, found, strict=True):
        with pytest.raises(Sent) as sent:
            call()
        assert sent.value.args == request


@pytest.mark.filterwarnings("ignore:The _compute_attributes method is deprecated")  # which its SDK calls itself
def test_openstacks_requests_are_those_of_its_sdk() -> None:
    from openstack.compute.v2.server import Server
    from openstack.network.v2.floating_ip import FloatingIP
    from openstack.network.v2.security_group import SecurityGroup
    from openstack.network.v2.security_group_rule import SecurityGroupRule

    given = {"instance_type": "m1.large", "image": "I", "network": "N", "external_network": "E", "key_name": KEY}
    rule = {"security_group_id": "GROUP", "direction": "ingress", "ether_type": "IPv4"}
    server = {"flavor_id": "m1.large", "image_id": "I", "networks": [{"uuid": "N"}], "key_name": KEY}
    server |= {"security_groups": [{"name": "clusterglm-demo"}], "user_data": "(the user data below, in base64)"}
    label = {"clusterglm-cluster": "demo"}
    wanted = [
        SecurityGroup.new(name="clusterglm-demo", description="clusterglm demo"),
        *(
            SecurityGroupRule.new(
                protocol="tcp", port_range_min=port, port_range_max=port, remote_ip_prefix=RANGE, **rule
            )
            for port in (8786, 22)
        ),
        SecurityGroupRule.new(remote_group_id="GROUP", **rule),
        Server.new(name="dask-demo-scheduler", metadata=label | {"clusterglm-role": "scheduler"}, **server),
        FloatingIP.new(floating_network_id="E", port_id="PORT"),
        Server.new(name="dask-demo-worker-0", metadata=label | {"clusterglm-role": "worker"}, **server),
    ]
    for resource, (method, path, body) in zip(wanted, planned("openstack", **given), strict=True):
        made = resource._prepare_request(requires_id=False, prepend_key=True)
        assert (method, f"/{path.removeprefix('v2.0/')}", body) == ("POST", made.url, made.body)


def test_azures_requests_have_the_fields_of_its_models() -> None:
    models = {
        "networkSecurityGroups": ("network", "NetworkSecurityGroup"),
        "publicIPAddresses": ("network", "PublicIPAddress"),
        "networkInterfaces": ("network", "NetworkInterface"),
        "virtualMachines": ("compute", "VirtualMachine"),
    }
    found = planned("azure", project="lab", subscription="S", key_name=KEY, spot=True)
    kinds = ["networkSecurityGroups", *2 * ["publicIPAddresses", "networkInterfaces", "virtualMachines"]]
    for kind, (method, path, body) in zip(kinds, found, strict=True):
        assert method == "PUT"
        assert path.startswith("/subscriptions/S/resourceGroups/lab/providers/Microsoft.")
        assert path.split("/")[-2] == kind
        package, name = models[kind]
        model = getattr(importlib.import_module(f"azure.mgmt.{package}.models"), name)
        assert_known(model(body), body)
    scheduler, worker = (body["properties"] for _, path, body in found if "virtualMachines" in path)
    assert "priority" not in scheduler
    assert (worker["priority"], worker["evictionPolicy"]) == ("Spot", "Delete")
    assert (
        worker["storageProfile"]["osDisk"]["deleteOption"] == "Delete"
    )  # with its machine go its disk, interface, address


def assert_known(model: Any, body: dict[str, Any]) -> None:
    """Check that a model of Azure's knows every field of a body, at any depth."""
    fields = {field._rest_name: name for name, field in model._attr_to_rest_field.items()}
    assert body.keys() <= fields.keys(), f"{type(model).__name__}: {body.keys() - fields.keys()}"
    for key, value in body.items():
        child = getattr(model, fields[key])
        for each, its in zip(child, value, strict=True) if isinstance(value, list) else [(child, value)]:
            if hasattr(each, "_attr_to_rest_field"):
                assert_known(each, its)


def test_nebius_requests_are_messages_of_its_sdk() -> None:
    found = planned("nebius", project="P", network="N", disk="100GB")
    kinds = ["SecurityGroup", "SecurityRule", "SecurityRule", *2 * ["Disk", "Instance"]]
    for kind, (method, path, body) in zip(kinds, found, strict=True):
        assert (method, path.rpartition(".")[2]) == ("create", kind)
        package = importlib.import_module(f"nebius.api.{path.rpartition('.')[0]}")
        message = getattr(package, f"Create{kind}Request").from_json(json.dumps(body))  # refuses what it does not know
        assert message.metadata.name.startswith(("clusterglm-demo", "dask-demo-"))
    assert found[3][2]["spec"]["size_gibibytes"] == 94  # 100 GB


@pytest.mark.parametrize("cloud", ["hetzner", "azure", "openstack", "nebius"])
def test_what_has_not_been_rehearsed_starts_nothing(cloud: str) -> None:
    with pytest.raises(ClusterError, match="has not even been rehearsed: --dry-run prints its requests"):
        configured(TARGETS[cloud]).provider()
