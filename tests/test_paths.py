"""Paths and cross-validation from end to end: from Python in this process, and as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import clusterglm
from clusterglm.errors import UsageError
from clusterglm.glm.paths.path import Grid
from clusterglm.report.path import render
from clusterglm.run_folder import plain


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.standard_normal((900, 4)), columns=list("abcd"))
    table["city"] = random.choice(["x", "y", "z"], 900)
    table["y"] = random.poisson(np.exp(0.3 * table["a"] - 0.2 * table["b"] + 0.1))
    return table


def test_cross_validation_chooses_a_strength_and_fits_it(frame: pd.DataFrame) -> None:
    found = clusterglm.cv(data=frame, target="y", family="poisson", grid=Grid(12, 1e-2), folds=4)
    path = found.path
    assert found.chosen == path.best
    assert found.fit.alpha == path.alphas[path.best]
    np.testing.assert_allclose(found.fit.coefficients, path.coefficients[path.best], atol=2e-3)
    assert found.fit.status == "optimal"
    assert found.feature_names == ["a", "b", "c", "d", "city[T.y]", "city[T.z]"]
    table = found.table()
    assert {len(column) for column in table.values()} == {12}
    assert max(table["cv_error_in_se"]) <= 0.01
    told = json.loads(json.dumps(plain(found.as_dict())))
    assert told["folds"] == 4
    page = render(told | {"notes": ["warning: mind the step"]})
    assert "4 folds" in page
    assert "mind the step" in page
    assert '"value":"a"' in page  # the name of a line
    assert "<script src" not in page


def test_a_path_ends_at_its_weakest_strength(frame: pd.DataFrame) -> None:
    found = clusterglm.path(data=frame, target="y", family="poisson", l1_ratio=0.5, grid=Grid(alphas=(0.1, 0.01)))
    assert found.path.alphas.tolist() == [0.1, 0.01]
    assert found.chosen == 1
    assert found.fit.penalty == "elastic-net"
    assert found.path.held_out is None
    assert "times the passes" in render(plain(found.as_dict()))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"alpha": 0.1}, "--alpha"),
        ({"alpha": 0.0}, "--alpha"),
        ({"penalty": "none"}, "no strength to choose"),
        ({"solver": "admm"}, "lockstep"),
        ({"summary": True}, "--summary"),
        ({"family": "negative-binomial", "theta": "estimate"}, "--theta"),
    ],
)
def test_what_makes_no_sense_is_refused(frame: pd.DataFrame, words: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        clusterglm.path(data=frame, target="y", **({"family": "poisson"} | words))
    for folds in (1, 2.5):
        with pytest.raises(UsageError, match="--folds"):
            clusterglm.cv(data=frame, target="y", family="poisson", folds=folds)  # type: ignore[arg-type]


def test_what_a_path_has_to_say_is_said(frame: pd.DataFrame) -> None:
    table = frame[["a", "y"]].assign(same=1.0)
    found = clusterglm.path(data=table, target="y", family="poisson", grid=Grid(3))
    assert "warning: 1 constant columns: coefficients set to 0" in found.fit.notes


@pytest.mark.slow
def test_the_command_writes_tables_and_a_page_beside_the_run(
    frame: pd.DataFrame, clusterglm: Any, tmp_path: Path
) -> None:
    frame.to_parquet(tmp_path / "rows.parquet")
    words = ("--data", tmp_path / "rows.parquet", "--target", "y", "--family", "poisson", "--out", tmp_path / "run")
    done = clusterglm("cv", *map(str, words), "--strengths", "8", "--folds", "3", "--workers", "1", "--json", "-q")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    run = tmp_path / "run"
    assert pq.read_table(run / "path.parquet").num_rows == 8
    coefficients = pq.read_table(run / "coefficients.parquet").to_pandas()
    assert coefficients.columns.tolist() == ["alpha", "(intercept)", *told["feature_names"]]
    assert json.loads((run / "result.json").read_text())["alpha"] == told["alpha"][told["best"]]
    assert "3 folds" in (run / "path.html").read_text()
    assert (run / "report.html").exists()
    refused = clusterglm("cv", *map(str, words), "--folds", "1")
    assert (refused.returncode, "--folds (1)" in refused.stderr) == (2, True)
    none = clusterglm("cv", *map(str, words), "--strengths", "0")
    assert (none.returncode, "--strengths (0)" in none.stderr) == (2, True)
    both = clusterglm("path", *map(str, words), "--alphas", "1,2", "--strengths", "3")
    assert (both.returncode, "give one of them" in both.stderr) == (2, True)
