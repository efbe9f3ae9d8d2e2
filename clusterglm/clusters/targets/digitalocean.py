"""``digitalocean``: droplets, through dask-cloudprovider's DropletCluster."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud import rehearsal
from clusterglm.clusters.cloud.provider import Provider
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.oncloud import OnCloud
from clusterglm.errors import ClusterError, UsageError

_TOKENS = ("DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN")  # python-digitalocean's own, and doctl's and Terraform's


def _fingerprint(value: Any, what: str) -> str:
    text = str(value)
    if not re.fullmatch("([0-9a-f]{2}:){15}[0-9a-f]{2}", text):  # of any other text a new key would be made
        raise UsageError(what, text, "not the fingerprint of a key: sixteen pairs of digits, as DigitalOcean shows it")
    return text


@dataclass(frozen=True)
class DigitalOcean(OnCloud):
    """Droplets on DigitalOcean: one for the scheduler, and as many as asked for with a worker on each core."""

    target: ClassVar[str] = "digitalocean"
    own_words: ClassVar[Mapping[str, str]] = {
        "instance_type": "size",
        "region": "region",
        "image": "image",
        "network": "vpc_uuid",
        "key_name": "ssh_keys",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "instance_type": "g-8vcpu-32gb",
        "region": "nyc3",
        "image": "ubuntu-24-04-x64",
    }
    halted: ClassVar[str] = "a droplet that has ended by itself is off, and still paid for: clusterglm down --expired"

    region: str | None = option(help="The region.  [default: nyc3]", parse=words.word)
    network: str | None = option(help="The VPC, by its id; by default the region's own.", parse=words.word)
    key_name: str | None = option(
        help="A key of yours, by its fingerprint, to log in with; opens port 22 to you.", parse=_fingerprint
    )

    def here(self) -> bool:
        """Return whether there is a token."""
        return _token() is not None and importlib.util.find_spec("digitalocean") is not None

    def asked(self) -> dict[str, Any]:
        """Return what is asked of DigitalOcean, which takes several keys."""
        found = super().asked()
        return found | ({"ssh_keys": [found["ssh_keys"]]} if "ssh_keys" in found else {})

    def provider(self) -> Provider:
        """Return DigitalOcean, as the user's token opens it. Raises ClusterError where there is none."""
        token = _token()
        if token is None:
            raise ClusterError("credentials", None, f"none found: set {_TOKENS[0]}, or rehearse with --fake")
        found: Provider = self.offline(token)
        return found

    def offline(self, token: str = "") -> Any:
        """Return what makes up requests. Raises ClusterError where python-digitalocean is not installed."""
        try:
            from clusterglm.clusters.cloud.providers.digitalocean import DigitalOcean
        except ImportError as error:
            raise ClusterError(
                self.target, None, "python-digitalocean is not installed: pip install 'clusterglm[digitalocean]'"
            ) from error
        return DigitalOcean(token)

    def price(self, kind: str) -> float | None:
        """Return the dollars of an hour of a droplet as DigitalOcean tells those with a token, None for others."""
        if not (rehearsal.inside(self.target) if self.fake or rehearsal.inside() else self.here()):
            return None
        price: float | None = self.offline(_token() or "").price(kind)
        return price

    def source(self) -> str:
        """Return where the prices are from."""
        return "asked of DigitalOcean, which tells those who have a token"


def _token() -> str | None:
    return next((os.environ[name] for name in _TOKENS if os.environ.get(name)), None)
