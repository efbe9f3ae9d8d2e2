"""Least squares to the last digit: NIST's Longley, error-free arithmetic, and refinement under penalties."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from high_precision import Exact
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.glm.algebra import solve
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Point, Problem
from clusterglm.glm.refine import Twice, exact_gradient, refine, total, two_product, two_sum

# NIST Statistical Reference Datasets, linear regression, Longley (1967), JASA 62: y, then six columns.
LONGLEY = np.array(
    [
        [60323, 83.0, 234289, 2356, 1590, 107608, 1947],
        [61122, 88.5, 259426, 2325, 1456, 108632, 1948],
        [60171, 88.2, 258054, 3682, 1616, 109773, 1949],
        [61187, 89.5, 284599, 3351, 1650, 110929, 1950],
        [63221, 96.2, 328975, 2099, 3099, 112075, 1951],
        [63639, 98.1, 346999, 1932, 3594, 113270, 1952],
        [64989, 99.0, 365385, 1870, 3547, 115094, 1953],
        [63761, 100.0, 363112, 3578, 3350, 116219, 1954],
        [66019, 101.2, 397469, 2904, 3048, 117388, 1955],
        [67857, 104.6, 419180, 2822, 2857, 118734, 1956],
        [68169, 108.4, 442769, 2936, 2798, 120445, 1957],
        [66513, 110.8, 444546, 4681, 2637, 121950, 1958],
        [68655, 112.6, 482704, 3813, 2552, 123366, 1959],
        [69564, 114.2, 502601, 3931, 2514, 125368, 1960],
        [69331, 115.7, 518173, 4806, 2572, 127852, 1961],
        [70551, 116.9, 554894, 4007, 2827, 130081, 1962],
    ]
)
CERTIFIED = np.array(
    [
        -3482258.63459582,
        15.0618722713733,
        -0.358191792925910e-01,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-01,
        1829.15146461355,
    ]
)
RESIDUAL_SQUARES = 836424.055505915


def digits(found: np.ndarray) -> float:
    """Return the least number of digits that agree: NIST's LRE, 15 at most."""
    return float(np.min(-np.log10(np.maximum(np.abs(found / CERTIFIED - 1), 1e-15))))


@pytest.fixture
def longley(table: Any) -> Any:
    return table(np.column_stack([np.ones(16), LONGLEY[:, 1:]]), LONGLEY[:, 0])


def newton_step(problem: Problem, beta: np.ndarray) -> Point:
    point = problem.at(beta, hessian=True)
    return problem.at(beta - solve(point.hessian, point.gradient), hessian=True)  # type: ignore[arg-type]


def test_longley_to_14_digits_by_one_refinement(longley: Any) -> None:
    problem = Problem(longley.rows(), FAMILIES["gaussian"], Penalty(np.zeros(7), np.zeros(7)), 16.0)
    rough = newton_step(problem, np.zeros(7))
    assert 6 < digits(rough.beta) < 9
    before = problem.passes
    fine = refine(problem, rough, 1)
    assert problem.passes == before + 2
    assert digits(fine.beta) > 14
    assert 2 * fine.loss * 16 == pytest.approx(RESIDUAL_SQUARES, rel=1e-11)
    np.testing.assert_allclose(refine(problem, fine).beta, fine.beta, rtol=3e-15)  # nothing left to do


@pytest.mark.parametrize("block", [4, 16])
def test_longley_in_other_units_and_blocks_has_the_same_digits(longley: Any, block: int) -> None:
    units = 2.0 ** np.array([0, 20, -20, 10, 0, 20, -10])  # decimal ones would round the data
    longley.A, longley.y = longley.A * units, longley.y * 2.0**20
    problem = Problem(longley.rows(block), FAMILIES["gaussian"], Penalty(np.zeros(7), np.zeros(7)), 16.0)
    fine = refine(problem, newton_step(problem, np.zeros(7)))
    assert digits(fine.beta * units / 2.0**20) > 13.5


