"""The penalised quadratic model against every pattern of signs, tried in turn."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.glm.penalties import Penalty
from clusterglm.glm.quadratic import minimise


def value(H: np.ndarray, g: np.ndarray, c: np.ndarray, penalty: Penalty, z: np.ndarray) -> float:
    return float(0.5 * (z - c) @ H @ (z - c) + g @ (z - c) + penalty.value(z))


def by_every_pattern(H: np.ndarray, g: np.ndarray, c: np.ndarray, penalty: Penalty) -> float:
    """Return the smallest value over the stationary points of all 3^p patterns of signs."""
    best = value(H, g, c, penalty, np.zeros_like(c))
    for signs in product((-1, 0, 1), repeat=len(c)):
        s = np.array(signs)
        on = np.flatnonzero((s != 0) | (penalty.l1 == 0))
        if not len(on):
            continue
        right = H[on] @ c - g[on] - penalty.l1[on] * s[on]
        z = np.zeros_like(c)
        z[on] = np.linalg.lstsq(H[np.ix_(on, on)] + np.diag(penalty.l2[on]), right, rcond=1e-12)[0]
        best = min(best, value(H, g, c, penalty, z))
    return best


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    p=st.integers(1, 5),
    collinear=st.booleans(),
    badly_scaled=st.booleans(),
    ridge=st.booleans(),
    strength=st.floats(0, 1.2),
)
def test_no_pattern_of_signs_is_better(
    seed: int, p: int, collinear: bool, badly_scaled: bool, ridge: bool, strength: float
) -> None:
    random = np.random.default_rng(seed)
    X = random.standard_normal((12, p))
    if collinear and p > 1:  # where the Hessian is singular, an active set may have no solution
        X[:, -1] = X[:, 0]
        X[:, 1] = X[:, 0] + (X[:, 2] if p > 2 else 0)
    scale = 10.0 ** random.integers(-4, 5, p) if badly_scaled else np.ones(p)
    X = X * scale
    H, g = X.T @ X / 12, X.T @ random.standard_normal(12) / 12
    c = random.standard_normal(p) * (random.random(p) < 0.5) / scale
    l1 = strength * np.max(np.abs(g / scale)) * scale * random.random(p)
    l1[0] *= random.random() < 0.5
    penalty = Penalty(l1, 0.1 * np.diag(H) * ridge)
    z = minimise(H, g, c, penalty)
    residual = np.abs(penalty.residual(z, H @ (z - c) + g)) / np.sqrt(np.diag(H))
    at_start = np.abs(penalty.residual(c, g)) / np.sqrt(np.diag(H))
    assert np.max(residual) <= 1e-10 * max(np.max(at_start), np.max(np.abs(g) / np.sqrt(np.diag(H))))
    best = by_every_pattern(H, g, c, penalty)
    assert value(H, g, c, penalty, z) <= best + 1e-10 * (1 + abs(best))


def test_a_column_of_zeros_stays_where_it_is() -> None:
    H = np.diag([2.0, 0.0])
    z = minimise(H, np.array([1.0, 0.0]), np.array([0.0, 0.0]), Penalty(np.full(2, 0.1), np.zeros(2)))
    assert z.tolist() == [pytest.approx(-0.45), 0.0]


def test_above_the_largest_gradient_all_coefficients_are_exactly_zero() -> None:
    random = np.random.default_rng(1)
    X = random.standard_normal((30, 6))
    H, g = X.T @ X / 30, X.T @ random.standard_normal(30) / 30
    for factor, zeros in ((1.0001, 6), (0.9999, 5)):
        z = minimise(H, g, np.zeros(6), Penalty(np.full(6, factor * np.max(np.abs(g))), np.zeros(6)))
        assert (z == 0).sum() == zeros
