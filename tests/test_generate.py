"""``clusterglm generate`` as its users run it."""

from __future__ import annotations

import ctypes
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clusterglm as package

Clusterglm = Callable[..., subprocess.CompletedProcess[str]]
LOCAL = ("--workers", 2, "--memory", "1GB")


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("--rows 0 --to d", 2, r"--rows \(0\): must be at least 1$"),
        ("--rows 10k --to d", 2, r"--rows \(10k\): not a count of rows: write 10000 or 1e4$"),
        ("--rows 1e4", 2, r"missing option '--to'"),
        ("--rows 1e4 --to d --columns 0", 2, r"--columns \(0\): must be at least 1$"),
        ("--rows 1e4 --to d --seed -1", 2, r"--seed \(-1\): must be 0 to "),
        ("--rows 1e4 --to d --family gama", 2, r"--family \(gama\): not known: "),
        ("--rows 1e4 --to d --dtype int8", 2, r"--dtype \(int8\): not known: "),
        ("--rows 1e4 --to d --format csv", 2, r"--format \(csv\): not known: One of parquet, zarr, npy$"),
        ("--rows 1e4 --to d.csv", 2, r"--to \(d.csv\): csv is not written: one of parquet, zarr, npy$"),
        ("--rows 1e4 --to d --workers 1 --cluster c", 2, r"--workers: belongs to a cluster that the command starts"),
        ("--rows 1e4 --to full", 2, r"--to \(full\): is there and not empty: another name, or --overwrite$"),
        ("--rows 1e4 --to full --overwrite", 2, r"--to \(full\): holds notes.txt, which is no file of data: "),
        ("--rows 1e4 --to full/notes.txt", 2, r"--to \(full/notes.txt\): is a file: name a folder$"),
        ("--rows 1e4 --to full/notes.txt/d", 2, r"--to \(full/notes.txt/d\): not writable \(file exists\)$"),
        ("--rows 1e12 --to d", 4, r"--to \(d\): 128.0 TB needed, .* free: fewer rows, or another disk$"),
        (
            "--rows 1e4 --to s9://b/d",
            2,
            r"--to \(s9://b/d\): s9:// is not known: a path, or a URL such as s3://BUCKET/",
        ),
        ("--rows 1e4 --to https://h/d", 2, r"--to \(https://h/d\): cannot be written: name a folder, or a URL such as"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_started(
    clusterglm: Clusterglm, listing: Any, tmp_path: Path, line: str, code: int, says: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    before = listing(tmp_path)
    done = clusterglm("generate", *line.split(), cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(r"error: .*\n", done.stderr)
    assert re.search(says, done.stderr, re.M), done.stderr
    assert listing(tmp_path) == before


def powerless() -> None:
    """Take from root the right to write everywhere, so that permissions hold for it too."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def test_a_folder_that_may_not_be_written(clusterglm: Clusterglm, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    done = clusterglm("generate", "--rows", "1e4", "--to", "mine/d", cwd=tmp_path, preexec_fn=powerless)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --to (mine/d): not writable (permission denied)\n"


@pytest.fixture(scope="module")
def s3_client(s3: Any) -> Iterator[Any]:
    """Two workers whose environment leads to the server."""
    from clusterglm.clusters.embedded import embedded

    with embedded(2, memory=10**9) as (client, _):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("to", ["d", "d.zarr", "d.npy", "s3://data/d", "s3://data/d.zarr"])
@pytest.mark.parametrize(
    ("family", "dtype"), [("poisson", "float32"), pytest.param("binomial", "float64", marks=pytest.mark.full)]
)
def test_a_fit_of_what_was_written_has_the_bits_of_a_fit_of_generated_rows(
    clusterglm: Clusterglm, s3_client: Any, s3: Any, tmp_path: Path, to: str, family: str, dtype: str
) -> None:
    where = ("--scheduler", s3_client.scheduler.address)
    made = ("--rows", "3e4", "--seed", 5, "--columns", 4, "--family", family, "--dtype", dtype)
    done = clusterglm("generate", *made, "--to", to, *where, "--overwrite", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["parts"], found["dtype"]) == (30_000, 1, dtype)
    assert found["bytes"] > 30_000 * 4 * 3
    options: dict[str, Any] = {"solver": "proximal_newton", "family": family, "penalty": "l1", "lamduh": 1.0}
    options |= {"intercept": False, "dtype": dtype, "tol": 1e-4, "start": "null"}
    data = to if "://" in to else tmp_path / to
    read = package.fit(s3_client, data=data, target="y", **options)
    rows = package.fit(s3_client, rows=30_000, columns=4, seed=5, **options)
    assert read.coefficients.tobytes() == rows.coefficients.tobytes()
    assert (read.objective, read.certificate, read.passes) == (rows.objective, rows.certificate, rows.passes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "format", "number", "group"),
    [
        ("starting a local cluster", "parquet", signal.SIGINT, True),
        ("writing", "npy", signal.SIGHUP, True),
        ("writing", "zarr", signal.SIGTERM, False),
        ("part", "parquet", signal.SIGTERM, False),
        ("part", "zarr", signal.SIGINT, True),
    ],
)
def test_a_signal_leaves_nothing(
    begin: Any, listing: Any, tmp_path: Path, moment: str, format: str, number: int, group: bool
) -> None:
    (tmp_path / "tmp").mkdir()
    line = ("--rows", "2e7", "--to", "new/deep/d", "--format", format, *LOCAL)
    running = begin("generate", *line, env={"TMPDIR": str(tmp_path / "tmp")})

    def come() -> bool:
        if moment != "part":
            return moment in running.said
        found = "c/0*" if format == "zarr" else "part-*"
        return any((tmp_path / "new" / "deep").glob(f".d*/**/{found}"))

    running.until(come)
    running.send(number, group)
    assert running.ended(30) == 130
    assert running.printed == ""
    assert running.said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in running.said
    assert set(listing(tmp_path)) == {"tmp"}


@pytest.mark.slow
def test_a_signal_leaves_nothing_in_a_store_of_objects(begin: Any, s3: Any, s3_client: Any, wait_until: Any) -> None:
    where = ("--scheduler", s3_client.scheduler.address)
    running = begin("generate", "--rows", "2e7", "--to", "s3://data/cut", *where)
    running.until(lambda: [name for name in s3.find("data/cut") if "part-" in name])
    running.send(signal.SIGINT)
    assert running.ended(60) == 130
    assert running.said.endswith("\ninterrupted\n")
    wait_until(lambda: not s3_client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
    wait_until(lambda: not any(s3_client.run(lambda dask_worker: dask_worker.state.executing_count).values()))
    assert s3.find("data/cut") == []


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_row(begin: Any, clusterglm: Clusterglm, tmp_path: Path) -> None:
    running = begin("generate", "--rows", "4e6", "--to", "d", "--format", "npy", *LOCAL)
    running.until(lambda: any(tmp_path.glob(".d*/part-*")))
    running.workers()[0].kill()
    assert running.ended() == 0, running.said
    assert re.search(r"^rows +4,000,000 in 8 parts \(npy\)$", running.printed, re.M)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {f"part-{i:05}.npy" for i in range(8)}
    sizes = sum(path.stat().st_size for path in (tmp_path / "d").iterdir())
    assert 4_000_000 * 128 < sizes < 4_000_000 * 128 + 8 * 4096


@pytest.mark.slow
def test_progress_has_rows_a_second_and_the_time_left(clusterglm: Clusterglm, tmp_path: Path) -> None:
    done = clusterglm("generate", "--rows", "2e4", "--to", "d", *LOCAL, cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(r"^20,000 of 20,000 rows  [\d.e+]+ rows/s  about 0.00 s left$", done.stderr, re.M)
    assert re.search(r"^size +\d+\.\d MB$", done.stdout, re.M)
    quiet = clusterglm("generate", "--rows", "2e4", "--to", "e", *LOCAL, "--quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
