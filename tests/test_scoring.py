"""Files scored on workers: the predictions that the model makes by itself, whole or not at all."""

from __future__ import annotations

import re
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clusterglm as package
from clusterglm import scoring
from clusterglm.data.sources import on_workers, survey
from clusterglm.data.target import Target
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.families import get_family
from clusterglm.model import FittedModel
from clusterglm.scoring import Scoring

pytestmark = pytest.mark.slow
FIT = {"target": "y", "features": ["x", "city", "month", "yes"], "categorical": ["month"], "offset": "o"}
CITIES = ["Bern", "Oslo", "Rome"]


def made_up(rows: int, seed: int = 3) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": [f"{i:05}" for i in range(rows)], "x": random.standard_normal(rows)})
    frame["city"], frame["month"] = random.choice(CITIES, rows), random.integers(1, 13, rows)
    frame["yes"], frame["o"] = random.random(rows) < 0.3, random.random(rows)
    eta = frame["x"] - (frame["city"] == "Rome") + 0.1 * frame["month"] + frame["o"] - 1
    frame["y"] = random.poisson(np.exp(eta / 2)).astype(float)
    return frame


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return made_up(3000)


@pytest.fixture(scope="module")
def run(shared_client: Any, frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a fit."""
    folder = tmp_path_factory.mktemp("fitted")
    frame.to_parquet(folder / "t.parquet")
    package.fit(shared_client, data=folder / "t.parquet", family="poisson", out=folder / "run", **FIT)
    return folder / "run"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_MOST_ROWS", 100)


def score(client: Any, run: Path, data: Path, to: Path, **words: Any) -> tuple[pd.DataFrame, Any, list[str]]:
    """Score some files; return what was written, what it came to, and the notes."""
    target, notes, seen = Target.of(str(to)), [], []
    told = Scoring(package.load_model(run), str(data), target, **words)
    with target.staged():
        written, parts = told.run(client, notes.append, lambda done, rows: seen.append((done, rows)))
        target.publish(overwrite=False)
    files = sorted(to.iterdir())
    assert [file.name for file in files] == [f"part-{i:05}.parquet" for i in range(parts)]
    assert 0 < len(seen) <= parts
    assert seen[-1] == (written.rows, written.rows)
    return pd.concat(map(pd.read_parquet, files), ignore_index=True), written, notes


def write(frame: pd.DataFrame, folder: Path, suffix: str) -> Path:
    folder.mkdir()
    for i, first in enumerate(range(0, len(frame), 1300)):
        part = frame[first : first + 1300]
        if suffix == ".csv":
            part.to_csv(folder / f"{i}.csv", index=False)
        else:
            part.to_parquet(folder / f"{i}.parquet", index=False, row_group_size=170)
    return folder


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_predictions_are_those_of_the_model_row_by_row(
    shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    data = write(frame, tmp_path / "d", suffix)
    found, written, notes = score(shared_client, run, data, tmp_path / "out", keep=("id", "city"))
    model = package.load_model(run)
    assert list(found) == ["id", "city", "mean", "eta"]
    np.testing.assert_array_equal(found["mean"], model.predict(frame))
    np.testing.assert_array_equal(found["eta"], model.linear_predictor(frame))
    assert found["id"].tolist() == frame["id"].tolist()  # as it is written, zeros and all
    assert found["city"].tolist() == frame["city"].tolist()
    assert (written.rows, written.missing, written.unseen, notes) == (3000, 0, Counter(), [])
    assert len(list((tmp_path / "out").iterdir())) == (30 if suffix == ".csv" else 37)


def test_objects_are_scored_into_a_prefix(run: Path, frame: pd.DataFrame, tmp_path: Path, s3: Any) -> None:
    from clusterglm.clusters.embedded import embedded

    s3.put(str(write(frame, tmp_path / "d", ".parquet")), "data/d", recursive=True)
    s3.pipe_file("data/out/_unfinished-of-a-killed-process/part-00000.parquet", b"")
    target = Target.of("s3://data/out")
    target.check(0, overwrite=False)
    with embedded(1, memory=10**9) as (client, _), target.staged():
        told = Scoring(package.load_model(run), "s3://data/d", target)
        _, parts = told.run(client, lambda _: None, lambda *_: None)
        target.publish(overwrite=False)
    names = sorted(name for name in s3.find("data/out") if "_unfinished" not in name)
    assert len(names) == parts
    found = pd.concat([pd.read_parquet(s3.open(name)) for name in names], ignore_index=True)
    np.testing.assert_array_equal(found["mean"], package.load_model(run).predict(frame))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_missing_values_are_null_and_counted(
    shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    gaps = frame.astype({"month": "Int64", "yes": "boolean"})
    for i, column in enumerate(["x", "city", "month", "yes", "o"]):
        gaps.loc[1500 + i, column] = None
    found, written, notes = score(shared_client, run, write(gaps, tmp_path / "d", suffix), tmp_path / "out")
    assert np.flatnonzero(found["mean"].isna()).tolist() == [1500, 1501, 1502, 1503, 1504]
    assert found["eta"].isna().equals(found["mean"].isna())
    assert written.missing == 5
    assert notes == ["note: rows without a prediction, for a value is missing: 5 of 3000"]
    whole = found["mean"].notna()
    np.testing.assert_array_equal(found["mean"][whole], package.load_model(run).predict(frame)[whole])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_unseen_level(
    shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path, suffix: str, listing: Any
) -> None:
    strange = frame.copy()
    strange.loc[1399, "city"], strange.loc[[2, 9], "month"] = "Paris", 13
    data = write(strange, tmp_path / "d", suffix)
    strange.loc[[2, 9], "month"] = 12
    before = listing(tmp_path)
    word, line = ("line", 4) if suffix == ".csv" else ("row", 3)
    message = (
        rf"^column month \(13 in 0{suffix}, {word} {line}\): not among the model's 12 levels: correct it, or --unseen"
    )
    with pytest.raises(DataError, match=message):
        score(shared_client, run, data / f"0{suffix}", tmp_path / "out")
    word, line = ("line", 101) if suffix == ".csv" else ("row", 100)
    with pytest.raises(DataError, match=rf"^column city \(Paris in 1{suffix}, {word} {line}\)"):
        score(shared_client, run, data / f"1{suffix}", tmp_path / "out")
    assert listing(tmp_path) == before
    found, written, notes = score(shared_client, run, data, tmp_path / "out", unseen="reference")
    assert written.unseen == Counter(month=2, city=1)
    assert sorted(notes) == [
        "warning: column city: 1 value is no level of the model: taken as the reference Bern",
        "warning: column month: 2 values are no level of the model: taken as the reference 1",
    ]
    strange.loc[[2, 9], "month"], strange.loc[1399, "city"] = 1, "Bern"
    np.testing.assert_array_equal(found["eta"], package.load_model(run).linear_predictor(strange))
    found, written, notes = score(shared_client, run, data, tmp_path / "null", unseen="missing")
    assert np.flatnonzero(found["mean"].isna()).tolist() == [2, 9, 1399]
    assert written.missing == 3


def test_the_offset_of_another_name(shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    data = write(frame.rename(columns={"o": "moved"}), tmp_path / "d", ".parquet")
    with pytest.raises(DataError, match=r"^column o: not there in 0.parquet"):
        score(shared_client, run, data, tmp_path / "out")
    found, _, _ = score(shared_client, run, data, tmp_path / "out", offset="moved")
    np.testing.assert_array_equal(found["eta"], package.load_model(run).linear_predictor(frame))


def test_files_may_differ_in_what_the_model_does_not_need(
    shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    frame[:100].astype({"month": "int8", "city": "category"}).to_parquet(tmp_path / "d" / "0.parquet")
    frame[100:].drop(columns="y")[list(frame.columns[-2::-1])].to_parquet(tmp_path / "d" / "1.parquet")
    found, _, _ = score(shared_client, run, tmp_path / "d", tmp_path / "out", keep=("city",))
    np.testing.assert_array_equal(found["eta"], package.load_model(run).linear_predictor(frame))
    assert found["city"].tolist() == frame["city"].tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"unseen": "drop"}, r"--unseen \(drop\): not known: One of error, reference, missing"),
        ({"keep": ("id", "mean")}, r"--keep \(mean\): is the name of a prediction"),
        ({"keep": ("id", "id")}, r"--keep \(id\): named twice"),
        ({"data": "s9://x/y"}, r"DATA \(s9://x/y\): s9:// is not known"),
    ],
)
def test_what_the_command_line_alone_shows_is_refused(
    run: Path, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Scoring(**{"model": package.load_model(run), "data": "d", "target": Target.of(str(tmp_path / "o"))} | words)


@pytest.mark.parametrize(
    ("change", "keep", "message"),
    [
        (lambda f: f.drop(columns="x"), (), r"^column x: not there in 0.parquet: the model was fitted with it$"),
        (lambda f: f, ("idd",), r"^column idd: not there in 0.parquet: did you rename it to id\?$"),
        (lambda f: f, ("zone",), r"^column zone: not there in 0.parquet: correct --keep$"),
        (lambda f: f.assign(x="a"), (), r"^column x \(string\): not a number: correct it$"),
        (
            lambda f: f.assign(city=pd.Timestamp(0)),
            (),
            r"^column city \(datetime\): not number or category: correct it$",
        ),
    ],
)
def test_files_that_do_not_fit(
    shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path, change: Any, keep: tuple[str, ...], message: str
) -> None:
    data = write(change(frame[:50]), tmp_path / "d", ".parquet")
    with pytest.raises(DataError, match=message):
        score(shared_client, run, data, tmp_path / "out", keep=keep)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("to", ["d", "d/../d", "same"])
def test_the_rows_are_not_replaced_by_their_predictions(
    clusterglm: Any, shared_client: Any, run: Path, frame: pd.DataFrame, listing: Any, tmp_path: Path, to: str
) -> None:
    write(frame[:50], tmp_path / "d", ".parquet")
    (tmp_path / "same").symlink_to("d")
    before = listing(tmp_path)
    line = ("predict", run, "d", "--to", to, "--overwrite", "--scheduler", shared_client.scheduler.address)
    done = clusterglm(*line, "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --to ({to}): holds the rows that are to be predicted: another name\n"
    assert listing(tmp_path) == before


def test_the_command(clusterglm: Any, shared_client: Any, run: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    write(frame, tmp_path / "d", ".csv")
    line = ("predict", run, "d", "--to", "out", "--keep", "id", "--scheduler", shared_client.scheduler.address)
    done = clusterglm(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"written     out\nrows        3,000 in 3 parts\nseconds     .* rows/s\)\n", done.stdout)
    assert re.search(r"^predicting d\n(.*\n)*3,000 of 3,000 rows  .* rows/s  about 0.00 s left\n$", done.stderr)
    found = pd.read_parquet(tmp_path / "out")
    np.testing.assert_array_equal(found["mean"], package.load_model(run).predict(frame))
    again = clusterglm(*line, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: --to (out): is there and not empty: another name, or --overwrite\n"
    assert clusterglm(*line, "--overwrite", "--quiet", cwd=tmp_path).stderr == ""


def test_memory_does_not_grow_with_the_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times as many rows, of which all columns together would take 100 MB."""
    from clusterglm.clusters.embedded import embedded
    from clusterglm.clusters.workers import peak_memory

    monkeypatch.setattr(scoring, "_MOST_ROWS", 2**15)
    frame = made_up(2**16)
    for name in (f"filler {i}" for i in range(16)):
        frame[name] = frame["x"]  # that nobody asks for
    for name, files in (("few", 1), ("many", 8)):
        (tmp_path / name).mkdir()
        for i in range(files):
            frame.to_parquet(tmp_path / name / f"{i}.parquet", index=False)
    peaks = []
    with embedded(1, 1) as (client, _):
        for name in ("few", "many"):
            _, written, _ = score(client, run, tmp_path / name, tmp_path / f"{name}-out", keep=("id",))
            peaks.append(max(peak_memory(client).values()))
            assert written.rows == 2**16 * (1 if name == "few" else 8)
    assert peaks[1] < peaks[0] + 25e6


@pytest.mark.parametrize("rows", [2**20, 2**20 + 1, 2 * 2**20 + 7])
def test_a_large_row_group_is_written_in_files_of_bounded_size(tmp_path: Path, rows: int) -> None:
    """In this process, batch by batch: no more than one file's predictions are held at a time."""
    pq.write_table(pa.table({"x": np.arange(rows, dtype=np.float32)}), tmp_path / "d.parquet", row_group_size=rows)
    model = FittedModel(get_family("gaussian"), ("x",), np.array([2.0]), 1.0, ("x",), {}, None, "optimal")
    target, written = Target.of(str(tmp_path / "out")), []
    with target.staged():
        told = Scoring(model, str(tmp_path / "d.parquet"), target)
        format, looks, _ = survey(partial(on_workers, None), told.data, told.place)
        [part] = told._parts(format, looks, 2**16)
        with mock.patch.object(Target, "write", lambda _, name, content: written.append((name, content))):
            assert scoring._write(told, format, 5, part).rows == rows
    assert [name for name, _ in written] == [f"part-{i:05}.parquet" for i in range(-(-rows // 2**20))]
    found = pa.concat_tables([pq.read_table(pa.BufferReader(content)) for _, content in written])
    assert max(pq.read_metadata(pa.BufferReader(content)).num_rows for _, content in written) <= 2**20
    np.testing.assert_array_equal(found["mean"], 1 + 2 * np.arange(rows))


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("predict nowhere d --to out", 5, r"MODEL \(nowhere\): no such file: name a run folder, or its model.json"),
        ("predict run d --to d", 2, r"--to \(d\): is there and not empty"),
        ("predict run d --to out --keep ,", 2, r"--keep \(,\): write names separated by commas"),
        ("predict run d --to out --unseen no", 2, r"--unseen \(no\): not known: "),
        ("predict run d --to out --workers 0", 2, r"--workers \(0\): must be at least 1"),
        ("predict run d --to out --cluster a --scheduler b", 2, r"--scheduler: given together with --cluster"),
    ],
)
def test_a_wrong_command_line_starts_nothing(
    clusterglm: Any, run: Path, listing: Any, tmp_path: Path, line: str, code: int, says: str
) -> None:
    (tmp_path / "run").symlink_to(run)
    write(made_up(9), tmp_path / "d", ".csv")
    before = listing(tmp_path)
    done = clusterglm(*line.split(), cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(rf"error: {says}.*\n", done.stderr), done.stderr
    assert listing(tmp_path) == before


def test_no_such_data(clusterglm: Any, shared_client: Any, run: Path, listing: Any, tmp_path: Path) -> None:
    where = ("--scheduler", shared_client.scheduler.address)
    done = clusterglm("predict", run, "nowhere.csv", "--to", "out", *where, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.endswith("error: DATA (nowhere.csv): no such file\n")
    assert not listing(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(begin: Any, run: Path, listing: Any, tmp_path: Path, number: int) -> None:
    (tmp_path / "tmp").mkdir()
    made_up(1000).to_csv(tmp_path / "big.csv", index=False)
    lines = (tmp_path / "big.csv").read_bytes().partition(b"\n")
    (tmp_path / "big.csv").write_bytes(lines[0] + b"\n" + lines[2] * 1000)
    before = set(listing(tmp_path))
    environment = {"TMPDIR": str(tmp_path / "tmp")}
    running = begin("predict", run, "big.csv", "--to", "out", "--workers", 2, "--memory", "1GB", env=environment)
    running.until(lambda: list(tmp_path.glob(".out*/part-*")))
    running.send(number, group=True)
    assert running.ended() == 130
    assert (running.printed, running.said.splitlines()[-1]) == ("", "interrupted")
    assert "Traceback" not in running.said
    assert set(listing(tmp_path)) == before
