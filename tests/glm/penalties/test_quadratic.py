"""The penalised quadratic model against every pattern of signs, tried in turn, and its optimality in 50 digits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

from clusterglm.glm.penalties import Penalty, quadratic
from clusterglm.glm.penalties.quadratic import minimise


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


SHAPES = ("one", "pairs", "chain", "decay", "exact")


def nearly_collinear(
    random: np.random.Generator, p: int, shape: str, power: float, badly_scaled: bool, part: str, strength: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Penalty]:
    """Return (H, g, c, penalty) with correlations 1 - 10^-power, or a spectrum down to 10^-power, or exact ones."""
    n, half, e = 2 * p + 10, p // 2, 10.0 ** (-power / 2)
    X = random.standard_normal((n, p))
    if shape == "one":
        X = random.standard_normal((n, 1)) + e * X
    elif shape == "pairs":
        X[:, half : 2 * half] = X[:, :half] + e * X[:, half : 2 * half]
    elif shape == "chain":
        for j in range(1, p):
            X[:, j] = X[:, j - 1] + e * X[:, j]
    elif shape == "decay":
        U, _, V = np.linalg.svd(X, full_matrices=False)
        X = U @ np.diag(np.logspace(0, -power / 2, p)) @ V
    elif half:
        X[:, half:] = X[:, :half] @ random.integers(-1, 2, (half, p - half))
    scale = 10.0 ** random.integers(-4, 5, p) if badly_scaled else np.ones(p)
    X = X * scale
    c = (random.random(p) < 0.5) * random.standard_normal(p) / scale * (random.random() < 0.5)
    y = X @ ((random.random(p) < 0.3) * random.standard_normal(p) / scale) + 0.5 * random.standard_normal(n)
    H, g = X.T @ X / n, X.T @ (X @ c - y) / n
    l1 = strength * np.max(np.abs(X.T @ y / n) / scale) * scale
    if part == "some free":
        l1[: p // 4] = 0.0
    return H, g, c, Penalty(l1, 0.1 * strength * np.diag(H) * (part == "elastic net"))


def excess(H: np.ndarray, g: np.ndarray, c: np.ndarray, penalty: Penalty, z: np.ndarray) -> float:
    """Return the largest residual in 50 digits, beside what rounding may leave of its terms and 1e-14 of the start."""
    units = np.where(np.diag(H) > 0, np.sqrt(np.diag(H)), 1.0)
    start = 1e-14 * np.max(np.abs(penalty.residual(c, g)) / units)
    rounding = 8 * np.finfo(float).eps * (np.abs(H) @ (np.abs(z) + np.abs(c)) + np.abs(g))
    with mp.workdps(50):
        step = [mp.mpf(a) - mp.mpf(b) for a, b in zip(z.tolist(), c.tolist(), strict=True)]
        worst = mp.mpf(0)
        for j in range(len(z)):
            slope = mp.fdot(H[j].tolist(), step) + mp.mpf(float(g[j])) + mp.mpf(float(penalty.l2[j])) * float(z[j])
            l1 = mp.mpf(float(penalty.l1[j]))
            left = max(abs(slope) - l1, mp.mpf(0)) if z[j] == 0 else abs(slope + l1 * int(np.sign(z[j])))
            worst = max(worst, left / max(rounding[j], start * units[j], 1e-300))
    return float(worst)


def sizes(*problem: object) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimiser and the sizes of the systems that were solved for it."""
    found, inner = [], quadratic._direction

    def noted(H: np.ndarray, *args: np.ndarray) -> tuple[np.ndarray, float, float]:
        found.append(len(H))
        return inner(H, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quadratic, "_direction", noted)
        return minimise(*problem), np.array(found)  # type: ignore[arg-type]


