"""How many passes or rounds the solvers take to a proven relative gap of 1e-8, from the null model and from a sample.

The first look at the rows, which scans them and draws the sample, belongs to loading and is not among them; the passes
that prove are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clusterglm.data.chunk import Chunk
from clusterglm.data.rows import LocalRows
from clusterglm.data.sources import local_rows
from clusterglm.data.synthetic import Synthetic
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

ROWS = 400_000


@pytest.fixture(scope="module")
def rows() -> Any:
    """The reference problem as it is made, and sorted by the target: most local problems are of one class then."""
    made = local_rows(Synthetic(ROWS))
    order = np.argsort(made.chunk.y, kind="stable")
    chunk = Chunk(made.chunk.X[order], made.chunk.y[order], block_rows=made.chunk.block_rows)
    return {"shuffled": made, "sorted": LocalRows(chunk, made.problem_rows)}


@pytest.mark.parametrize(
    ("solver", "order", "start", "most"),
    [
        ("proximal_newton", "shuffled", "null", 6),
        ("proximal_newton", "shuffled", "auto", 4),
        ("admm", "shuffled", "null", 10),
        ("admm", "shuffled", "auto", 6),
        ("admm", "sorted", "null", 25),
        ("admm", "sorted", "auto", 20),
        ("proximal_gradient", "shuffled", "null", 20),
        ("proximal_gradient", "shuffled", "auto", 20),
    ],
)
@pytest.mark.parametrize("lamduh", [1.0, 500.0])
def test_passes_to_a_relative_gap_of_1e_8(
    rows: Any, solver: str, order: str, start: str, most: int, lamduh: float
) -> None:
    model = Model(FAMILIES["binomial"], "l1", lamduh=lamduh, intercept=False)
    limits = Limits(Tolerance(rel_gap=1e-8), start=start)
    found = fit(rows[order], [f"x{j}" for j in range(15)], model, SOLVERS[solver], limits)
    assert found.status == "optimal"
    counted = len(found.iterations) - 1 if solver == "admm" else found.passes - 1
    print(solver, order, start, lamduh, counted, found.passes - 1)
    assert counted <= most
