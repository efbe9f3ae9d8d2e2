"""Rows from Python, fitted from end to end: the same bits as from files, and words where something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import clusterglm
from clusterglm.errors import DataError, UsageError

SAME = ("coefficients", "intercept", "objective", "certificate", "iterations", "status")
MODEL: dict[str, Any] = {"family": "poisson", "solver": "newton", "tol": 1e-6}
NAMES = {"target": "visits", "weights": "w", "offset": "log"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    random = np.random.default_rng(2)
    n = 20_000
    age, sport, log = random.normal(40, 12, n), random.random(n) < 0.3, random.random(n)
    visits = random.poisson(np.exp(-1 + 0.02 * age - 0.4 * sport + log))
    return pd.DataFrame({"age": age, "sport": sport, "visits": visits, "w": random.integers(1, 4, n), "log": log})


def same(result: clusterglm.Result) -> list[Any]:
    return [np.asarray(result.as_dict()[key]).tolist() for key in SAME]


def test_frames_dicts_and_arrays_in_this_process_are_one_fit(frame: pd.DataFrame) -> None:
    expected = clusterglm.fit(data=frame, **MODEL, **NAMES)
    assert expected.status == "optimal"
    assert expected.feature_names == ["age", "sport"]
    assert np.allclose(expected.coefficients, [0.02, -0.4], atol=0.05)
    assert same(clusterglm.fit(data=dict(frame.items()), **MODEL, **NAMES)) == same(expected)
    arrays = clusterglm.fit(data=(frame[["age", "sport"]].to_numpy(float), frame.visits, frame.w, frame.log), **MODEL)
    assert same(arrays) == same(expected)
    assert arrays.feature_names == ["x0", "x1"]
    chosen = clusterglm.fit(data=frame, features="sport,age", intercept=False, dtype="float32", **MODEL, **NAMES)
    assert (chosen.feature_names, chosen.intercept, chosen.dtype) == (["sport", "age"], None, "float32")


def test_what_has_no_effect_here_or_cannot_be_fitted_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^out: has no effect on rows in this process"):
        clusterglm.fit(data=frame, out=tmp_path / "run", **MODEL, **NAMES)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"^family: needed with rows of your own"):
        clusterglm.fit(data=frame, target="visits")
    with pytest.raises(UsageError, match=r"--features \(visits\): is the target"):
        clusterglm.fit(data=frame, features=["visits"], **MODEL, **NAMES)
    with pytest.raises(DataError, match=r"row 17"):
        clusterglm.fit(data=frame.assign(age=frame.age.where(frame.index != 17)), **MODEL, **NAMES)
    with pytest.raises(UsageError, match=r"float16.*float64"):
        clusterglm.fit(data=frame, dtype="float16", **MODEL, **NAMES)


@pytest.fixture
def gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Some of every role's values are missing."""
    found = frame.astype({"visits": float, "w": float}).assign(sport=frame.sport.map({True: "yes", False: "no"}))
    for i, name in enumerate(("age", "sport", "visits", "w", "log")):
        found[name] = found[name].where(frame.index % 997 != i)
    return found


def test_incomplete_rows_are_left_out_where_asked(gaps: pd.DataFrame) -> None:
    expected = clusterglm.fit(data=gaps.dropna(), **MODEL, **NAMES)
    for data in (gaps, dict(gaps.items()), gaps.assign(unused=np.nan)):
        features = {"features": ["age", "sport"]} if "unused" in data else {}
        found = clusterglm.fit(data=data, missing="drop", **features, **MODEL, **NAMES)
        assert same(found) == same(expected)
        assert found.notes.count(f"note: missing drop: {len(gaps) - len(gaps.dropna())} of 20000 rows left out") == 1
    with pytest.raises(DataError, match=r"no row without a missing value"):
        clusterglm.fit(data=gaps.assign(age=np.nan), missing="drop", **MODEL, **NAMES)
    with pytest.raises(UsageError, match=r"^missing \(drop\): has no effect on arrays"):
        clusterglm.fit(data=(gaps[["age"]], gaps.visits), missing="drop", **MODEL)
    with pytest.raises(UsageError, match=r"^missing \(dropp\): not known: did you mean drop\?"):
        clusterglm.fit(data=gaps, missing="dropp", **MODEL, **NAMES)


