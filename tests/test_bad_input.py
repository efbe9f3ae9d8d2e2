"""The catalogue of wrong inputs that ``fit`` and the run folder can meet, each as a process: the number is its row.

A refusal is one line with the cure, the exit code of the catalogue, an empty stdout and nothing left behind. Rows
that need the data opened run on one cluster that all of them share, so a task left on it would show too.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Clusterglm = Callable[..., subprocess.CompletedProcess[str]]


@dataclasses.dataclass(frozen=True)
class Row:
    """``clusterglm fit`` with ``line`` in a folder that ``make`` prepares: what it ``says``, whether ``run`` stays."""

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
    with path.open("wb") as file:  # Arrow opens only paths that are UTF-8
        pq.write_table(pa.table(content | columns), file)
    return path


def at(position: int, value: float, otherwise: float = 0.5) -> np.ndarray:
    return np.where(np.arange(400) == position, value, float(otherwise))


HALF = (np.random.default_rng(5).random(400) < 0.5).astype(float)
SPLIT = np.array([0.0, 1, 0, 1])
DAYS = pa.array([10**15] * 400, pa.timestamp("us"))
WILD = np.geomspace(1e-300, 1e300, 400)
FAR = np.linspace(-400, 400, 400)
WHOLE = np.ones(400, np.int32)


def one(n: int = 400, **columns: Any) -> Callable[[Path], Path]:
    return lambda folder: table(folder / "t.parquet", n, **columns)


def several(folder: Path, n: int = 400) -> None:
    for i in range(4):
        table(folder / "d" / f"part-{i:03}.parquet", n)


def part(i: int, **columns: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        several(folder)
        table(folder / "d" / f"part-{i:03}.parquet", **columns)

    return make


def cut_short(folder: Path) -> None:
    several(folder)
    path = folder / "d" / "part-003.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def broken_page(folder: Path) -> None:
    path = table(folder / "t.parquet", 4000)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(bytes(content))


def only_y(folder: Path) -> None:
    pq.write_table(pa.table({"y": HALF}), folder / "t.parquet")


def other_files(folder: Path) -> None:
    (folder / "d").mkdir()
    for name in ("a.txt", "b.txt", "c.md"):
        (folder / "d" / name).touch()


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def loop(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")


def run_in(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "result.json").write_text("{}")


STEEP = "--data t.parquet --target k --features a --family poisson --no-intercept"
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
    Row("3", "newton --rows 1e11 --storage memory", 2, r"--storage \(memory\): 12\.8 TB of rows, .* on \d+ workers: "),
    Row("3", "newton --rows 1e7 --workers 2 --memory 300MB --storage memory", 2, r"1.3 GB of rows, .* or more memory$"),
    Row("4", "newton --rows 10 --columns 0", 2, r"--columns \(0\): must be at least 1$"),
    Row("4", "newton --rows 10 --columns -1", 2, r"--columns \(-1\): must be at least 1$"),
    Row("5", "newton --rows 10 --chunk-rows 0", 2, r"--chunk-rows \(0\): must be at least 1, or auto$"),
    Row("7", "newton --rows 10 --threads-per-worker 0", 2, r"--threads-per-worker \(0\): must be at least 1$"),
    Row("7", "newton --rows 10 --workers 0", 2, r"--workers \(0\): must be at least 1$"),
    Row("8", "newton --rows 10 --memory abc", 2, r"--memory \(abc\): not a size: write 4GB or 4GiB$"),
    Row("8", "newton --rows 10 --memory 0", 2, r"--memory \(0\): not a size: write 4GB or 4GiB$"),
    Row("8", "newton --rows 10 --memory -4GB", 2, r"--memory \(-4GB\): not a size: write 4GB or 4GiB$"),
    Row("8", "newton --rows 10 --memory 20MB", 2, r"--memory \(20MB\): less than the 250\.0 MB that a worker needs: "),
    Row(
        "6", "newton --rows 99 --workers 1e6", 2, r"--workers \(1000000\): leaves \d.* of memory to each: at most \d+ "
    ),
    Row("10", "newtn --rows 10", 2, r"solver \(newtn\): not known: did you mean newton\? One of gradient_descent, "),
    Row("10", "newton --rows 10 --family binomal", 2, r"--family \(binomal\): .*did you mean binomial\? One of "),
    Row("10", "newton --rows 10 --link logt", 2, r"--link \(logt\): .*logit"),
    Row(
        "10",
        "newton --rows 10 --penalty l3",
        2,
        r"--penalty \(l3\): not known: .*One of none, l1, l2, elastic-net, group$",
    ),
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
    Row("68", f"admm {ROWS} --scheduler=", 2, r"--scheduler \(\): not an address: write tcp://"),
    Row("68", f"admm {ROWS} --scheduler nonsense", 2, r"--scheduler \(nonsense\): not an address: write tcp://"),
    Row("80", "--resume nowhere", 2, r"--resume \(nowhere\): no checkpoint.npz in it"),
    Row("80", f"admm {ROWS} --resume a --out b", 2, r"--out \(b\): given together with --resume"),
]

F = "--family binomial"
K = "newton --data t.parquet --target k --features a,b --family poisson"

DATA = [
    Row("3", "newton --rows 1e11 --storage disk", 2, r"--storage \(disk\): 12\.8 TB of rows, .* GB free on"),
    Row("18", f"newton {T}", 5, r"target y \(-1 in t\.parquet, row 18\): .*: map -1 to 0$", one(y=at(17, -1, 1))),
    Row("18", f"newton {T}", 5, r"target y \(1\.5 in t\.parquet, row 3\): binomial takes ", one(y=at(2, 1.5, 1))),
    Row("18", f"newton {T}", 5, r"target y: only the value 1: nothing to fit$", one(y=np.ones(400))),
    Row("19", K, 5, r"target k \(-2 in t\.parquet, row 5\): poisson takes 0 or more$", one(k=at(4, -2, 1))),
    Row("19", f"{K} --out run", 0, r"warning: target k: 1 values are not whole: ", one(k=at(4, 0.5, 1)), True),
    Row("21", f"newton {D}", 5, r"column b \(nan in part-002\.parquet, row 9\): not finite", part(2, b=at(8, np.nan))),
    Row("21", f"newton {T}", 5, r"column a \(inf in t\.parquet, row 9\): not finite: drop or ", one(a=at(8, np.inf))),
    Row("21", f"newton {T}", 5, r"target y \(nan in t\.parquet, row 1\): not finite: ", one(y=at(0, np.nan, 1))),
    Row("21", f"newton {T} --weights w", 5, r"weights \(nan in t\.parquet, row 1\): not finite", one(w=at(0, np.nan))),
    Row("21", f"newton {T} --offset o", 5, r"offset \(-inf in t\.parquet, row 1\): not finite", one(o=at(0, -np.inf))),
    Row("23", f"newton {T}", 5, r"--data \(t\.parquet\): no rows$", one(0)),
    Row("23", f"newton {D}", 5, r"--data \(d\): 4 files, no rows$", lambda f: several(f, 0)),
    Row("24", f"newton --data t.parquet --target y {F}", 5, r"--data \(t\.parquet\): no columns besides .* y$", only_y),
    Row("25", f"newton {T}", 5, r"target y: only the value|rows \(1\): one row fits any line: add", one(1)),
    Row(
        "28", f"newton --data t.parquet --target y {F}", 5, r"columns \(6\): more than the 4 rows: add", one(4, y=SPLIT)
    ),
    Row(
        "29",
        f"newton {T} --out run",
        3,
        r"warning: separation by b: .*: add --penalty l2",
        one(b=2 * HALF - 1, y=HALF),
        True,
    ),
    Row("30", f"newton {T},day", 5, r"column day \(datetime\): neither number nor category: leave", one(day=DAYS)),
    Row("34", f"newton {T}", 5, r"column a \(1e\+300\): its square is not finite: .*rescale", one(a=WILD)),
    Row("35", f"gradient_descent {STEEP} --max-passes 4 --out run", 3, "", one(a=FAR, k=np.exp(FAR / 20)), True),
    Row("36", f"newton --data t.parquet --target yy {F}", 5, r"--target \(yy\): no .* did you mean y\? One of ", one()),
    Row("36", f"newton {T},bb", 5, r"--features \(bb\): no such column: did you mean b\?", one()),
    Row(
        "37", f"newton {T} --weights w", 5, r"weights \(-0\.5 in t\.parquet, row 3\): .* 0 or more$", one(w=at(2, -0.5))
    ),
    Row("37", f"newton {T} --weights w", 5, r"weights: their sum is 0$", one(w=np.zeros(400))),
    Row("39", f"newton {T}", 5, r"--data \(t\.parquet\): no such file$"),
    Row("40", f"newton {D}", 5, r"--data \(d\): no .parquet, .*3 others: .*\.txt", other_files),
    Row("41", f"newton {D}", 5, r"part-003\.parquet \(footer\): not readable as parquet: copy it again$", cut_short),
    Row("41", f"newton {T}", 5, r"t\.parquet \(row group.*\): not readable as parquet: copy it again$", broken_page),
    Row(
        "42", f"newton {D}", 5, r"part-002\.parquet: column b is int32, in part-000\.parquet double: ", part(2, b=WHOLE)
    ),
    Row("49", f"newton --data pipe --target y {F}", 5, r"--data \(pipe\): not a regular file", pipe),
    Row("49", f"newton --data loop --target y {F}", 5, r"--data \(loop\): not a regular file", loop),
    Row("49", f"newton --data /dev/zero --target y {F}", 5, r"--data \(/dev/zero\): not a regular file"),
    Row("50", f"newton --data d/*.parquet --target y {F}", 5, r"--data \(d/\*\.parquet\): matches 0 files"),
]

GOES_ON = {
    "5": r"^note: --chunk-rows \(1000000000\): one chunk of 1200 rows$",
    "23": r"^note: part-001\.parquet: no rows, skipped$",
    "26": r"^warning: column c \(constant 1\): same as the intercept: coefficient set to 0$",
    "27": r"^warning: columns e.*: collinear with earlier ones: ",
    "31": "",
    "32": r"^warning: column id \(9007199254741400\): rounded to float64$",
    "38": "",
    "42": "",
}


def all_sorts(folder: Path) -> None:
    """Write what a fit takes as it is: an empty file, columns in another order and of every width, constant, collinear
    or above 2^53, in row groups of 7 rows."""
    random = np.random.default_rng(1)
    for i in range(4):
        n = 0 if i == 1 else 400
        columns: dict[str, Any] = {"c": np.ones(n), "e": np.arange(n) / 400.0, "bool": random.random(n) < 0.5}
        columns |= {"i8": random.integers(-99, 99, n, np.int8), "f2": random.random(n).astype(np.float16)}
        columns |= {"id": 2**53 + np.arange(n) + 9, "a": 2 * columns["e"], "b": random.random(n)}
        path = table(folder / "d" / f"part-{i:03}.parquet", n, **columns)
        content = pq.read_table(path)
        names = content.column_names[:: -1 if i else 1]
        pq.write_table(content.select(names), path, row_group_size=7)


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


def tasks(client: Any) -> int:
    return int(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))


# Variants that tests/data has too, in one process.
MORE = {"18b", "21b", "21c", "21d", "21e", "36b", "37b", "49b", "49c"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=i, marks=pytest.mark.full if i in MORE else ())
        for i, row in zip(ids(DATA), DATA, strict=True)
    ],
)
def test_wrong_data(
    row: Row, shared_client: Any, clusterglm: Clusterglm, listing: Any, wait_until: Any, tmp_path: Path
) -> None:
    row.make(tmp_path)
    before = listing(tmp_path)
    where = ("--scheduler", shared_client.scheduler.address)
    done = clusterglm("fit", *row.line.split(), *where, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    check(done, row)
    after = listing(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == ({"run"} if row.folder else set())
    if row.folder:
        check_run(tmp_path, done)
    wait_until(lambda: not tasks(shared_client), 10)


def check_run(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    result = json.loads((folder / "run" / "result.json").read_text())
    assert np.isfinite(result["coefficients"]).all()
    assert all(note in result["notes"] for note in re.findall("^(?:note|warning): .*", done.stderr, re.M))


@pytest.fixture(scope="module")
def gone_on(
    shared_client: Any, clusterglm: Clusterglm, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("all-sorts")
    all_sorts(folder)
    line = f"newton --data d --target y {F} --features a,b,c,e,bool,i8,f2,id --chunk-rows 1e9 --out run"
    done = clusterglm("fit", *line.split(), "--scheduler", shared_client.scheduler.address, cwd=folder)
    check_run(folder, done)
    return done


@pytest.mark.slow
@pytest.mark.parametrize("number", GOES_ON)
def test_a_fit_goes_on(number: str, gone_on: subprocess.CompletedProcess[str]) -> None:
    check(gone_on, Row(number, "", 0, GOES_ON[number]))


HEAVY = {"dask", "distributed", "tornado", "bokeh", "pandas", "pyarrow", "scipy", "sklearn", "rich", "asyncio"}


def imported(line: str, folder: Path) -> set[str]:
    """Return the packages that a command line imports."""
    command = [sys.executable, "-X", "importtime", "-m", "clusterglm.cli", *line.split()]
    told = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert told.returncode == 2
    return {m[1].partition(".")[0] for m in re.finditer(r"\| +(\w[\w.]*)$", told.stderr, re.M)}


@pytest.mark.parametrize(
    "line",
    ["fit newton --rows 0", "fit newton --rows 9 --tol 0", "bench --rows 0", "up local --workers 0", "scale x 0"],
)
def test_a_refusal_imports_no_heavy_library(line: str, tmp_path: Path) -> None:
    assert not imported(line, tmp_path) & (HEAVY | {"numpy"})


def test_a_refusal_of_the_model_imports_numpy_alone(tmp_path: Path) -> None:
    assert imported("fit newton --penalty l1 --rows 10", tmp_path) & (HEAVY | {"numpy"}) == {"numpy"}


def test_a_refusal_is_fast(tmp_path: Path) -> None:
    """It takes few times what its interpreter, numpy and typer take: it has the options of some ten targets."""
    line = ["-m", "clusterglm.cli", "fit", "newton", "--penalty", "l1", "--rows", "10"]
    spent = []
    for program in (line, ["-c", "import numpy, typer, typer._adapters"]):
        best = 9.0
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *program], capture_output=True, cwd=tmp_path)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            best = min(best, after.ru_utime - before.ru_utime)
        spent.append(best)
    assert spent[0] < 4 * spent[1]


def powerless() -> None:
    """Take from root the right to read everything, so that permissions hold for it too."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.slow
