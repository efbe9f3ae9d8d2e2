"""Fits that begin where an earlier one ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.run_folder import plain


@pytest.fixture
def rows() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.standard_normal((500, 3)), columns=list("abc"))
    table["y"] = random.poisson(np.exp(0.4 * table["a"] + 0.2 * table["b"]))
    return table


def test_an_earlier_fit_is_a_start_by_the_names_of_its_columns(rows: pd.DataFrame, tmp_path: Path) -> None:
    how: dict[str, Any] = {"target": "y", "family": "poisson", "solver": "newton"}
    first = clusterglm.fit(data=rows, **how)
    (tmp_path / "model.json").write_text(json.dumps(plain(first.model())))
    again = clusterglm.fit(data=rows, start=tmp_path, **how)
    assert again.start == "given coefficients"
    assert again.status == "optimal"
    assert again.passes < first.passes
    np.testing.assert_allclose(again.coefficients, first.coefficients, atol=1e-3)
    other = clusterglm.fit(data=rows[["c", "a", "y"]].assign(new=1.0 * (rows["b"] > 0)), start=str(tmp_path), **how)
    assert other.status == "optimal"
    assert other.feature_names == ["c", "a", "new"]
    with pytest.raises(UsageError, match="--start"):
        clusterglm.fit(data=rows, start=tmp_path / "none", **how)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(DataError, match="not a model"):
        clusterglm.fit(data=rows, start=tmp_path, **how)
