"""A fit from end to end: the right answer, the same bits wherever the rows are, and a complete run folder."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm

import clusterglm as package
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm import fit as fit_module
from clusterglm.glm import start as start_module
from clusterglm.glm.model import Model
from clusterglm.glm.problem import Problem
from clusterglm.glm.sample import Drawn, SampleRows, sample_rows
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.start import Look

ROWS, COLUMNS = 40_000, 6
SAME = ("coefficients", "intercept", "objective", "certificate", "passes", "iterations", "status")
FAMILIES = {"gaussian": sm.families.Gaussian, "binomial": sm.families.Binomial, "poisson": sm.families.Poisson}
KEYS = """solver family link penalty alpha l1_ratio lamduh rows columns dtype storage status coefficients intercept
    feature_names objective null_objective certificate tolerance start start_saved iterations passes bytes seconds cost
    chunks tasks tasks_dropped workers threads blas_threads memory seed truth truth_error notes versions command started
    resumed columns_dropped"""
FILES = {"result.json", "model.json", "plan.json", "history.parquet", "tasks.parquet", "checkpoint.npz"}
PAGES = {"report.html", "performance-report.html", "task-stream.html"}


def same(result: Any) -> dict[str, Any]:
    found = result if isinstance(result, dict) else result.as_dict()
    return {key: np.asarray(found[key]).tolist() if key == "coefficients" else found[key] for key in SAME}


def made_table(path: Path, family: str, n: int = 1000) -> dict[str, np.ndarray]:
    """Write four files of a table with a string column, a weight and an offset; return its columns."""
    random = np.random.default_rng(11)
    table = {name: random.standard_normal(n) * scale for name, scale in (("age", 10.0), ("height", 0.1), ("size", 1))}
    table |= {"offset": random.random(n), "weight": random.integers(0, 4, n).astype(float)}
    eta = 0.3 + 0.03 * table["age"] - 2 * table["height"] + 0.5 * table["size"] + table["offset"]
    draw: dict[str, Callable[[], np.ndarray]] = {
        "gaussian": lambda: eta + random.standard_normal(n),
        "binomial": lambda: random.random(n) < 1 / (1 + np.exp(-eta)),
        "poisson": lambda: random.poisson(np.exp(eta)),
    }
    table["y"] = draw[family]().astype(float)
    path.mkdir()
    for i in range(4):
        rows = slice(i * n // 4, (i + 1) * n // 4)
        names = {"name": [f"row {j}" for j in range(rows.start, rows.stop)]}
        pq.write_table(pa.table(names | {name: column[rows] for name, column in table.items()}), path / f"{i}.parquet")
    return table


ROLES = {"target": "y", "weights": "weight", "offset": "offset", "features": "age,height,size", "tol": 1e-7}


def assert_agrees_with_statsmodels(result: dict[str, Any], table: dict[str, np.ndarray], family: str) -> None:
    X = sm.add_constant(np.column_stack([table[name] for name in ("age", "height", "size")]))
    model = sm.GLM(table["y"], X, FAMILIES[family](), offset=table["offset"], freq_weights=table["weight"])
    expected = model.fit(tol=1e-13, maxiter=200).params
    assert result["feature_names"] == ["age", "height", "size"]
    assert np.allclose([result["intercept"], *result["coefficients"]], expected, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", ["newton", "admm", "lbfgs"])
def test_files_with_weights_and_offset_agree_with_statsmodels(
    shared_client: Any, tmp_path: Path, family: str, solver: str
) -> None:
    table = made_table(tmp_path / "d", family)
    result = package.fit(shared_client, solver=solver, data=tmp_path / "d", family=family, **ROLES)
    assert_agrees_with_statsmodels(result.as_dict(), table, family)


@pytest.mark.slow
def test_the_command_agrees_too(shared_client: Any, clusterglm: Any, tmp_path: Path) -> None:
    table = made_table(tmp_path / "d", "binomial")
    options = [word for name, value in ROLES.items() for word in (f"--{name}", value)]
    where = ("--scheduler", shared_client.scheduler.address)
    line = ("fit", "newton", "--data", "d", "--family", "binomial", *options, *where, "--json", "--out", "run")
    done = clusterglm(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert_agrees_with_statsmodels(result, table, "binomial")
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The fit of the rows in memory, to which all others are equal to the last bit."""
    return same(_here())


def _here() -> Any:
    """Return the fit in this process, told what a cluster knows of generated rows: the first of them are a sample."""
    source = Synthetic(ROWS, COLUMNS)
    drawn = Drawn((source.first(sample_rows(ROWS, COLUMNS), "float64", False),))

    def look(rows: Any, model: Model, columns: int, which: str) -> Look:
        if which != "auto":  # the sample itself
            return start_module.look(rows, model, columns, which)
        return start_module.look_at_fit(rows, source.names, model, SOLVERS["admm"], drawn, fit_module.fit)

    with mock.patch.object(fit_module, "look", look):
        return package.fit(data=local_rows(source), solver="admm", family="binomial", lamduh=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_rows", [None, 1, 4096, 10_000, 1e6])
def test_chunks_change_no_bit(shared_client: Any, expected: dict[str, Any], chunk_rows: Any) -> None:
    found = package.fit(shared_client, solver="admm", rows=ROWS, columns=COLUMNS, chunk_rows=chunk_rows)
    assert same(found) == expected
    assert found.chunks["count"] == {None: found.chunks["count"], 1e6: 1}.get(
        chunk_rows, -(-ROWS // found.chunks["rows"])
    )


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (3, 1), (1, 2)])
def test_workers_change_no_bit(expected: dict[str, Any], workers: int, threads: int) -> None:
    found = package.fit(
        solver="admm", rows=ROWS, columns=COLUMNS, workers=workers, threads_per_worker=threads, memory=10**9
    )
    assert same(found) == expected
    assert (found.workers, found.threads, found.blas_threads) == (workers, workers * threads, 1)


