"""Fits that tests disturb on their clusters, and the same ones undisturbed in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import clusterglm
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic

ROWS, COLUMNS = 100_000, 6
LINE = ("--rows", ROWS, "--columns", COLUMNS, "--tol", 1e-5, "--start", "null")
_LAMDUH = {"admm": 1.0, "proximal_gradient": 1.0}  # what the command line takes for such solvers


def undisturbed(*solvers: str) -> dict[str, Any]:
    """Return the fits of the rows of ``LINE`` without any cluster."""
    rows = local_rows(Synthetic(ROWS, COLUMNS))
    given = {"data": rows, "family": "binomial", "tol": 1e-5, "start": "null"}
    return {name: clusterglm.fit(solver=name, lamduh=_LAMDUH.get(name), **given) for name in solvers}


def assert_same_bits(folder: Path, expected: Any) -> None:
    """Hold a run folder's result to a fit, bit by bit."""
    found = json.loads((folder / "result.json").read_text())
    assert np.array_equal(found["coefficients"], expected.coefficients)
    for key in ("objective", "passes", "iterations", "status"):
        assert found[key] == getattr(expected, key)
