"""A model by itself: read from its file, it predicts arrays and frames without Dask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.special import expit

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.run_folder import plain

CONTENT: dict[str, Any] = {
    "schema": 1,
    "family": "binomial",
    "link": "logit",
    "feature_names": ["x", "city[T.Oslo]", "city[T.Rome]", "month[T.2]", "month[T.12]"],
    "coefficients": [0.5, 1.0, -2.0, 0.25, 0.125],
    "intercept": -1.0,
    "features": ["x", "city", "month"],
    "levels": {"city": ["Bern", "Oslo", "Rome"], "month": ["1", "2", "12"]},
    "offset": "shift",
    "status": "optimal",
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps(CONTENT | changes))
    return path


@pytest.fixture
def model(tmp_path: Path) -> clusterglm.model.FittedModel:
    return clusterglm.load_model(written(tmp_path))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "month": [1, 2, 12, 1],
            "x": [0.0, 2.0, -4.0, 1.0],
            "unused": [None] * 4,
            "city": ["Bern", "Rome", "Oslo", "Oslo"],
            "shift": [0.0, 1.0, 0.0, 0.5],
        }
    )


ETA = [-1.0, 1.0 - 1.0 + 1.0 - 2.0 + 0.25, -1.0 - 2.0 + 1.0 + 0.125, 0.5 - 1.0 + 0.5 + 1.0]


def test_a_frame_is_coded_as_the_fit_coded_it(model: Any, frame: pd.DataFrame) -> None:
    np.testing.assert_array_equal(model.linear_predictor(frame), ETA)
    np.testing.assert_allclose(model.predict(frame), expit(ETA), rtol=1e-15)
    assert model.columns == ["x", "city", "month", "shift"]


@pytest.mark.parametrize("dtype", ["category", "string", "string[pyarrow]", "large_string[pyarrow]"])
def test_text_of_every_kind_is_the_same(model: Any, frame: pd.DataFrame, dtype: str) -> None:
    np.testing.assert_array_equal(model.linear_predictor(frame.astype({"city": dtype})), ETA)


@pytest.mark.parametrize("dtype", ["int8", "float64", "Int64", "category", "string", "int64[pyarrow]"])
def test_levels_that_are_numbers_are_the_same(model: Any, frame: pd.DataFrame, dtype: str) -> None:
    np.testing.assert_array_equal(model.linear_predictor(frame.astype({"month": dtype})), ETA)


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, csr_array, lambda X: X.astype(np.float32)])
def test_a_matrix_has_the_columns_of_the_design(model: Any, layout: Any) -> None:
    X = np.array([[0.0, 0, 0, 0, 0], [2, 0, 1, 1, 0], [-4, 1, 0, 0, 1], [1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(model.linear_predictor(layout(X), offset=[0.0, 1.0, 0.0, 0.5]), ETA)


def test_a_missing_value_gives_no_prediction(model: Any, frame: pd.DataFrame) -> None:
    for i, (column, gap) in enumerate([("x", np.nan), ("city", None), ("month", np.nan), ("shift", np.inf)]):
        frame[column] = frame[column].astype(object if column == "city" else float)
        frame.loc[i, column] = gap
        assert np.isnan(model.predict(frame)).tolist() == [k <= i for k in range(4)]
    X = np.array([[np.nan, 0, 0, 0, 0], [0.0, 0, 0, 0, 0]])
    assert np.isnan(model.predict(X, offset=[0, 0])).tolist() == [True, False]


def test_a_level_that_the_model_does_not_know(model: Any, frame: pd.DataFrame) -> None:
    frame.loc[2, "city"], frame.loc[3, "month"] = "Paris", 7
    message = r"^column city \(Paris in row 2\): not among the model's 3 levels: correct it, or --unseen reference"
    with pytest.raises(DataError, match=message):
        model.predict(frame)
    reference = model.linear_predictor(frame, unseen="reference")
    np.testing.assert_array_equal(reference, [*ETA[:2], ETA[2] - 1.0, ETA[3]])
    np.testing.assert_array_equal(model.linear_predictor(frame, unseen="missing"), [*ETA[:2], np.nan, np.nan])
    with pytest.raises(UsageError, match=r"unseen \(errror\): not known: did you mean error\?"):
        model.predict(frame, unseen="errror")


def test_the_offset_may_come_from_elsewhere(model: Any, frame: pd.DataFrame, tmp_path: Path) -> None:
    there = frame.rename(columns={"shift": "moved"})
    np.testing.assert_array_equal(model.linear_predictor(there, offset="moved"), ETA)
    np.testing.assert_array_equal(model.linear_predictor(there, offset=frame["shift"]), ETA)
    without = clusterglm.load_model(written(tmp_path, offset=None))
    np.testing.assert_array_equal(without.linear_predictor(frame) + frame["shift"], ETA)
    with pytest.raises(UsageError, match="offset: the model has none: leave it out"):
        without.predict(frame, offset="shift")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="city"), r"^column city: not there: the model was fitted with it$"),
        (lambda f: f.rename(columns={"month": "months"}), r"^column month: not there: did you rename it to months\?$"),
        (lambda f: f.drop(columns="shift"), r"^column shift: not there"),
        (lambda f: f.assign(x="a"), r"^column x \(string\): not a number, as it was when the model was fitted"),
        (lambda f: f.assign(x=pd.Timestamp(0)), r"^column x \(datetime\): not a number"),
        (lambda f: f.assign(x=[1, "a", 2, 3]), r"^column x \(object\): neither number nor category"),
        (lambda f: np.zeros((2, 3)), r"^X \(shape \(2, 3\)\): the model has 5 columns: x, city\[T.Oslo\], "),
        (lambda f: np.zeros(5), r"^X \(shape \(5,\)\): the model has 5 columns"),
        (lambda f: np.full((2, 5), "a"), r"^X \(<U1\): give an array of numbers$"),
        (lambda f: np.zeros((2, 5)), r"^offset: the model was fitted with shift: give its numbers$"),
    ],
)
def test_data_that_do_not_fit(model: Any, frame: pd.DataFrame, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.predict(change(frame))


def test_an_offset_that_does_not_fit(model: Any, frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"offset \(shape \(3,\)\): X has 4 rows"):
        model.predict(frame, offset=np.zeros(3))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"family": "binomial"}',
        json.dumps(CONTENT | {"family": "beta"}),
        json.dumps(CONTENT | {"coefficients": [1.0]}),
        json.dumps(CONTENT | {"coefficients": [1, 2, 3, 4, None]}),
        json.dumps(CONTENT | {"levels": {"city": ["Bern", "Oslo"]}}),
        json.dumps(CONTENT | {"levels": {"city": [], "month": [1]}}),
        json.dumps(CONTENT | {"intercept": "a"}),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(DataError, match=r"^MODEL \(.*\): not a model that clusterglm fit has written"):
        clusterglm.load_model(tmp_path)


def test_no_model_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "model.json"):
        with pytest.raises(DataError, match=r"^MODEL \(.*\): no such file: name a run folder, or its model.json$"):
            clusterglm.load_model(path)


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson"])
def test_what_a_fit_writes_is_read_again(family: str, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    X = random.standard_normal((500, 3))
    y = random.integers(0, 2, 500).astype(float)
    result = clusterglm.fit(data=clusterglm.from_arrays(X, y, intercept=True), family=family)
    (tmp_path / "model.json").write_text(json.dumps(plain(result.model())))
    model = clusterglm.load_model(tmp_path)
    mean = {"gaussian": lambda eta: eta, "binomial": expit, "poisson": np.exp}[family]
    np.testing.assert_allclose(model.predict(X), mean(X @ result.coefficients + result.intercept), rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.predict(pd.DataFrame(X, columns=result.feature_names)))
    np.testing.assert_array_equal(model.predict(X[7:9]), model.predict(X)[7:9])
    np.testing.assert_allclose(model.predict(X).mean(), y.mean(), rtol=1e-4)  # what an intercept brings about


def test_no_dask_is_needed(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(tmp_path / "f.csv", index=False)
    written(tmp_path)
    program = """
