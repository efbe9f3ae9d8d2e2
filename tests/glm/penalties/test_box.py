"""Bounds on coefficients: the answers of scipy and glum, proven, and no bound on the gap below the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made import drawn, family, options
from scipy.optimize import lsq_linear, minimize, minimize_scalar

import clusterglm
from clusterglm.data.rows import from_arrays
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.paths.path import Grid, fit_path
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.trace import Tolerance

BOUNDS = {"x0": (0.0, np.inf), "x1": (-0.1, 0.05), "x2": (-np.inf, 0.0), "x3": (0.2, 0.4)}
SOLVERS = ("proximal_newton", "proximal_gradient", "admm")


def objective(pair: str, X: np.ndarray, y: np.ndarray, beta: np.ndarray, l1: float, l2: float) -> float:
    loss = family(pair).loss(y, beta[0] + X @ beta[1:]).mean()
    return float(loss + l1 * np.abs(beta[1:]).sum() + l2 / 2 * (beta[1:] ** 2).sum())


@pytest.mark.parametrize("pair", ["gaussian", "logit", "poisson", "gamma", "probit"])
@pytest.mark.parametrize("penalty", ["none", "l1", "l2"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_answers_lie_within_the_bounds_and_are_the_best_there(pair: str, penalty: str, solver: str) -> None:
    X, y = drawn(pair, np.random.default_rng(6), 300, 5)
    strength: dict[str, Any] = {} if penalty == "none" else {"alpha": 0.02}
    found = clusterglm.fit(
        data=(X, y), solver=solver, penalty=penalty, bounds=BOUNDS, tol=1e-6, **strength, **options(pair)
    )
    assert found.status == "optimal"
    assert found.certificate["method"] == "curvature"
    b = np.append(found.intercept, found.coefficients)
    ends = [(None, None), *BOUNDS.values(), (None, None)]
    for value, (low, high) in zip(b[1:5], list(BOUNDS.values()), strict=True):
        assert low <= value <= high
    l1, l2 = 0.02 * (penalty == "l1"), 0.02 * (penalty == "l2")

    # A coefficient as a difference of two that are not negative has a smooth L1 part.
    def split(v: np.ndarray) -> float:
        beta = np.append(v[0], v[1:6] - v[6:])
        smooth = objective(pair, X, y, beta, 0.0, l2)
        return smooth + l1 * float(v[1:].sum())

    begin = np.concatenate([b[:1], np.maximum(b[1:], 0), np.maximum(-b[1:], 0)])
    start = begin + np.concatenate([[0.05], np.full(10, 0.01)])
    rule = [
        {"type": "ineq", "fun": lambda v, j=j, e=e, s=s: s * (v[1 + j] - v[6 + j] - e)}
        for j, (low, high) in enumerate(ends[1:5])
        for e, s in ((low, 1), (high, -1))
        if e is not None and np.isfinite(e)
    ]
    peer = minimize(
        split, start, method="SLSQP", bounds=[(None, None), *[(0, None)] * 10], constraints=rule,
        options={"maxiter": 1000, "ftol": 1e-15},
    )  # fmt: skip
    assert found.objective <= peer.fun + 1e-9
    assert found.objective >= peer.fun - 1e-6


def test_least_squares_between_bounds_are_those_of_scipy() -> None:
    random = np.random.default_rng(1)
    X, y = random.standard_normal((80, 6)), random.standard_normal(80)
    found = clusterglm.fit(
        data=from_arrays(X, y), solver="proximal_newton", family="gaussian", tol=1e-9, intercept=False,
        bounds=dict.fromkeys([f"x{j}" for j in range(6)], (0.0, 0.05)),
    )  # fmt: skip
    peer = lsq_linear(X, y, (0.0, 0.05), tol=1e-15)
    np.testing.assert_allclose(found.coefficients, peer.x, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("penalty", ["none", "l1"])
def test_a_sample_does_not_lead_back_to_a_null_model_outside_of_the_bounds(solver: str, penalty: str) -> None:
    random = np.random.default_rng(2)
    X = random.uniform(18, 90, (3000, 1))
    y = random.binomial(1, 0.3, 3000)
    strength: dict[str, Any] = {} if penalty == "none" else {"alpha": 0.01}
    found = clusterglm.fit(
        data=(X, y), family="binomial", penalty=penalty, bounds={"x0": (0.2, 1.0)}, solver=solver, tol=1e-6, **strength
    )
    assert found.status == "optimal"
    assert found.start.startswith("fit on")
    assert found.coefficients[0] == 0.2

    def loss(level: float) -> float:
        return float(family("logit").loss(y, level + 0.2 * X[:, 0]).mean())

    peer = minimize_scalar(loss, bounds=(-100, 10), method="bounded", options={"xatol": 1e-12})
    assert found.intercept == pytest.approx(peer.x, abs=1e-5)


def test_bounds_at_which_there_is_no_likelihood_are_refused_by_name() -> None:
    X, y = drawn("gamma", np.random.default_rng(6), 300, 2)
    with pytest.raises(DataError, match=r"at the bounds nearest to 0.*move the bounds"):
        clusterglm.fit(data=(X, y), family="gamma", link="inverse", bounds={"x0": (100.0, 200.0)})


@pytest.mark.parametrize("pair", ["gaussian", "poisson"])
def test_no_strength_of_a_path_leaves_bounds_that_leave_zero_out(pair: str) -> None:
    X, y = drawn(pair, np.random.default_rng(6), 300, 2)
    rows, model = from_arrays(X, y, intercept=True), Model(family(pair), "l1", bounds={"x0": (0.1, 0.2)})
    path = fit_path(rows, ["x0", "x1"], model, Grid(4), 3, Limits(Tolerance(1e-6)))
    for k, alpha in enumerate(path.alphas):
        alone = clusterglm.fit(
            data=(X, y), penalty="l1", alpha=float(alpha), bounds={"x0": (0.1, 0.2)}, tol=1e-6, **options(pair)
        )
        assert alone.coefficients[0] >= 0.1
        np.testing.assert_allclose(path.coefficients[k], alone.coefficients, atol=1e-6)
        assert path.objectives[k] == pytest.approx(alone.objective, rel=1e-10)


@pytest.mark.parametrize("seed", range(30))
def test_the_quadratic_model_is_solved_to_rounding(seed: int) -> None:
    random = np.random.default_rng(seed)
    p = 12
    A = random.standard_normal((20, p)) * 10.0 ** random.integers(-3, 4, p)
    A[:, 1] = A[:, 0] * (1 + 1e-6 * random.standard_normal(20))
    H, g, center = A.T @ A, A.T @ random.standard_normal(20), random.standard_normal(p)
    low = np.where(random.random(p) < 0.5, random.uniform(-1, 0.1, p), -np.inf)
    high = np.where(random.random(p) < 0.5, np.maximum(low, 0) + random.random(p), np.inf)
    l1 = random.random(p) * (random.random(p) < 0.5) * np.sqrt(np.diag(H))
    penalty = Penalty(l1, np.zeros(p), low, high)
    z = minimise(H, g, center, penalty)
    assert (z >= low).all()
    assert (z <= high).all()
    left = np.abs(penalty.residual(z, g + H @ (z - center))) / np.sqrt(np.diag(H))
    assert left.max() <= 1e-7 * np.abs(penalty.residual(penalty.clip(center), g) / np.sqrt(np.diag(H))).max() + 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_more_columns_than_rows_leave_no_valley_in_which_steps_get_lost(seed: int) -> None:
    """Where H is singular the model falls in straight lines, as far as a kink or a bound."""
    random = np.random.default_rng(seed)
    p, n = 50, 12 if seed % 2 else 25
    A = random.standard_normal((n, p)) * 10.0 ** random.uniform(-2, 2, p)
    if seed % 3 == 0:
        A = 0.05 * A + A[:, :1]
    H, g, center = A.T @ A, A.T @ random.standard_normal(n), np.zeros(p)
    units = np.sqrt(np.diag(H))
    low, high = np.where(random.random(p) < 0.6, 0.0, -np.inf), np.where(random.random(p) < 0.2, 2 / units, np.inf)
    penalty = Penalty(10.0 ** random.uniform(-4, -1) * np.max(np.abs(g) / units) * units, np.zeros(p), low, high)
    z = minimise(H, g, center, penalty)
    left = np.abs(penalty.residual(z, g + H @ z)) / units
    assert left.max() <= 1e-12 * np.abs(penalty.residual(center, g) / units).max()


@pytest.mark.parametrize("noise", [1e-14, 1e-12, 1e-10, 1e-8])
def test_columns_that_are_nearly_the_same_send_no_coefficient_far_away(noise: float) -> None:
    """What rounding leaves of a slope in a valley is no reason to go along it."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        X = random.standard_normal((20, 3))
        X[:, 2] = X[:, 0] + noise * random.standard_normal(20)
        y = X[:, 0] + random.standard_normal(20)
        penalty = Penalty(np.zeros(3), np.zeros(3), np.array([-np.inf, 0.4, -np.inf]), np.full(3, np.inf))
        H, g, start = X.T @ X / 20, -X.T @ y / 20, penalty.clip(np.zeros(3))
        z = minimise(H, g, start, penalty)
        move = z - start
        assert move @ (g + H @ start) + move @ H @ move / 2 <= 0
        assert np.max(np.abs(z)) <= 10


def test_paths_keep_the_bounds() -> None:
    X, y = drawn("logit", np.random.default_rng(2), 400, 4)
    names = [f"x{j}" for j in range(4)]
    model = Model(family("logit"), "l1", bounds=dict.fromkeys(names, (0.0, np.inf)))
    path = fit_path(from_arrays(X, y, intercept=True), names, model, Grid(6, 0.01), 3, Limits(Tolerance(1e-6)))
    assert (path.coefficients >= 0).all()
    assert max(c.error_in_se for c in path.certificates) <= 1e-6


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ({"bounds": {"x0": (1.0, 0.0)}}, UsageError, "must not be above"),
        ({"bounds": "x0=1"}, UsageError, "NAME=LOWER:UPPER"),
        ({"bounds": "x9=0:"}, DataError, "no such column"),
        ({"bounds": "x0=0:", "solver": "newton"}, UsageError, "knows no bounds"),
        ({"bounds": "x0=0:", "summary": True}, UsageError, "without bounds"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any], error: type[Exception], match: str) -> None:
    X, y = drawn("gaussian", np.random.default_rng(2), 40, 2)
    with pytest.raises(error, match=match):
        clusterglm.fit(data=(X, y), **({"solver": "proximal_newton", "family": "gaussian"} | words))
