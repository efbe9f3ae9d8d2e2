"""Google Cloud: instances that are labelled when they are born, behind firewall rules for their network tag.

Spoken to through google-api-python-client, as dask-cloudprovider does; importing this module imports both. What an
instance runs is in its metadata, which whoever may read the project's instances can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import google.auth.exceptions
import google_auth_httplib2
import googleapiclient.discovery
import googleapiclient.errors
import googleapiclient.http
import httplib2

from clusterglm.clusters.cloud import userdata, vm
from clusterglm.clusters.cloud.provider import PLANNED, Order, Request, Server
from clusterglm.errors import ClusterError, Taken

with mock.patch("dask.config.ensure_file"):  # its import would copy a template into the user's folder of settings
    from dask_cloudprovider.gcp.instances import GCPCluster, GCPInstance

ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE"  # the variable of gcloud's own for another endpoint
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LABEL = "clusterglm-cluster"
_ALIVE = ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING")
_SECONDS, _ATTEMPTS = 30, 6
_OPERATION_SECONDS = 300.0
# Below these rules of ours come those of the network, which lets the whole world reach port 22 where it is the default.
_OURS, _NOTHING_ELSE = 900, 901
_CURES = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": "none are free there now: another --zone or --instance-type",
    "QUOTA": "the project's quota: fewer --workers, or ask Google for more",
    "quota": "the project's quota: fewer --workers, or ask Google for more",
    "invalid_grant": "the credentials are wrong or have expired: gcloud auth application-default login",
    "Invalid Credentials": "the credentials are wrong or have expired: gcloud auth application-default login",
    "permission": "ask whoever runs the project for that right",
}


class Gcp:
    """A project of Google Cloud, as the user's credentials open it; ``credentials`` None makes up requests alone."""

    def __init__(self, project: str, zone: str, credentials: Any) -> None:
        self.project, self.zone, self._credentials = project, zone, credentials
        self.compute: Any = None if credentials is None else self._service()

    def check(self) -> None:
        """Ask whether the zone is there."""
        self._do("--zone", self.zone, self.compute.zones().get(project=self.project, zone=self.zone))

    def servers(self, name: str | None = None) -> list[Server]:
        """Return the instances of a cluster, or of all, in every zone, by their label."""
        wanted = f"labels.{_LABEL}={name}" if name else f"labels.{_LABEL}:*"
        instances, found = self.compute.instances(), list[Server]()
        request = instances.aggregatedList(project=self.project, filter=wanted)
        while request is not None:
            page = self._do("cluster" if name else "gcp", name, request)
            items = [item for place in page.get("items", {}).values() for item in place.get("instances", [])]
            found += map(_server, items)
            request = instances.aggregatedList_next(request, page)
        return [server for server in found if server.cluster is not None and name in (None, server.cluster)]

    def script(self, server: Server) -> str:
        """Return what an instance was given to run, from its metadata."""
        where = {"project": self.project, "zone": server.place, "instance": server.name}
        item = self._do(server.name, None, self.compute.instances().get(**where))
        given = {each["key"]: each["value"] for each in item.get("metadata", {}).get("items", [])}
        return str(given.get("user-data", ""))

    def secret(self) -> None:
        """Return nothing: the metadata hold the keys."""

    def console(self, server: Server) -> str:
        """Return what an instance has printed on its first serial port."""
        where = {"project": self.project, "zone": server.place, "instance": server.name}
        with contextlib.suppress(ClusterError):
            return str(self._do(server.name, None, self.compute.instances().getSerialPortOutput(**where))["contents"])
        return ""

    def wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> None:
        """Make the firewall rules of the cluster's network tag. Raises Taken where there are some."""
        for number, request in enumerate(self.planned_wall(order, ranges, ssh)):
            insert = self.compute.firewalls().insert(project=self.project, body=request.body, **_once())
            self._finish("firewall" if number else "--name", order.name, insert)  # the first one is the lock

    def walls(self) -> list[str]:
        """Return the clusters of which there are firewall rules."""
        return sorted({str(rule["targetTags"][0]).removeprefix("clusterglm-") for rule in self._rules()})

    def admitted(self, name: str, port: int) -> list[str]:
        """Return the addresses in the rules for a port."""
        found = [rule for rule in self._rules() if rule["targetTags"] == [_tag(name)] and _is_for(rule, port)]
        return [str(each) for rule in found for each in rule.get("sourceRanges", [])]

    def admit(self, name: str, port: int, ranges: Sequence[str]) -> None:
        """Replace the rule for a port by one with these addresses."""
        ours = [rule for rule in self._rules() if rule["targetTags"] == [_tag(name)]]
        # No name of a cluster begins with a hyphen, so this is the first rule of no other.
        rule = _tag(name) if port == userdata.PORT else f"clusterglm--{port}-{name}"
        firewalls = self.compute.firewalls()
        if not ranges:
            self._gone(name, [firewalls.delete(project=self.project, firewall=rule, **_once())])
        elif any(each["name"] == rule for each in ours):
            words = {"project": self.project, "firewall": rule, "body": {"sourceRanges": list(ranges)}}
            self._finish("firewall", name, firewalls.patch(**words, **_once()))
        elif ours:
            body = {"name": rule, "network": ours[0]["network"], "targetTags": [_tag(name)], "direction": "INGRESS"}
            body |= {
                "priority": _OURS,
                "sourceRanges": list(ranges),
                "allowed": [{"IPProtocol": "tcp", "ports": [str(port)]}],
            }
            self._finish("firewall", name, firewalls.insert(project=self.project, body=body, **_once()))

    def delete(self, servers: Sequence[Server]) -> None:
        """Delete instances, their disks with them: all at the same time, for each takes a minute."""
        instances, words = self.compute.instances(), {"project": self.project}
        requests = [instances.delete(zone=each.place, instance=each.name, **words, **_once()) for each in servers]
        self._gone(", ".join(server.name for server in servers), requests)

    def clear(self, name: str) -> bool:
        """Remove the cluster's firewall rules."""
        firewalls, words = self.compute.firewalls(), {"project": self.project}
        ours = [rule["name"] for rule in self._rules() if rule["targetTags"] == [_tag(name)]]
        self._gone(name, [firewalls.delete(firewall=rule, **words, **_once()) for rule in ours])
        return True

    def cluster(self, order: Order) -> Any:
        """Return a GCPCluster whose instances are ours."""
        return _Cluster(self, order)

    def planned_wall(self, order: Order, ranges: Iterable[str], ssh: bool) -> list[Request]:
        """Return the requests for the rules: who may reach the scheduler, all between members, and nothing else."""
        network = order.options.get("network_projectid") or self.project, order.options["network"]
        common: dict[str, Any] = {"network": "projects/{}/global/networks/{}".format(*network), "priority": _OURS}
        common["targetTags"] = [_tag(order.name)]
        ports = [str(userdata.PORT), *(["22"] if ssh else [])]
        inbound: dict[str, Any] = {"name": _tag(order.name), "sourceRanges": list(ranges), "direction": "INGRESS"}
        inbound |= {"allowed": [{"IPProtocol": "tcp", "ports": ports}]}
        # No name of a cluster begins with a hyphen, so this is the first rule of no other.
        members: dict[str, Any] = {"name": f"clusterglm--members-{order.name}", "sourceTags": [_tag(order.name)]}
        members |= {"direction": "INGRESS", "allowed": [{"IPProtocol": "all"}]}
        others: dict[str, Any] = {"name": f"clusterglm--others-{order.name}", "sourceRanges": ["0.0.0.0/0"]}
        others |= {"direction": "INGRESS", "denied": [{"IPProtocol": "all"}], "priority": _NOTHING_ELSE}
        rules = [*([inbound] if inbound["sourceRanges"] else []), members, others]
        return [Request("POST", f"projects/{self.project}/global/firewalls", common | rule) for rule in rules]

    def planned(self, order: Order, role: str) -> list[Request]:
        """Return the request for an instance as dask-cloudprovider makes it up, and we complete it."""

        async def made() -> dict[str, Any]:  # its constructor asks for a running loop
            cluster = self.cluster(order)
            if role == "scheduler":
                machine = cluster.scheduler_class(**cluster.scheduler_options)
            else:
                machine = cluster.worker_class(PLANNED, number=0, **cluster.worker_options)
            machine.cloud_init = order.script(role, 0, PLANNED)
            return dict(machine.create_gcp_config())

        return [Request("POST", f"projects/{self.project}/zones/{self.zone}/instances", asyncio.run(made()))]

    def _rules(self) -> list[dict[str, Any]]:
        request, found = self.compute.firewalls().list(project=self.project), list[dict[str, Any]]()
        while request is not None:
            page = self._do("gcp", None, request)
            found += page.get("items", [])
            request = self.compute.firewalls().list_next(request, page)
        return [rule for rule in found if str(rule.get("targetTags", ["?"])[0]).startswith("clusterglm-")]

    def _do(self, what: str, value: object, request: Any) -> Any:
        with told(what, value):
            return request.execute(num_retries=_ATTEMPTS)

    def _gone(self, what: str, requests: Iterable[Any]) -> None:
        """Send requests that remove something, and wait for all; what is gone already counts as removed."""
        begun = []
        with told(what):
            for request in requests:
                try:
                    begun.append(request.execute(num_retries=_ATTEMPTS))
                except googleapiclient.errors.HttpError as error:
                    if error.resp.status != 404:
                        raise
            for operation in begun:
                self._done(what, None, operation)

    def _finish(self, what: str, value: object, request: Any) -> None:
        """Send a request that begins an operation, and wait until it is done."""
        with told(what, value):
            self._done(what, value, request.execute(num_retries=_ATTEMPTS))

    def _done(self, what: str, value: object, operation: Any) -> None:
        """Wait until an operation is done. Raises ClusterError where it fails, or goes on for too long."""
        until = time.monotonic() + _OPERATION_SECONDS
        while operation["status"] != "DONE":
            if time.monotonic() > until:
                raise _refusal(what, value, f"{operation['name']} is not done after {_OPERATION_SECONDS:.0f} s")
            where = {"project": self.project, "operation": operation["name"]}
            if "zone" in operation:
                wait = self.compute.zoneOperations().wait(zone=operation["zone"].rpartition("/")[2], **where)
            else:
                wait = self.compute.globalOperations().wait(**where)
            operation = wait.execute(num_retries=_ATTEMPTS)
        if errors := operation.get("error", {}).get("errors"):
            raise _refusal(what, value, f"{errors[0].get('code', '?')}: {errors[0].get('message', '')}")

    def _service(self) -> Any:
        def built(_: Any, *given: Any, **words: Any) -> Any:
            http = google_auth_httplib2.AuthorizedHttp(self._credentials, httplib2.Http(timeout=_SECONDS))
            return _Request(http, *given, **words)

        options = {"api_endpoint": os.environ[ENDPOINT]} if os.environ.get(ENDPOINT) else None
        words = {"credentials": self._credentials, "requestBuilder": built, "client_options": options}
        with told("credentials"):
            return googleapiclient.discovery.build("compute", "v1", cache_discovery=False, **words)