def test_row_43_a_file_that_may_not_be_read(clusterglm: Clusterglm, tmp_path: Path, listing: Any) -> None:
    several(tmp_path)
    before = listing(tmp_path)
    (tmp_path / "d" / "part-002.parquet").chmod(0)
    local = ("--workers", 1, "--memory", "1GB")
    done = clusterglm("fit", "newton", *D.split(), *local, cwd=tmp_path, preexec_fn=powerless)
    check(done, Row("43", "", 4, r"error: part-002\.parquet \(permission denied\): make it readable by user \w+ on "))
    (tmp_path / "d" / "part-002.parquet").chmod(0o600)
    assert listing(tmp_path) == before


def test_row_45_a_folder_that_may_not_be_written(clusterglm: Clusterglm, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o500)
    done = clusterglm("fit", "newton", *ROWS.split(), "--out", "d/run", cwd=tmp_path, preexec_fn=powerless)
    check(done, Row("45", "", 2, r"--out \(d/run\): not writable \(permission denied\)$"))


@pytest.mark.slow
def test_row_44_a_file_that_changes(begin: Any, steps: Any, clusterglm: Clusterglm, tmp_path: Path) -> None:
    table(tmp_path / "t.parquet")
    local = ("--workers", 1, "--memory", "1GB")
    solver = steps.solver("newton")
    running = begin("fit", solver, *T.split(), *local, "--out", "run", env=steps.env(hold=1))
    running.until(lambda: steps.reached(1))
    table(tmp_path / "t.parquet", a=at(3, 4.0))
    running.workers()[0].kill()
    steps.go()
    assert running.ended() == 5
    changed = r"error: t\.parquet \(changed at \d\d:\d\d:\d\d\): the fit mixes two versions: start again\n$"
    assert re.search(changed, running.said)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.npz"}
    done = clusterglm("fit", solver, "--resume", "run", *local, cwd=tmp_path, env=steps.env())
    check(done, Row("80", "", 2, r"--resume \(run\): made with other data: start again with a new --out$"))


