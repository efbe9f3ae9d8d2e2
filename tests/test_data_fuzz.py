"""Many small data sets in every layout that numpy has, against statsmodels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import statsmodels.api as sm

import clusterglm

FAMILIES = {"gaussian": sm.families.Gaussian, "binomial": sm.families.Binomial, "poisson": sm.families.Poisson}
DTYPES = ("float64", "float32", "int8", "int64", "bool", ">f8")


def laid_out(X: np.ndarray, how: int) -> np.ndarray:
    """Return the same numbers C-ordered, F-ordered, strided, reversed or read-only."""
    if how == 0:
        return np.asfortranarray(X)
    if how == 1:
        wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), X.dtype)
        wide[::2, ::3] = X
        return wide[::2, ::3]
    if how == 2:
        return X[::-1][::-1]
    X = X.copy()
    X.flags.writeable = how != 3
    return X


def one(seed: int) -> tuple[float, str]:
    """Fit one random data set; return the largest difference to statsmodels and what it was."""
    random = np.random.default_rng(seed)
    p = int(random.integers(1, 6))
    n = int(random.integers(40 * p, 400))
    dtype = DTYPES[seed % len(DTYPES)]
    X = random.normal(scale=1.5, size=(n, p))
    X = (X > 0) if dtype == "bool" else X.astype(dtype)
    X = laid_out(X, seed % 5)
    family = list(FAMILIES)[seed % 3]
    intercept, weighted, shifted = (bool(b) for b in random.integers(0, 2, 3))
    values = X.astype(float)
    eta = values @ random.uniform(-0.4, 0.4, p) + 0.2 * intercept
    offset = random.normal(scale=0.3, size=n) if shifted else None
    eta = eta if offset is None else eta + offset
    weights = random.integers(1, 4, n).astype(float) if weighted else None
    y = {
        "gaussian": lambda: eta + random.normal(size=n),
        "binomial": lambda: (random.random(n) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: random.poisson(np.exp(eta)).astype(float),
    }[family]()
    rows = clusterglm.from_arrays(X, y, weights, offset, intercept=intercept)
    solver = ("newton", "proximal_newton", "lbfgs", "admm", "proximal_gradient", "gradient_descent")[seed % 6]
    result = clusterglm.fit(data=rows, solver=solver, family=family, tol=1e-6)
    design = np.column_stack([np.ones(n), values]) if intercept else values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sm.GLM(y, design, family=FAMILIES[family](), freq_weights=weights, offset=offset)
        expected = model.fit(tol=1e-13, maxiter=200).params
    got = np.r_[[result.intercept] if intercept else [], result.coefficients]
    what = f"{seed}: {solver} {family} {dtype} {n}x{p} intercept={intercept} {weighted=} {shifted=} {result.status}"
    return float(np.max(np.abs(got - expected))), what


@pytest.mark.parametrize("first", range(0, 300, 60))
def test_sixty_small_data_sets_agree_with_statsmodels(first: int) -> None:
    found = [one(seed) for seed in range(first, first + 60)]
    assert not [what for difference, what in found if difference > 1e-6]