def credentials() -> Any:
    """Return the application default credentials. Raises ClusterError where there are none."""
    try:
        return google.auth.default([_SCOPE])[0]
    except google.auth.exceptions.GoogleAuthError as error:
        cure = "none found: gcloud auth application-default login, or rehearse with --fake"
        raise ClusterError("credentials", None, cure) from error


class _Request(googleapiclient.http.HttpRequest):  # type: ignore[misc]
    """A request with a connection of its own, because several threads send them."""

    def execute(self, *given: Any, **words: Any) -> Any:
        try:
            return super().execute(*given, **words)
        finally:
            self.http.close()


class _Machine(vm.Machine, GCPInstance):  # type: ignore[misc]
    """An instance that is labelled when it is born, and deleted by Google at the end of its life."""

    cluster: Any

    def create_gcp_config(self) -> dict[str, Any]:
        """Complete a request by what dask-cloudprovider does not offer."""
        order: Order = self.cluster.order
        own = {"cluster": order.name, "role": self.role, **order.tags}
        labels = {f"clusterglm-{key}": re.sub("[^a-z0-9_-]", "_", value.lower()) for key, value in own.items()}
        body: dict[str, Any] = super().create_gcp_config() | {"labels": labels, "tags": {"items": [_tag(order.name)]}}
        body["scheduling"] = {
            "onHostMaintenance": "TERMINATE",
            "automaticRestart": False,
            "provisioningModel": "SPOT" if self.preemptible and self.role == "worker" else "STANDARD",
            "instanceTerminationAction": "DELETE",
            "maxRunDuration": {"seconds": str(max(120, int(order.seconds)))},
        }
        if order.private:
            body["networkInterfaces"][0].pop("accessConfigs", None)
        if "service_account" not in order.options:
            del body["serviceAccounts"]  # the project's own may do much more than a worker has to
        return body

    def start_vm(self, script: str) -> None:
        self.cloud_init = script
        provider, where = self.cluster.provider, {"project": self.projectid, "zone": self.zone}
        insert = provider.compute.instances().insert(body=self.create_gcp_config(), **where, **_once())
        provider._finish(self.name, None, insert)


