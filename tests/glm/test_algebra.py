"""Small dense algebra: right in badly scaled columns, and honest about singular matrices."""

from __future__ import annotations

import numpy as np
import pytest

from clusterglm.glm.algebra import (
    aliased,
    definite,
    inverse_root,
    largest_eigenvalue,
    scales,
    solve,
)


def gram(n: int = 40, p: int = 5, seed: int = 0) -> np.ndarray:
    X = np.random.default_rng(seed).standard_normal((n, p))
    return X.T @ X / n


UNITS = 10.0 ** np.array([-150, -20, 0, 20, 150])


def test_units_do_not_matter() -> None:
    H = gram()
    scaled = H * UNITS * UNITS[:, None]
    b = np.arange(1.0, 6.0)
    np.testing.assert_allclose(solve(scaled, b * UNITS) * UNITS, np.linalg.solve(H, b), rtol=1e-12)
    root = inverse_root(scaled)
    assert root is not None
    np.testing.assert_allclose(root @ root.T * UNITS * UNITS[:, None], np.linalg.inv(H), rtol=1e-11)
    assert np.array_equal(np.triu(root), root)
    np.testing.assert_allclose(scales(scaled), np.sqrt(np.diag(H)) * UNITS)


def test_a_singular_matrix_is_known_and_gets_the_least_norm_solution() -> None:
    H = gram(p=3)
    H = np.block([[H, H[:, :1]], [H[:1], H[:1, :1]]])  # the fourth column repeats the first
    assert not definite(H)
    assert inverse_root(H) is None
    assert aliased(H) == [3]
    b = H @ np.array([1.0, 2.0, 3.0, 1.0])
    np.testing.assert_allclose(solve(H, b), [1, 2, 3, 1], rtol=1e-10)


def test_the_later_of_collinear_columns_is_the_alias() -> None:
    X = np.random.default_rng(2).standard_normal((50, 4)) * [1, 1e6, 1e-6, 1]
    X = np.column_stack([X, X[:, 0] / 1 + X[:, 1] / 1e6, np.zeros(50), X[:, 3]])
    assert aliased(X.T @ X) == [4, 5, 6]
    assert aliased(X[:, :4].T @ X[:, :4]) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrices_that_are_not_finite_are_not_definite(bad: float) -> None:
    H = gram()
    H[1, 2] = H[2, 1] = bad
    assert not definite(H)
    assert inverse_root(H) is None
    assert aliased(H) == []


def test_eigenvalues_and_the_scale_of_a_zero_column() -> None:
    H = np.diag([4.0, 9.0, 0.0])
    assert largest_eigenvalue(H) == 9.0
    assert scales(H).tolist() == [2.0, 3.0, 1.0]
