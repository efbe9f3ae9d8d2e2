"""DigitalOcean's API as far as clusters need it: droplets, their actions, tags and firewalls, kept in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from clusterglm.clusters.cloud.fakes import Instance, World
from clusterglm.clusters.cloud.fakes.rest import Answer, Server

TOKEN = "rehearsal"  # noqa: S105
_PORT = 5001
_NEW_SECONDS = 0.5  # until a droplet has its addresses
_SIZES = {"s-1vcpu-1gb": 0.00893, "g-2vcpu-8gb": 0.09375, "g-8vcpu-32gb": 0.375, "c-8": 0.25}  # $ an hour


class Droplets(Server):
    """The server, and what there is in its account."""

    def __init__(self, port: int = 0) -> None:
        self.droplets: dict[int, dict[str, Any]] = {}
        self.scripts: dict[int, str] = {}
        self.tags: list[str] = []
        self.firewalls: dict[str, dict[str, Any]] = {}
        self._numbers = count(71000001)
        super().__init__(
            {
                ("GET", "/v2/account"): lambda **_: (200, {"account": {"status": "active", "droplet_limit": 25}}),
                ("GET", "/v2/sizes"): self._sizes,
                ("GET", "/v2/droplets"): self._list,
                ("POST", "/v2/droplets"): self._create,
                ("GET", r"/v2/droplets/(\d+)"): self._show,
                ("DELETE", r"/v2/droplets/(\d+)"): self._delete,
                ("GET", r"/v2/droplets/(\d+)/actions"): self._actions,
                ("GET", r"/v2/(?:droplets/\d+/)?actions/(\d+)"): self._action,
                ("GET", "/v2/tags"): lambda **_: (200, {"tags": [{"name": name} for name in self.tags]}),
                ("POST", "/v2/tags"): self._tag,
                ("DELETE", "/v2/tags/(.+)"): self._untag,
                ("GET", "/v2/firewalls"): lambda **_: (200, {"firewalls": list(self.firewalls.values())}),
                ("POST", "/v2/firewalls"): self._wall,
                ("PUT", "/v2/firewalls/(.+)"): self._rewall,
                ("DELETE", "/v2/firewalls/(.+)"): self._unwall,
            },
            port,
        )
        self.variables = {"DIGITALOCEAN_END_POINT": f"{self.url}/v2/", "DIGITALOCEAN_ACCESS_TOKEN": TOKEN}

    def refusal(self, path: str, headers: Mapping[str, str]) -> Answer | None:  # noqa: ARG002
        """Return the answer to a wrong token."""
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"id": "Unauthorized", "message": "Unable to authenticate you"}
        return None

    def unknown(self, path: str) -> Answer:  # noqa: ARG002
        """Return the answer for what is not there."""
        return 404, {"id": "not_found", "message": "The resource you were accessing could not be found."}

    def running(self) -> list[Instance]:
        """Return the droplets that are switched on."""
        with self.lock:
            return [
                Instance(str(number), _private(number), _public(number), partial(self.scripts.__getitem__, number))
                for number in self.droplets
                if self._seen(number)["status"] == "active"
            ]

    def halted(self, identity: str) -> None:
        """Switch a droplet off, which does not end it: DigitalOcean keeps it, and has it paid for."""
        with self.lock:
            if int(identity) in self.droplets:
                self.droplets[int(identity)]["status"] = "off"

    def shown(self) -> dict[str, Any]:
        """Return the droplets, tags and firewalls."""
        with self.lock:
            droplets = [self._seen(number) for number in self.droplets]
            firewalls = list(self.firewalls.values())
            walls = {str(wall["name"]).removeprefix("clusterglm-") for wall in firewalls}
            walls |= {tag.split(":")[1] for tag in self.tags if tag.startswith("clusterglm:")}
            return {
                "empty": not droplets and not walls,
                "servers": [_server(droplet) for droplet in droplets],
                "walls": sorted(walls),
                "droplets": droplets,
                "tags": list(self.tags),
                "firewalls": firewalls,
            }

    def _seen(self, number: int) -> dict[str, Any]:
        droplet = self.droplets[number]
        if droplet["status"] == "new" and time.monotonic() > droplet["_ready"]:
            droplet["status"] = "active"
        shown = {key: value for key, value in droplet.items() if key != "_ready"}
        addresses = [("private", _private(number)), ("public", _public(number))]
        v4 = [{"type": kind, "ip_address": address} for kind, address in addresses]
        return shown | {"networks": {"v4": [] if droplet["status"] == "new" else v4, "v6": []}}

    def _sizes(self, **_: Any) -> Answer:
        return 200, {"sizes": [{"slug": slug, "price_hourly": dollars} for slug, dollars in _SIZES.items()]}

    def _list(self, query: Mapping[str, str], **_: Any) -> Answer:
        found = [self._seen(number) for number in self.droplets]
        if tag := query.get("tag_name"):
            found = [droplet for droplet in found if tag in droplet["tags"]]
        return 200, {"droplets": found, "links": {}, "meta": {"total": len(found)}}

    def _create(self, body: dict[str, Any], **_: Any) -> Answer:
        if lacking := [word for word in ("name", "region", "size", "image") if not body.get(word)]:
            return 422, {"id": "unprocessable_entity", "message": f"{lacking[0]} is missing"}
        if body["size"] not in _SIZES:
            return 422, {"id": "unprocessable_entity", "message": "You specified an invalid size for Droplet creation."}
        number = next(self._numbers)
        for tag in body.get("tags") or []:
            self._tag(body={"name": tag})
        self.scripts[number] = str(body.get("user_data") or "")
        self.droplets[number] = {
            "id": number,
            "name": body["name"],
            "status": "new",
            "size_slug": body["size"],
            "region": {"slug": body["region"]},
            "image": {"slug": body["image"]},
            "tags": list(body.get("tags") or []),
            "created_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "_ready": time.monotonic() + _NEW_SECONDS,
        }
        action = {"id": number, "rel": "create", "href": f"{self.url}/v2/actions/{number}"}
        return 202, {"droplet": self._seen(number), "links": {"actions": [action]}}

    def _show(self, number: str, **_: Any) -> Answer:
        if int(number) not in self.droplets:
            return self.unknown(number)
        return 200, {"droplet": self._seen(int(number))}

    def _delete(self, number: str, **_: Any) -> Answer:
        if self.droplets.pop(int(number), None) is None:
            return self.unknown(number)
        return 204, None

    def _actions(self, number: str, **_: Any) -> Answer:
        return 200, {"actions": [self._action(number)[1]["action"]]}

    def _action(self, number: str, **_: Any) -> Answer:
        status = "in-progress" if self._seen(int(number))["status"] == "new" else "completed"
        return 200, {"action": {"id": int(number), "status": status, "type": "create", "resource_id": int(number)}}

    def _tag(self, body: dict[str, Any], **_: Any) -> Answer:
        if body["name"] not in self.tags:
            self.tags.append(body["name"])
        return 201, {"tag": {"name": body["name"], "resources": {}}}

    def _untag(self, name: str, **_: Any) -> Answer:
        if name not in self.tags:
            return self.unknown(name)
        self.tags.remove(name)
        for droplet in self.droplets.values():
            droplet["tags"] = [tag for tag in droplet["tags"] if tag != name]
        return 204, None

    def _wall(self, body: dict[str, Any], **_: Any) -> Answer:
        if any(wall["name"] == body["name"] for wall in self.firewalls.values()):
            return 409, {"id": "conflict", "message": "duplicate name"}
        if not set(body.get("tags") or []) <= set(self.tags):
            return 422, {"id": "unprocessable_entity", "message": "tag does not exist"}
        identity = f"wall-{len(self.sent)}"
        self.firewalls[identity] = {"id": identity, "status": "succeeded", **body}
        return 202, {"firewall": self.firewalls[identity]}

    def _rewall(self, identity: str, body: dict[str, Any], **_: Any) -> Answer:
        if identity not in self.firewalls:
            return self.unknown(identity)
        self.firewalls[identity] = {"id": identity, "status": "succeeded", **body}
        return 200, {"firewall": self.firewalls[identity]}

    def _unwall(self, identity: str, **_: Any) -> Answer:
        return (404, {"id": "not_found", "message": "?"}) if self.firewalls.pop(identity, None) is None else (204, None)


def _server(droplet: Mapping[str, Any]) -> dict[str, Any]:
    """Return a droplet for those who look from outside, as clusters/cloud/provider.py has machines."""
    addresses = {f"{each['type']}": each["ip_address"] for each in droplet["networks"]["v4"]}
    words = {"name": droplet["name"], "status": droplet["status"], "born": droplet["created_at"]}
    words |= {"kind": droplet["size_slug"], "place": droplet["region"]["slug"], "id": str(droplet["id"])}
    parts = [tag.split(":") for tag in droplet["tags"]]
    words |= {"tags": {part[2]: part[3] for part in parts if len(part) == 4}}
    return words | addresses | {"alive": droplet["status"] in ("new", "active")}


def _private(number: int) -> str:
    return f"172.31.128.{number % 1000}"


def _public(number: int) -> str:
    return f"203.0.113.{number % 1000}"


def _start(folder: Path, console: Callable[[str], str]) -> Droplets:  # noqa: ARG001
    return Droplets(_PORT)


def _missing() -> str:
    try:
        import digitalocean  # noqa: F401
    except ImportError:
        return "python-digitalocean is not installed: pip install 'clusterglm[digitalocean]'"
    return ""


WORLD = World(("DIGITALOCEAN_TOKEN",), _missing, _start)
