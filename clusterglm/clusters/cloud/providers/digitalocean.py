"""DigitalOcean: droplets that are tagged when they are born, behind a firewall that holds for the tag.

Spoken to through python-digitalocean, as dask-cloudprovider does; importing this module imports both. DigitalOcean
shows nobody what a droplet was given to run, nor what it prints.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import digitalocean
import digitalocean.baseapi
import requests

from clusterglm.clusters.cloud import userdata, vm
from clusterglm.clusters.cloud.provider import PLANNED, Order, Request, Server
from clusterglm.errors import ClusterError

with mock.patch("dask.config.ensure_file"):  # its import would copy a template into the user's folder of settings
    from dask_cloudprovider.digitalocean.droplet import Droplet, DropletCluster

_TAG = "clusterglm"  # of every machine of every cluster
_SECONDS = "30"  # until an answer
_ALIVE = ("new", "active")
_ANYWHERE = ["0.0.0.0/0", "::/0"]
_CURES = {
    "unable to authenticate you": "the token is wrong or has expired: set DIGITALOCEAN_ACCESS_TOKEN",
    "you do not have access": "the token lacks that right: one with droplet, firewall and tag, to read and to write",
    "will exceed your droplet limit": "the account's quota: fewer --workers, or ask DigitalOcean for more",
    "currently unavailable": "not offered there: another --region or --instance-type",
    "too many requests": "too many calls of this account at once: try again",
}


class DigitalOcean:
    """DigitalOcean, as a token opens it."""

    def __init__(self, token: str) -> None:
        self._token = token
        os.environ.setdefault(digitalocean.baseapi.REQUEST_TIMEOUT_ENV_VAR, _SECONDS)
        self._api = digitalocean.baseapi.BaseAPI(token=token)
        again = requests.adapters.Retry(total=6, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        for scheme in ("http://", "https://"):
            self._api._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=again))

    def check(self) -> None:
        """Ask whose token this is."""
        self._ask("account", "credentials")

    def servers(self, name: str | None = None) -> list[Server]:
        """Return the droplets of a cluster, or of all, by their tag."""
        tag = _TAG if name is None else f"{_TAG}:{name}"
        found = [_server(item) for item in self._ask("droplets", "cluster", name, tag_name=tag)["droplets"]]
        return [server for server in found if server.cluster is not None and name in (None, server.cluster)]

    def script(self, server: Server) -> str:  # noqa: ARG002
        """Return nothing: it is shown to nobody."""
        return ""

    def secret(self) -> bytes:
        """Return the token."""
        return self._token.encode()

    def console(self, server: Server) -> str:  # noqa: ARG002
        """Return nothing: a droplet's console is for browsers alone."""
        return ""

    def wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> None:
        """Make the firewall of the cluster's tag. Raises ClusterError where there is one of its name."""
        if order.name in self.walls():
            cure = f"its firewall is there: another name, or clusterglm down {order.name}"
            raise ClusterError("--name", order.name, cure)
        for request in self.planned_wall(order, ranges, ssh):
            self._ask(request.path, "--name", order.name, method="POST", **dict(request.body or {}))

    def walls(self) -> list[str]:
        """Return the clusters of which there are firewalls."""
        names = [str(item["name"]) for item in self._firewalls()]
        return [name.removeprefix(f"{_TAG}-") for name in names if name.startswith(f"{_TAG}-")]

    def admitted(self, name: str, port: int) -> list[str]:
        """Return the addresses in the firewall's rules for a port."""
        rules = [rule for item in self._firewalls(name) for rule in item["inbound_rules"] if _is_for(rule, port)]
        return [str(each) for rule in rules for each in rule["sources"]["addresses"]]

    def admit(self, name: str, port: int, ranges: Sequence[str]) -> None:
        """Replace the firewall by one whose rule for a port has these addresses."""
        for item in self._firewalls(name):
            rules = [rule for rule in item["inbound_rules"] if not _is_for(rule, port)]
            if ranges:
                rules.append({"protocol": "tcp", "ports": str(port), "sources": {"addresses": list(ranges)}})
            kept = {word: item[word] for word in ("name", "tags", "droplet_ids", "outbound_rules") if word in item}
            self._ask(f"firewalls/{item['id']}", "firewall", name, method="PUT", inbound_rules=rules, **kept)

    def delete(self, servers: Sequence[Server]) -> None:
        """Destroy droplets: one that is only switched off is still paid for."""
        for server in servers:
            self._ask(f"droplets/{server.id}", server.name, method="DELETE")

    def clear(self, name: str) -> bool:
        """Remove the firewall and the tags, which would stay in the account without any droplet."""
        for item in self._firewalls(name):
            self._ask(f"firewalls/{item['id']}", "down", name, method="DELETE")
        for item in self._ask("tags", "down", name)["tags"]:
            if f"{item['name']}:".startswith(f"{_TAG}:{name}:"):
                self._ask(f"tags/{item['name']}", "down", name, method="DELETE")
        return True

    def price(self, kind: str) -> float | None:
        """Return the dollars of an hour of a droplet of this size, None where there is no such size."""
        sizes = self._ask("sizes", "--instance-type", kind)["sizes"]
        return next((float(item["price_hourly"]) for item in sizes if item["slug"] == kind), None)

    def cluster(self, order: Order) -> Any:
        """Return a DropletCluster whose droplets are ours."""
        return _Cluster(self, order)

    def planned_wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> list[Request]:
        """Return the requests for the tag, which must be there first, and the firewall."""
        tag, ports = f"{_TAG}:{order.name}", [str(userdata.PORT), *(["22"] if ssh else [])]
        sources, members, to = {"addresses": list(ranges)}, {"tags": [tag]}, {"addresses": _ANYWHERE}
        inbound: list[dict[str, Any]] = []
        if sources["addresses"]:
            inbound += [{"protocol": "tcp", "ports": port, "sources": sources} for port in ports]
        inbound += [{"protocol": each, "ports": "all", "sources": members} for each in ("tcp", "udp")]
        inbound += [{"protocol": "icmp", "sources": members}]
        outbound: list[dict[str, Any]] = [{"protocol": p, "ports": "all", "destinations": to} for p in ("tcp", "udp")]
        outbound += [{"protocol": "icmp", "destinations": to}]
        body = {"name": f"{_TAG}-{order.name}", "tags": [tag], "inbound_rules": inbound, "outbound_rules": outbound}
        return [Request("POST", "tags", {"name": tag}), Request("POST", "firewalls", body)]

    def planned(self, order: Order, role: str) -> list[Request]:
        """Return the request for a droplet as python-digitalocean makes it up."""
        sent: list[Request] = []

        class Recorded(digitalocean.Droplet):  # type: ignore[misc]
            def get_data(self, url: str, type: str = "GET", params: Any = None) -> None:
                sent.append(Request(type, url.rstrip("/"), params))

        words = {"user_data": order.script(role, 0, PLANNED), "backups": False} | _completed(order)
        words |= {"name": f"dask-{order.name}-{'scheduler' if role == 'scheduler' else 'worker-0'}"}
        words |= {word: order.options.get(word) for word in ("region", "image")}
        Recorded(token="", size_slug=order.kinds[role != "scheduler"], **words).create()
        return sent

    def _firewalls(self, name: str | None = None) -> list[dict[str, Any]]:
        found = self._ask("firewalls", "firewall", name)["firewalls"]
        return [item for item in found if name is None or item["name"] == f"{_TAG}-{name}"]

    def _ask(self, path: str, what: str, value: object = None, method: str = "GET", **words: Any) -> Any:
        with told(what, value):
            try:
                return self._api.get_data(path, type=method, params=words)
            except digitalocean.NotFoundError:
                if method == "DELETE":
                    return True
                raise