class _Scheduler(vm.OfScheduler, _Machine):
    """The instance of the scheduler."""


class _Worker(vm.OfWorkers, _Machine):
    """An instance of workers."""


class _Cluster(vm.Cluster, GCPCluster):  # type: ignore[misc]
    """A GCPCluster whose instances outlive it."""

    def __init__(self, provider: Gcp, order: Order) -> None:
        self.provider, self.order = provider, order
        words = dict(order.options) | {"projectid": provider.project, "zone": provider.zone}
        words |= dict(zip(("scheduler_machine_type", "worker_machine_type"), order.kinds, strict=True))
        words |= {"scheduler_ngpus": 0, "worker_ngpus": 0}  # its own configuration has text there
        with mock.patch("dask_cloudprovider.gcp.instances.GCPCompute", return_value=provider.compute):
            super().__init__(**words, **vm.OPTIONS)
        self.scheduler_class, self.worker_class = _Scheduler, _Worker
        # Its instances write labels into this, which is Dask's configuration.
        own = copy.deepcopy(self.scheduler_options["config"])
        self.scheduler_options["config"] = self.worker_options["config"] = own


@contextlib.contextmanager
def told(what: str, value: object = None) -> Iterator[None]:
    """Turn what Google's libraries raise into ClusterError: Google's words, and the cure."""
    try:
        yield
    except googleapiclient.errors.HttpError as error:
        if error.resp.status == 409 and what == "--name":
            cure = f"its firewall rules are there: another name, or clusterglm down {value}"
            raise Taken(what, value, cure) from error
        raise _refusal(what, value, f"{error.resp.status}: {error.reason}") from error
    except (google.auth.exceptions.GoogleAuthError, httplib2.HttpLib2Error, OSError) as error:
        said = error.args[0] if error.args else type(error).__name__
        raise _refusal(what, value, "does not answer" if isinstance(error, OSError) else str(said)) from error


