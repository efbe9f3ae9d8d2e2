"""Prox, residual and strengths of penalties, against minima found by search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.penalties import Penalty, elastic_net, smallest_null_strength, soft_threshold

STRENGTH = st.one_of(st.just(0.0), st.floats(1e-3, 10))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(v=st.floats(-20, 20), step=st.floats(0.01, 10), l1=STRENGTH, l2=STRENGTH)
def test_prox_is_the_minimiser(v: float, step: float, l1: float, l2: float) -> None:
    """The elastic net's prox is not the identity (D1)."""
    penalty = Penalty(np.array([l1]), np.array([l2]))

    def objective(b: float) -> float:
        return l1 * abs(b) + l2 / 2 * b * b + (b - v) ** 2 / (2 * step)

    found = penalty.prox(np.array([v]), step)[0]
    # The objective is convex and smooth on either side of 0: its minimum is 0 or in one of the halves.
    halves = [
        minimize_scalar(objective, bounds=b, method="bounded", options={"xatol": 1e-12}).x for b in ((-21, 0), (0, 21))
    ]
    best = min([0.0, *halves], key=objective)
    assert objective(found) <= objective(best) + 1e-12
    assert found == pytest.approx(best, abs=1e-5)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(b=st.one_of(st.just(0.0), st.floats(-5, 5)), g=st.floats(-5, 5), l1=STRENGTH, l2=STRENGTH)
def test_residual_is_the_distance_to_the_subdifferential(b: float, g: float, l1: float, l2: float) -> None:
    penalty = Penalty(np.array([l1]), np.array([l2]))
    signs = np.linspace(-1, 1, 20001) if b == 0 else np.array([np.sign(b)])
    distance = np.min(np.abs(g + l1 * signs + l2 * b))
    assert abs(penalty.residual(np.array([b]), np.array([g]))[0]) == pytest.approx(distance, abs=1.01e-4 * l1 + 1e-12)


def test_residual_is_zero_exactly_at_fixed_points_of_the_prox() -> None:
    random = np.random.default_rng(0)
    penalty = Penalty(random.random(50), random.random(50))
    v = 3 * random.standard_normal(50)
    beta = penalty.prox(v, 0.7)
    assert (beta == 0).any()
    np.testing.assert_allclose(penalty.residual(beta, (beta - v) / 0.7), 0, atol=1e-14)


def test_the_value_and_what_is_free() -> None:
    penalty = Penalty(np.array([0.0, 2.0, 0.0]), np.array([0.0, 0.0, 3.0]))
    assert penalty.value(np.array([9.0, -1.0, 2.0])) == 2.0 + 6.0
    assert penalty.free.tolist() == [True, False, False]
    assert not penalty.smooth
    assert penalty.take(np.array([0, 2])).smooth


def test_the_intercept_has_no_strength_and_scales_belong_to_the_columns() -> None:
    factors, sd = np.array([0.0, 1.0, 2.0]), np.array([1.0, 10.0, 0.5])
    plain = elastic_net(0.5, 0.2, factors)
    np.testing.assert_allclose(plain.l1, [0, 0.1, 0.2])
    np.testing.assert_allclose(plain.l2, [0, 0.4, 0.8])
    scaled, beta = elastic_net(0.5, 0.2, factors, sd), np.array([7.0, -3.0, 2.0])
    assert scaled.value(beta) == pytest.approx(plain.value(beta * sd))


def test_the_smallest_strength_at_which_all_is_zero() -> None:
    g, factors = np.array([5.0, -3.0, 1.0]), np.array([0.0, 1.0, 1.0])
    assert smallest_null_strength(g, elastic_net(1.0, 1.0, factors)) == 3.0
    assert smallest_null_strength(g, elastic_net(1.0, 0.5, factors)) == 6.0
    assert smallest_null_strength(g, elastic_net(1.0, 0.0, factors)) == np.inf
    assert smallest_null_strength(g, elastic_net(1.0, 1.0, np.zeros(3))) == 0.0


def test_soft_threshold() -> None:
    assert soft_threshold(np.array([-3.0, -1.0, 0.0, 1.0, 3.0]), 2.0).tolist() == [-1.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("pair", ["gaussian", "logit", "gamma"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_factors_are_those_of_glum(pair: str, share: float) -> None:
    import glum
    from made import drawn, options

    X, y = drawn(pair, np.random.default_rng(9), 200, 4)
    factors = [0.0, 3.0, 1.0, 0.5]
    peers = {"gaussian": "normal", "logit": "binomial"}
    peer = glum.GeneralizedLinearRegressor(
        alpha=0.05, l1_ratio=share, family=peers.get(pair, pair), P1=factors, P2=factors, gradient_tol=1e-12
    ).fit(X, y)
    named = {f"x{j}": f for j, f in enumerate(factors)}
    how = {"penalty": "elastic-net", "alpha": 0.05, "l1_ratio": share, "penalty_factors": named, "tol": 1e-9}
    found = clusterglm.fit(data=(X, y), solver="proximal_newton", **options(pair), **how)
    assert found.status == "optimal"
    np.testing.assert_allclose(found.coefficients, peer.coef_, rtol=1e-7, atol=1e-8)


def test_factors_of_a_column_that_is_not_there_or_without_a_penalty_are_refused() -> None:
    how = {"data": (np.eye(5)[:, :2], np.arange(5.0)), "solver": "proximal_newton", "family": "gaussian"}
    with pytest.raises(DataError, match="no such column"):
        clusterglm.fit(**how, penalty="l2", alpha=0.1, penalty_factors="x7=2")
    with pytest.raises(UsageError, match="without a penalty"):
        clusterglm.fit(**how, penalty_factors="x0=2")
    with pytest.raises(UsageError, match="NAME=NUMBER"):
        clusterglm.fit(**how, penalty="l2", alpha=0.1, penalty_factors="x0:2")
    with pytest.raises(UsageError, match="0 or more"):
        clusterglm.fit(**how, penalty="l2", alpha=0.1, penalty_factors={"x0": -1.0})