class _Machine(vm.Machine, Droplet):  # type: ignore[misc]
    """A droplet that is tagged when it is born and knows both of its addresses."""

    cluster: Any
    droplet: Any

    async def born(self) -> tuple[str, str | None]:
        with told(self.name):
            await Droplet.create_vm(self)
        public = self.droplet.ip_address
        # Workers dial the first, over the private network; we dial the second.
        return self.droplet.private_ip_address or public, public

    async def call_async(self, function: Any, *given: Any, **words: Any) -> Any:
        """Complete the request that starts a droplet by what ``create_vm`` does not offer."""
        if function == self.droplet.create:
            words |= _completed(self.cluster.order)
        return await super().call_async(function, *given, **words)


class _Scheduler(vm.OfScheduler, _Machine):
    """The droplet of the scheduler."""


class _Worker(vm.OfWorkers, _Machine):
    """A droplet of workers."""


class _Cluster(vm.Cluster, DropletCluster):  # type: ignore[misc]
    """A DropletCluster whose droplets outlive it."""

    def __init__(self, provider: DigitalOcean, order: Order) -> None:
        self.provider, self.order = provider, order
        words = {word: order.options[word] for word in ("region", "image") if word in order.options}
        super().__init__(**words, **vm.OPTIONS)
        self.scheduler_class, self.worker_class = _Scheduler, _Worker
        # Not through Dask's configuration, which others may read.
        own = {"config": {"token": provider.secret().decode()}}
        self.scheduler_options |= own | {"size": order.kinds[0]}
        self.worker_options |= own | {"size": order.kinds[1]}


