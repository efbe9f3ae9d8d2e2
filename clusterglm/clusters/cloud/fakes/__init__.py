"""Stand-ins for clouds, for rehearsals: each answers its cloud's API, and its machines are made live by the booter.

A fake is started in the process that holds a rehearsal (clusters/cloud/rehearsal.py) when its cloud is first wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Instance(NamedTuple):
    """A machine that its cloud says is running: what of it is made true.

    ``script`` returns what it runs at boot; with ``notices`` it can be told that it will be taken back.
    """

    id: str
    private: str
    public: str | None
    script: Callable[[], str]
    notices: bool = False


class Fake(Protocol):
    """What the booter and the rehearsal need of a fake; commands speak to it over loopback, as to the cloud."""

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables of the environment by which commands reach it."""

    def running(self) -> list[Instance]:
        """Return the machines that shall be live."""

    def halted(self, identity: str) -> None:
        """Take note that a machine has halted itself, and do with it what the cloud does."""

    def shown(self) -> dict[str, Any]:
        """Return what the cloud holds, for those who look from outside; ``empty`` says that there is nothing."""


class World(NamedTuple):
    """A cloud that can be rehearsed.

    ``real`` are further variables that lead its user to the real one, ``missing`` says why it cannot be rehearsed here,
    ``start(folder, console)`` starts its fake, with a folder of its own that is yet to be made, and a function from a
    machine to what it has printed.
    """

    real: Sequence[str]
    missing: Callable[[], str]
    start: Callable[[Path, Callable[[str], str]], Fake]


def worlds() -> dict[str, World]:
    """Return the world of each cloud that can be rehearsed."""
    from clusterglm.clusters.cloud.fakes import digitalocean, ec2, gcp

    return {"ec2": ec2.WORLD, "digitalocean": digitalocean.WORLD, "gcp": gcp.WORLD}
