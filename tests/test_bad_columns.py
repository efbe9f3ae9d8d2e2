"""Rows of the catalogue of wrong inputs that are about levels and missing values, each as a process."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

Clusterglm = Callable[..., subprocess.CompletedProcess[str]]
FIT = ("newton", "--family", "binomial", "--target", "y")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """400 rows, of which three lack a city and two a number."""
    random = np.random.default_rng(6)
    frame = pd.DataFrame({"x": random.standard_normal(400), "city": random.choice(["Bern", "Oslo", "Rome"], 400)})
    frame["name"], frame["day"] = random.permutation(400).astype(str), pd.date_range("2020-01-01", periods=400)
    frame["y"] = (random.random(400) < 0.4).astype(float)
    frame.loc[[5, 7, 9], "city"], frame.loc[[7, 8], "x"] = None, None
    frame.to_parquet(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--data t.parquet --missing dropp", r"--missing \(dropp\): not known: did you mean drop\? One of raise, drop"),
        ("--data t.parquet --categorical y", r"--categorical \(y\): is no feature: name only features"),
        ("--data t.parquet --weights w --categorical w", r"--categorical \(w\): is no feature"),
        ("--data t.parquet --features x --categorical z", r"--categorical \(z\): is not among --features"),
        ("--data t.parquet --categorical ,", r"--categorical \(,\): write names separated by commas"),
    ],
)
def test_a_wrong_command_line(clusterglm: Clusterglm, listing: Any, table: Path, line: str, says: str) -> None:
    before = listing(table.parent)
    done = clusterglm("fit", *FIT, *line.split(), cwd=table.parent, env={"TMPDIR": str(table.parent)})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {says}.*\n", done.stderr), done.stderr
    assert listing(table.parent) == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--missing drop", r"--missing \(drop\): needs --data: generated rows have no missing values"),
        ("--categorical x0,x1", r"--categorical \(x0,x1\): needs --data: generated rows have none"),
    ],
)
def test_generated_rows_have_no_such_columns(clusterglm: Clusterglm, tmp_path: Path, line: str, says: str) -> None:
    done = clusterglm("fit", "newton", "--rows", "500", *line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {says}\n", done.stderr), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "--features x,city",
            r"column city \(3 missing, the first in t.parquet, row 6\): --missing drop leaves such rows",
        ),
        ("--features x", r"column x \(nan in t.parquet, row 8\): not finite: 2 values are missing: drop such rows "),
        ("--features x,day", r"column day \(datetime\): neither number nor category: leave it out with --features x$"),
        ("--missing drop", r"column day \(datetime\): .* leave it out with --features x,city,name$"),
        ("--target city --features x", r"--target city \(string\): not a number: map it to 0 and 1"),
    ],
)
def test_wrong_data(
    clusterglm: Clusterglm, shared_client: Any, listing: Any, table: Path, line: str, says: str
) -> None:
    before = listing(table.parent)
    where = ("--scheduler", shared_client.scheduler.address)
    done = clusterglm("fit", *FIT, "--data", "t.parquet", *line.split(), *where, cwd=table.parent)
    assert (done.returncode, done.stdout) == (5, "")
    assert re.search(rf"^error: {says}", done.stderr.splitlines()[-1]), done.stderr
    assert listing(table.parent) == before


@pytest.mark.slow
def test_a_fit_goes_on_without_the_rows_that_lack_a_value(
    clusterglm: Clusterglm, shared_client: Any, table: Path
) -> None:
    line = ("--data", "t.parquet", "--features", "x,city", "--missing", "drop", "--out", "run")
    done = clusterglm("fit", *FIT, *line, "--scheduler", shared_client.scheduler.address, cwd=table.parent)
    assert done.returncode == 0, done.stderr
    assert "note: --missing drop: 4 of 400 rows left out, missing values: city 3, x 2\n" in done.stderr
    assert "note: column city: 3 levels, reference Bern\n" in done.stderr
    assert re.search(r"^city\[T.Oslo\] +-?\d", done.stdout, re.M)
