"""The least rights with which ``ec2`` works, as a policy of IAM.

What starts machines must tag them, and what changes or ends anything reaches only what carries such a tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clusterglm.clusters.cloud.ec2 import api

_LOOK = (
    "ec2:DescribeImages",
    "ec2:DescribeInstanceAttribute",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeRegions",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
    "ssm:GetParameter",
)
_CHANGE = (
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteVolume",
    "ec2:GetConsoleOutput",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:TerminateInstances",
)
_BORN = ("instance", "volume", "network-interface", "spot-instances-request")
_SPOT = "arn:aws:iam::*:role/aws-service-role/spot.amazonaws.com/*"


def least(spot: bool, instance_profile: bool) -> dict[str, Any]:
    """Return the policy; rights that only ``--spot`` and ``--instance-profile`` need are there with these alone."""
    asked = {"Null": {f"aws:RequestTag/{api.CLUSTER}": "false"}}
    tagged = {"Null": {f"aws:ResourceTag/{api.CLUSTER}": "false"}}
    at_birth = {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup"]}}
    statements = [
        _statement("Look", _LOOK),
        _statement("StartTaggedMachines", ["ec2:RunInstances"], _arns(*_BORN), asked),
        _statement("StartThemFrom", ["ec2:RunInstances"], _arns("image", "subnet", "security-group", "key-pair")),
        _statement("MakeTaggedGroups", ["ec2:CreateSecurityGroup"], _arns("security-group"), asked),
        _statement("MakeThemIn", ["ec2:CreateSecurityGroup"], _arns("vpc")),
        _statement("TagAtBirth", ["ec2:CreateTags"], _arns(*_BORN, "security-group"), at_birth),
        _statement("ChangeWhatIsTagged", _CHANGE, condition=tagged),
    ]
    if spot:
        statements.append(_statement("FirstSpotMachine", ["iam:CreateServiceLinkedRole"], [_SPOT]))
    if instance_profile:
        to_machines = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
        statements.append(_statement("GiveThemARole", ["iam:PassRole"], ["arn:aws:iam::*:role/*"], to_machines))
    return {"Version": "2012-10-17", "Statement": statements}


def _statement(
    name: str, actions: Sequence[str], resources: Sequence[str] = ("*",), condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"Sid": name, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return found | ({"Condition": condition} if condition else {})


def _arns(*kinds: str) -> list[str]:
    # Images belong to no account of ours.
    return [f"arn:aws:ec2:*:{'' if kind == 'image' else '*'}:{kind}/*" for kind in kinds]
