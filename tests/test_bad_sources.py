"""Rows of the catalogue of wrong inputs that are about where data come from: objects of S3, arrays, other protocols."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest

import clusterglm as package

Clusterglm = Callable[..., subprocess.CompletedProcess[str]]
FIT = ("newton", "--target", "y", "--family", "binomial")


def refused(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    """Check a refusal: its code, one line that ends stderr, nothing on stdout, and no secret anywhere."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(says, errors[0]), errors[0]
    assert done.stderr.endswith(f"{errors[0]}\n")
    assert done.stdout == ""
    for word in ("Traceback", os.environ.get("AWS_ACCESS_KEY_ID", "AKIA"), "not-a-secret", "Warning"):
        assert word not in done.stderr


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("gs://b/k.csv", r"--data \(gs://b/k.csv\): gs:// needs the package gcsfs: pip install gcsfs$"),
        ("s9://b/k.csv", r"--data \(s9://b/k.csv\): s9:// is not known: a path, or a URL such as s3://BUCKET/KEY$"),
        ("s3://AKIAIOSFODNN7EXAMPLE:wJalr@b/k.csv", r"--data \(s3://\[redacted\]@b/k.csv\): holds somebody's password"),
        ("s3:///", r"--data \(s3:///\): names nothing: write BUCKET/KEY"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_before_anything_starts(
    clusterglm: Clusterglm, listing: Any, tmp_path: Path, data: str, says: str
) -> None:
    done = clusterglm("fit", *FIT, "--data", data, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    refused(done, 2, says)
    assert "wJalr" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not listing(tmp_path)


@pytest.fixture(scope="module")
def s3_client(s3: Any) -> Iterator[Any]:
    """Two workers whose environment leads to the server."""
    from clusterglm.clusters.embedded import embedded

    with embedded(2, memory=10**9) as (client, _):
        yield client


@pytest.fixture
def bucket(s3: Any, tmp_path: Path) -> Iterator[Path]:
    """A folder of four parquet files, and a copy of it at s3://data/d."""
    random = np.random.default_rng(5)
    (tmp_path / "d").mkdir()
    for i in range(4):
        frame = pd.DataFrame(random.standard_normal((2000, 3)), columns=["a", "b", "c"])
        frame["y"] = (random.random(2000) < 1 / (1 + np.exp(-frame["a"]))).astype(float)
        frame.to_parquet(tmp_path / "d" / f"part-{i}.parquet", row_group_size=700)
    s3.put(str(tmp_path / "d"), "data/", recursive=True)
    yield tmp_path / "d"
    s3.rm("data/d", recursive=True)


@pytest.mark.slow
def test_row_51_what_is_not_there_or_may_not_be_read(
    clusterglm: Clusterglm, listing: Any, s3: Any, s3_client: Any, bucket: Path, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    where = ("--scheduler", s3_client.scheduler.address)

    def fit(data: str) -> subprocess.CompletedProcess[str]:
        return clusterglm("fit", *FIT, "--data", data, *where, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})

    refused(fit("s3://data/nothing"), 5, r"--data \(s3://data/nothing\): no such key$")
    refused(fit("s3://nobody/d"), 5, r"--data \(s3://nobody/d\): no such bucket$")
    _answers(s3, "0")
    try:
        refused(fit("s3://data/d"), 4, r"error: s3://data/d \(403\): these credentials may not read it$")
    finally:
        _answers(s3, "inf")
    assert listing(tmp_path) == before


def _answers(s3: Any, number: str) -> None:
    """Let the server answer so many more requests before it asks for permissions, which nobody has."""
    text = {"Content-Type": "text/plain"}
    urlopen(Request(f"{s3.endpoint}/moto-api/reset-auth", data=number.encode(), headers=text)).close()


@pytest.mark.slow
def test_row_51_no_credentials_and_no_server(clusterglm: Clusterglm, tmp_path: Path) -> None:
    """In a cluster that the fit starts itself: its workers see what the environment of the command says."""
    env = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), "")
    env |= {"AWS_CONFIG_FILE": str(tmp_path / "c"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "s")}
    env |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    own = ("--workers", 1, "--memory", "1GB")
    done = clusterglm("fit", *FIT, "--data", "s3://data/d", *own, cwd=tmp_path, env=env)
    refused(done, 4, r"error: s3://data/d \(no credentials\): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and ")
    env |= {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    done = clusterglm("fit", *FIT, "--data", "s3://data/d", *own, cwd=tmp_path, env=env)
    refused(done, 4, r"error: s3://data/d \(EndpointConnectionError: .*\): no good answer: check the network, AWS_END")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_fit_of_objects_has_the_bits_of_a_fit_of_files(s3_client: Any, bucket: Path, tmp_path: Path) -> None:
    options = {"solver": "admm", "target": "y", "family": "binomial", "penalty": "l1", "alpha": 1e-3, "tol": 1e-6}
    local = package.fit(s3_client, data=bucket, **options)
    far = package.fit(s3_client, data="s3://data/d", out=tmp_path / "run", **options)
    assert far.coefficients.tobytes() == local.coefficients.tobytes()
    assert (far.intercept, far.objective, far.rows) == (local.intercept, local.objective, 8000)
    assert far.certificate == local.certificate
    assert "s3://data/d" in (tmp_path / "run" / "result.json").read_text()


@pytest.mark.slow
def test_row_44_an_object_that_changes_during_the_fit(s3: Any, s3_client: Any, bucket: Path, tmp_path: Path) -> None:
    """Chunks are lost with their workers, and made again from what is there then."""

    class Change:
        def phase(self, text: str) -> None: ...
        def note(self, text: str) -> None: ...

        def rows(self, done: int, total: int, seconds: float) -> None: ...

        def iteration(self, row: Any, null_objective: float, rows: int) -> None:
            if row.iteration == 1:
                s3.pipe_file("data/d/part-2.parquet", (bucket / "part-1.parquet").read_bytes())
                s3_client.restart(timeout=60)

    options = {"solver": "gradient_descent", "target": "y", "family": "binomial", "tol": 1e-9}
    with pytest.raises(
        package.DataError, match=r"^part-2.parquet \(changed\): the fit mixes two versions: start again$"
    ):
        package.fit(s3_client, data="s3://data/d", progress=Change(), **options)


@pytest.mark.slow
def test_memory_of_this_process_is_no_place_for_workers(s3_client: Any) -> None:
    with pytest.raises(package.UsageError, match=r"^--data \(memory://d\): is in this process alone: "):
        package.fit(s3_client, data="memory://d", target="y", family="binomial")
