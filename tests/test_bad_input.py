"""The catalogue of wrong inputs that ``fit`` and the run folder can meet, each as a process: the number is its row.

A refusal is one line with the cure, the exit code of the catalogue, an empty stdout and nothing left behind. Rows
that need the data opened run on one cluster that all of them share, so a task left on it would show too.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Clusterglm = Callable[..., subprocess.CompletedProcess[str]]
EVIL = "import os; open('ran', 'w')"


@dataclasses.dataclass(frozen=True)
class Row:
    """One command line of the catalogue. ``line`` follows ``clusterglm fit``; ``make`` prepares the folder it runs in;
    ``says`` is searched for in what it says; ``folder`` is whether a run folder ``run`` stays."""

    number: str
    line: str
    code: int
    says: str
    make: Callable[[Path], object] = lambda folder: None
    folder: bool = False


def table(path: Path, n: int = 400, **columns: Any) -> Path:
    """Write n rows of two features, binomial y, counts k, weights w and offset o as parquet; columns come on top."""
    random = np.random.default_rng(5)
    a, b = random.standard_normal((2, n))
    content = {"a": a, "b": b, "y": (random.random(n) < 0.5).astype(float), "k": random.poisson(2.0, n).astype(float)}
    content |= {"w": np.ones(n), "o": np.zeros(n)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(content | columns), path)
    return path


def at(position: int, value: float, n: int = 400, otherwise: Any = 0.5) -> np.ndarray:
    column = np.full(n, otherwise, dtype=float)
    column[position] = value
    return column


def binary(n: int = 400) -> np.ndarray:
    return (np.random.default_rng(5).random(n) < 0.5).astype(float)


def one(**columns: Any) -> Callable[[Path], Path]:
    return lambda folder: table(folder / "t.parquet", **columns)


def several(folder: Path) -> None:
    for i in range(4):
        table(folder / "d" / f"part-{i:03}.parquet")


def with_part(i: int, n: int = 400, **columns: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        several(folder)
        table(folder / "d" / f"part-{i:03}.parquet", n, **columns)

    return make


def cut(name: str, keep: slice) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        several(folder)
        path = folder / "d" / name
        path.write_bytes(path.read_bytes()[keep])

    return make


def broken_page(folder: Path) -> None:
    path = table(folder / "t.parquet", 4000)
    content = bytearray(path.read_bytes())
    content[40:4000] = bytes(3960)
    path.write_bytes(bytes(content))


def run_in(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "result.json").write_text("{}")


T = "--data t.parquet --target y --family binomial --features a,b"
D = "--data d --target y --family binomial --features a,b"
ROWS = "--rows 500 --columns 3"

COMMAND_LINE = [
    Row("1", "newton --rows 0", 2, r"--rows \(0\): must be at least 1$"),
    Row("1", "newton --rows -1", 2, r"--rows \(-1\): must be at least 1$"),
    Row("2", "newton --rows nan", 2, r"--rows \(nan\): not a count of rows: write "),
    Row("2", "newton --rows inf", 2, r"--rows \(inf\): not a count of rows: write "),
    Row("2", "newton --rows 1e30", 2, r"--rows \(1e30\): more than 1e12$"),
    Row("2", "newton --rows 10k", 2, r"--rows \(10k\): not a count of rows: write 10000 or 1e4$"),
    Row("4", "newton --rows 10 --columns 0", 2, r"--columns \(0\): must be at least 1$"),
    Row("4", "newton --rows 10 --columns -1", 2, r"--columns \(-1\): must be at least 1$"),
    Row("5", "newton --rows 10 --chunk-rows 0", 2, r"--chunk-rows \(0\): must be at least 1, or auto$"),
    Row("7", "newton --rows 10 --threads-per-worker 0", 2, r"--threads-per-worker \(0\): must be at least 1$"),
    Row("7", "newton --rows 10 --workers 0", 2, r"--workers \(0\): must be at least 1$"),
    Row("8", "newton --rows 10 --memory abc", 2, r"--memory \(abc\): not a size: write 4GB or 4GiB$"),
    Row("8", "newton --rows 10 --memory 0", 2, r"--memory \(0\): not a size: write 4GB or 4GiB$"),
    Row("8", "newton --rows 10 --memory -4GB", 2, r"--memory \(-4GB\): not a size: write 4GB or 4GiB$"),
    Row("10", "newtn --rows 10", 2, r"solver \(newtn\): not known: did you mean newton\? One of gradient_descent, "),
    Row("10", "newton --rows 10 --family binomal", 2, r"--family \(binomal\): .*did you mean binomial\? One of "),
    Row("10", "newton --rows 10 --link logt", 2, r"--link \(logt\): .*logit"),
    Row("10", "newton --rows 10 --penalty l3", 2, r"--penalty \(l3\): not known: .*One of none, l1, l2, elastic-net$"),
    Row("10", "no_such_file.py:f --rows 10", 2, r"solver \(no_such_file.py\): no such file$"),
    Row("10", "newton --rows 10 --dtype int8", 2, r"--dtype \(int8\): not known: .*One of float64, float32$"),
    Row("11", "newton --rows 10 --penalty l1", 2, r"--penalty \(l1\): newton needs a smooth penalty.* proximal_newton"),
    Row("11", "lbfgs --rows 10 --penalty l1", 2, r"--penalty \(l1\): lbfgs needs a smooth penalty"),
    Row("11", "gradient_descent --rows 10 --penalty elastic-net", 2, r"--penalty \(elastic-net\): .* smooth penalty"),
    Row("12", "admm --rows 99 --alpha -1", 2, r"--alpha \(-1\.0\): must be 0 or more$"),
    Row("12", "admm --rows 99 --alpha nan", 2, r"--alpha \(nan\): must be 0 or more$"),
    Row("12", "admm --rows 99 --lamduh inf", 2, r"--lamduh \(inf\): must be 0 or more$"),
    Row("12", "admm --rows 99 --alpha 1 --lamduh 1", 2, r"--lamduh \(1\.0\): given together with --alpha: "),
    Row("12", "admm --rows 99 --penalty elastic-net --l1-ratio 1.5", 2, r"--l1-ratio \(1\.5\): must be 0 to 1$"),
    Row("13", "admm --rows 99 --tol 0", 2, r"--tol \(0\.0\): must be greater than 0$"),
    Row("13", "admm --rows 99 --tol -1", 2, r"--tol \(-1\.0\): must be greater than 0$"),
    Row("13", "admm --rows 99 --tol nan", 2, r"--tol \(nan\): must be greater than 0$"),
    Row("13", "admm --rows 99 --rel-gap 0", 2, r"--rel-gap \(0\.0\): must be greater than 0$"),
    Row("13", "admm --rows 99 --max-passes 0", 2, r"--max-passes \(0\): must be at least 1$"),
    Row("14", "admm --rows 99 --seed -1", 2, r"--seed \(-1\): must be 0 to 9223372036854775807$"),
    Row("14", "admm --rows 99 --seed 9223372036854775808", 2, r"--seed \(9223372036854775808\): must be 0 to "),
    Row("24", "admm --data t.parquet --target y --family binomial --features ,", 2, r"--features \(,\): .*names"),
    Row(
        "25", "newton --rows 1 --columns 1 --penalty none", 2, r"--rows \(1\): one row fits any line: add --penalty l2"
    ),
    Row("28", "newton --rows 200 --columns 500", 2, r"--columns \(500\): more than the 200 rows: add --penalty l2"),
    Row("36", f"admm {T},y", 2, r"--features \(y\): is the target$", one()),
    Row("39", "admm --target y --family binomial", 2, r"fit: no data: give --rows N .* or --data"),
    Row("45", f"admm {ROWS} --out file/run", 2, r"--out \(file/run\): not writable", lambda f: (f / "file").touch()),
    Row("45", f"admm {ROWS} --out /proc/run", 2, r"--out \(/proc/run\): not writable"),
    Row(
        "46", f"admm {ROWS} --out file", 2, r"--out \(file\): is a file: name a folder$", lambda f: (f / "file").touch()
    ),
    Row("46", f"admm {ROWS} --out run", 2, r"--out \(run\): holds a run: another name, --resume, or --over", run_in),
    Row("54", f"admm {ROWS} --cluster x", 2, r"--cluster \(x\): not known: no cluster is up; start one with"),
    Row("54", f"admm {ROWS} --cluster ../x", 2, r"--cluster \(\.\./x\): lower-case letters"),
    Row(
        "68", f"admm {ROWS} --scheduler 127.0.0.1:9", 4, r"--scheduler \(127\.0\.0\.1:9\): scheduler .* is gone: start"
    ),
    Row("68", f"admm {ROWS} --scheduler nonsense", 2, r"--scheduler \(nonsense\): not an address: write tcp://"),
    Row("80", "--resume nowhere", 2, r"--resume \(nowhere\): no checkpoint.npz in it"),
    Row("80", f"admm {ROWS} --resume a --out b", 2, r"--out \(b\): given together with --resume"),
]

DATA = [
    Row("3", "newton --rows 1e11", 2, r"--rows \(1e\+11\): 12\.8 TB of rows, .* of memory on 2 workers: use \d+ such work"),
    Row("5", f"newton {ROWS} --chunk-rows 1e9 --out run", 0, r"note: --chunk-rows \(1e9\): one chunk of 500 rows$", folder=True),
    Row("18", f"newton {T}", 5, r"target y \(-1 in t\.parquet, row 18\): binomial takes .*: map -1 to 0$", one(y=at(17, -1, otherwise=1))),
    Row("18", f"newton {T}", 5, r"target y \(0\.5 in t\.parquet, row 3\): binomial takes", one(y=at(2, 0.5, otherwise=1))),
    Row("18", f"newton {T}", 5, r"target y: only the value 1: nothing to fit$", one(y=np.ones(400))),
    Row("19", "newton --data t.parquet --target k --features a,b --family poisson", 5,
        r"target k \(-2 in t\.parquet, row 5\): poisson takes 0 or more$", one(k=at(4, -2, otherwise=1))),
    Row("19", "newton --data t.parquet --target k --features a,b --family poisson --out run", 0,
        r"warning: target k: 1 values are not whole: fitted as rates$", one(k=at(4, 0.5, otherwise=1)), True),
    Row("21", f"newton {D}", 5, r"column b \(nan in part-002\.parquet, row 9\): not finite: drop or fill", with_part(2, b=at(8, np.nan))),
    Row("21", f"newton {T}", 5, r"column a \(inf in t\.parquet, row 9\): not finite: drop or fill", one(a=at(8, np.inf))),
    Row("21", f"newton {T}", 5, r"target y \(nan in t\.parquet, row 1\): not finite", one(y=at(0, np.nan, otherwise=1))),
    Row("21", f"newton {T} --weights w", 5, r"weights \(nan in t\.parquet, row 1\): not finite", one(w=at(0, np.nan))),
    Row("21", f"newton {T} --offset o", 5, r"offset \(-inf in t\.parquet, row 1\): not finite", one(o=at(0, -np.inf))),
    Row("23", f"newton {D} --out run", 0, r"note: part-001\.parquet: no rows, skipped$", lambda f: with_part(1, 0)(f), True),
    Row("23", f"newton {T}", 5, r"--data \(t\.parquet\): no rows$", lambda f: table(f / "t.parquet", 0)),
    Row("23", f"newton {D}", 5, r"--data \(d\): 2 files, no rows$", lambda f: [table(f / "d" / f"{i}.parquet", 0) for i in "ab"]),
    Row("24", "newton --data t.parquet --target y --family binomial", 5, r"--data \(t\.parquet\): no columns besides the target y$",
        lambda f: pq.write_table(pa.table({"y": binary()}), f / "t.parquet")),
    Row("25", f"newton {T}", 5, r"target y: only|rows \(1\): one row fits any line: add --penalty l2", lambda f: table(f / "t.parquet", 1)),
    Row("26", f"newton {T} --out run", 0, r"warning: column b \(constant 1\): same as the intercept: coefficient set to 0$", one(b=np.ones(400)), True),
    Row("27", f"newton {T},w --out run", 0, r"warning: columns w: collinear with earlier ones", one(w=np.arange(400.0), a=2 * np.arange(400.0)), True),
    Row("28", "newton --data t.parquet --target y --family binomial", 5, r"columns \(\d+\): more than the 6 rows: add --penalty l2",
        lambda f: table(f / "t.parquet", 6, y=np.array([0, 1, 0, 1, 1, 0.0]), c=np.arange(6.0) ** 2, d=np.arange(6.0) ** 3)),
    Row("29", f"newton {T} --out run", 3, r"warning: separation by b: coefficients grow without end: add --penalty l2", one(b=2 * binary() - 1), True),
    Row("30", f"newton {T},day", 5, r"column day \(datetime\): not a number: leave it out with --features", one(day=pa.array([10**15] * 400, pa.timestamp("us")))),
    Row("31", f"newton {T},c,d,e --out run", 0, "", one(
        c=np.arange(400) % 7 - 3 == 0, d=(np.arange(400) % 100).astype(np.int8), e=np.random.default_rng(1).random(400).astype(np.float16)), True),
    Row("32", f"newton {T},id --out run", 0, r"warning: column id \(9007199254740993\): rounded to float64$",
        one(id=np.arange(400) * 22518 * 10**9 + 2**53 - 22518 * 10**9 * 399 + 1), True),
    Row("34", f"newton {T}", 5, r"column a \(1e\+300\): its square is not finite: .*rescale", one(a=np.geomspace(1e-300, 1e300, 400))),
    Row("35", "gradient_descent --data t.parquet --target k --features a --family poisson --no-intercept --max-passes 40 --out run", 3,
        "", one(a=np.linspace(-400, 400, 400), k=np.exp(np.linspace(0, 30, 400)).round()), True),
    Row("36", "newton --data t.parquet --target yy --family binomial", 5, r"--target \(yy\): no such column: did you mean y\? One of ", one()),
    Row("36", f"newton {T},bb", 5, r"--features \(bb\): no such column: did you mean b\?", one()),
    Row("37", f"newton {T} --weights w", 5, r"weights \(-0\.5 in t\.parquet, row 3\): weights must be 0 or more$", one(w=at(2, -0.5))),
    Row("37", f"newton {T} --weights w", 5, r"weights: their sum is 0$", one(w=np.zeros(400))),
    Row("38", f"newton {T} --out run", 0, "", lambda f: pq.write_table(
        pq.read_table(table(f / "t.parquet")).select(["w", "y", "b", "a"]), f / "t.parquet", row_group_size=7), True),
    Row("39", f"newton {T}", 5, r"--data \(t\.parquet\): no such file$"),
    Row("40", f"newton {D}", 5, r"--data \(d\): no .parquet .*3 others: .*\.txt", lambda f: [
        (f / "d").mkdir(), *((f / "d" / n).touch() for n in ("a.txt", "b.txt", "c.md"))]),
    Row("41", f"newton {D}", 5, r"part-003\.parquet \(footer\): not readable as parquet: copy it again$", cut("part-003.parquet", slice(0, -9))),
    Row("41", f"newton {T}", 5, r"t\.parquet \(row groups? .*\): not readable as parquet: copy it again$", broken_page),
    Row("42", f"newton {D}", 5, r"part-002\.parquet: column b is int32, in part-000\.parquet double: ", with_part(2, b=np.ones(400, np.int32))),
    Row("49", "newton --data pipe --target y --family binomial", 5, r"--data \(pipe\): not a regular file", lambda f: os.mkfifo(f / "pipe")),
    Row("49", "newton --data loop --target y --family binomial", 5, r"--data \(loop\): not a regular file", lambda f: (f / "loop").symlink_to("loop")),
    Row("49", "newton --data /dev/zero --target y --family binomial", 5, r"--data \(/dev/zero\): not a regular file"),
    Row("50", "newton --data d/*.parquet --target y --family binomial", 5, r"--data \(d/\*\.parquet\): matches 0 files"),
]  # fmt: skip


def ids(rows: list[Row]) -> list[str]:
    numbers = [row.number for row in rows]
    return [n if numbers.count(n) == 1 else f"{n}{'abcdef'[numbers[:i].count(n)]}" for i, n in enumerate(numbers)]


def check(done: subprocess.CompletedProcess[str], row: Row) -> None:
    assert done.returncode == row.code, done.stderr
    assert re.search(row.says, done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if row.code in (0, 3):
        assert not errors
    else:
        assert done.stdout == ""
        assert len(errors) == 1
        assert done.stderr.endswith(f"{errors[0]}\n")


@pytest.mark.parametrize("row", COMMAND_LINE, ids=ids(COMMAND_LINE))
def test_a_wrong_command_line(row: Row, clusterglm: Clusterglm, listing: Any, tmp_path: Path) -> None:
    row.make(tmp_path)
    before = listing(tmp_path)
    done = clusterglm("fit", *row.line.split(), cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    check(done, row)
    assert done.stderr.count("\n") == 1
    assert listing(tmp_path) == before


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """The cluster on which data are opened."""
    from clusterglm.clusters.embedded import embedded

    with embedded(2, memory=10**9) as (client, _):
        yield client


def tasks(client: Any) -> int:
    return int(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))


@pytest.mark.slow
@pytest.mark.parametrize("row", DATA, ids=ids(DATA))
def test_wrong_data(
    row: Row, client: Any, clusterglm: Clusterglm, listing: Any, wait_until: Any, tmp_path: Path
) -> None:
    row.make(tmp_path)
    before = listing(tmp_path)
    where = ["--scheduler", client.scheduler.address]
    done = clusterglm("fit", *row.line.split(), *where, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    check(done, row)
    after = listing(tmp_path)
    assert {name: after.get(name) for name in before} == before
    new = after.keys() - before.keys()
    assert {name.partition("/")[0] for name in new} <= ({"run"} if row.folder else {"runs"})
    if row.folder:
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert np.isfinite(result["coefficients"]).all()
        assert all(note in result["notes"] for note in re.findall("^(?:note|warning): .*", done.stderr, re.M))
    wait_until(lambda: not tasks(client), 10)