@pytest.fixture(scope="module")
def lab(clusterglm: Any) -> Iterator[dict[str, Any]]:
    done = clusterglm("up", "local", "--workers", 2, "--name", "lab", "--memory", "1GB", "--json")
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    assert clusterglm("down", "lab").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--cluster", "--scheduler", "--scheduler-file"])
def test_a_running_cluster_gives_the_same_bits(
    clusterglm: Any, lab: dict[str, Any], expected: dict[str, Any], tmp_path: Path, option: str
) -> None:
    (tmp_path / "file.json").write_text(json.dumps({"address": lab["address"]}))
    where = {"--cluster": "lab", "--scheduler": lab["address"], "--scheduler-file": "file.json"}[option]
    line = ("fit", "admm", "--rows", "4e4", "--columns", COLUMNS, option, where, "--json", "--quiet")
    done = clusterglm(*line, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert same(found) == expected
    assert (found["workers"], found["chunks"]["spread"].keys()) == (2, found["memory"]["worker"].keys())
    [run] = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-admm")


@pytest.mark.slow
def test_the_run_folder_is_complete(clusterglm: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    line = ("fit", "admm", "--rows", "4e4", "--columns", COLUMNS, "--workers", 2, "--memory", "1GB", "--out", "run")
    eight = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "8")
    done = clusterglm(*line, cwd=tmp_path, env=eight)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == FILES | PAGES
    result = json.loads((run / "result.json").read_text())
    assert set(KEYS.split()) <= result.keys()
    assert same(result) == expected
    assert result["blas_threads"] == 1
    assert result["command"].startswith("clusterglm fit admm --rows 4e4 ")
    assert set(result["seconds"]) == {"plan", "load", "fit", "report"}
    assert result["truth"] == Synthetic(ROWS, COLUMNS).truth.tolist()
    model = json.loads((run / "model.json").read_text())
    assert model["coefficients"] == result["coefficients"]
    plan = json.loads((run / "plan.json").read_text())
    assert plan["measured"]["passes"] == result["passes"]
    history = pq.read_table(run / "history.parquet").to_pydict()
    assert history["passes"][-1] == result["passes"]
    assert history["objective"][-1] == result["objective"]
    tasks = pq.read_table(run / "tasks.parquet")
    assert len(set(tasks["key"].to_pylist())) == result["tasks"] - result["tasks_dropped"]
    assert not [page for page in PAGES if re.search(r'<(script|link|img)[^>]+"(https?:)?//', (run / page).read_text())]
    shown = done.stdout.splitlines()
    assert shown[0] == f"status      optimal ({result['iterations']} iterations, {result['passes']} passes)"
    assert [line.split()[0] for line in shown[-COLUMNS:]] == result["feature_names"]


PROGRAM = """
import json, clusterglm
result = clusterglm.fit(solver="admm", rows=40_000, columns=6, workers=1, memory=10**9, out="run")
print(json.dumps([type(result).__name__, str(result.folder), result.exit_code, list(result.coefficients)]))
"""


@pytest.mark.slow
def test_python_gets_what_the_command_writes(expected: dict[str, Any], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ["Result", "run", 0, expected["coefficients"]]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert same(result) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_fit_that_stops_short_exits_3_with_its_model(shared_client: Any, clusterglm: Any, tmp_path: Path) -> None:
    where = ("--scheduler", shared_client.scheduler.address)
    done = clusterglm(
        "fit", "proximal_gradient", "--rows", 2000, "--max-passes", 4, *where, "--out", "run", cwd=tmp_path
    )
    assert done.returncode == 3
    assert done.stdout.startswith("status      max_passes (")
    assert json.loads((tmp_path / "run" / "model.json").read_text())["status"] == "max_passes"


def test_columns_that_are_all_0_are_nothing_to_fit() -> None:
    rows = package.from_arrays(np.zeros((9, 2)), np.arange(9.0))
    with pytest.raises(package.DataError, match="columns: 0 in every row: nothing to fit"):
        package.fit(data=rows, solver="newton", family="gaussian")


def test_an_error_of_whoever_watches_comes_out_as_it_is(shared_client: Any) -> None:
    class Broken:
        def phase(self, text: str) -> None: ...
        def note(self, text: str) -> None: ...
        def rows(self, done: int, total: int, seconds: float) -> None: ...

        def iteration(self, row: Any, null_objective: float, rows: int) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        package.fit(shared_client, rows=10_000, progress=Broken())


def test_whole_numbers_that_grow_too_large_late_in_a_file_are_told_of(shared_client: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    first = "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(200_000))  # more than a look before the fit reads
    path.write_text(f"key,x,y\n{first}{2**53 + 9},3,1\n")
    notes = package.fit(shared_client, data=str(path), target="y", family="binomial", penalty="l2").notes
    assert f"warning: column key ({2**53 + 8}): rounded to float64" in notes


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["auto", "admm", "async_newton"])
def test_what_a_fit_needed_goes_with_it(shared_client: Any, tmp_path: Path, solver: str) -> None:
    """And not when the garbage collector looks: a sample and the sums of all passes may be hundreds of MB."""
    for out in (None, tmp_path / "run"):
        gc.collect()
        gc.disable()
        try:
            package.fit(shared_client, rows=ROWS, columns=COLUMNS, solver=solver, out=out)
            left = [thing for thing in gc.get_objects() if type(thing) in (Problem, SampleRows)]
        finally:
            gc.enable()
        assert left == []
