"""What is asked of clouds other than EC2: their own words, the requests as they are sent, and what they refuse."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterglm.clusters import tls
from clusterglm.clusters.cloud.fakes import digitalocean, gcp
from clusterglm.clusters.launcher import Plan, Size, configured
from clusterglm.clusters.targets import TARGETS
from clusterglm.clusters.targets.digitalocean import DigitalOcean
from clusterglm.clusters.targets.gcp import Gcp
from clusterglm.errors import ClusterError, UsageError

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
    with pytest.raises(ClusterError, match=r"there: another name, or clusterglm down demo"):
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