import sys, pandas, clusterglm
model = clusterglm.load_model("model.json")
print(model.predict(pandas.read_csv("f.csv")).round(6).tolist())
print([name for name in ("dask", "distributed") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == [str(expit(ETA).round(6).tolist()), "[]"]


def numbers(folder: Path, **changes: Any) -> clusterglm.model.FittedModel:
    """A model of the columns 0 and 1."""
    content = {"feature_names": ["0", "1"], "features": ["0", "1"], "coefficients": [1.0, 2.0], "levels": {}}
    return clusterglm.load_model(written(folder, **content | {"intercept": 0.0, "offset": None} | changes))


@pytest.mark.parametrize("dtype", ["Sparse[float]", np.longdouble, ">f8", "<f2", "object", "Int64"])
def test_frames_are_those_that_a_fit_takes(tmp_path: Path, dtype: Any) -> None:
    frame = pd.DataFrame([[1, 0], [0, 3]]).astype(dtype)  # whose columns are called 0 and 1
    assert numbers(tmp_path).linear_predictor(frame).tolist() == [1.0, 6.0]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.DataFrame(np.zeros((2, 2)), columns=["0", "0"]), r"^X: column 0 is there twice: rename one$"),
        ([[1.0], [2.0, 3.0]], r"^X \(setting an array element .*\): give an array of numbers$"),
        (np.ma.masked_array(np.ones((1, 2)), mask=[[True, False]]), r"^X \(masked values\): drop or fill these rows$"),
    ],
)
def test_rows_that_no_fit_takes_are_refused(tmp_path: Path, X: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        numbers(tmp_path).predict(X)


@pytest.mark.parametrize("values", [[b"Oslo"], [["Oslo"]], pd.to_datetime(["2020-01-01"])])
def test_what_is_no_category_is_refused(model: clusterglm.model.FittedModel, frame: pd.DataFrame, values: Any) -> None:
    with pytest.raises(DataError, match=r"^column city \(.*\): not a category, as it was when the model was fitted: "):
        model.predict(frame[:1].assign(city=values))


def test_offsets_that_are_no_numbers_are_refused(model: clusterglm.model.FittedModel, frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"^offset \(.*\): give an array of numbers$"):
        model.predict(frame, np.array(["a"] * 4))


@pytest.mark.parametrize("text", ["[" * 10**5, json.dumps(CONTENT | {"intercept": float("nan")})])
def test_more_files_that_are_no_models(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(DataError, match=r"not a model that clusterglm fit has written"):
        clusterglm.load_model(tmp_path)
