"""``gcp``: instances on Google Cloud, through dask-cloudprovider's GCPCluster."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterglm.clusters import words
from clusterglm.clusters.cloud import options as of
from clusterglm.clusters.cloud import rehearsal
from clusterglm.clusters.cloud.prices import gcp as list_prices
from clusterglm.clusters.cloud.provider import Provider
from clusterglm.clusters.launcher import option
from clusterglm.clusters.targets.oncloud import OnCloud
from clusterglm.errors import ClusterError

_PROJECTS = ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")
_ZONES = ("CLOUDSDK_COMPUTE_ZONE",)
_DEFAULT_CREDENTIALS = "~/.config/gcloud/application_default_credentials.json"


@dataclass(frozen=True)
class Gcp(OnCloud):
    """Instances on Google Cloud: one for the scheduler, and as many as asked for with a worker on each core."""

    target: ClassVar[str] = "gcp"
    own_words: ClassVar[Mapping[str, str]] = {
        "instance_type": "machine_type",
        "zone": "zone",
        "project": "projectid",
        "image": "source_image",
        "disk": "filesystem_size",
        "disk_type": "disk_type",
        "network": "network",
        "instance_profile": "service_account",
        "spot": "preemptible",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "instance_type": "n2-standard-8",
        "image": "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64",
        "disk": 40,
        "network": "default",
    }
    halted: ClassVar[str] = (
        "an instance that has ended by itself is stopped, and its disk still paid for: clusterglm down --expired"
    )

    zone: str | None = option(help="The zone.  [default: us-central1-a, or as gcloud's settings say]", parse=words.word)
    project: str | None = option(help="The project; by default as GOOGLE_CLOUD_PROJECT says.", parse=words.word)
    disk: int | None = option(help="Disk of each machine, such as 100GB.  [default: 40GB]", parse=of.gigabytes)
    disk_type: str | None = option(help="pd-standard, pd-balanced or pd-ssd.", parse=words.word)
    network: str | None = option(help="The network and its subnetwork of that name.", parse=words.word)
    instance_profile: str | None = option(help="The service account of the machines.", parse=words.word)
    spot: bool | None = option(help="Workers on spot machines.", parse=of.switch, flag=True)

    def here(self) -> bool:
        """Return whether there are a project and credentials."""
        file = Path(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or _DEFAULT_CREDENTIALS).expanduser()
        return self._project() is not None and file.exists() and importlib.util.find_spec("googleapiclient") is not None

    def asked(self) -> dict[str, Any]:
        """Return what is asked of Google Cloud; project and zone are the provider's."""
        return {word: value for word, value in super().asked().items() if word not in ("projectid", "zone")}

    def provider(self) -> Provider:
        """Return the project, as the user's credentials open it. Raises ClusterError where there are none."""
        project = self._project()
        if project is None:
            raise ClusterError("--project", None, "missing: give it, or set GOOGLE_CLOUD_PROJECT")
        # As long as the environment names the same: the description of Google's API takes a moment to read.
        named = tuple(os.environ.get(name) for name in ("GOOGLE_APPLICATION_CREDENTIALS", _imported().ENDPOINT))
        return _opened(project, self._zone(), named)

    def offline(self) -> Any:
        """Return what makes up requests. Raises ClusterError where Google's client is not installed."""
        return _imported().Gcp(self._project() or "PROJECT", self._zone(), None)

    def price(self, kind: str) -> float | None:
        """Return the dollars of an hour of a machine and its disk, None where nobody knows."""
        return list_prices.hourly(kind, self._zone().rpartition("-")[0], int(self.value("disk")))

    def source(self) -> str:
        """Return where the prices are from."""
        return list_prices.source()

    def _project(self) -> str | None:
        return self.project or _first(_PROJECTS)

    def _zone(self) -> str:
        from clusterglm.clusters.cloud.fakes.gcp import ZONE

        return self.zone or (None if rehearsal.inside(self.target) else _first(_ZONES)) or ZONE


@functools.cache
def _opened(project: str, zone: str, named: tuple[str | None, ...]) -> Provider:  # noqa: ARG001  what it depends on
    gcp = _imported()
    provider: Provider = gcp.Gcp(project, zone, gcp.credentials())
    return provider


def _first(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _imported() -> Any:
    try:
        from clusterglm.clusters.cloud.providers import gcp
    except ImportError as error:
        cure = "google-api-python-client is not installed: pip install 'clusterglm[gcp]'"
        raise ClusterError("gcp", None, cure) from error
    return gcp