def _refusal(what: str, value: object, said: str) -> ClusterError:
    cure = next((cure for words, cure in _CURES.items() if words in said), "")
    if cure.startswith("the credentials"):
        what, value = "credentials", None
    return ClusterError(what, value, f"Google: {said.rstrip('.')}" + (f": {cure}" if cure else ""))


def _once() -> dict[str, str]:
    """Return the words with which a request may be repeated: Google does what bears one number once."""
    return {"requestId": str(uuid.uuid4())}


def _tag(name: str) -> str:
    return f"clusterglm-{name}"


def _is_for(rule: Mapping[str, Any], port: int) -> bool:
    return any(str(port) in allowed.get("ports", []) for allowed in rule.get("allowed", []))


def _server(item: Mapping[str, Any]) -> Server:
    network = item["networkInterfaces"][0]
    labels = item.get("labels", {})
    return Server(
        id=str(item["id"]),
        name=str(item["name"]),
        status=str(item["status"]),
        alive=item["status"] in _ALIVE,
        private=str(network.get("networkIP", "")),
        public=str(next((each.get("natIP", "") for each in network.get("accessConfigs", [])), "")),
        kind=str(item["machineType"]).rpartition("/")[2],
        place=str(item["zone"]).rpartition("/")[2],
        born=str(item["creationTimestamp"]),
        note=str(item.get("statusMessage", "")),
        tags={key.removeprefix("clusterglm-"): value for key, value in labels.items() if key.startswith("clusterglm-")},
    )
