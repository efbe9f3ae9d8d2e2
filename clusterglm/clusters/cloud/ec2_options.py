"""What can be said of a cluster on EC2, and what follows of it: machines, dollars, and the time that they buy."""

from __future__ import annotations

import getpass
from dataclasses import dataclass

from clusterglm.clusters import words
from clusterglm.clusters.cloud import api, prices
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud.fakes.ec2 import REGION
from clusterglm.clusters.launcher import option, repeated
from clusterglm.errors import UsageError
from clusterglm.units import parse_duration

INSTANCE_TYPE = "m4.2xlarge"
DISK = 40  # GB
LIFETIME = 8 * 3600  # s
_LEAST_LIFE = 600  # s, below which a cluster is down before it is of any use


@dataclass(frozen=True)
class Ec2Options:
    """The options of ``ec2``."""

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
    allow_cidr: tuple[str, ...] = repeated(
        help="Addresses that may reach the scheduler; by default your own; may be repeated.",
        parse=of.address_range,
    )
    spot: bool | None = option(
        help="Workers on spot machines, on ordinary ones where there are none.", parse=of.switch, flag=True
    )
    private: bool | None = option(help="No public addresses: you are in the network.", parse=of.switch, flag=True)
    installed: bool | None = option(
        help="The image has Python and all packages: install nothing.", parse=of.switch, flag=True
    )
    first: tuple[str, ...] = repeated(help="A line of shell that machines run first; may be repeated.", parse=of.line)
    idle_timeout: int = option(
        help="End the cluster after it has been idle for so long.", parse=parse_duration, setting="idle-timeout"
    )
    max_lifetime: int | None = option(help="End the cluster after so long.  [default: 8h]", parse=parse_duration)
    max_cost: float | None = option(
        help="End the cluster before its machines have cost so many dollars.", parse=of.dollars
    )
    owner: str | None = option(help="Whose it is; by default your user name.", parse=words.word)
    fake: bool | None = option(
        help="Rehearse on this machine: no account, no network, no cost.", parse=of.switch, flag=True
    )

    def default_workers(self) -> int:
        """Return nothing: machines are paid for, so somebody must say how many."""
        raise UsageError("--workers", None, "missing: say how many machines")

    def types(self) -> tuple[str, str]:
        """Return the types of the scheduler's machine and of the workers'."""
        of_workers = self.instance_type or INSTANCE_TYPE
        return self.scheduler_instance_type or of_workers, of_workers

    def gigabytes(self) -> int:
        """Return the GB of a machine's disk."""
        return self.disk or DISK

    def whose(self) -> str:
        """Return the owner."""
        return self.owner or getpass.getuser()

    def priced_in(self) -> str:
        """Return the region whose prices count: Virginia's where nobody names one."""
        return REGION if self.fake else api.region_of(self.region, self.profile) or REGION

    def ranges(self) -> tuple[str, ...]:
        """Return the addresses that may reach the scheduler: those that were given, else the caller's own."""
        return self.allow_cidr or (() if self.private else (api.own_address(),))

    def rate(self, workers: int) -> tuple[float, bool]:
        """Return the dollars of an hour of so many workers' machines and a scheduler's, and whether that is all."""
        scheduler, worker = self.types()
        machines = [scheduler, *[worker] * workers]
        return prices.rate(machines, self.priced_in(), self.gigabytes(), public=not self.private)

    def life(self, workers: int) -> int:
        """Return the seconds that so many workers may live: as long as allowed, and as the money lasts."""
        life = self.max_lifetime or LIFETIME
        if self.max_cost is None:
            return int(life)
        dollars, complete = self.rate(workers)
        if not complete:
            raise UsageError("--max-cost", self.max_cost, "the price of these machines is unknown: use --max-lifetime")
        affordable = int(3600 * self.max_cost / dollars)
        if affordable < _LEAST_LIFE:
            cure = f"lasts for {affordable / 60:.0f} minutes of ${dollars:.2f} an hour: allow more, or fewer machines"
            raise UsageError("--max-cost", f"${self.max_cost:.2f}", cure)
        return min(int(life), affordable)
