"""What is asked of clouds other than EC2: their own words, the requests as they are sent, and what they refuse."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterglm.clusters import tls
from clusterglm.clusters.cloud import vm
from clusterglm.clusters.cloud.fakes import digitalocean, gcp
from clusterglm.clusters.launcher import Plan, Size, configured
from clusterglm.clusters.targets import TARGETS
from clusterglm.clusters.targets.digitalocean import DigitalOcean
from clusterglm.clusters.targets.gcp import Gcp
from clusterglm.errors import ClusterError, Taken, UsageError

FINGERPRINT = ":".join(["3b"] * 16)
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def _no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def droplets(monkeypatch: pytest.MonkeyPatch) -> Iterator[digitalocean.Droplets]:
    """A fake of DigitalOcean, as the environment has it."""
    fake = digitalocean.Droplets()
    for name, value in fake.variables.items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.close()


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[gcp.Instances]:
    """A fake of Google Cloud, as the environment has it."""
    fake = gcp.Instances(tmp_path, lambda _: "")
    for name, value in fake.variables.items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.close()


def requests(plan: Plan, part: str) -> list[tuple[str, str, Any]]:
    """Return the requests of a part of a plan, as method, path and body."""
    lines = next(text for step, text in plan.steps.items() if step.startswith(f"{part}: request")).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(("POST ", "PUT "))] + [len(lines)]
    return [
        (*lines[begin].split(" ", 1), json.loads("\n".join(lines[begin + 1 : end])))
        for begin, end in itertools.pairwise(starts)
    ]


def test_a_droplet_is_asked_for_in_digitaloceans_words() -> None:
    launcher = configured(DigitalOcean, instance_type="c-8", region="ams3", network="vpc-1", key_name=FINGERPRINT)
    plan = launcher.plan("demo", Size(2))
    ((method, path, body),) = requests(plan, "worker")
    assert (method, path) == ("POST", "droplets")
    asked = {"name": "dask-demo-worker-0", "region": "ams3", "size": "c-8", "image": "ubuntu-24-04-x64"}
    asked |= {"vpc_uuid": "vpc-1", "ssh_keys": [FINGERPRINT], "tags": ["clusterglm", "clusterglm:demo"]}
    assert asked.items() <= body.items()
    tag, wall = requests(plan, "wall")
    assert tag == ("POST", "tags", {"name": "clusterglm:demo"})
    by_address = [rule for rule in wall[2]["inbound_rules"] if "addresses" in rule["sources"]]
    assert [(rule["ports"], rule["sources"]["addresses"]) for rule in by_address] == [
        ("8786", ["YOUR-ADDRESS/32"]),
        ("22", ["YOUR-ADDRESS/32"]),
    ]


def test_an_instance_is_asked_for_in_googles_words() -> None:
    launcher = configured(Gcp, zone="europe-west1-b", project="lab", disk="100GB", spot=True, max_lifetime="2h")
    plan = launcher.plan("demo", Size(2))
    ((method, path, body),) = requests(plan, "worker")
    assert (method, path) == ("POST", "projects/lab/zones/europe-west1-b/instances")
    assert body["machineType"] == "zones/europe-west1-b/machineTypes/n2-standard-8"
    assert body["disks"][0]["initializeParams"]["diskSizeGb"] == "100"
    assert body["scheduling"]["provisioningModel"] == "SPOT"
    assert body["scheduling"]["maxRunDuration"] == {"seconds": "7200"}
    assert body["labels"]["clusterglm-cluster"] == "demo"
    assert requests(plan, "scheduler")[0][2]["scheduling"]["provisioningModel"] == "STANDARD"
    assert all(rule[2]["targetTags"] == body["tags"]["items"] for rule in requests(plan, "wall"))


@pytest.mark.parametrize(
    ("target", "given", "words"),
    [
        (DigitalOcean, {}, "credentials: none found: set DIGITALOCEAN_ACCESS_TOKEN, or rehearse with --fake"),
        (Gcp, {}, "--project: missing: give it, or set GOOGLE_CLOUD_PROJECT"),
    ],
)
def test_missing_credentials_are_told_before_anything_is_asked(target: Any, given: Any, words: str) -> None:
    with pytest.raises(ClusterError) as refused:
        configured(target, **given).provider()
    assert str(refused.value) == words


def test_a_wrong_token_is_refused_before_anything_is_started(droplets: digitalocean.Droplets, clusterglm: Any) -> None:
    line = ("up", "digitalocean", "--workers", 2, "--allow-cidr", "203.0.113.5/32")
    done = clusterglm(*line, env={"DIGITALOCEAN_ACCESS_TOKEN": "stolen"})
    assert done.returncode == 4
    assert done.stderr.splitlines()[0].startswith(
        "error: credentials: DigitalOcean: Unable to authenticate you: the token is"
    )
    assert {(method, body) for method, _, body in droplets.sent if method != "GET"} == set()


def test_wrong_credentials_of_google_are_refused_before_anything_is_started(
    instances: gcp.Instances, clusterglm: Any
) -> None:
    instances.routes[("POST", "/token")] = lambda **_: (400, {"error": "invalid_grant"})
    done = clusterglm("up", "gcp", "--workers", 2, "--allow-cidr", "203.0.113.5/32")
    assert done.returncode == 4
    assert "invalid_grant" in done.stderr.splitlines()[0]
    assert {path for method, path, _ in instances.sent if method != "GET"} == {"/token"}


@pytest.mark.parametrize("cloud", ["droplets", "instances"])
def test_a_wall_is_opened_and_closed_and_leaves_nothing(cloud: str, request: pytest.FixtureRequest) -> None:
    fake = request.getfixturevalue(cloud)
    launcher = configured(DigitalOcean if cloud == "droplets" else Gcp)
    provider = launcher.provider()
    order = launcher._order("demo", {}, None, 3600.0)
    provider.wall(order, ["203.0.113.5/32"], False)
    with pytest.raises(Taken, match=r"there: another name, or clusterglm down demo"):
        provider.wall(order, ["203.0.113.5/32"], False)
    assert provider.walls() == ["demo"]
    provider.admit("demo", 8786, ["203.0.113.6/32"])
    provider.admit("demo", 8722, ["203.0.113.7/32"])
    assert [provider.admitted("demo", port) for port in (8786, 8722)] == [["203.0.113.6/32"], ["203.0.113.7/32"]]
    provider.admit("demo", 8722, [])
    assert provider.admitted("demo", 8722) == []
    assert provider.clear("demo")
    assert fake.shown()["empty"]
    assert not fake.shown().get("tags")


def failing(fake: Any, monkeypatch: pytest.MonkeyPatch, method: str, end: str, statuses: list[int], done: bool) -> None:
    """Have a fake answer with these statuses in turn, whether it has done what was asked or not; then as ever."""
    plain, left = fake.answer, iter(statuses)

    def answer(asked: str, target: str, content: bytes, headers: Any) -> Any:
        path = target.partition("?")[0].rstrip("/")
        if asked == method and path.endswith(end) and (status := next(left, None)):
            if done:
                plain(asked, target, content, headers)
            return status, {"id": "server_error", "message": "API Rate limit exceeded.", "error": {"message": "later"}}
        return plain(asked, target, content, headers)

    monkeypatch.setattr(fake, "answer", answer)


@pytest.mark.parametrize(
    ("statuses", "done"), [([429, 429], False), ([503], False), ([503], True), ([500, 429], False)]
)
def test_a_droplet_that_was_asked_for_twice_is_there_once(
    droplets: digitalocean.Droplets, statuses: list[int], done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterglm.clusters.cloud.providers.digitalocean._PAUSES", (0.01,) * 3)
    launcher = configured(DigitalOcean)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    failing(droplets, monkeypatch, "POST", "/droplets", statuses, done)
    asyncio.run(vm.start_workers(provider, order, "tls://10.0.0.1:8786", [0]))
    assert [server.name for server in provider.servers("demo")] == ["dask-demo-worker-0"]


def test_what_was_seen_too_late_is_removed(droplets: digitalocean.Droplets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterglm.clusters.cloud.providers.digitalocean._PAUSES", (0.01,) * 3)
    launcher = configured(DigitalOcean)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    seen, blind = provider.servers, [True]
    monkeypatch.setattr(provider, "servers", lambda name: [] if blind.pop() else seen(name))
    blind[:0] = [False]
    failing(droplets, monkeypatch, "POST", "/droplets", [503], done=True)
    provider.start("demo", provider.planned(order, "worker")[0])
    assert len(seen("demo")) == 1


def test_a_firewall_whose_answer_was_lost_is_not_asked_for_again(
    droplets: digitalocean.Droplets, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = configured(DigitalOcean)
    failing(droplets, monkeypatch, "POST", "/firewalls", [503], done=True)
    with pytest.raises(ClusterError, match="firewall"):  # and not Taken: it may be ours
        launcher.provider().wall(launcher._order("demo", {}, None, 3600.0), ["203.0.113.5/32"], False)
    assert sum(path.endswith("firewalls") for method, path, _ in droplets.sent if method == "POST") == 1


@pytest.mark.parametrize(("cloud", "most"), [("droplets", 12), ("instances", 40)])
def test_waiting_for_machines_does_not_wear_out_a_cloud(cloud: str, most: int, request: pytest.FixtureRequest) -> None:
    fake = request.getfixturevalue(cloud)
    launcher = configured(DigitalOcean if cloud == "droplets" else Gcp)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    asyncio.run(vm.start_workers(provider, order, "tls://10.0.0.1:8786", range(8)))
    assert len(provider.servers("demo")) == 8
    assert len(fake.sent) <= most


def test_a_machine_that_is_taken_while_it_comes_up_is_told(
    instances: gcp.Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcp, "_STAGING_SECONDS", 600.0)
    monkeypatch.setattr(vm, "_LOOK_SECONDS", 0.05)
    launcher = configured(Gcp)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    plain = instances.routes["GET", "/compute/v1/projects/rehearsal/aggregated/instances"]

    def once(**words: Any) -> Any:
        found = plain(**words)
        instances.instances.clear()
        return found

    monkeypatch.setitem(instances.routes, ("GET", "/compute/v1/projects/rehearsal/aggregated/instances"), once)
    with pytest.raises(ClusterError, match=r"dask-demo-worker-0: its boot failed: it is gone"):
        asyncio.run(vm.start_workers(provider, order, "tls://10.0.0.1:8786", [0]))


def test_googles_refusals_of_the_moment_are_waited_out_and_nothing_is_done_twice(
    instances: gcp.Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("googleapiclient.http.HttpRequest._sleep", lambda *_: None, raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    launcher = configured(Gcp)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    failing(instances, monkeypatch, "POST", "/firewalls", [503, 429], done=False)
    provider.wall(order, ["203.0.113.5/32"], False)
    failing(instances, monkeypatch, "DELETE", "/clusterglm-demo", [503], done=True)
    assert provider.clear("demo")
    assert instances.shown()["empty"]


def test_instances_are_ended_at_the_same_time(instances: gcp.Instances) -> None:
    launcher = configured(Gcp)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    asyncio.run(vm.start_workers(provider, order, "tls://10.0.0.1:8786", range(3)))
    instances.sent.clear()
    provider.delete(provider.servers("demo"))
    assert [method for method, _, _ in instances.sent] == ["GET", *3 * ["DELETE"], *3 * ["POST"]]


def test_an_end_that_fails_or_lasts_is_told(instances: gcp.Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = configured(Gcp)
    provider, order = launcher.provider(), launcher._order("demo", {}, None, 3600.0)
    asyncio.run(vm.start_workers(provider, order, "tls://10.0.0.1:8786", [0]))
    servers = provider.servers("demo")
    wait = next(key for key in instances.routes if key[1].endswith("/wait"))
    failed = {"name": "o", "status": "DONE", "error": {"errors": [{"code": "RESOURCE_NOT_READY", "message": "later"}]}}
    monkeypatch.setitem(instances.routes, wait, lambda *_, **__: (200, failed))
    with pytest.raises(ClusterError, match=r"dask-demo-worker-0: Google: RESOURCE_NOT_READY: later"):
        provider.delete(servers)
    monkeypatch.setitem(instances.routes, wait, lambda name, **_: (200, {"name": name, "status": "RUNNING"}))
    monkeypatch.setattr("clusterglm.clusters.cloud.providers.gcp._OPERATION_SECONDS", 0.1)
    with pytest.raises(ClusterError, match=r"is not done after"):
        provider.wall(order, ["203.0.113.5/32"], False)


def test_nothing_but_the_scheduler_is_open_on_a_network_that_is_open() -> None:
    rules = [body for _, _, body in requests(configured(Gcp, project="lab").plan("demo", Size(2)), "wall")]
    assert [rule["priority"] for rule in rules] == [900, 900, 901]
    assert (rules[2]["sourceRanges"], rules[2]["denied"]) == (["0.0.0.0/0"], [{"IPProtocol": "all"}])
    (worker,) = requests(configured(Gcp, project="lab").plan("demo", Size(2)), "worker")
    assert "serviceAccounts" not in worker[2]
    (worker,) = requests(configured(Gcp, project="lab", instance_profile="me@x").plan("demo", Size(2)), "worker")
    assert worker[2]["serviceAccounts"][0]["email"] == "me@x"


def test_a_tag_without_a_firewall_is_known_and_removed(droplets: digitalocean.Droplets) -> None:
    provider = configured(DigitalOcean).provider()
    droplets.tags += ["mine", "clusterglm", "clusterglm:demo", "clusterglm:demo-2:expires:x"]
    assert provider.walls() == ["demo", "demo-2"]
    assert provider.clear("demo")
    assert droplets.tags == ["mine", "clusterglm", "clusterglm:demo-2:expires:x"]


def test_keys_are_made_again_by_whoever_knows_the_secret(tmp_path: Path) -> None:
    from cryptography import x509

    folders = [tls.make(tmp_path / name, name.encode()[:3]) for name in ("one-a", "one-b", "two")]
    found = [
        {name: x509.load_pem_x509_certificate((f / name).read_bytes()) for name in (tls.CA, tls.CERT)} for f in folders
    ]
    assert (folders[0] / tls.KEY).read_bytes() == (folders[1] / tls.KEY).read_bytes()  # ssh knows machines by it
    found[1][tls.CERT].verify_directly_issued_by(found[0][tls.CA])
    from cryptography.exceptions import InvalidSignature

    with pytest.raises(InvalidSignature):
        found[2][tls.CERT].verify_directly_issued_by(found[0][tls.CA])


def test_keys_of_a_former_cluster_of_the_same_name_are_replaced(
    droplets: digitalocean.Droplets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    launcher, keys = configured(DigitalOcean), []
    provider = launcher.provider()
    for ends in ("20260101t000000z", "20260102t000000z"):
        order = launcher._order("demo", {"expires": ends}, None, 3600.0)
        provider.start("demo", provider.planned(order, "scheduler")[0])
        record = launcher.find("demo")
        assert record is not None
        keys.append(Path(record.details["keys"], tls.KEY).read_bytes())
        provider.delete(provider.servers("demo"))
    assert keys[0] != keys[1]


def test_options_that_a_cloud_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match="not known"):
        configured(DigitalOcean, disk="100GB")


OPTIONS = {
    "--instance-type": "instance_type",
    "--region": "region",
    "--zone": "zone",
    "--project": "project",
    "--image": "image",
    "--disk": "disk",
    "--network": "network",
    "--key-name": "key_name",
    "--spot": "spot",
}


def test_the_readme_has_every_clouds_own_words() -> None:
    lines = README.read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| option | `digitalocean`")))
    head, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[start : start + 10]]
    for row in rows:
        names = [OPTIONS[name.strip("` ")] for name in row[0].split(",")]
        for cloud, cell in zip(head[1:], row[1:], strict=True):
            known = TARGETS[cloud].own_words
            assert cell == next((known[name] for name in names if name in known), ""), (cloud, names)


def test_dollars_are_told_and_are_a_limit_of_time(droplets: digitalocean.Droplets) -> None:
    launcher = configured(Gcp, zone="us-central1-a", project="lab", max_cost=5)
    dollars, complete = launcher.rate(8)
    assert complete
    assert dollars == pytest.approx(9 * (0.388472 + 40 * 0.04 / 720), rel=1e-4)  # n2-standard-8, 40 GB
    assert f"${dollars:.2f} an hour" in launcher.plan("demo", Size(8)).steps["cost"]
    assert launcher.life(8) == int(3600 * 5 / dollars)
    with pytest.raises(UsageError, match="price of these machines is unknown"):
        configured(Gcp, zone="mars-north1-a", max_cost=5).life(8)
    assert configured(DigitalOcean, instance_type="c-8").rate(3) == (1.0, True)
    with pytest.raises(UsageError, match="lasts for 6 minutes"):
        configured(DigitalOcean, instance_type="c-8", max_cost=0.1).life(3)
