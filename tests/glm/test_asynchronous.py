"""Fits that go on without a slow worker: the same answers, proven on all rows, in less of its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lanes import Timed

from clusterglm.data.chunk import Chunk
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Problem
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.start import NULL
from clusterglm.glm.trace import Tolerance

N, P, BLOCK = 6000, 6, 128
SMOOTH = Penalty(np.zeros(P + 1), np.zeros(P + 1))
ONE_SLOW = (1.0, 1.0, 1.0, 10.0)
FAST = Limits(Tolerance(rel_gap=1e-8), start="null")
SYNCHRONOUS = {"async_newton": "newton", "async_admm": "admm"}
PENALTIES: dict[str, dict[str, Any]] = {
    "none": {},
    "elastic-net": {"penalty": "elastic-net", "alpha": 0.02},
    "bounds": {"bounds": {"x1": (0.0, np.inf), "x2": (-0.1, 0.1)}},
}


def table(family: str, sort: bool = False, constant: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return A (n, p), a column of ones first, and y (n,), in the order of y if asked for."""
    random = np.random.default_rng(3)
    X = random.standard_normal((N, P))
    eta = X @ ((random.random(P) - 0.5) * (3 if family == "binomial" else 0.8))
    y = {
        "gaussian": lambda: eta + random.standard_normal(N),
        "binomial": lambda: (random.random(N) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: random.poisson(np.exp(eta)).astype(float),
    }[family]()
    if constant:
        X[:, 3] = 7.0
    order = np.argsort(y, kind="stable") if sort else slice(None)
    return np.column_stack([np.ones(N), X])[order], y[order]


def rows_of(data: tuple[np.ndarray, np.ndarray], seconds: Sequence[float] = ONE_SLOW, **words: Any) -> Timed:
    return Timed(Chunk(np.ascontiguousarray(data[0]), data[1], block_rows=BLOCK), 3 * BLOCK, seconds, **words)


def fitted(rows: Timed, solver: str, family: str, limits: Limits = FAST, **model: Any) -> tuple[Fit, float]:
    """Return the fit, and the seconds after the first look at the rows."""
    names = [f"x{j}" for j in range(P)]
    looked = max(rows.seconds) / 2
    found = fit(rows, names, Model(FAMILIES[family], **model), SOLVERS[solver], limits)
    return found, rows.clock - looked


@pytest.mark.parametrize("solver", SYNCHRONOUS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("known", [True, False])
def test_the_answer_is_that_of_all_rows(solver: str, family: str, penalty: str, known: bool) -> None:
    data, model = table(family), PENALTIES[penalty]
    tight = Limits(Tolerance(rel_gap=1e-13), start="null")
    expected, _ = fitted(rows_of(data), "proximal_newton", family, tight, **model)
    found, _ = fitted(rows_of(data, known=known), solver, family, tight, **model)
    assert found.status == "optimal"
    np.testing.assert_allclose(found.beta, expected.beta, rtol=0, atol=1e-6)
    assert any("asynchronous" in note for note in found.notes)


@pytest.mark.parametrize("solver", SYNCHRONOUS)
@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("penalty", ["l2", "none"])
def test_with_one_slow_worker_it_takes_seven_tenths_of_the_time(solver: str, family: str, penalty: str) -> None:
    data, model = table(family), {"penalty": penalty, "alpha": 1e-3} if penalty != "none" else {}
    waiting, long = fitted(rows_of(data), SYNCHRONOUS[solver], family, **model)
    found, short = fitted(rows_of(data), solver, family, **model)
    assert waiting.status == found.status == "optimal"
    assert waiting.start == NULL
    assert short <= 0.7 * long


@pytest.mark.parametrize("solver", SYNCHRONOUS)
@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_the_certificate_comes_from_all_rows_at_the_answer(solver: str, family: str) -> None:
    rows = rows_of(table(family))
    found, _ = fitted(rows, solver, family)
    assert found.rounds[-1].exact
    assert found.rounds[-1].ages == [0, 0, 0, 0]
    # Summed anew, by the pass of a synchronous fit: the same bits.
    point = Problem(rows, FAMILIES[family], SMOOTH, float(N)).at(found.beta)
    assert point.objective == found.objective
    last = found.iterations[-1].point
    assert np.array_equal(last.gradient, point.gradient)
    best, _ = fitted(rows, "proximal_newton", family, Limits(Tolerance(rel_gap=1e-14)))
    assert found.objective - best.objective <= found.certificate.gap <= 1e-8 * found.null_objective


@pytest.mark.parametrize("solver", SYNCHRONOUS)
def test_the_slow_worker_is_asked_near_the_optimum_only(solver: str) -> None:
    found, _ = fitted(rows_of(table("binomial")), solver, "binomial")
    assert found.start != NULL
    asked = [step.ages[3] == 0 for step in found.rounds]
    assert sum(asked) <= 4
    assert not any(asked[:3])
    assert [age for step in found.rounds for age in step.ages[:3]] == [0] * 3 * len(found.rounds)


@pytest.mark.parametrize("solver", SYNCHRONOUS)
@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_rows_sorted_by_the_target_are_fitted_synchronously_and_no_slower(solver: str, family: str) -> None:
    data = table(family, sort=True)
    _, long = fitted(rows_of(data), SYNCHRONOUS[solver], family)
    _, newton = fitted(rows_of(data), "proximal_newton", family)
    found, taken = fitted(rows_of(data), solver, family)
    assert found.status == "optimal"
    assert any("of different kinds" in note for note in found.notes)
    assert taken <= max(long, newton) + 2 * ONE_SLOW[0]


@pytest.mark.parametrize("solver", SYNCHRONOUS)
@pytest.mark.parametrize("seconds", [(1.0,), (1.0,) * 8])
def test_where_nobody_is_slow_it_makes_the_passes_of_the_synchronous_one(solver: str, seconds: Sequence[float]) -> None:
    data = table("binomial")
    waiting, _ = fitted(rows_of(data, seconds), SYNCHRONOUS[solver], "binomial")
    found, _ = fitted(rows_of(data, seconds), solver, "binomial")
    assert found.start == NULL
    assert all(step.exact for step in found.rounds)
    assert found.passes <= waiting.passes + 2


@pytest.mark.parametrize("solver", SYNCHRONOUS)
def test_who_turns_out_late_stands_in_with_an_older_model(solver: str) -> None:
    rows = rows_of(table("poisson"), (1.0,) * 8, jitter=1.0)
    found, _ = fitted(rows, solver, "poisson")
    assert found.status == "optimal"
    assert max(age for step in found.rounds for age in step.ages) >= 1
    assert found.rounds[-1].exact


@pytest.mark.parametrize("solver", SYNCHRONOUS)
def test_columns_left_out_and_passes_used_up_are_as_ever(solver: str) -> None:
    data = table("binomial", constant=True)
    found, _ = fitted(rows_of(data), solver, "binomial")
    assert found.status == "optimal"
    assert found.dropped == ["x3"]
    for most in (2, 3, 4, 5):
        limits = Limits(Tolerance(rel_gap=1e-15), max_passes=most, start="null")
        found, _ = fitted(rows_of(data), solver, "binomial", limits)
        assert found.passes <= most
        assert found.status == "max_passes"


def test_a_far_start_is_damped() -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((N, P)) * 3
    y = random.poisson(np.exp(np.minimum(X @ np.linspace(-1, 1, P), 6))).astype(float)
    data = np.column_stack([np.ones(N), X]), y
    expected, _ = fitted(rows_of(data), "proximal_newton", "poisson")
    for solver in SYNCHRONOUS:
        found, _ = fitted(rows_of(data), solver, "poisson")
        assert found.status == "optimal"
        assert found.objective == pytest.approx(expected.objective, rel=1e-7)


def test_the_slow_are_those_beyond_twice_the_quicker_half() -> None:
    def prompt(*seconds: float) -> list[int]:
        return Problem(rows_of(table("binomial"), seconds), FAMILIES["binomial"], SMOOTH, float(N)).lanes.prompt

    assert prompt(1, 1, 1, 10) == [0, 1, 2]
    assert prompt(1, 10) == [0]
    assert prompt(1, 1, 1.9, 1) == [0, 1, 2, 3]
    assert prompt(10, 10, 10, 1) == [0, 1, 2, 3]  # too few are quick
    assert prompt(0.001, 0.001, 0.001, 0.05) == [0, 1, 2, 3]  # nobody waits for that
    assert prompt(5) == [0]
