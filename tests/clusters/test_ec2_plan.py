"""What is said of a cluster on EC2 before anything is started: prices, limits, user data. Nothing here asks anybody."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clusterglm.clusters import tls
from clusterglm.clusters.cloud import environment, prices, userdata
from clusterglm.clusters.launcher import Size, configured
from clusterglm.clusters.targets.ec2 import Ec2
from clusterglm.errors import UsageError


@pytest.fixture(autouse=True)
def _no_settings_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


@pytest.mark.parametrize(
    ("machine", "region", "dollars"),
    [
        ("m4.2xlarge", "us-east-1", 0.40),
        ("m4.2xlarge", "eu-west-1", 0.444),
        ("c5.18xlarge", "us-east-1", 3.06),
        ("r5.24xlarge", "us-west-2", 6.048),
    ],
)
def test_prices_are_amazons(machine: str, region: str, dollars: float) -> None:
    assert prices.hourly(machine, region) == pytest.approx(dollars)


def test_an_unknown_price_is_unknown() -> None:
    assert prices.hourly("u-24tb1.metal", "us-east-1") is None
    dollars, complete = prices.rate(["m4.2xlarge", "u-24tb1.metal"], "us-east-1", 40)
    assert prices.words(dollars, complete).startswith("at least $0.42, ")
    with pytest.raises(UsageError, match="price of these machines is unknown"):
        configured(Ec2, instance_type="u-24tb1.metal", max_cost=5).plan("a", Size(1))


def test_newer_prices_of_a_region_go_before_those_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    prices.table.cache_clear()
    path = prices.keep("us-east-1", {"m4": 0.2})
    assert prices.hourly("m4.2xlarge", "us-east-1") == pytest.approx(0.8)
    assert prices.hourly("m5.large", "us-east-1") == pytest.approx(0.096)
    assert prices.hourly("m4.2xlarge", "eu-west-1") == pytest.approx(0.444)
    assert "2025-03-02" not in prices.source("us-east-1")
    path.write_text("no prices")
    prices.table.cache_clear()
    assert prices.hourly("m4.2xlarge", "us-east-1") == pytest.approx(0.4)
    prices.table.cache_clear()


def test_money_is_a_limit_of_time() -> None:
    launcher = configured(Ec2, max_cost="$5", region="us-east-1")
    plan = launcher.plan("demo", Size(8))
    dollars = launcher.rate(8)[0]
    assert dollars == pytest.approx(9 * (0.40 + 40 * 0.08 / 730 + 0.005))
    minutes = int(next(line for line in script(plan, "worker").splitlines() if line.startswith("shutdown"))[13:])
    assert 5 / dollars * 60 - 1 < minutes <= 5 / dollars * 60 + 1
    with pytest.raises(UsageError, match="lasts for 3 minutes"):
        configured(Ec2, max_cost=0.2, region="us-east-1").plan("demo", Size(8))


def script(plan: Any, role: str) -> str:
    return next(text for step, text in plan.steps.items() if step.startswith(f"{role}: user data"))


def test_the_policy_reaches_only_what_is_tagged() -> None:
    for spot, profile in ((False, None), (True, "reader")):
        found = configured(Ec2, spot=spot or None, instance_profile=profile).policy()
        for statement in found["Statement"]:
            changes = not all(re.search(r":(Describe|Get)", action) for action in statement["Action"])
            assert not changes or "Condition" in statement or statement["Resource"] != ["*"], statement
        rights = {action for statement in found["Statement"] for action in statement["Action"]}
        assert ("iam:PassRole" in rights) == (profile is not None)


def boot(**given: Any) -> userdata.Boot:
    known: dict[str, Any] = {"cluster": "demo", "role": "worker", "number": 3, "minutes": 480, "idle": 1800}
    return userdata.Boot(**(known | {"address": "tls://10.0.0.1:8786", "packages": environment.packages()} | given))


def test_the_timer_is_set_before_anything_that_may_hang() -> None:
    for role in ("scheduler", "worker"):
        lines = userdata.script(boot(role=role)).splitlines()
        assert lines[2:4] == ["shutdown -h +480", "trap 'echo \"clusterglm: ended with $?\"; shutdown -h now' EXIT"]


def test_a_container_has_the_keys_the_settings_and_the_whole_command(tmp_path: Path) -> None:
    text = userdata.script(boot(role="worker", container="lab/dask:2026.8", packages=()))
    lines = text.splitlines()
    assert "again docker pull --quiet lab/dask:2026.8" in lines
    assert not any("uv " in line for line in lines)
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv | grep -c "^OMP_NUM_THREADS=1$"\n')
    docker.chmod(0o755)
    exports = [line for line in lines if line.startswith("export ")]
    run = "\n".join([f"export PATH={tmp_path}:$PATH", *exports, lines[-1]])
    words = subprocess.run(["sh", "-c", run], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:2] == ["run", "--rm"]
    assert words[words.index("--volume") + 1] == "/srv/clusterglm:/srv/clusterglm"
    passed = {words[i + 1] for i, word in enumerate(words) if word == "--env"}
    assert passed == {line.removeprefix("export ").partition("=")[0] for line in exports}
    command = words[words.index("lab/dask:2026.8") + 1 : -1]
    assert command[:4] == ["python", "-m", "distributed.cli.dask_worker", "tls://10.0.0.1:8786"]
    assert words[-1] == "1"


def test_user_data_fits_with_keys_and_every_package(tmp_path: Path) -> None:
    folder = tls.make(tmp_path / "tls")
    keys = {name: (folder / name).read_text() for name in tls.FILES}
    text = userdata.script(boot(role="scheduler", noted={"options": {"idle_timeout": 60}}), keys)
    packed = userdata.packed(text)
    assert len(packed) < 5000
    shown = userdata.unpacked(base64.b64encode(packed).decode())
    assert userdata.keys(shown) == {name: (folder / name).read_bytes() for name in tls.FILES}
    assert userdata.noted(shown) == {"options": {"idle_timeout": 60}}
    with pytest.raises(UsageError, match="16384"):
        userdata.packed(script_of_noise())


def script_of_noise() -> str:
    import random

    return "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=30_000))


@pytest.mark.parametrize(
    "line", ["echo foo: bar # not a comment 'here'", 'printf "%s" "$HOME" | tr a b', "a='{b: c}'; true"]
)
def test_lines_of_the_user_reach_the_shell_as_they_are(line: str, tmp_path: Path) -> None:
    wanted = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
    (found,) = (one for one in userdata.script(boot(first=[line])).splitlines() if one.startswith("sh -c"))
    assert subprocess.run(["sh", "-c", found], capture_output=True, text=True, check=True).stdout == wanted


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("allow_cidr", ["0.0.0.0/0"], "the whole world"),
        ("allow_cidr", ["home"], "not a range of addresses"),
        ("first", ["export AWS_SECRET_ACCESS_KEY=x"], "holds a secret"),
        ("first", ["export ID=AKIAABCDEFGHIJKLMNOP"], "holds a secret"),
        ("first", ["export DIGITALOCEAN_TOKEN=x"], "holds a secret"),
        ("disk", "4GB", "from 8GB to 16384GB"),
        ("instance_type", "big", "not an instance type"),
        ("max_cost", "free", "not a sum of dollars"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(option: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        configured(Ec2, **{option: value})


def test_the_packages_are_the_ones_that_are_installed_here() -> None:
    pins = dict(pin.split("==") for pin in environment.packages())
    import numpy

    assert pins["numpy"] == numpy.__version__
    assert {"distributed", "dask", "bokeh", "scipy"} <= pins.keys()
    assert not {"clusterglm", "pytest", "ansible-core"} & pins.keys()
