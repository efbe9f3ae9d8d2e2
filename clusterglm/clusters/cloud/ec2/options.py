"""What can be said of a cluster on EC2 beyond what is said of one on any cloud, and what its machines cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud import prices
from clusterglm.clusters.cloud.cloud_options import CloudOptions
from clusterglm.clusters.cloud.ec2 import api
from clusterglm.clusters.cloud.fakes.ec2 import REGION
from clusterglm.clusters.launcher import option

INSTANCE_TYPE = "m4.2xlarge"
DISK = 40  # GB


@dataclass(frozen=True)
class Ec2Options(CloudOptions):
    """The options of ``ec2``."""

    defaults: ClassVar[Mapping[str, Any]] = {"instance_type": INSTANCE_TYPE, "disk": DISK}

    instance_type: str | None = option(
        help=f"Of the workers' machines, such as m6i.4xlarge.  [default: {INSTANCE_TYPE}]", parse=of.instance_type
    )
    scheduler_instance_type: str | None = option(
        help="Of the scheduler's; by default the workers'.", parse=of.instance_type
    )
    region: str | None = option(help="The region; by default as AWS's own settings say.", parse=words.word)
    profile: str | None = option(help="The profile in AWS's own settings.", parse=words.word)
    zone: str | None = option(help="The availability zone, such as us-east-1b.", parse=words.word)
    subnet: str | None = option(help="The subnet; by default the zone's own of the default network.", parse=words.word)
    image: str | None = option(help="The machine image; by default the newest Ubuntu 24.04.", parse=words.word)
    disk: int | None = option(help=f"Disk of each machine, such as 100GB.  [default: {DISK}GB]", parse=of.gigabytes)
    instance_profile: str | None = option(help="The role of the machines, to read data with.", parse=words.word)
    key_name: str | None = option(help="A key pair of yours, to log in with; opens port 22 to you.", parse=words.word)
    spot: bool | None = option(
        help="Workers on spot machines, on ordinary ones where there are none.", parse=of.switch, flag=True
    )
    private: bool | None = option(help="No public addresses: you are in the network.", parse=of.switch, flag=True)

    def gigabytes(self) -> int:
        """Return the GB of a machine's disk."""
        return int(self.value("disk"))

    def priced_in(self) -> str:
        """Return the region whose prices count: Virginia's where nobody names one."""
        return REGION if self.fake else api.region_of(self.region, self.profile) or REGION

    def source(self) -> str:
        """Return where the prices are from."""
        return prices.source(self.priced_in())

    def rate(self, workers: int) -> tuple[float, bool]:
        """Return the dollars of an hour of so many workers' machines and a scheduler's, and whether that is all."""
        scheduler, worker = self.kinds()
        machines = [scheduler, *[worker] * workers]
        return prices.rate(machines, self.priced_in(), self.gigabytes(), public=not self.private)
