"""Google Cloud's API as far as clusters need it: instances, firewall rules, operations, tokens, kept in memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from clusterglm.clusters.cloud.fakes import Instance, World
from clusterglm.clusters.cloud.fakes.rest import Answer, Server

PROJECT, ZONE = "rehearsal", "us-central1-a"
_TOKEN = "rehearsal-token"  # noqa: S105
_PORT = 5002
_STAGING_SECONDS = 0.5  # until an instance has its addresses
_AT = "/compute/v1/projects/rehearsal"


class Instances(Server):
    """The server, and what there is in its project."""

    def __init__(self, folder: Path, console: Callable[[str], str], port: int = 0) -> None:
        self.instances: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, dict[str, Any]] = {}
        self.console = console
        self._numbers = count(82000001)
        zone = f"{_AT}/zones/([a-z0-9-]+)"
        super().__init__(
            {
                ("POST", "/token"): lambda **_: (200, {"access_token": _TOKEN, "expires_in": 3600}),
                ("GET", zone): self._zone,
                ("GET", f"{_AT}/aggregated/instances"): self._list_all,
                ("GET", f"{zone}/instances"): self._list,
                ("POST", f"{zone}/instances"): self._create,
                ("GET", f"{zone}/instances/([a-z0-9-]+)"): self._show,
                ("DELETE", f"{zone}/instances/([a-z0-9-]+)"): self._delete,
                ("GET", f"{zone}/instances/([a-z0-9-]+)/serialPort"): self._printed,
                ("POST", f"{_AT}/(?:zones/[a-z0-9-]+|global)/operations/([a-z0-9-]+)/wait"): self._wait,
                ("GET", f"{_AT}/global/firewalls"): lambda **_: (200, {"items": list(self.rules.values())}),
                ("POST", f"{_AT}/global/firewalls"): self._rule,
                ("PATCH", f"{_AT}/global/firewalls/([a-z0-9-]+)"): self._patch,
                ("DELETE", f"{_AT}/global/firewalls/([a-z0-9-]+)"): self._unrule,
            },
            port,
        )
        key = folder / "service-account.json"
        key.write_text(json.dumps(_account(f"{self.url}/token")))
        self.variables = {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.url}/compute/v1/",
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
        }

    def refusal(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the answer to a request without a token."""
        if path != "/token" and headers.get("authorization") != f"Bearer {_TOKEN}":
            return _error(401, "Request had Invalid Credentials")
        return None

    def unknown(self, path: str) -> Answer:
        """Return the answer for what is not there."""
        return _error(404, f"The resource '{path}' was not found")

    def running(self) -> list[Instance]:
        """Return the instances that are running."""
        with self.lock:
            found = [item for item in map(self._seen, self.instances) if item["status"] == "RUNNING"]
        return [
            Instance(item["id"], _private(item["id"]), _public(item["id"]), partial(_script, item), _is_spot(item))
            for item in found
        ]

    def halted(self, identity: str) -> None:
        """Stop an instance, which does not delete it."""
        with self.lock:
            for item in self.instances.values():
                if item["id"] == identity:
                    item["status"] = "TERMINATED"

    def shown(self) -> dict[str, Any]:
        """Return the instances and the firewall rules."""
        with self.lock:
            instances = [self._seen(name) for name in self.instances]
            rules = list(self.rules.values())
        walls = sorted({rule["targetTags"][0].removeprefix("clusterglm-") for rule in rules})
        return {
            "empty": not instances and not rules,
            "servers": [_server(item) for item in instances],
            "walls": walls,
            "instances": instances,
            "firewalls": rules,
        }

    def _seen(self, name: str) -> dict[str, Any]:
        item = self.instances[name]
        if item["status"] == "STAGING" and time.monotonic() > item["_ready"]:
            item["status"] = "RUNNING"
            item["networkInterfaces"][0]["networkIP"] = _private(item["id"])
            for config in item["networkInterfaces"][0].get("accessConfigs", []):
                config["natIP"] = _public(item["id"])
        return {key: value for key, value in item.items() if key != "_ready"}

    def _zone(self, zone: str, **_: Any) -> Answer:
        return (200, {"name": zone, "status": "UP"}) if zone == ZONE else self.unknown(f"zones/{zone}")

    def _list_all(self, query: Mapping[str, str], **_: Any) -> Answer:
        found = self._filtered(query)
        return 200, {"items": {f"zones/{ZONE}": {"instances": found} if found else {"warning": {}}}}

    def _list(self, zone: str, query: Mapping[str, str], **_: Any) -> Answer:  # noqa: ARG002
        found = self._filtered(query)
        return 200, {"items": found} if found else {}

    def _filtered(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the instances that a filter leaves: ``name=NAME``, ``labels.KEY=VALUE`` or ``labels.KEY:*``."""
        found = [self._seen(name) for name in self.instances]
        name, sign, value = re.fullmatch(r"([a-z.-]+)([=:])(.+)", query.get("filter", "name:*")).groups()  # type: ignore[union-attr]
        if name == "name":
            return [item for item in found if sign == ":" or item["name"] == value]
        key = name.removeprefix("labels.")
        return [item for item in found if key in item["labels"] and (sign == ":" or item["labels"][key] == value)]

    def _create(self, zone: str, body: dict[str, Any], **_: Any) -> Answer:
        if body["name"] in self.instances:
            return _error(409, f"The resource '{body['name']}' already exists")
        if not re.fullmatch(r"[a-z][a-z0-9]*-[a-z]+-\d+", body["machineType"].rpartition("/")[2]):
            return _error(400, f"Invalid value for field 'resource.machineType': '{body['machineType']}'")
        number = str(next(self._numbers))
        self.instances[body["name"]] = body | {
            "id": number,
            "status": "STAGING",
            "zone": f"{self.url}{_AT}/zones/{zone}",
            "creationTimestamp": datetime.now(UTC).isoformat(),
            "_ready": time.monotonic() + _STAGING_SECONDS,
        }
        return 200, {"name": f"operation-{number}", "id": number, "status": "RUNNING", "zone": f"zones/{zone}"}

    def _show(self, zone: str, name: str, **_: Any) -> Answer:  # noqa: ARG002
        return (200, self._seen(name)) if name in self.instances else self.unknown(name)

    def _delete(self, zone: str, name: str, **_: Any) -> Answer:
        if self.instances.pop(name, None) is None:
            return self.unknown(name)
        return 200, {"name": f"operation-{len(self.sent)}", "status": "RUNNING", "zone": f"zones/{zone}"}

    def _printed(self, zone: str, name: str, **_: Any) -> Answer:  # noqa: ARG002
        return 200, {"contents": self.console(self.instances[name]["id"])}

    def _wait(self, operation: str, **_: Any) -> Answer:
        return 200, {"name": operation, "status": "DONE"}

    def _rule(self, body: dict[str, Any], **_: Any) -> Answer:
        if body["name"] in self.rules:
            return _error(409, f"The resource '{body['name']}' already exists")
        self.rules[body["name"]] = body
        return 200, {"name": f"operation-{len(self.sent)}", "status": "RUNNING"}

    def _patch(self, name: str, body: dict[str, Any], **_: Any) -> Answer:
        if name not in self.rules:
            return self.unknown(name)
        self.rules[name] |= body
        return 200, {"name": f"operation-{len(self.sent)}", "status": "RUNNING"}

    def _unrule(self, name: str, **_: Any) -> Answer:
        if self.rules.pop(name, None) is None:
            return self.unknown(name)
        return 200, {"name": f"operation-{len(self.sent)}", "status": "RUNNING"}


def _error(status: int, message: str) -> Answer:
    return status, {"error": {"code": status, "message": message, "errors": [{"message": message}]}}


def _script(item: Mapping[str, Any]) -> str:
    return str({each["key"]: each["value"] for each in item["metadata"]["items"]}.get("user-data", ""))


def _is_spot(item: Mapping[str, Any]) -> bool:
    return bool(item["scheduling"]["provisioningModel"] == "SPOT")


def _server(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an instance for those who look from outside, as clusters/cloud/provider.py has machines."""
    network = item["networkInterfaces"][0]
    public = next((each.get("natIP", "") for each in network.get("accessConfigs", [])), "")
    words = {"id": item["id"], "name": item["name"], "status": item["status"], "born": item["creationTimestamp"]}
    words |= {"kind": item["machineType"].rpartition("/")[2], "place": item["zone"].rpartition("/")[2]}
    words |= {"tags": {key.removeprefix("clusterglm-"): value for key, value in item["labels"].items()}}
    return words | {"private": network.get("networkIP", ""), "public": public, "alive": item["status"] != "TERMINATED"}


def _private(number: str) -> str:
    return f"172.31.129.{int(number) % 250}"


def _public(number: str) -> str:
    return f"198.51.100.{int(number) % 250}"


def _account(token: str) -> dict[str, str]:
    """Return the key of a service account that exists only here."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "client_email": "rehearsal@rehearsal.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": key.private_bytes(*form).decode(),
        "token_uri": token,
    }


def _start(folder: Path, console: Callable[[str], str]) -> Instances:
    folder.mkdir()
    return Instances(folder, console, _PORT)


def _missing() -> str:
    try:
        import googleapiclient  # noqa: F401
    except ImportError:
        return "google-api-python-client is not installed: pip install 'clusterglm[gcp]'"
    return ""


_REAL = ("CLOUDSDK_CORE_PROJECT", "CLOUDSDK_COMPUTE_ZONE", "GOOGLE_CLOUD_QUOTA_PROJECT")
WORLD = World(_REAL, _missing, _start)
