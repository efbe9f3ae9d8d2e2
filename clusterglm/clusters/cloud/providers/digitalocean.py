"""DigitalOcean: droplets that are tagged when they are born, behind a firewall that holds for the tag.

Spoken to through python-digitalocean, as dask-cloudprovider does; importing this module imports both. DigitalOcean
shows nobody what a droplet was given to run, nor what it prints.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock
from urllib.parse import urljoin

import digitalocean
import digitalocean.baseapi
import requests

from clusterglm.clusters.cloud import userdata, vm
from clusterglm.clusters.cloud.provider import PLANNED, Order, Request, Server
from clusterglm.errors import ClusterError, Taken

with mock.patch("dask.config.ensure_file"):  # its import would copy a template into the user's folder of settings
    from dask_cloudprovider.digitalocean.droplet import Droplet, DropletCluster

_TAG = "clusterglm"  # of every machine of every cluster
_SECONDS = 30.0  # until an answer
_PAUSES = (2.0, 5.0, 10.0, 20.0, 30.0)  # seconds before a POST is sent again; the limit of calls is one of a minute
_LATER, _LOST = 429, 500  # not now; and from there on, whether it was done is not known
_ALIVE = ("new", "active")
_ANYWHERE = ["0.0.0.0/0", "::/0"]
_CURES = {
    "unable to authenticate you": "the token is wrong or has expired: set DIGITALOCEAN_ACCESS_TOKEN",
    "you do not have access": "the token lacks that right: one with droplet, firewall and tag, to read and to write",
    "will exceed your droplet limit": "the account's quota: fewer --workers, or ask DigitalOcean for more",
    "currently unavailable": "not offered there: another --region or --instance-type",
    "rate limit": "too many calls of this account at once: try again",
}


class DigitalOcean:
    """DigitalOcean, as a token opens it."""

    def __init__(self, token: str) -> None:
        self._token = token
        os.environ.setdefault(digitalocean.baseapi.REQUEST_TIMEOUT_ENV_VAR, str(_SECONDS))
        self._api = digitalocean.baseapi.BaseAPI(token=token)
        # Of what may be repeated. Not as late as an answer asks for: that may be an hour.
        again = requests.adapters.Retry(
            total=6,
            backoff_factor=0.5,
            status_forcelist=(_LATER, 500, 502, 503, 504),
            raise_on_status=False,
            respect_retry_after_header=False,
        )
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
        """Make the firewall of the cluster's tag. Raises Taken where there is one of its name, or such a tag."""
        taken = Taken("--name", order.name, f"its firewall is there: another name, or clusterglm down {order.name}")
        if order.name in self.walls():
            raise taken
        tag, firewall = self.planned_wall(order, ranges, ssh)
        self._post(tag, "tag", order.name)
        try:
            self._post(firewall, "firewall", order.name)
        except ClusterError as error:
            if "duplicate name" in str(error):
                raise taken from error
            raise

    def walls(self) -> list[str]:
        """Return the clusters of which there are firewalls, or the tags that are made before them."""
        names = [str(item["name"]).partition(f"{_TAG}-") for item in self._firewalls()]
        names += [str(item["name"]).partition(f"{_TAG}:") for item in self._ask("tags", "tag")["tags"]]
        return sorted({name.partition(":")[0] for before, _, name in names if not before and name})

    def start(self, name: str, request: Request) -> None:
        """Start a droplet of a cluster. One whose request has no answer is looked for before it is asked for again."""
        droplet = str((request.body or {})["name"])

        def there() -> list[Server]:
            return [server for server in self.servers(name) if server.name == droplet]

        if self._post(request, droplet, heard=lambda: bool(there())) > 1:
            self.delete(there()[1:])  # it was not seen in time

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
        """Return the request for a droplet."""
        name = f"dask-{order.name}-{'scheduler' if role == 'scheduler' else 'worker-0'}"
        return [self.droplet(order, name, role, order.script(role, 0, PLANNED))]

    def droplet(self, order: Order, name: str, role: str, script: str) -> Request:
        """Return the request for a droplet as python-digitalocean makes it up."""
        sent: list[Request] = []

        class Recorded(digitalocean.Droplet):  # type: ignore[misc]
            def get_data(self, url: str, type: str = "GET", params: Any = None) -> None:
                sent.append(Request(type, url.rstrip("/"), params))

        words = {"name": name, "user_data": script, "backups": False} | _completed(order)
        words |= {word: order.options.get(word) for word in ("region", "image")}
        Recorded(token="", size_slug=order.kinds[role != "scheduler"], **words).create()
        return sent[0]

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

    def _post(self, request: Request, what: str, value: object = None, heard: Callable[[], bool] | None = None) -> int:
        """Send a request that makes something, and return how often.

        Where DigitalOcean has no time for it, it is sent again; where it does not tell whether it was done, only with
        ``heard``, which looks whether it was.
        """
        url, headers = urljoin(self._api.end_point, request.path), {"Authorization": f"Bearer {self._token}"}
        for number, pause in enumerate((*_PAUSES, 0.0), 1):
            said = ""
            try:
                answer = self._api._session.post(url, json=request.body, headers=headers, timeout=_SECONDS)
                status = answer.status_code
                if answer.ok:
                    return number
                said = _words(answer)
            except requests.RequestException:
                status, said = _LOST, "does not answer"
            if not pause or not (status == _LATER or (status >= _LOST and heard is not None)):
                break
            time.sleep(pause)
            if status >= _LOST and heard is not None and heard():
                return number
        with told(what, value):
            raise digitalocean.DataReadError(said)


class _Machine(vm.Machine, Droplet):  # type: ignore[misc]
    """A droplet that is tagged when it is born; dask-cloudprovider's own asks for it ten times a second."""

    def start_vm(self, script: str) -> None:
        provider, order = self.cluster.provider, self.cluster.order
        provider.start(order.name, provider.droplet(order, self.name, self.role, script))


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
        said = "does not answer" if isinstance(error, requests.RequestException) else str(error).rstrip(".")
        said = said or "no such thing"
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


def _words(answer: requests.Response) -> str:
    """Return what DigitalOcean says in an answer that is a refusal."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"


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
