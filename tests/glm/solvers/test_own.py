"""A solver of the user's own, in a file of about 20 lines that knows nothing of clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clusterglm
from clusterglm.errors import UsageError
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Model
from clusterglm.glm.solvers import get_solver

GRADIENT_DESCENT = '''\
"""Gradient descent with the constant step 1/L (Nesterov, Introductory Lectures on Convex Optimization, 1.2.3)."""

import numpy as np

from clusterglm.glm.problem import Solution


def textbook(problem, start, stop, trace):
    l2 = problem.penalty.l2
    L = np.linalg.eigvalsh(start.hessian + np.diag(l2))[-1]
    point = start
    while not (status := stop(trace(point, 1 / L))):
        point = problem.at(point.beta - (point.gradient + l2 * point.beta) / L)
    return Solution(point, status)


textbook.smooth_only = True
'''

OWN_KERNEL = """\
from dataclasses import dataclass

import numpy as np

from clusterglm.glm.problem import Point, Solution


@dataclass
class Moments:
    count: int = 0


def moments(block, power):
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    return w @ block.X**power, w @ block.y


def one_look(problem, start, stop, trace):
    first, y = problem.sum(moments, 1)
    second, _ = problem.sum(moments, 2)
    trace(Point(start.beta, start.loss, start.gradient, start.hessian, start.objective))
    one_look.seen = first, second, y
    return Solution(start, "max_passes")
"""


def rows_and(make_table: Any, family: str = "gaussian") -> tuple[Any, Any]:
    table = make_table(family, 300, 3, weights=True)
    return table, clusterglm.from_arrays(table.A[:, 1:], table.y, table.weights, intercept=True)


@pytest.mark.parametrize("family", ["gaussian", "binomial"])
def test_the_textbooks_gradient_descent_runs(tmp_path: Path, make_table: Any, family: str) -> None:
    path = tmp_path / "my_solver.py"
    path.write_text(GRADIENT_DESCENT)
    assert len(GRADIENT_DESCENT.splitlines()) <= 20
    _, rows = rows_and(make_table, family)
    words = {"family": family, "penalty": "l2", "alpha": 0.01}
    result = clusterglm.fit(data=rows, solver=f"{path}:textbook", **words)
    assert (result.solver, result.status) == ("textbook", "optimal")
    reference = clusterglm.fit(data=rows, solver="newton", tol=1e-9, **words)
    tight = clusterglm.fit(data=rows, solver=f"{path}:textbook", tol=1e-9, **words)
    np.testing.assert_allclose(tight.coefficients, reference.coefficients, atol=1e-9)
    with pytest.raises(UsageError, match="textbook needs a smooth penalty"):
        clusterglm.fit(data=rows, solver=f"{path}:textbook", family=family, penalty="l1", alpha=0.01)


def test_a_solvers_own_kernel_runs_through_the_problem(tmp_path: Path, make_table: Any) -> None:
    path = tmp_path / "looks.py"
    path.write_text(OWN_KERNEL)
    _, rows = rows_and(make_table)
    solver = get_solver(f"{path}:one_look")
    result = clusterglm.fit(data=rows, solver=f"{path}:one_look", family="gaussian")
    assert (result.status, result.passes, rows.reads) == ("max_passes", 4, 4)  # scan, start, two of its own
    assert solver.name == "one_look"
    assert not solver.smooth_only


def test_its_kernel_sums_what_it_says(tmp_path: Path, make_table: Any) -> None:
    path = tmp_path / "looks.py"
    path.write_text(OWN_KERNEL)
    table, rows = rows_and(make_table)
    solver = get_solver(f"{path}:one_look")
    fit(rows, table.names, Model(FAMILIES["gaussian"]), solver)
    first, second, y = solver.solve.seen  # type: ignore[attr-defined]
    np.testing.assert_allclose(first, table.w @ table.A, rtol=1e-12)
    np.testing.assert_allclose(second, table.w @ table.A**2, rtol=1e-12)
    assert y == pytest.approx(table.w @ table.y)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "f", r"nothing\.py\): no such file"),
        ("import nowhere_to_be_found", "f", "cannot be imported: ModuleNotFoundError"),
        ("def solve(): pass", "solv", r"\(solv\): not known: did you mean solve"),
        ("def f(:", "f", "cannot be imported: SyntaxError"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, text: str | None, name: str, message: str) -> None:
    path = tmp_path / "nothing.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        get_solver(f"{path}:{name}")


def test_a_solver_that_returns_something_else_is_told_what_to_return(tmp_path: Path, make_table: Any) -> None:
    path = tmp_path / "forgets.py"
    path.write_text("def forgets(problem, start, stop, trace):\n    trace(start)\n")
    _, rows = rows_and(make_table)
    with pytest.raises(UsageError, match=r"solver \(forgets\): returned NoneType: return Solution\(point, status\)"):
        clusterglm.fit(data=rows, solver=f"{path}:forgets", family="gaussian")


def test_a_solver_that_traces_nothing_has_its_answer_certified(tmp_path: Path, make_table: Any) -> None:
    path = tmp_path / "silent.py"
    path.write_text(
        "from clusterglm.glm.problem import Solution\n"
        "def silent(problem, start, stop, trace):\n    return Solution(start, 'max_passes')\n"
    )
    _, rows = rows_and(make_table)
    result = clusterglm.fit(data=rows, solver=f"{path}:silent", family="gaussian")
    assert (result.status, result.iterations) == ("max_passes", 1)
    assert result.certificate["gap"] > 0