def solves(*problem: object) -> tuple[np.ndarray, int]:
    """Return the minimiser and how many systems were solved for it."""
    z, found = sizes(*problem)
    return z, len(found)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    p=st.sampled_from([1, 2, 3, 5, 10, 20, 40]),
    shape=st.sampled_from(SHAPES),
    power=st.floats(4, 12),
    badly_scaled=st.booleans(),
    part=st.sampled_from(["l1", "elastic net", "some free"]),
    strength=st.sampled_from([0.3, 1e-2, 1e-4, 1e-6]),
)
def test_nearly_collinear_columns_take_few_solves_and_leave_rounding(
    seed: int, p: int, shape: str, power: float, badly_scaled: bool, part: str, strength: float
) -> None:
    problem = nearly_collinear(np.random.default_rng(seed), p, shape, power, badly_scaled, part, strength)
    z, count = solves(*problem)
    assert excess(*problem, z) <= 1
    assert count <= 10 + 3 * p
    assert minimise(*problem).tobytes() == z.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_two_hundred_nearly_collinear_columns_take_the_work_of_one_solve_for_every_two(shape: str) -> None:
    for power in (6, 9, 12):
        problem = nearly_collinear(np.random.default_rng(power), 200, shape, power, True, "l1", 1e-4)
        z, found = sizes(*problem)
        assert excess(*problem, z) <= 1
        assert np.sum((found / 200) ** 3) <= 100
        assert len(found) <= 3 * 200


@pytest.mark.parametrize("kind", ["a chain of correlation", "more columns than rows"])
@pytest.mark.parametrize("part", ["l1", "elastic net", "some free"])
def test_a_poor_guess_of_the_signs_costs_the_work_of_a_few_solves(kind: str, part: str) -> None:
    """One solve with nearly all columns for every one that has to go would be 200 of them and more."""
    random, p = np.random.default_rng(7), 400
    n = 150 if kind == "more columns than rows" else 1600
    X = random.standard_normal((n, p))
    if kind == "a chain of correlation":
        for j in range(1, p):
            X[:, j] = 0.999 * X[:, j - 1] + np.sqrt(1 - 0.999**2) * X[:, j]
    y = X @ np.where(random.random(p) < 0.1, random.standard_normal(p), 0.0) + random.standard_normal(n)
    H, g = X.T @ X / n, -X.T @ y / n
    l1 = np.full(p, 1e-3 * np.max(np.abs(g)))
    l1[:20] *= part != "some free"
    problem = H, g, np.zeros(p), Penalty(l1, np.full(p, 1e-6 * (part == "elastic net")))
    z, found = sizes(*problem)
    assert excess(*problem, z) <= 1
    assert np.sum((found / p) ** 3) <= 50
    assert minimise(*problem).tobytes() == z.tobytes()


def test_a_looser_tolerance_is_kept_and_costs_no_more() -> None:
    problem = nearly_collinear(np.random.default_rng(4), 40, "decay", 8, False, "l1", 1e-3)
    H, g, c, penalty = problem
    z, count = solves(*problem, 1e-3)
    units = np.sqrt(np.diag(H))
    start = np.max(np.abs(penalty.residual(c, g)) / units)
    assert np.max(np.abs(penalty.residual(z, H @ (z - c) + g)) / units) <= 1e-3 * start
    assert count < solves(*problem)[1]


def test_a_model_without_a_minimum_ends() -> None:
    # The two free columns are the same, and g says that they are not.
    H = np.array([[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 1.0]])
    problem = H, np.array([-1.0, 1.0, 2.0]), np.zeros(3), Penalty(np.array([0.0, 0.0, 0.1]), np.zeros(3))
    z, count = solves(*problem)
    assert np.isfinite(z).all()
    assert count <= 10
    # What it can do, it does: column 2 is stationary.
    assert (H @ z)[2] + 2 - 0.1 == pytest.approx(0, abs=1e-14)


def test_a_column_of_zeros_is_not_penalised_for_where_it_was() -> None:
    center = np.array([0.0, 3.0])
    z = minimise(np.diag([2.0, 0.0]), np.array([1.0, 0.0]), center, Penalty(np.full(2, 0.1), np.zeros(2)))
    assert z.tolist() == [pytest.approx(-0.45), 0.0]


def test_a_poor_guess_in_which_nothing_has_a_kink_begins_from_itself() -> None:
    """Of copies of one column the free ones take many directions; the penalised one is far from leaving 0."""
    for seed in (1227, 1499, 2308):
        random = np.random.default_rng(seed)
        X = random.standard_normal((50, 10))
        X[:, 1:9] = X[:, :1] + 10.0 ** random.uniform(-9, -5) * random.standard_normal((50, 8))
        H, g = X.T @ X / 50, -X.T @ (X[:, 0] + random.standard_normal(50)) / 50
        l1 = np.zeros(10)
        l1[-1] = 100.0
        z = minimise(H, g, np.zeros(10), Penalty(l1, np.zeros(10)))
        assert z[-1] == 0
        assert np.isfinite(z).all()