def record(name: str, **fields: Any) -> None:
    from clusterglm.clusters.launcher import Record
    from clusterglm.clusters.registry import Registry, now

    kept = {"target": "local", "workers": 1, "host": socket.gethostname(), "user": os.getuid(), "created": now()}
    Registry().save(Record(name=name, **(kept | {"state": "up"} | fields)))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_row_54_the_known_names_are_listed(state: Path, clusterglm: Clusterglm) -> None:
    record("alpha")
    record("beta")
    done = clusterglm("fit", "admm", *ROWS.split(), "--cluster", "alpa", cwd=state)
    check(done, Row("54", "", 2, r"--cluster \(alpa\): not known: did you mean alpha\? One of alpha, beta$"))


def test_row_56_a_cluster_that_is_being_taken_down(state: Path, clusterglm: Clusterglm) -> None:
    from clusterglm.clusters.registry import Registry

    record("alpha", address="tcp://127.0.0.1:9")
    with Registry().holding("alpha", "down"):
        done = clusterglm("fit", "admm", *ROWS.split(), "--cluster", "alpha", cwd=state)
    check(done, Row("56", "", 4, rf"--cluster \(alpha\): being taken down by pid {os.getpid()} on "))


def test_row_68_the_record_of_a_dead_scheduler(state: Path, clusterglm: Clusterglm) -> None:
    record("alpha", address="tcp://127.0.0.1:9")
    since = time.monotonic()
    done = clusterglm("fit", "admm", *ROWS.split(), "--cluster", "alpha", cwd=state)
    assert time.monotonic() - since < 10
    check(done, Row("68", "", 4, r"--cluster \(alpha\): .*: clusterglm down alpha$"))


@pytest.mark.slow
def test_row_72_other_versions(clusterglm: Clusterglm, tmp_path: Path, wait_until: Any) -> None:
    old = tmp_path / "old" / "clusterglm-0.0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: clusterglm\nVersion: 0.0.1\n")
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *options],
        env={**os.environ, "PYTHONPATH": str(old.parent)},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(file.exists)
        where = ("--scheduler-file", file)
        done = clusterglm("fit", "admm", *ROWS.split(), *where, cwd=tmp_path)
    finally:
        scheduler.kill()
        scheduler.wait()
    assert (done.returncode, done.stdout) == (4, "")
    first, *rows = done.stderr.splitlines()
    cure = "not the same everywhere: install the same versions, or --allow-version-mismatch"
    assert first == f"error: versions (clusterglm): {cure}"
    assert [row.split() for row in rows[1:]] == [["here", "0.1.0"], ["scheduler", "0.0.1"]]
