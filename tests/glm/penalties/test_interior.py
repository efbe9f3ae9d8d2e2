"""The interior point method: its algebra of cones, and how near it comes where other methods take long."""

from __future__ import annotations

import numpy as np
import pytest

from clusterglm.glm.algebra import scales
from clusterglm.glm.penalties import Penalty, interior, quadratic, quadratic_groups
from clusterglm.glm.penalties.quadratic import minimise

Problem = tuple[np.ndarray, np.ndarray, Penalty]
GROUPS = np.array([0, 1, 1, 2, 0, 2, 2, 2])


def inside(random: np.random.Generator, cones: interior._Cones) -> interior.Element:
    body = random.standard_normal(len(cones.groups))
    return cones.norm(body) + 10.0 ** random.uniform(-6, 1, cones.count), body


def hard(seed: int, groups: int | None) -> Problem:
    """Return (H, g, penalty) with columns in units from 1e-4 to 1e4, correlated, more of them than rows in every other.

    ``groups`` is the size of the groups, None for columns by themselves.
    """
    random, p = np.random.default_rng(seed), 120
    n = 40 if seed % 2 else 300
    A = random.standard_normal((n, p))
    if seed % 3 == 0:
        A = 0.1 * A + A[:, :1]
    if seed % 3 == 1:
        for j in range(1, p):
            A[:, j] = 0.98 * A[:, j - 1] + 0.2 * A[:, j]
    units = 10.0 ** random.uniform(-4, 4, p)
    y = A @ (random.standard_normal(p) * (random.random(p) < 0.2)) + random.standard_normal(n)
    A = A * units
    H, g = A.T @ A, -A.T @ y
    strength = 10.0 ** random.uniform(-4, -0.5) * np.max(np.abs(g) / scales(H))
    # Of the same strength in all units in some, and scale-free in the others.
    l1 = strength * (scales(H) if seed % 4 < 2 else np.full(p, np.median(scales(H))))
    l1[:2] = 0.0
    numbers = None if groups is None else np.where(l1 > 0, np.arange(p) // groups, -1)
    return H, g, Penalty(l1, np.zeros(p), groups=numbers)


def left(problem: Problem, z: np.ndarray) -> float:
    """Return the residual, relative to that at 0, free of the columns' units."""
    H, g, penalty = problem
    at, start = penalty.residual(z, g + H @ z), penalty.residual(np.zeros_like(z), g)
    return float(np.max(np.abs(at) / scales(H)) / np.max(np.abs(start) / scales(H)))


@pytest.mark.parametrize("seed", range(10))
def test_products_and_scalings_are_those_of_the_cones(seed: int) -> None:
    random, cones = np.random.default_rng(seed), interior._Cones(GROUPS)
    u, v = inside(random, cones), inside(random, cones)
    assert (cones.determinant(u) > 0).all()
    for a, b in zip(cones.quotient(cones.product(u, v), u), v, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    scaling = interior._Scaling(cones, u, v)
    for a, b in zip(scaling.apply(v), scaling.inverse(u), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    for a, b in zip(scaling.apply(scaling.inverse(v)), v, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    step = -u[0] - random.random(cones.count), random.standard_normal(len(GROUPS))
    length = cones.longest(u, step)
    ends = cones.determinant((u[0] + length * step[0], u[1] + length * step[1]))
    assert np.min(ends / u[0] ** 2) == pytest.approx(0, abs=1e-12)
    assert cones.longest(u, u) == np.inf


def test_what_is_left_of_a_scaling_is_its_matrix_without_the_first_rows() -> None:
    random, cones = np.random.default_rng(3), interior._Cones(np.array([0, 0, 0, 1]))
    scaling = interior._Scaling(cones, inside(random, cones), inside(random, cones))

    def squared(head: np.ndarray, body: np.ndarray) -> np.ndarray:
        return np.concatenate(scaling.inverse(scaling.inverse((head, body))))

    units = np.eye(6)
    B = np.column_stack([squared(e[:2], e[2:]) for e in units])
    schur = B[2:, 2:] - B[2:, :2] @ np.linalg.solve(B[:2, :2], B[:2, 2:])
    added = scaling.added(np.zeros((5, 5)), np.array([0, 2, 3, 4]))
    np.testing.assert_allclose(added[np.ix_([0, 2, 3, 4], [0, 2, 3, 4])], schur, rtol=1e-9, atol=1e-12)
    assert not added[1].any()
    head, body = random.standard_normal(2), random.standard_normal(4)
    found = scaling.with_head(body, (head, body))
    np.testing.assert_allclose(squared(*found)[:2], head)


@pytest.mark.parametrize("groups", [None, 2, 5])
@pytest.mark.parametrize("seed", range(12))
def test_the_start_is_near_and_the_end_is_at_the_minimiser(
    seed: int, groups: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = hard(seed, groups)
    H, g, penalty = problem
    center = np.zeros(len(g))
    found = interior.interior(H, g, center, penalty)
    z = minimise(H, g, center, penalty)
    assert left(problem, z) <= 1e-12

    def fall(point: np.ndarray) -> float:
        return float(point @ H @ point / 2 + g @ point + penalty.value(point))

    assert fall(found) - fall(z) <= 1e-6 * abs(fall(z))
    # From there a few rounds are left, and a few solves.
    rounds: list[np.ndarray] = []
    sweep, direction = quadratic_groups._Model.sweep, quadratic._direction
    monkeypatch.setattr(quadratic_groups._Model, "sweep", lambda *of: (rounds.append(of[1]), sweep(*of))[1])
    monkeypatch.setattr(quadratic, "_direction", lambda *of: (rounds.append(of[0]), direction(*of))[1])
    again = minimise(H, g, center, penalty)
    assert again.tobytes() == z.tobytes()
    assert len(rounds) <= 30


def test_a_model_without_a_minimum_ends() -> None:
    # The two free columns are the same, and g says that they are not.
    H = np.eye(6)
    H[:2, :2] = 1.0
    g = np.array([-1.0, 1.0, 3.0, 4.0, 0.1, 0.1])
    penalty = Penalty(np.array([0.0, 0, 1, 1, 1, 1]), np.zeros(6), groups=np.array([-1, -1, 0, 0, 1, 1]))
    z = minimise(H, g, np.zeros(6), penalty)
    np.testing.assert_allclose(z[2:], [-3 * 0.8, -4 * 0.8, 0, 0], atol=1e-14)
    assert np.isfinite(z).all()


def test_of_nothing_to_win_nothing_is_made() -> None:
    H, zero = np.eye(3), np.zeros(3)
    assert interior.interior(H, zero, zero, Penalty(np.ones(3), zero)).tolist() == [0, 0, 0]
    assert interior.interior(H, np.full(3, 0.5), zero, Penalty(np.ones(3), zero)).tolist() == [0, 0, 0]
