"""What commands ask of EC2 where no machine has to run: moto answers alone, on loopback."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from clusterglm.cli import up
from clusterglm.clusters import tls
from clusterglm.clusters.cloud import fleet
from clusterglm.clusters.cloud.ec2 import api, preflight
from clusterglm.clusters.launcher import Size, configured
from clusterglm.clusters.targets.ec2 import Ec2
from clusterglm.errors import ClusterError

pytestmark = pytest.mark.slow
Cli = Callable[..., Any]
Aws = Callable[..., Any]


@pytest.fixture(scope="module")
def aws(home: Path) -> Iterator[Aws]:
    """A moto server, as the environment has it; ``aws(region)`` is a client of its EC2."""
    import botocore.session
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "AKIAUNUSED0000000000"}
    names |= {"AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}
    names |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    with pytest.MonkeyPatch.context() as patch:
        few = [each for each in RegionsAndZonesBackend.regions if each.name in ("us-east-1", "eu-west-1")]
        patch.setattr(RegionsAndZonesBackend, "regions", few)  # moto needs a second for each
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_EC2"):
            patch.delenv(name, raising=False)
        for name, value in names.items():
            patch.setenv(name, value)

        def client(region: str = "us-east-1", service: str = "ec2") -> Any:
            return botocore.session.Session().create_client(service, region)

        yield client
    server.stop()


@pytest.fixture(autouse=True)
def _nothing_is_left(aws: Aws) -> Iterator[None]:
    yield
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "clusterglm"), ignore_errors=True)
    urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset", data=b"").close()


def tags(name: str, owner: str = "", ends: float = 3600, age: float = 0, role: str = "") -> list[dict[str, str]]:
    values = {api.CLUSTER: name, api.OWNER: owner or getpass.getuser(), api.VERSION: "0", "Name": f"dask-{name}-{role}"}
    return api.tagged(values | {api.EXPIRES: fleet.stamp(ends), api.CREATED: fleet.stamp(-age), api.ROLE: role})


def machine(ec2: Any, name: str, role: str = "scheduler", **given: Any) -> str:
    specification = [{"ResourceType": kind, "Tags": tags(name, role=role, **given)} for kind in ("instance", "volume")]
    made = ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=specification)
    return str(made["Instances"][0]["InstanceId"])


def group(ec2: Any, name: str, **given: Any) -> str:
    specification = [{"ResourceType": "security-group", "Tags": tags(name, **given)}]
    words = {"GroupName": api.group_name(name), "Description": "for a test"}
    return str(ec2.create_security_group(**words, TagSpecifications=specification)["GroupId"])


def volume(ec2: Any, name: str, **given: Any) -> str:
    specification = [{"ResourceType": "volume", "Tags": tags(name, **given)}]
    zone = f"{ec2.meta.region_name}a"
    return str(ec2.create_volume(AvailabilityZone=zone, Size=8, TagSpecifications=specification)["VolumeId"])


def names(ec2: Any) -> list[str]:
    return sorted({api.tags(item)[api.CLUSTER] for item in api.resources(ec2)})


def test_what_is_over_is_removed_in_every_region_and_by_its_owner(aws: Aws, clusterglm: Cli) -> None:
    here, there = aws(), aws("eu-west-1")
    machine(there, "old", ends=-60)
    machine(there, "old", "worker-0", ends=-60)
    group(there, "old", ends=-60)
    volume(here, "disk", ends=-60)
    group(here, "wall", ends=-60)
    machine(here, "headless", "worker-0", age=7200)
    machine(here, "alive", age=7200)
    group(here, "born")  # an `up` that has just begun, maybe on another machine
    machine(here, "theirs", owner="somebody", ends=-60)
    folder = Path(os.environ["XDG_STATE_HOME"], "clusterglm", "clusters", "wall")
    folder.mkdir(parents=True, mode=0o700)
    tls.make(folder / "tls")

    done = clusterglm("down", "--expired")
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stderr.splitlines())
    assert [line.split(": ")[1] for line in lines] == ["disk", "headless", "old", "wall"]
    assert lines[1].endswith("has no scheduler: 1 machines and all that belongs to it removed (us-east-1)")
    assert "its life ended at" in lines[2]
    assert lines[2].endswith("2 machines and all that belongs to it removed (eu-west-1)")
    assert (names(here), names(there)) == (["alive", "born", "theirs"], [])
    assert not (folder / "tls").exists()

    assert clusterglm("down", "--expired", "--any-owner").returncode == 0
    assert names(here) == ["alive", "born"]
    assert clusterglm("down", "--any-owner", "alive").returncode == 2


@pytest.mark.parametrize("refused", ["by the group", "before it"])
def test_who_loses_the_race_for_a_name_leaves_the_winners_cluster_alone(
    aws: Aws, clusterglm: Cli, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = configured(Ec2, allow_cidr=["203.0.113.5/32"], image="ami-12c6146b")
    monkeypatch.setattr(Ec2, "find", lambda *_: None)  # when it looked, the other one had not begun
    if refused == "before it":
        monkeypatch.setattr(preflight, "check", lambda *_: no_room())
    machine(aws(), "lab")
    group(aws(), "lab")
    words = "there: another name" if refused == "by the group" else "no room"
    with pytest.raises(ClusterError, match=words):
        up._launch(launcher, "lab", Size(1), 30)
    assert names(aws()) == ["lab"]
    assert len(api.machines(aws(), "lab")) == len(api.groups(aws(), "lab")) == 1
    if refused == "before it":
        return
    # And from here too it can be used, whatever the record of the loser says.
    assert [row["name"] for row in json.loads(clusterglm("ls", "--json").stdout)] == ["lab"]
    assert clusterglm("down", "lab").stderr == "note: lab: 1 machines ended\n"


def no_room() -> None:
    raise ClusterError("quota", None, "no room")


def test_clusters_are_found_in_every_region_and_then_known(aws: Aws, clusterglm: Cli) -> None:
    machine(aws("eu-west-1"), "far")
    machine(aws(), "near")
    assert [row["name"] for row in json.loads(clusterglm("ls", "--json").stdout)] == ["near"]
    done = clusterglm("ls", "--all-regions")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:4] for line in done.stdout.splitlines()[1:]] == [
        ["far", "ec2", "eu-west-1", "up"],
        ["near", "ec2", "us-east-1", "up"],
    ]
    assert [row["name"] for row in json.loads(clusterglm("ls", "--json").stdout)] == ["far", "near"]
    assert clusterglm("down", "far", "near").returncode == 0
    assert names(aws("eu-west-1")) == []


def test_a_machine_that_somebody_has_renamed_is_still_one_of_the_cluster(aws: Aws) -> None:
    machine(aws(), "lab")
    renamed = machine(aws(), "lab", "worker")
    launcher = configured(Ec2)
    record = launcher.find("lab")
    assert record is not None
    assert record.workers == 1
    aws().create_tags(Resources=[renamed], Tags=[{"Key": "Name", "Value": "mine"}])
    assert [member.name for member in launcher.members(record)] == ["dask-lab-scheduler", "mine"]
    assert launcher.stop(record) == 2


def test_doctor_looks_at_rights_and_room(aws: Aws, clusterglm: Cli) -> None:
    machine(aws(), "near")
    done = clusterglm("doctor", "ec2", "--allow-cidr", "203.0.113.5", "--image", "ami-12c6146b")
    text = done.stdout
    assert "ok     AWS              answers, 1 machines of clusters in us-east-1" in text
    assert "ok     permission       RunInstances and CreateSecurityGroup are allowed" in text
    assert "ok     quota            not known: quota (L-1216C47A): NoSuchResourceException" in text
    assert "ok     your address     203.0.113.5/32" in text


def test_the_least_rights_are_printed_without_an_account(clusterglm: Cli) -> None:
    done = clusterglm("doctor", "ec2", "--iam-policy", env={"AWS_REGION": "", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["Version"] == "2012-10-17"
    assert clusterglm("doctor", "local", "--iam-policy").returncode == 2


class _PriceList(BaseHTTPRequestHandler):
    """Answers as the list of prices does: for m4.large two entries, one of them for what is reserved already."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fields = {each["Field"]: each["Value"] for each in asked["Filters"]}
        assert fields["regionCode"] == "eu-west-1"
        found = [0.0, 0.2] if fields["instanceType"] == "m4.large" else []
        listed = [{"terms": {"OnDemand": {"t": {"priceDimensions": {"d": _dimension(each)}}}}} for each in found]
        answer = json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps(each) for each in listed]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _dimension(dollars: float) -> dict[str, Any]:
    return {"unit": "Hrs", "pricePerUnit": {"USD": f"{dollars:.10f}"}}


def test_prices_are_brought_up_to_date_in_the_users_folder(aws: Aws, clusterglm: Cli, tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path)}
    assert "m5.large   0.1070" in clusterglm("prices", "--region", "eu-west-1", env=env).stdout
    with HTTPServer(("127.0.0.1", 0), _PriceList) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = {"AWS_ENDPOINT_URL_PRICING": f"http://127.0.0.1:{server.server_port}"}
        done = clusterglm("prices", "--region", "eu-west-1", "--update", env=env | url)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert f"note: 1 prices of eu-west-1 kept in {tmp_path}/clusterglm/prices/eu-west-1.json" in done.stderr
    table = json.loads(clusterglm("prices", "--region", "eu-west-1", "--json", env=env).stdout)
    assert (table["large"]["m4"], table["large"]["m5"]) == (0.2, 0.107)
    assert "Libcloud" not in table["source"]
    assert clusterglm("prices", "--region", "../x").returncode == 2
