"""The report as text: what it says, what it refuses, and that it leaves no half-written file."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import HOSTILE, make_run, tasks_table

from clusterglm.errors import ClusterError, DataError, UsageError
from clusterglm.report import words
from clusterglm.report.graph import draw_pass
from clusterglm.report.page import write_report
from clusterglm.report.run import read_run
from clusterglm.report.stream import blocks


def test_the_page_says_what_was_fitted_and_how_good_it_is(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run"))
    text = page.read_text()
    assert page == tmp_path / "run" / "report.html"
    for words_ in (
        "Logistic regression by ADMM",
        "8,000,000 rows × 15 columns",
        "The objective is within 3.1e-13 of the optimum; "
        "every coefficient is within 0.004 standard errors of the exact one.",
        "clusterglm fit admm --rows 8e6",
        "24 chunks of 333,824 rows",
        "micro-blocks of 2048 rows",
    ):
        assert words_ in text
    assert text.index("constant 1.0") < text.index("no penalty was given")  # warnings before notes


def test_a_fit_called_from_python_can_be_called_again(tmp_path: Path) -> None:
    request = {"solver": "newton", "data": "rows.csv", "target": "y", "weights": "w", "alpha": 0.0, "offset": None}
    asked = request | {"standardize": True, "intercept": False, "features": ["a", "b"]}
    text = write_report(make_run(tmp_path / "run", command=None, request=asked)).read_text()
    again = re.search("<pre>(.*?)</pre>", text)
    assert again
    call = html.unescape(again[1])
    seen: dict[str, object] = {}
    eval(call, {"clusterglm": SimpleNamespace(fit=lambda **options: seen.update(options))})
    assert seen == {name: value for name, value in asked.items() if value is not None}
    for fact in ("rows.csv", "the coefficients of the standardised columns"):
        assert f"<td>{fact}</td>" in text


def test_throughput_counts_the_passes_that_the_clock_has_seen(tmp_path: Path) -> None:
    """Not the scan, which belongs to loading, nor the passes of the run that a resumed fit goes on from."""
    from clusterglm.report.figures import throughput

    def bars(read: list[int], seconds: list[float]) -> list[float]:
        folder = make_run(tmp_path / str(read), rows=1_000_000)
        table = pq.read_table(folder / "history.parquet").slice(0, 3).to_pydict()
        pq.write_table(
            pa.table(table | {"passes": [4, 5, 7], "read": read, "seconds": seconds}), folder / "history.parquet"
        )
        plot = throughput(read_run(folder))
        return [] if plot is None else list(plot.renderers[0].data_source.data["top"])

    assert bars([3, 4, 6], [0.3, 0.4, 0.6]) == pytest.approx([10, 10, 10])
    assert bars([0, 0, 2], [1e-5, 2e-5, 0.2 + 2e-5]) == pytest.approx([10])
    assert bars([0, 0, 0], [1e-5, 2e-5, 3e-5]) == []


def test_one_of_a_thing_is_not_many(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", columns=1, workers=1, chunks=1, iterations=1, rows=1, passes=1, solver="newton"
    )  # fmt: skip
    text = re.sub(r"<script[^>]*>.*?</script>", "", write_report(folder).read_text(), flags=re.S)
    assert "Logistic regression by Newton&#39;s method" in text
    assert "1 row × 1 column, " in text
    assert not re.findall(r"\b1 (?:rows|columns|chunks|workers|threads|iterations|passes)\b", text)


def test_nothing_on_the_page_leads_outside(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run")).read_text()
    tags = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", tags)
    assert "default-src 'none'" in tags
    assert text.count("BokehJS") >= 1
    assert len(text) < 2_500_000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", columns=5, feature_names=HOSTILE, notes=[f"note: {n}" for n in HOSTILE], command=HOSTILE[0],
        columns_dropped=HOSTILE, started=HOSTILE[1], seed=HOSTILE[1],
    )  # fmt: skip
    text = write_report(folder).read_text()
    assert "<script>window.hacked" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=window.hacked=1&gt;" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": 1, "workers": 1, "chunks": 1, "iterations": 1},
        {"iterations": 0, "tasks": False},
        {"certified": False, "truth": None, "truth_error": None, "status": "max_passes"},
        {"status": "no_finite_mle", "certificate": {"method": "none", "gap": None, "kkt": float("inf")}},
        {"columns": 1000},
        {"objective": None, "null_objective": None, "memory": None, "seconds": {}, "truth": []},
        {"family": "tweedie", "status": "something new", "intercept": 0.25, "cost": 1.5, "tasks_dropped": 12},
    ],
    ids=["smallest", "no pass", "no proof", "no estimate", "wide", "sparse", "future"],
)
def test_every_kind_of_run_has_a_page(tmp_path: Path, changes: dict[str, object]) -> None:
    assert "</html>" in write_report(make_run(tmp_path / "run", **changes)).read_text()


def test_result_alone_is_enough(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for name in ("history.parquet", "tasks.parquet", "plan.json"):
        (folder / name).unlink()
    assert "No task was recorded." in write_report(folder).read_text()


def test_redrawing_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "report.html").write_text("old")
    before = {path.name for path in folder.iterdir()}
    write_report(folder)
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "report.html").stat().st_size > 1_000_000


@pytest.mark.parametrize("make_folder", [False, True])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, make_folder: bool) -> None:
    folder = tmp_path / "x"
    if make_folder:
        folder.mkdir()
    with pytest.raises(UsageError, match="clusterglm fit has written") as caught:
        write_report(folder)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"{}"])
@pytest.mark.parametrize("name", ["result.json", "plan.json", "history.parquet", "tasks.parquet"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    folder = make_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    if (name, content) == ("plan.json", b"{}"):
        assert write_report(folder).exists()
        return
    with pytest.raises(DataError) as caught:
        write_report(folder)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("solver", 3),
        ("rows", "many"),
        ("coefficients", ["a"] * 15),
        ("feature_names", ["x"]),
        ("seconds", {"fit": "long"}),
        ("notes", "x"),
        ("memory", {"worker": {"a": "much"}}),
        ("chunks", 3),
        ("chunks", {"spread": {"a": "b"}}),
        ("truth", "x"),
        ("objective", "low"),
    ],
)
def test_a_result_of_the_wrong_shape_is_refused(tmp_path: Path, key: str, value: object) -> None:
    folder = make_run(tmp_path / "run")
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DataError, match=r"result\.json"):
        write_report(folder)


def test_a_table_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    table = pq.read_table(folder / "history.parquet")
    words_ = pa.array(["many"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("passes"), "passes", words_), folder / "history.parquet")
    with pytest.raises(DataError, match="passes"):
        write_report(folder)
    pq.write_table(table.drop_columns(["gap"]), folder / "history.parquet")
    with pytest.raises(DataError, match="gap"):
        write_report(folder)


def test_a_pipe_in_the_folder_is_not_waited_on(tmp_path: Path) -> None:
    import os

    folder = make_run(tmp_path / "run")
    (folder / "plan.json").unlink()
    os.mkfifo(folder / "plan.json")
    with pytest.raises(DataError, match="not a regular file"):
        write_report(folder)


def test_a_page_that_cannot_be_written_is_a_cluster_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "report.html").mkdir()  # even root cannot replace a folder by a file
    with pytest.raises(ClusterError, match=r"report\.html"):
        write_report(folder)
    assert not list(folder.glob(".*"))


def test_many_tasks_are_joined_and_the_page_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1)
    pq.write_table(tasks_table([f"tcp://10.0.0.{i}:1" for i in range(8)], 200, 200), folder / "tasks.parquet")
    drawn = blocks(read_run(folder).tasks)
    assert 0 < len(drawn.name) <= 20_000
    assert sum(drawn.tasks) == pq.read_metadata(folder / "tasks.parquet").num_rows
    assert "are joined" in write_report(folder).read_text()


def test_what_cannot_be_joined_is_cut_to_the_longest(tmp_path: Path) -> None:
    drawn = blocks(read_run(make_run(tmp_path / "run")).tasks, most=10)
    assert len(drawn.name) == 10
    assert drawn.left_out > 0


@pytest.mark.parametrize("chunks", [1, 2, 3, 6, 7, 1000])
def test_the_pass_is_drawn_from_the_plan(chunks: int) -> None:
    drawing = draw_pass({"chunks": chunks, "workers": 3})
    assert drawing is not None
    assert sum(lane.hidden or 1 for lane in drawing.lanes) == chunks
    assert len(drawing.sums) == len(drawing.lanes) - 1
    assert len(drawing.lines) == 2 * len(drawing.sums) + 1
    assert draw_pass({}) is None


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ({"gap": 1e-5, "error_in_se": None}, "The objective is within 1e-05 of the optimum."),
        (
            {"gap": 1.21e-5, "error_in_se": 0.00341},
            "within 1.3e-05 of the optimum; every coefficient is within 0.0035 ",
        ),
        ({"gap": None, "kkt": 0.3}, "conditions are off by 0.3 standard errors"),
        ({"gap": float("inf")}, "Nothing is proven"),
    ],
)
def test_the_proof_in_words(certificate: dict[str, object], expected: str) -> None:
    assert expected in words.proof({"certificate": certificate})
