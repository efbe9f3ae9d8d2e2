"""Columns of levels and rows with missing values, from files: patsy's design, under any pieces and bounds."""

from __future__ import annotations

import pickle
import tempfile
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import patsy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import write

import clusterglm
from clusterglm.data import census, csv
from clusterglm.data.sources import FileSource, local_rows, open_source
from clusterglm.errors import DataError, UsageError
from clusterglm.model import load_model
from clusterglm.run_folder import claim

BOTH = pytest.mark.parametrize("suffix", [".parquet", ".csv"])
CITIES = ["Bern", "Oslo", "Rome", "São Paulo"]


def opened(url: Path | str, **words: Any) -> FileSource:
    source = open_source(str(url), **({"target": "y"} | words))
    source.open(None)
    return source


def made_up(rows: int, seed: int = 0, gaps: float = 0.0) -> pd.DataFrame:
    """Return a number x, a text city, a whole number month, and a target; a share of the values is missing."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.standard_normal(rows),
            "city": random.choice(CITIES, rows).astype(object),
            "month": random.integers(1, 13, rows),
            "y": random.random(rows),
        }
    )
    return frame.astype({"month": "Int64"}).mask(random.random((rows, 4)) < gaps) if gaps else frame


@BOTH
def test_the_design_is_that_of_patsy(tmp_path: Path, suffix: str) -> None:
    frame = made_up(500)
    write(frame[:200], tmp_path / f"0{suffix}")
    write(frame[200:], tmp_path / f"1{suffix}")
    source = opened(tmp_path, features=["month", "x", "city"], categorical=["month"])
    expected = patsy.dmatrix("C(month) + city + x", frame, return_type="dataframe")
    expected.columns = expected.columns.str.replace("C(month)", "month")
    assert source.names == [*expected.columns[1:12], "x", *expected.columns[12:15]]
    np.testing.assert_array_equal(local_rows(source, intercept=True).chunk.X, expected[["Intercept", *source.names]])
    assert source.notes == ["note: column month: 12 levels, reference 1", "note: column city: 4 levels, reference Bern"]
    assert source.coding == {
        "features": ["month", "x", "city"],
        "levels": {"month": [*map(str, range(1, 13))], "city": CITIES},
    }


@BOTH
def test_text_is_taken_by_default_and_a_whole_number_stays_a_number(tmp_path: Path, suffix: str) -> None:
    source = opened(write(made_up(50), tmp_path / f"d{suffix}"))
    assert source.names == ["x", "city[T.Oslo]", "city[T.Rome]", "city[T.São Paulo]", "month"]


def test_a_bool_stays_one_column_of_0_and_1(tmp_path: Path) -> None:
    frame = made_up(50).assign(yes=np.arange(50) % 3 == 0)
    assert opened(write(frame, tmp_path / "d.parquet"), features=["yes"], categorical=["yes"]).names == ["yes"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_files_any_pieces_any_bounds_give_the_same_rows(data: st.DataObject) -> None:
    rows = data.draw(st.integers(20, 200))
    frame = made_up(rows, rows, data.draw(st.sampled_from([0.01, 0.1, 0.5])))
    suffix = data.draw(st.sampled_from([".parquet", ".csv"]))
    starts = [0, *sorted(data.draw(st.sets(st.integers(0, rows), max_size=3))), rows]
    whole = frame.dropna()
    if len(whole) < 3:
        return
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        piece = data.draw(st.integers(1, 3000))
        patch.setattr(csv, "_PIECE_BYTES", piece)
        patch.setattr(csv, "_TASK_BYTES", piece * data.draw(st.integers(1, 4)))
        patch.setattr("clusterglm.data.parquet._BATCH_VALUES", 3000)
        patch.setattr(census, "_TASK_ROWS", data.draw(st.integers(1, 200)))
        for i, (first, last) in enumerate(pairwise(starts)):
            words = {"row_group_size": data.draw(st.integers(1, 99))} if suffix == ".parquet" else {}
            write(frame[first:last], Path(folder, f"{i}{suffix}"), **words)
        source = opened(folder, features=["x", "city", "month"], categorical=["month"], missing="drop")
        n = len(whole)
        cuts = sorted(16 * c for c in data.draw(st.sets(st.integers(1, 13), max_size=5)) if 16 * c < n)
        chunks = [pickle.loads(pickle.dumps(source.part(b))).chunk(b, 16) for b in pairwise([0, *cuts, n])]
        windows = [w.X.copy() for w in source.windows((0, n), 16, 16)]
        row = data.draw(st.integers(0, n - 1))
        place, number = source.locate(row).split(", ")
    X = np.concatenate([chunk.X for chunk in chunks])
    np.testing.assert_array_equal(X, np.concatenate(windows))
    expected = patsy.dmatrix("x + city + C(month)", whole.astype({"month": int}), return_type="dataframe")
    expected.columns = expected.columns.str.replace("C(month)", "month")
    assert source.rows == n
    assert sorted(source.names) == sorted(expected.columns[1:])
    np.testing.assert_array_equal(X, expected[source.names])
    np.testing.assert_array_equal(np.concatenate([chunk.y for chunk in chunks]), whole["y"])
    inside = int(number.split()[1]) - (2 if suffix == ".csv" else 1)
    assert starts[int(place.partition(".")[0])] + inside == whole.index[row]


def test_a_declared_order_is_kept_where_all_files_agree(tmp_path: Path) -> None:
    grades = ["low", "mid", "high", "top"]
    frame = made_up(60).assign(g=pd.Categorical(["low", "high", "mid"] * 20, categories=grades))
    write(frame[:31], tmp_path / "0.parquet", row_group_size=7)
    write(frame[31:], tmp_path / "1.parquet")
    source = opened(tmp_path, features=["g"])
    assert source.coding["levels"] == {"g": ["low", "mid", "high"]}  # top has no rows, as in R's glm
    np.testing.assert_array_equal(local_rows(source).chunk.X[:3], [[0, 0], [0, 1], [1, 0]])
    other = frame[31:].assign(g=pd.Categorical(frame["g"][31:].astype(object), categories=grades[::-1]))
    write(other, tmp_path / "1.parquet")
    assert opened(tmp_path, features=["g"]).coding["levels"] == {"g": ["high", "low", "mid"]}
    write(frame[31:].astype({"g": object}), tmp_path / "1.parquet")
    source = opened(tmp_path, features=["g"])
    assert source.coding["levels"] == {"g": ["high", "low", "mid"]}
    np.testing.assert_array_equal(local_rows(source).chunk.X[29:35, 0], [0, 1, 0, 0, 1, 0])


def test_a_dictionary_that_only_saves_space_declares_nothing(tmp_path: Path) -> None:
    g = pa.array(["b", "c", "a"]).dictionary_encode()
    pq.write_table(pa.table({"g": g, "y": [0.0, 1.0, 0.5]}), tmp_path / "d.parquet")
    assert opened(tmp_path).coding["levels"] == {"g": ["a", "b", "c"]}


def test_numbers_that_pandas_declares_categories_are(tmp_path: Path) -> None:
    frame = made_up(50).assign(g=pd.Categorical([10, 9, 8, 9, 10] * 10), k=pd.Categorical([0, 1] * 25))
    write(frame, tmp_path / "d.parquet")
    assert opened(tmp_path, features=["g"]).names == ["g[T.9]", "g[T.10]"]
    assert opened(tmp_path, target="k", features=["x"]).names == ["x"]


def test_words_that_mean_missing(tmp_path: Path) -> None:
    """A csv file has no other way to say it, as R and pandas read them; Parquet has."""
    frame = pd.DataFrame({"g": ["NA", "DE", "", "FR"] * 5, "y": np.arange(20.0)})
    with pytest.raises(
        DataError, match=r"^column g \(10 missing, the first in d.csv, line 2\): --missing drop leaves such"
    ):
        opened(write(frame, tmp_path / "d.csv"), features=["g"])
    source = opened(tmp_path / "d.csv", missing="drop")
    assert (source.rows, source.names) == (10, ["g[T.FR]"])
    assert source.notes[0] == "note: --missing drop: 10 of 20 rows left out, missing values: g 10"
    source = opened(write(frame, tmp_path / "d.parquet"))
    assert source.coding["levels"] == {"g": ["", "DE", "FR", "NA"]}
    assert source.notes[-1] == "warning: column g (NA): a level, not a missing value"


@BOTH
def test_missing_values_are_refused_with_their_count_and_first_row(tmp_path: Path, suffix: str) -> None:
    frame = made_up(90)
    frame.loc[[70, 80], "city"] = None
    write(frame[:60], tmp_path / f"0{suffix}")
    write(frame[60:], tmp_path / f"1{suffix}")
    place = f"1{suffix}, {'line 12' if suffix == '.csv' else 'row 11'}"
    with pytest.raises(
        DataError, match=rf"^column city \(2 missing, the first in {place}\): --missing drop leaves such rows"
    ):
        opened(tmp_path)
    assert opened(tmp_path, missing="drop").rows == 88
    assert opened(tmp_path, features=["x"], missing="drop").rows == 90  # only columns that are used count


@BOTH
def test_every_row_has_a_missing_value(tmp_path: Path, suffix: str) -> None:
    frame = made_up(20)
    frame.loc[::2, "city"], frame.loc[1::2, "y"], frame.loc[3, "x"] = None, None, None
    with pytest.raises(
        DataError, match=r"no row without a missing value \(city 10, y 10, x 1\): leave out such columns"
    ):
        opened(write(frame, tmp_path / f"d{suffix}"), missing="drop")


@BOTH
def test_levels_of_rows_that_are_left_out_do_not_count(tmp_path: Path, suffix: str) -> None:
    frame = made_up(40)
    frame.loc[frame["city"] == "Bern", "y"] = None
    assert opened(write(frame, tmp_path / f"d{suffix}"), missing="drop").coding["levels"]["city"] == CITIES[1:]


@BOTH
def test_too_many_levels(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = made_up(1500).assign(tail=[f"N{i}" for i in range(1500)])
    write(frame, tmp_path / f"d{suffix}")
    cure = "at most 1000 of a column can be fitted: leave it out with --features"
    with pytest.raises(DataError, match=rf"^column tail \(1500 levels\): {cure}"):
        opened(tmp_path)
    monkeypatch.setattr(census, "_COUNTED_LEVELS", 1200)
    with pytest.raises(DataError, match=r"^column tail \(more than 1200 levels\)"):
        opened(tmp_path)
    assert len(opened(tmp_path, features=["city", "x"]).names) == 4


def test_a_number_too_large_to_be_a_level(tmp_path: Path) -> None:
    write(made_up(9).assign(id=2**53 + 2), tmp_path / "d.parquet")
    with pytest.raises(
        DataError, match=r"column id \(9007199254740994\): too large a number for a level: write it as text"
    ):
        opened(tmp_path, features=["id"], categorical=["id"])


@pytest.mark.parametrize("categories", [False, True])
def test_decimals_are_the_levels_that_a_prediction_finds(tmp_path: Path, categories: bool) -> None:
    values = [Decimal(v) for v in ("0.50", "2.00", "0.00", "10.00")] * 3
    prices = pd.Series(values, dtype=pd.ArrowDtype(pa.decimal128(5, 2)))
    frame = pd.DataFrame({"price": prices, "y": np.arange(12.0)})
    frame.to_parquet(tmp_path / "d.parquet")
    declared = {"price": "category"} if categories else {}
    fitted = clusterglm.fit(data=frame.astype(declared), target="y", categorical=["price"], family="gaussian")
    source = opened(tmp_path / "d.parquet", categorical=["price"])
    assert source.names == fitted.feature_names == ["price[T.0.5]", "price[T.2]", "price[T.10]"]
    with claim(tmp_path / "run") as folder:
        folder.write_json("model.json", fitted.model())
    model = load_model(tmp_path / "run" / "model.json")
    for asked in (frame, frame.astype({"price": float})):
        np.testing.assert_allclose(model.predict(asked), np.tile(frame.y.to_numpy()[4:8], 3), rtol=1e-12)


def test_words_among_numbers_are_levels_only_where_that_is_asked_for(tmp_path: Path) -> None:
    write(pd.DataFrame({"g": ["1", "2", "?", "3"] * 5, "y": np.arange(20.0)}), tmp_path / "d.csv")
    with pytest.raises(
        DataError, match=r"column g \(\? in d.csv, line 4\): not a number: correct it, or .* --categorical g$"
    ):
        opened(tmp_path)
    assert opened(tmp_path, categorical=["g"]).names == ["g[T.2]", "g[T.3]", "g[T.?]"]


def test_arrays_have_levels_too(tmp_path: Path) -> None:
    table = np.zeros(8, [("g", "U2"), ("k", ">i4"), ("y", "f8")])
    table["g"], table["k"], table["y"] = ["b", "a", "b", "c"] * 2, [3, 1] * 4, np.arange(8.0)
    table["y"][5] = np.nan
    np.save(tmp_path / "d.npy", table)
    source = opened(tmp_path / "d.npy", categorical=["k"], missing="drop")
    assert source.names == ["g[T.b]", "g[T.c]", "k[T.3]"]
    chunk = local_rows(source).chunk
    expected = [[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 0]]
    np.testing.assert_array_equal(chunk.X, expected)
    np.testing.assert_array_equal(chunk.y, [0, 1, 2, 3, 4, 6, 7])
    assert source.locate(5) == "d.npy, row 7"


def test_one_level_is_no_column(tmp_path: Path) -> None:
    write(made_up(20).assign(g="a"), tmp_path / "d.parquet")
    assert opened(tmp_path, features=["x", "g"]).names == ["x"]
    with pytest.raises(DataError, match="no columns besides the target y"):
        opened(tmp_path, features=["g"])


def test_the_fingerprint_knows_levels_and_what_is_left_out(tmp_path: Path) -> None:
    frame = made_up(200, gaps=0.1)
    write(frame, tmp_path / "d.csv")
    prints = [
        opened(tmp_path, missing="drop", features=["x", "month"], categorical=categorical).fingerprint()
        for categorical in ([], ["month"])
    ]
    prints.append(opened(tmp_path, features=["x", "month"]).fingerprint())
    assert all(a != b for i, a in enumerate(prints) for b in prints[:i])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"categorical": ["y"]}, r"--categorical \(y\): is the target"),
        ({"features": ["x"], "categorical": ["month"]}, r"--categorical \(month\): is not among --features"),
    ],
)
def test_contradictions_are_refused_before_anything_is_opened(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(**({"url": "missing.parquet", "target": "y"} | words))


def test_a_category_that_no_file_holds(tmp_path: Path) -> None:
    write(made_up(9), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"--categorical \(mont\): no such column: did you mean month\?"):
        opened(tmp_path, categorical=["mont"])


@pytest.mark.parametrize(("late", "labels"), [(["Oslo", "Bern"], ("Bern", "Oslo")), (["7", "8"], ("7", "8"))])
def test_a_category_whose_first_megabyte_has_no_value(tmp_path: Path, late: list[str], labels: tuple[str, ...]) -> None:
    lines = ["x,g,y\n", *["0.1234567890123456,,1\n"] * 60_000, *[f"0.5,{value},1\n" for value in late]]
    (tmp_path / "t.csv").write_text("".join(lines))
    source = open_source(str(tmp_path / "t.csv"), target="y", categorical=["g"], missing="drop")
    source.open(None)
    assert (source.rows, source.levels["g"].labels) == (2, labels)