@pytest.mark.parametrize("kind", ["none", "l1", "l2", "elastic-net"])
@pytest.mark.parametrize("weights", [False, True])
def test_refinement_ends_at_the_last_bits_under_any_penalty(make_table: Any, kind: str, weights: bool) -> None:
    t = make_table("gaussian", 70, 4, weights=weights, offset=True)
    t.A[:, 2] = t.A[:, 1] + 1e-5 * t.A[:, 2]  # eps cond(H) is 1e-5: plain sums leave seven digits or so
    v = np.array([0.0, 1, 1, 1, 1]) * 1e-7
    penalty = Penalty(v * (kind in ("l1", "elastic-net")), v * (kind in ("l2", "elastic-net")))
    exact = Exact(t, "gaussian", penalty.l1, penalty.l2)
    optimum = np.array([float(b) for b in exact.minimise(np.zeros(5))[0]])
    problem = Problem(t.rows(), FAMILIES["gaussian"], penalty, float(t.w.sum()))
    near = problem.at(optimum * (1 + 1e-6 * np.array([1, -1, 1, -1, 1])), hessian=True)
    np.testing.assert_allclose(refine(problem, near, 6).beta, optimum, rtol=1e-14)


def test_points_that_cannot_be_refined_come_back(make_table: Any) -> None:
    none = Penalty(np.zeros(3), np.zeros(3))
    table = make_table("poisson", 40, 2)
    problem = Problem(table.rows(), FAMILIES["poisson"], none, 40.0)
    point = problem.at(np.zeros(3), hessian=True)
    assert refine(problem, point) is point  # another family
    table = make_table("gaussian", 40, 2)
    problem = Problem(table.rows(), FAMILIES["gaussian"], none, 40.0)
    point = problem.at(np.zeros(3))
    assert refine(problem, point) is point  # no Hessian
    table.A[:, 2] = table.A[:, 1]
    problem = Problem(table.rows(), FAMILIES["gaussian"], none, 40.0)
    point = problem.at(np.zeros(3), hessian=True)
    assert refine(problem, point) is point  # collinear
    table = make_table("gaussian", 40, 2)
    kinked = Penalty(np.array([0, 0.1, 0.1]), np.zeros(3))
    problem = Problem(table.rows(), FAMILIES["gaussian"], kinked, 40.0)
    truth = Exact(table, "gaussian", kinked.l1, kinked.l2).minimise(np.zeros(3))[0]
    away = np.array([float(b) for b in truth]) * [1, -1, 1]
    point = problem.at(away, hessian=True)
    np.testing.assert_array_equal(refine(problem, point).beta, away)  # across a kink


numbers = st.floats(-1e100, 1e100, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-100)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(a=numbers, b=numbers)
def test_sums_and_products_are_without_error(a: float, b: float) -> None:
    s, e = two_sum(np.array([a]), np.array([b]))
    assert Fraction(float(s[0])) + Fraction(float(e[0])) == Fraction(a) + Fraction(b)
    p, e = two_product(np.array([a]), np.array([b]))
    assert Fraction(float(p[0])) + Fraction(float(e[0])) == Fraction(a) * Fraction(b)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("given", ["nothing", "weights and offset"])
def test_a_gradient_that_cancels_keeps_its_digits(rows: int, given: str) -> None:
    random = np.random.default_rng(rows)
    X = random.standard_normal((rows, 3)) * 10.0 ** random.integers(-3, 4, (rows, 3))
    beta, w, o = random.standard_normal(3), random.random(rows) * (np.arange(rows) % 3 > 0), random.random(rows)
    y = X @ beta  # residuals of rounding alone
    if given == "nothing":
        w, o = np.ones(rows), np.zeros(rows)
    else:
        y = y + o
    block = SimpleNamespace(X=X, y=y, weights=None if given == "nothing" else w, offset=o, start=0)
    (found,) = exact_gradient(block, beta)
    for j in range(3):
        true = sum(
            (
                Fraction(w[i]) * Fraction(X[i, j]) * (Fraction(o[i]) - Fraction(y[i]) + eta(X[i], beta))
                for i in range(rows)
            ),
            Fraction(0),
        )
        assert abs(Fraction(float(found.high[j])) + Fraction(float(found.low[j])) - true) <= abs(true) * Fraction(
            1, 10**14
        ) + Fraction(1, 10**24)


def eta(x: np.ndarray, beta: np.ndarray) -> Fraction:
    return sum((Fraction(a) * Fraction(b) for a, b in zip(x, beta, strict=True)), Fraction(0))


def test_sums_of_sums_keep_both_halves() -> None:
    parts = [Twice(np.array([v]), np.array([0.0])) for v in (1.0, 1e-30, -1.0)]
    whole = parts[0] + parts[1] + parts[2]
    np.testing.assert_array_equal(np.asarray(whole), [[0.0], [1e-30]])
    odd = total(np.array([[1.0], [1e-30], [-1.0]]), np.zeros((3, 1)))
    assert float(odd.high[0] + odd.low[0]) == 1e-30
