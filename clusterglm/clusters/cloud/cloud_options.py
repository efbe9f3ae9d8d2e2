"""What can be said of a cluster on any cloud, and what follows of it: machines, dollars, and the time that they buy."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm import config
from clusterglm.clusters import words
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud.caller import own_address
from clusterglm.clusters.launcher import option, repeated
from clusterglm.errors import UsageError
from clusterglm.units import parse_duration

LIFETIME = 8 * 3600  # s
_LEAST_LIFE = 600  # s, below which a cluster is down before it is of any use


@dataclass(frozen=True)
class CloudOptions:
    """The options that clouds have in common; a cloud adds its own, and says its words and defaults for all."""

    target: ClassVar[str]
    parts: ClassVar[str] = "machines"
    own_words: ClassVar[Mapping[str, str]]  # the cloud's, for options of ours
    defaults: ClassVar[Mapping[str, Any]]  # of our options
    halted: ClassVar[str]  # what becomes of a machine that has ended by itself

    instance_type: str | None = option(help="Of the workers' machines.", parse=words.word)
    scheduler_instance_type: str | None = option(help="Of the scheduler's; by default the workers'.", parse=words.word)
    image: str | None = option(help="The machine image; by default Ubuntu 24.04.", parse=words.word)
    allow_cidr: tuple[str, ...] = repeated(
        help="Addresses that may reach the scheduler; by default your own; may be repeated.", parse=of.address_range
    )
    private: bool | None = option(
        help="You are in the machines' network: dial private addresses.", parse=of.switch, flag=True
    )
    installed: bool | None = option(
        help="The image has Python and all packages: install nothing.", parse=of.switch, flag=True
    )
    docker_image: str | None = option(
        help="A container image with Python and all packages, for Docker to run.", parse=words.word
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

    def asked(self) -> dict[str, Any]:
        """Return what is asked of the cloud in its own words: what was given, and the defaults."""
        found = {name: self.value(name) for name in self.own_words if name != "instance_type"}
        return {self.own_words[name]: value for name, value in found.items() if value is not None}

    def default_workers(self) -> int:
        """Return nothing: machines are paid for, so somebody must say how many."""
        raise UsageError("--workers", None, f"missing: say how many {self.parts}")

    def ranges(self) -> tuple[str, ...]:
        """Return the addresses that may reach the scheduler: those that were given, else the caller's own."""
        return self.allow_cidr or (() if self.private else (own_address(),))

    def value(self, name: str) -> Any:
        """Return an option as it was given, else its default."""
        given = getattr(self, name)
        return self.defaults.get(name) if given in (None, ()) else given

    def kinds(self) -> tuple[str, str]:
        """Return the instance types of the scheduler's machine and of the workers'."""
        of_workers = str(self.value("instance_type"))
        return self.scheduler_instance_type or of_workers, of_workers

    def ssh(self) -> bool:
        """Return whether a key of the user's opens port 22."""
        return getattr(self, "key_name", None) is not None

    def idle(self) -> int:
        """Return the seconds after which an idle cluster ends."""
        return int(self.idle_timeout or config.get("idle-timeout"))

    def whose(self) -> str:
        """Return the owner."""
        return self.owner or getpass.getuser()

    def price(self, kind: str) -> float | None:  # noqa: ARG002
        """Return the dollars of an hour of a machine, its disk included; None where nobody knows."""
        return None

    def source(self) -> str:
        """Return where the prices are from."""
        return "no price list of this cloud is at hand"

    def rate(self, workers: int) -> tuple[float, bool]:
        """Return the dollars of an hour of so many workers' machines and a scheduler's, and whether that is all."""
        scheduler, worker = (self.price(kind) for kind in self.kinds())
        return (scheduler or 0.0) + workers * (worker or 0.0), None not in (scheduler, worker)

    def life(self, workers: int) -> int:
        """Return the seconds that so many workers may live: as long as allowed, and as the money lasts.

        Raises
        ------
        UsageError
            The money lasts for less than ten minutes, or nobody knows how long.
        """
        life = int(self.max_lifetime or LIFETIME)
        if self.max_cost is None:
            return life
        dollars, complete = self.rate(workers)
        if not complete:
            raise UsageError("--max-cost", self.max_cost, "the price of these machines is unknown: use --max-lifetime")
        affordable = int(3600 * self.max_cost / dollars)
        if affordable < _LEAST_LIFE:
            cure = f"lasts for {affordable / 60:.0f} minutes of ${dollars:.2f} an hour: allow more, or fewer machines"
            raise UsageError("--max-cost", f"${self.max_cost:.2f}", cure)
        return min(life, affordable)