@pytest.mark.slow
def test_incomplete_rows_of_a_dask_frame_are_left_out_where_asked(shared_client: Any, gaps: pd.DataFrame) -> None:
    lazy = dd.from_pandas(gaps, npartitions=3)
    expected = clusterglm.fit(shared_client, data=lazy.dropna(), **MODEL, **NAMES)
    assert same(clusterglm.fit(shared_client, data=lazy, missing="drop", **MODEL, **NAMES)) == same(expected)
    wide = lazy.assign(unused=np.nan)
    features = ["age", "sport"]
    found = clusterglm.fit(shared_client, data=wide, features=features, missing="drop", **MODEL, **NAMES)
    assert same(found) == same(expected)
    with pytest.raises(UsageError, match=r"^missing \(drop\): has no effect on columns of Dask one by one"):
        clusterglm.fit(shared_client, data={name: lazy[name] for name in gaps}, missing="drop", **MODEL, **NAMES)


@pytest.mark.slow
def test_dask_frames_columns_and_arrays_are_the_file(shared_client: Any, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    expected = clusterglm.fit(shared_client, data=tmp_path / "a.parquet", **MODEL, **NAMES)
    lazy = dd.from_pandas(frame, npartitions=3)
    counted = "note: row counts unknown: counted in one extra pass"
    for data in (lazy, {name: lazy[name] for name in frame}):
        result = clusterglm.fit(shared_client, data=data, **MODEL, **NAMES)
        assert same(result) == same(expected)
        assert result.feature_names == ["age", "sport"]
        assert result.notes.count(counted) == 1
    X, rest = lazy[["age", "sport"]].astype(float), [lazy.visits, lazy.w, lazy.log]
    for arrays in ((X.to_dask_array(), *rest), (X.to_dask_array(lengths=True), *(v.to_dask_array() for v in rest))):
        assert same(clusterglm.fit(shared_client, data=arrays, **MODEL)) == same(expected)
    held = shared_client.persist(lazy)
    assert same(clusterglm.fit(shared_client, data=held, **MODEL, **NAMES)) == same(expected)
    missing = dd.from_pandas(frame.assign(age=frame.age.where(frame.index != 17)), npartitions=3)
    with pytest.raises(DataError, match=r"column age .*the frame, partition 0, row 17"):
        clusterglm.fit(shared_client, data=missing, **MODEL, **NAMES)


def broken(block: np.ndarray) -> np.ndarray:
    raise ZeroDivisionError("a block's own")


@pytest.mark.slow
def test_what_a_block_raises_is_raised_as_it_is(shared_client: Any) -> None:
    X = da.ones((1000, 2), chunks=(300, 2)).map_blocks(broken, dtype=float, meta=np.ones((0, 2)))
    with pytest.raises(ZeroDivisionError, match="a block's own"):
        clusterglm.fit(shared_client, data=(X, da.ones(1000)), **MODEL)


@pytest.mark.slow
def test_a_fit_of_a_collection_goes_on_with_the_same_collection_alone(
    shared_client: Any, frame: pd.DataFrame, tmp_path: Path
) -> None:
    data = tuple(da.from_array(frame[name].to_numpy(float), chunks=7000) for name in ("age", "sport", "visits"))
    X, y = da.stack(data[:2], axis=1), data[2]
    expected = clusterglm.fit(shared_client, data=(X, y), **MODEL)
    short = clusterglm.fit(shared_client, data=(X, y), out=tmp_path / "run", **MODEL | {"max_passes": 2})
    assert short.status == "max_passes"
    with pytest.raises(UsageError, match="made with dask arrays from Python: give the same data again"):
        clusterglm.fit(shared_client, resume=tmp_path / "run", max_passes=1000)
    with pytest.raises(UsageError, match="made with other data"):
        clusterglm.fit(shared_client, data=(X + 1, y), resume=tmp_path / "run", max_passes=1000)
    again = clusterglm.fit(shared_client, data=(X, y), resume=tmp_path / "run", max_passes=1000)
    assert same(again) == same(expected)
    assert again.resumed
    assert again.passes == expected.passes
