"""A target of several classes from end to end: text in files, in frames and of Dask; report, predictions, starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import clusterglm
from clusterglm.data.target import Target
from clusterglm.errors import DataError, UsageError
from clusterglm.scoring import Scoring

MODEL: dict[str, Any] = {"family": "multinomial", "target": "kind", "tol": 1e-6}
KINDS = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    random = np.random.default_rng(5)
    n = 3000
    x, city = random.standard_normal(n), random.choice(["Bern", "Oslo"], n)
    eta = np.column_stack([0.5 * x, -x + (city == "Oslo"), 0.2 + 0 * x])
    kind = (eta + random.gumbel(size=eta.shape)).argmax(axis=1)
    return pd.DataFrame({"x": x, "city": city, "kind": np.array(KINDS)[kind], "number": kind * 2 + 1})


def test_texts_and_numbers_in_frames_are_classes(frame: pd.DataFrame) -> None:
    how: dict[str, Any] = MODEL | {"solver": "newton", "features": ["x", "city"]}
    found = clusterglm.fit(data=frame, summary=True, **how)
    assert found.status == "optimal"
    assert found.classes == KINDS
    assert found.feature_names[:3] == ["dog:intercept", "dog:x", "dog:city[T.Oslo]"]
    assert len(found.coefficients) == 6
    numbers = clusterglm.fit(data=frame, **how | {"target": "number"})
    assert numbers.classes == ["1", "3", "5"]
    np.testing.assert_array_equal(numbers.coefficients, found.coefficients)
    X = np.column_stack([frame["x"], frame["city"] == "Oslo"]).astype(float)
    arrays = clusterglm.fit(data=(X, frame["number"] // 2), solver="newton", family="multinomial", tol=1e-6)
    np.testing.assert_array_equal(arrays.coefficients, found.coefficients)
    assert "dog:city[T.Oslo]" in found.summary()
    with pytest.raises(DataError, match="not a number"):
        clusterglm.fit(data=frame, **how | {"family": "binomial"})
    with pytest.raises(UsageError, match="has no path"):
        clusterglm.path(data=frame, **MODEL | {"penalty": "l1", "features": ["x", "city"]})


@pytest.mark.slow
def test_files_of_texts_are_fitted_reported_predicted_and_begun_from(
    shared_client: Any, frame: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    for i in range(3):
        frame[i * 1000 : (i + 1) * 1000].to_parquet(tmp_path / "rows" / f"{i}.parquet")
    how: dict[str, Any] = MODEL | {"features": ["x", "city"], "penalty": "l2", "alpha": 0.01}
    found = clusterglm.fit(shared_client, data=tmp_path / "rows", solver="auto", out=tmp_path / "run", **how)
    here = clusterglm.fit(data=frame, solver="proximal_newton", **how)
    assert found.status == "optimal"
    assert found.classes == KINDS
    assert len(found.coefficients) == 9
    np.testing.assert_array_equal(found.coefficients, here.coefficients)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "owl:city[T.Oslo]" in page
    assert "with intercept" in page
    assert json.loads((tmp_path / "run" / "result.json").read_text())["classes"] == KINDS

    model = clusterglm.load_model(tmp_path / "run")
    means = model.predict(frame)
    assert means.shape == (3000, 3)
    np.testing.assert_allclose(means.sum(axis=1), 1, rtol=1e-14)
    eta = np.column_stack([frame["x"], frame["city"] == "Oslo"]).astype(float) @ model.coefficients.T + model.intercept
    np.testing.assert_allclose(means, np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True), rtol=1e-12)
    target = Target.of(str(tmp_path / "scored"))
    scoring = Scoring(model, str(tmp_path / "rows"), target, ("kind",))
    with target.staged():
        written, _ = scoring.run(shared_client, print, lambda done, rows: None)
        target.publish(overwrite=False)
    scored = pd.concat(map(pd.read_parquet, sorted((tmp_path / "scored").iterdir())), ignore_index=True)
    assert (written.rows, written.missing) == (3000, 0)
    assert list(scored.columns) == ["kind", "class", "mean:cat", "mean:dog", "mean:owl"]
    np.testing.assert_array_equal(scored.iloc[:, 2:].to_numpy(), means)
    assert (scored["class"] == np.array(KINDS)[means.argmax(axis=1)]).all()

    again = clusterglm.fit(data=frame, solver="proximal_newton", start=tmp_path / "run", **how)
    assert again.start == "given coefficients"
    assert again.passes <= 5
    np.testing.assert_allclose(again.coefficients, found.coefficients, atol=1e-8)
    with pytest.raises(DataError, match="begin at one of the same family"):
        clusterglm.fit(
            data=frame, family="gaussian", target="number", features=["x"], solver="newton", start=tmp_path / "run"
        )
    lazy = clusterglm.fit(shared_client, data=dd.from_pandas(frame, npartitions=2), solver="proximal_newton", **how)
    np.testing.assert_array_equal(lazy.coefficients, found.coefficients)