@contextlib.contextmanager
def told(what: str, value: object = None) -> Iterator[None]:
    """Turn what python-digitalocean raises into ClusterError: DigitalOcean's words, and the cure."""
    try:
        yield
    except (digitalocean.Error, digitalocean.baseapi.Error, requests.RequestException) as error:
        said = str(error).rstrip(".") or "no such thing"
        if isinstance(error, requests.ConnectionError):
            said = "does not answer"
        cure = next((cure for words, cure in _CURES.items() if words in said.lower()), "")
        if cure.startswith("the token"):
            what, value = "credentials", None
        raise ClusterError(what, value, f"DigitalOcean: {said}" + (f": {cure}" if cure else "")) from error


def _completed(order: Order) -> dict[str, Any]:
    """Return what a droplet's request has beside name, place, size, image and user data."""
    tags = [_TAG, f"{_TAG}:{order.name}"]
    tags += [f"{_TAG}:{order.name}:{key}:{re.sub('[^A-Za-z0-9_-]', '_', value)}" for key, value in order.tags.items()]
    words = {"tags": tags, "ssh_keys": order.options.get("ssh_keys", []), "vpc_uuid": order.options.get("vpc_uuid")}
    return {word: value for word, value in words.items() if value is not None}


def _is_for(rule: Mapping[str, Any], port: int) -> bool:
    return rule.get("ports") == str(port) and bool(rule["sources"].get("addresses"))


def _server(item: dict[str, Any]) -> Server:
    addresses = {each["type"]: each["ip_address"] for each in item["networks"]["v4"]}
    cluster = next((tag for tag in item["tags"] if re.fullmatch(f"{_TAG}:[a-z0-9-]+", tag)), _TAG)
    own = [tag.removeprefix(f"{cluster}:").partition(":") for tag in item["tags"] if tag.startswith(f"{cluster}:")]
    return Server(
        id=str(item["id"]),
        name=str(item["name"]),
        status=str(item["status"]),
        alive=item["status"] in _ALIVE,
        private=addresses.get("private", ""),
        public=addresses.get("public", ""),
        kind=str(item["size_slug"]),
        place=str(item["region"]["slug"]),
        born=str(item["created_at"]),
        tags={key: value for key, _, value in own if value},
    )
