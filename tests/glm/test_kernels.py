"""Kernels against formulas written out row by row, and what a row of weight 0 may not do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clusterglm.glm import kernels
from clusterglm.glm.families import FAMILIES

CASES = [(f, w, o) for f in FAMILIES for w in (False, True) for o in (False, True)]


def block(table: Any) -> SimpleNamespace:
    return SimpleNamespace(X=table.A, y=table.y, weights=table.weights, offset=table.offset, start=0)


@pytest.mark.parametrize(("name", "weights", "offset"), CASES)
def test_sums_are_those_of_the_formulas(make_table: Any, terms: Any, name: str, weights: bool, offset: bool) -> None:
    table, family = make_table(name, 50, 3, weights=weights, offset=offset), FAMILIES[name]
    beta = np.array([0.1, -0.4, 0.3, 0.2])
    total, g, H = 0.0, np.zeros(4), np.zeros((4, 4))
    for i in range(50):
        eta = sum(float(table.A[i, j]) * float(beta[j]) for j in range(4)) + float(table.o[i])
        value, s, h = (float(t[0]) for t in terms(name, table.y[i : i + 1], np.array([eta])))
        total += table.w[i] * value
        g += table.w[i] * s * table.A[i]
        H += table.w[i] * h * np.outer(table.A[i], table.A[i])
    got = kernels.hessian(block(table), family, beta)
    for ours, naive in zip(got, (total, g, H), strict=True):
        np.testing.assert_allclose(ours, naive, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(kernels.gradient(block(table), family, beta)[1], got[1])
    assert kernels.loss(block(table), family, beta)[0] == pytest.approx(total, rel=1e-13)
    *sums, weight = kernels.weighed(block(table), kernels.hessian, family, beta)
    assert weight == table.w.sum()
    np.testing.assert_array_equal(sums[2], got[2])
    np.testing.assert_array_equal(got[2], got[2].T)


@pytest.mark.parametrize(("name", "weights", "offset"), CASES)
def test_candidates_at_once_are_candidates_one_by_one(make_table: Any, name: str, weights: bool, offset: bool) -> None:
    rows, family = block(make_table(name, 40, 3, weights=weights, offset=offset)), FAMILIES[name]
    B = np.random.default_rng(1).standard_normal((4, 3))
    losses, gradients = kernels.gradient(rows, family, B)
    (alone,) = kernels.loss(rows, family, B)
    for k in range(3):
        value, g = kernels.gradient(rows, family, B[:, k].copy())
        assert losses[k] == pytest.approx(value, rel=1e-13)
        assert alone[k] == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(gradients[:, k], g, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_of_weight_zero_leaves_no_trace(make_table: Any, name: str) -> None:
    """Not even where its predictor overflows: an outlier that was given weight 0 must not make the loss NaN."""
    table = make_table(name, 30, 2, weights=True, offset=True)
    out = table.w == 0
    assert out.any()
    wild = make_table(name, 30, 2, weights=True, offset=True)
    wild.A[out] *= 1e300
    wild.offset[out] = -1e308
    beta = np.array([0.3, 5.0, -2.0])
    for kernel, argument in (
        (kernels.loss, beta),
        (kernels.gradient, beta),
        (kernels.hessian, beta),
        (kernels.gradient, np.column_stack([beta, -beta])),
        (kernels.leverage, np.eye(3)),
    ):
        words = (argument,) if kernel is kernels.leverage else (FAMILIES[name], argument)
        for ours, theirs in zip(kernel(block(table), *words), kernel(block(wild), *words), strict=True):
            ours, theirs = (getattr(t, "largest", t) for t in (ours, theirs))
            np.testing.assert_array_equal(ours, theirs)
    assert kernels.intercept_terms(block(table), FAMILIES[name], 0.5) == kernels.intercept_terms(
        block(wild), FAMILIES[name], 0.5
    )


def test_coefficients_too_far_out_give_an_infinite_loss_and_no_warning(make_table: Any) -> None:
    rows = block(make_table("poisson", 30, 2))
    beta = np.array([0.0, 1e4, 1e4])
    assert kernels.hessian(rows, FAMILIES["poisson"], beta)[0] == np.inf
    assert kernels.loss(rows, FAMILIES["poisson"], beta)[0] == np.inf


def test_intercept_terms_are_those_of_a_column_of_ones(make_table: Any) -> None:
    for name, family in FAMILIES.items():
        rows = block(make_table(name, 30, 2, weights=True, offset=True))
        value, slope, curvature = kernels.intercept_terms(rows, family, 0.7)
        total, g, H = kernels.hessian(rows, family, np.array([0.7, 0.0, 0.0]))
        np.testing.assert_allclose([value, slope, curvature], [total, g[0], H[0, 0]], rtol=1e-13)


def test_leverage_is_the_largest_norm(make_table: Any) -> None:
    table = make_table("gaussian", 30, 3)
    H = table.A.T @ table.A
    root = np.linalg.cholesky(np.linalg.inv(H))
    (found,) = kernels.leverage(block(table), root)
    assert found.largest[0] == pytest.approx(np.sqrt(max(a @ np.linalg.inv(H) @ a for a in table.A)))
    (other,) = kernels.leverage(block(table), 2 * root)
    assert (found + other).largest[0] == other.largest[0]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5000, 15), (3000, 24), (700, 25), (50, 60)])
def test_the_gram_matrix_of_few_and_of_many_columns(rows: int, columns: int) -> None:
    random = np.random.default_rng(rows)
    X, h = random.standard_normal((rows, columns)), random.random(rows)
    got = kernels.gram(X, h)
    np.testing.assert_allclose(got, np.einsum("ij,i,ik->jk", X, h, X), rtol=1e-12, atol=1e-10)
    np.testing.assert_array_equal(got, got.T)


def test_a_kernel_on_some_columns(make_table: Any) -> None:
    table, family = make_table("binomial", 30, 3, weights=True, offset=True), FAMILIES["binomial"]
    columns = np.array([0, 2])
    got = kernels.on_columns(block(table), columns, kernels.hessian, family, np.array([0.1, 0.2]))
    want = kernels.hessian(block(table), family, np.array([0.1, 0.0, 0.2, 0.0]))
    assert got[0] == pytest.approx(want[0])
    np.testing.assert_allclose(got[1], want[1][columns])
    np.testing.assert_allclose(got[2], want[2][np.ix_(columns, columns)])
