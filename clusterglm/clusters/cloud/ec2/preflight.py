"""What is asked of AWS before anything is started: whether it would be allowed, and whether there is room for it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clusterglm.clusters.checks import Finding
from clusterglm.clusters.cloud import fleet
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.clusters.machines import machine
from clusterglm.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from clusterglm.clusters.targets.ec2 import Ec2

# Service Quotas' codes for vCPUs of the standard families (A, C, D, H, I, M, R, T, Z) that run at a time.
ORDINARY, SPOT = "L-1216C47A", "L-34B43A08"
_STANDARD = re.compile(r"(a|c|d|h|i|im|is|m|r|t|z)\d")


def check(
    launcher: Ec2,
    ec2: Any,
    subnet: Mapping[str, Any],
    image: Mapping[str, Any],
    workers: int,
    tell: Callable[[str], None],
) -> None:
    """Look whether a cluster of so many workers would be allowed, and whether there is room for it.

    Raises
    ------
    ClusterError
        It would be refused. What cannot be looked at is told, and stops nobody.
    """
    permission(launcher, ec2, subnet, image)
    enough(launcher, ec2, [launcher.kinds()[0]], workers, tell)


def enough(launcher: Ec2, ec2: Any, ordinary: Sequence[str], workers: int, tell: Callable[[str], None]) -> None:
    """Look whether there is room for these ordinary machines and so many workers' machines.

    Raises
    ------
    ClusterError
        There is not; where spot machines do not fit, that is told, for ordinary ones are taken in their place.
    """
    quotas, asked = launcher.client("service-quotas"), [launcher.kinds()[1]] * workers
    notes = set()
    if launcher.spot:
        try:
            notes.add(room(ec2, quotas, asked, SPOT))
        except ClusterError as error:
            notes.add(f"{error}, or some of them will be ordinary ones")
    notes.add(room(ec2, quotas, [*ordinary, *([] if launcher.spot else asked)]))
    for note in sorted(filter(None, notes)):
        tell(note)


def permission(launcher: Ec2, ec2: Any, subnet: Mapping[str, Any], image: Mapping[str, Any]) -> None:
    """Ask for a machine and a security group in dry runs, which start nothing.

    Raises
    ------
    ClusterError
        EC2 would refuse them: with its own code and words.
    """
    kinds = ("instance", "volume", "network-interface")
    specifications = [{"ResourceType": kind, "Tags": api.tagged({api.CLUSTER: "doctor"})} for kind in kinds]
    request: dict[str, Any] = {"ImageId": image["ImageId"], "SubnetId": subnet["SubnetId"]}
    request |= {"InstanceType": launcher.kinds()[1], "MinCount": 1, "MaxCount": 1}
    if launcher.key_name:
        request["KeyName"] = launcher.key_name
    if launcher.instance_profile:
        request["IamInstanceProfile"] = {"Name": launcher.instance_profile}
    _dry(ec2.run_instances, "RunInstances", **request, TagSpecifications=specifications)
    specifications = [{"ResourceType": "security-group", "Tags": api.tagged({api.CLUSTER: "doctor"})}]
    words = {"GroupName": api.group_name("doctor"), "Description": "clusterglm", "VpcId": subnet["VpcId"]}
    _dry(ec2.create_security_group, "CreateSecurityGroup", **words, TagSpecifications=specifications)


def _dry(call: Any, action: str, **request: Any) -> None:
    import botocore.exceptions

    with api.told("permission", action):
        try:
            call(**request, DryRun=True)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "DryRunOperation":
                raise


def cores(instance_types: Sequence[str]) -> int:
    """Return the vCPUs of machines that count against the quota of the standard families."""
    total = 0
    for name in instance_types:
        try:
            total += machine(name).cores if _STANDARD.match(name) else 0
        except UsageError:  # a size that nobody here knows
            continue
    return total


def quota(ec2: Any, quotas: Any, code: str) -> tuple[int, int]:
    """Return how many vCPUs of the standard families may run in the region, and how many of them do.

    Raises
    ------
    ClusterError
        The quota cannot be read: that right is not needed for anything else.
    """
    with api.told("quota", code):
        most = int(quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    with api.told("ec2"):
        wanted = [{"Name": "instance-state-name", "Values": list(fleet.BORN)}]
        pages = ec2.get_paginator("describe_instances").paginate(Filters=wanted)
        found = [item for page in pages for reservation in page["Reservations"] for item in reservation["Instances"]]
    spot = code == SPOT
    return most, cores([i["InstanceType"] for i in found if (i.get("InstanceLifecycle") == "spot") == spot])


def room(ec2: Any, quotas: Any, instance_types: Sequence[str], code: str = ORDINARY) -> str:
    """Return a note where the quota cannot be read, an empty string where these machines fit into it.

    Raises
    ------
    ClusterError
        They do not fit.
    """
    needed = cores(instance_types)
    if not needed:
        return ""
    try:
        most, used = quota(ec2, quotas, code)
    except ClusterError as error:
        return f"quota: not checked: {error}"
    if needed + used <= most:
        return ""
    cure = f"of {most} vCPUs {used} are in use, and these machines have {needed}: fewer --workers, or ask AWS for more"
    raise ClusterError("quota", code, cure)


def examine(launcher: Ec2) -> Iterator[Finding]:
    """Look at all that a launch needs of AWS; nothing is started."""
    try:
        ec2 = launcher.client("ec2")
        found = api.machines(ec2)
    except ClusterError as error:
        yield Finding("AWS", "does not answer", str(error))
        return
    yield Finding("AWS", f"answers, {len(found)} machines of clusters in {ec2.meta.region_name}")
    place = functools.cache(lambda: launcher.place(ec2))

    def allowed() -> str:
        permission(launcher, ec2, place()[0][0], place()[1])
        return "RunInstances and CreateSecurityGroup are allowed"

    def within() -> str:
        code = SPOT if launcher.spot else ORDINARY
        try:
            most, used = quota(ec2, launcher.client("service-quotas"), code)
        except ClusterError as error:
            return f"not known: {error}"
        return f"{most} vCPUs of standard {'spot ' if launcher.spot else ''}machines, {used} of them in use"

    looks: dict[str, Callable[[], str]] = {
        "network": lambda: ", ".join(f"{each['SubnetId']} in {each['AvailabilityZone']}" for each in place()[0]),
        "image": lambda: f"{place()[1]['ImageId']}, {place()[1].get('Name', '')}",
        "permission": allowed,
        "quota": within,
        "your address": lambda: ", ".join(launcher.ranges()) or "not asked for",
    }
    for what, look in looks.items():
        try:
            yield Finding(what, look())
        except ClusterError as error:
            yield Finding(what, "wrong", str(error))
