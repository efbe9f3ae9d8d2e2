"""What is asked of EC2 itself: machines and groups by their tags, which are all the state that a cluster has.

botocore alone, which retries throttled and failed calls; it is imported inside functions. Every call has limits of
time, and every refusal becomes one line with EC2's own code and words.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clusterglm.clusters.cloud import userdata
from clusterglm.errors import ClusterError, Taken

CLUSTER, ROLE, CREATED, EXPIRES, OWNER, VERSION = (
    f"clusterglm:{key}" for key in ("cluster", "role", "created", "expires", "owner", "version")
)
_ALIVE = ("pending", "running", "stopping", "stopped")
_CANONICAL = "099720109477"
_IMAGE = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{}-server-*"
_PARAMETER = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 5, 30, 8
_END_SECONDS = 300.0
_creating = threading.Lock()  # a session of botocore's is not for several threads
_IN_USE = ("DependencyViolation", "InvalidGroup.InUse", "VolumeInUse", "IncorrectState")
_CURES = {
    "UnauthorizedOperation": "ask whoever runs the account for that right",
    "AccessDenied": "ask whoever runs the account for that right",
    "AuthFailure": "the credentials are wrong: aws configure",
    "InvalidClientTokenId": "the credentials are wrong: aws configure",
    "RequestExpired": "the credentials have expired: aws sso login, or whatever gave them",
    "ExpiredToken": "the credentials have expired: aws sso login, or whatever gave them",
    "InsufficientInstanceCapacity": "none are free there now: another --zone or --instance-type",
    "InsufficientFreeAddressesInSubnet": "the subnet is full: another --subnet",
    "VcpuLimitExceeded": "the account's quota: fewer --workers, or ask AWS for more",
    "MaxSpotInstanceCountExceeded": "the account's spot quota: fewer --workers, or without --spot",
    "InstanceLimitExceeded": "the account's quota: fewer --workers, or ask AWS for more",
    "InvalidAMIID.NotFound": "no such image in this region: another --image or --region",
    "InvalidSubnetID.NotFound": "no such subnet in this region: another --subnet or --region",
    "InvalidKeyPair.NotFound": "no such key pair in this region: another --key-name or --region",
    "Unsupported": "not offered there: another --zone or --instance-type",
    "RequestLimitExceeded": "too many calls of this account at once: try again",
}


def region_of(region: str | None, profile: str | None) -> str | None:
    """Return the region that was given, or that the user's AWS settings name; None where nobody names one."""
    if region or (region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        return region
    if not Path(os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser().exists():
        return None  # without the import of botocore: this is asked by commands that have nothing to do with EC2
    import botocore.exceptions

    with contextlib.suppress(botocore.exceptions.ProfileNotFound):
        return _session(profile).get_config_variable("region") or None
    return None


def client(region: str | None = None, profile: str | None = None, service: str = "ec2") -> Any:
    """Return botocore's client of a service.

    Raises
    ------
    ClusterError
        No region, no such profile, or no credentials.
    """
    import botocore.config
    import botocore.exceptions

    with told("credentials"):
        region = region_of(region, profile)
        if region is None:
            raise ClusterError("--region", None, "missing: give it, or set AWS_REGION")
        session = _session(profile)
        if session.get_credentials() is None:
            raise ClusterError("credentials", None, "none found: aws configure, AWS_PROFILE, or rehearse with --fake")
        config = botocore.config.Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )
        with _creating:
            return session.create_client(service, region_name=region, config=config)


@functools.cache
def _session(profile: str | None) -> Any:
    import botocore.session

    return botocore.session.Session(profile=profile)


@contextlib.contextmanager
def told(what: str, value: object = None) -> Iterator[None]:
    """Turn what botocore raises into ClusterError: EC2's code and words, and the cure."""
    import botocore.exceptions

    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise refusal(error, what, value) from error
    except botocore.exceptions.BotoCoreError as error:
        raise ClusterError(what, value, f"AWS: {str(error).rstrip('.')}") from error


def refusal(error: Any, what: str, value: object = None) -> ClusterError:
    """Return the error for a call that EC2 has refused."""
    code, words = error.response["Error"]["Code"], str(error.response["Error"].get("Message", "")).rstrip(".")
    cure = _CURES.get(code)
    return ClusterError(what, value, f"{code}: {words}" + (f": {cure}" if cure else ""))


def machines(ec2: Any, name: str | None = None) -> list[dict[str, Any]]:
    """Return the instances of a cluster, or of all, that are not gone: as DescribeInstances shows them."""
    wanted = [{"Name": "instance-state-name", "Values": list(_ALIVE)}]
    wanted.append({"Name": f"tag:{CLUSTER}", "Values": [name or "*"]})
    with told("cluster" if name else "ec2", name):
        pages = ec2.get_paginator("describe_instances").paginate(Filters=wanted)
        return [item for page in pages for reservation in page["Reservations"] for item in reservation["Instances"]]


def tags(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of an instance, volume or group."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}


def tagged(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as requests have them."""
    return [{"Key": key, "Value": value} for key, value in values.items()]


def boot_script(ec2: Any, identity: str) -> str:
    """Return the script that an instance was given."""
    with told("instance", identity):
        found = ec2.describe_instance_attribute(InstanceId=identity, Attribute="userData")
    return userdata.unpacked(found["UserData"].get("Value", ""))


def console(ec2: Any, identity: str) -> str:
    """Return what an instance has printed, empty where EC2 has kept nothing of it."""
    import botocore.exceptions

    with contextlib.suppress(botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return str(ec2.get_console_output(InstanceId=identity).get("Output", ""))
    return ""


def subnets(ec2: Any, zone: str | None = None, identity: str | None = None) -> list[dict[str, Any]]:
    """Return the subnet that was named, else those of the default network, of a zone if that was named.

    Raises
    ------
    ClusterError
        There is no such subnet, or no default network.
    """
    with told("--subnet", identity):
        if identity is not None:
            return [dict(ec2.describe_subnets(SubnetIds=[identity])["Subnets"][0])]
        wanted = [{"Name": "default-for-az", "Values": ["true"]}]
        wanted += [{"Name": "availability-zone", "Values": [zone]}] if zone else []
        found = sorted(ec2.describe_subnets(Filters=wanted)["Subnets"], key=lambda item: item["AvailabilityZone"])
    if not found:
        what = f"no default subnet in {zone}" if zone else "this region has no default network"
        raise ClusterError("--subnet", None, f"{what}: name a subnet with --subnet")
    return [dict(item) for item in found]


def image(ec2: Any, ssm: Any, instance_type: str, given: str | None = None) -> dict[str, Any]:
    """Return the image that was named, else the newest Ubuntu 24.04 of Canonical's for this instance type.

    Raises
    ------
    ClusterError
        There is none, or it does not fit the type's architecture.
    """
    import botocore.exceptions

    with told("--instance-type", instance_type):
        types = ec2.describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"]
    runs = types[0]["ProcessorInfo"]["SupportedArchitectures"]
    if given is None:
        name = "arm64" if "arm64" in runs else "amd64"
        with contextlib.suppress(botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            given = ssm.get_parameter(Name=_PARAMETER.format(name))["Parameter"]["Value"]
        if given is None:
            wanted = [{"Name": "name", "Values": [_IMAGE.format(name)]}]
            with told("--image"):
                found = ec2.describe_images(Owners=[_CANONICAL], Filters=wanted)["Images"]
            if not found:
                raise ClusterError("--image", _IMAGE.format(name), "no such image in this region: name one")
            return dict(max(found, key=lambda item: str(item["CreationDate"])))
    with told("--image", given):
        found = ec2.describe_images(ImageIds=[given])["Images"]
    if not found:
        raise ClusterError("--image", given, _CURES["InvalidAMIID.NotFound"])
    if found[0]["Architecture"] not in runs:
        raise ClusterError("--image", given, f"is for {found[0]['Architecture']}, and {instance_type} is {runs[0]}")
    return dict(found[0])


def open_group(ec2: Any, name: str, network: str, ranges: Iterable[str], values: Mapping[str, str], ssh: bool) -> str:
    """Make a cluster's security group and return its id: the scheduler's port for ``ranges``, all between members.

    Raises
    ------
    Taken
        There is one: another ``up`` of this name is under way or has left it.
    """
    import botocore.exceptions

    specification = [{"ResourceType": "security-group", "Tags": tagged(values)}]
    words = {"GroupName": group_name(name), "Description": f"clusterglm {name}", "VpcId": network}
    with told("--name", name):
        try:
            identity = ec2.create_security_group(**words, TagSpecifications=specification)["GroupId"]
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "InvalidGroup.Duplicate":
                cure = f"its security group is there: another name, or clusterglm down {name}"
                raise Taken("--name", name, cure) from error
            raise
        for port in (userdata.PORT, *([22] if ssh else [])):
            for each in ranges:
                allow(ec2, identity, port, each)
        pair = [{"GroupId": identity}]
        ec2.authorize_security_group_ingress(
            GroupId=identity, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": pair}]
        )
    return str(identity)


def allow(ec2: Any, group: str, port: int, addresses: str) -> bool:
    """Open a port of a group for a range of addresses, and return whether it was closed for them."""
    import botocore.exceptions

    with told("group", group):
        try:
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_rule(port, addresses)])
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "InvalidPermission.Duplicate":
                raise
            return False
    return True


def forbid(ec2: Any, group: str, port: int, addresses: str) -> None:
    """Close a port of a group for a range of addresses."""
    with told("group", group):
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[_rule(port, addresses)])


def _rule(port: int, addresses: str) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": addresses}]}


def let_in(group: Mapping[str, Any], port: int) -> list[str]:
    """Return the ranges of addresses for which a port of a group is open."""
    rules = [rule for rule in group["IpPermissions"] if rule.get("FromPort") == port == rule.get("ToPort")]
    return [each["CidrIp"] for rule in rules for each in rule["IpRanges"]]


def group(ec2: Any, name: str) -> str:
    """Return the id of a cluster's security group. Raises ClusterError where it has none any more."""
    found = groups(ec2, name)
    if not found:
        raise ClusterError("cluster", name, f"its security group was removed: clusterglm down {name}")
    return str(found[0]["GroupId"])


def groups(ec2: Any, name: str | None = None) -> list[dict[str, Any]]:
    """Return the security groups of a cluster, or of all."""
    with told("cluster" if name else "ec2", name):
        pages = ec2.get_paginator("describe_security_groups").paginate(
            Filters=[{"Name": f"tag:{CLUSTER}", "Values": [name or "*"]}]
        )
        return [dict(group) for page in pages for group in page["SecurityGroups"]]


def volumes(ec2: Any, name: str | None = None) -> list[dict[str, Any]]:
    """Return the disks of a cluster, or of all; those of machines that end go with them."""
    with told("cluster" if name else "ec2", name):
        pages = ec2.get_paginator("describe_volumes").paginate(
            Filters=[{"Name": f"tag:{CLUSTER}", "Values": [name or "*"]}]
        )
        return [dict(volume) for page in pages for volume in page["Volumes"]]


def resources(ec2: Any, name: str | None = None) -> list[dict[str, Any]]:
    """Return the machines, groups and disks of a cluster, or of all."""
    return machines(ec2, name) + groups(ec2, name) + volumes(ec2, name)


def group_name(name: str) -> str:
    """Return the name of a cluster's security group."""
    return f"clusterglm-{name}"


def terminate(ec2: Any, identities: Sequence[str]) -> None:
    """End instances; those that are gone already count as ended."""
    import botocore.exceptions

    try:
        ec2.terminate_instances(InstanceIds=list(identities))
    except botocore.exceptions.ClientError as error:
        if "NotFound" not in error.response["Error"]["Code"]:
            raise refusal(error, "down") from error
        if len(identities) > 1:  # one that EC2 has forgotten makes it refuse them all
            for identity in identities:
                terminate(ec2, [identity])


def end(ec2: Any, name: str) -> int:
    """End everything that carries a cluster's tag, wait until it is gone, and return how many machines there were.

    Raises
    ------
    ClusterError
        EC2 refuses, or something is left after five minutes.
    """
    import botocore.exceptions

    until, pause, ended = time.monotonic() + _END_SECONDS, 0.1, set[str]()
    while True:
        if found := [item["InstanceId"] for item in machines(ec2, name)]:
            if new := [identity for identity in found if identity not in ended]:
                terminate(ec2, new)
            ended |= set(found)
        # Also those whose end was asked for before: a group in use cannot be removed.
        left: list[str] = list(found)
        for item in [] if found else groups(ec2, name) + volumes(ec2, name):
            try:
                if "GroupId" in item:
                    ec2.delete_security_group(GroupId=item["GroupId"])
                else:
                    ec2.delete_volume(VolumeId=item["VolumeId"])
            except botocore.exceptions.ClientError as error:
                code = error.response["Error"]["Code"]
                if "NotFound" not in code:
                    left.append(item.get("GroupId") or item["VolumeId"])
                if code not in _IN_USE and "NotFound" not in code:
                    raise refusal(error, "down", name) from error
        if not left and not machines(ec2, name):
            return len(ended)
        if time.monotonic() > until:
            cure = f"still there after {_END_SECONDS:.0f} s: run clusterglm down {name} again"
            raise ClusterError("down", ", ".join(left), cure)
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def regions(ec2: Any) -> list[str]:
    """Return the names of the regions that the account has switched on."""
    with told("--all-regions"):
        return sorted(str(item["RegionName"]) for item in ec2.describe_regions()["Regions"])
