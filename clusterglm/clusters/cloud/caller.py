"""Who is let in: the caller's own address, as a cloud sees it."""

from __future__ import annotations

from clusterglm.clusters.cloud import rehearsal
from clusterglm.errors import ClusterError

_WHO, _SECONDS = "https://checkip.amazonaws.com", 5


def own_address() -> str:
    """Return the caller's own address as the cloud sees it, as a /32.

    Raises
    ------
    ClusterError
        Nobody tells: never is a wall opened to the whole world instead.
    """
    if rehearsal.inside():
        from clusterglm.clusters.cloud.fakes.booter import GATEWAY  # not needed to refuse a command line

        return f"{GATEWAY}/32"
    import ipaddress
    import urllib.request

    try:
        with urllib.request.urlopen(_WHO, timeout=_SECONDS) as answer:
            return f"{ipaddress.IPv4Address(answer.read(64).decode().strip())}/32"
    except (OSError, ValueError) as error:
        raise ClusterError(
            "--allow-cidr", None, f"{_WHO} does not tell your address: give it, as 203.0.113.5/32"
        ) from error
