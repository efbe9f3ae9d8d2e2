"""The group penalty: its prox, its model, its answers and its bounds, against searches and an optimum of 50 digits."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import drawn, family, options
from scipy.optimize import minimize

import clusterglm
from clusterglm.data.rows import from_arrays
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.paths.path import Grid, fit_path
from clusterglm.glm.penalties import Penalty, elastic_net, group_norm, smallest_null_strength
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Problem
from clusterglm.glm.proof.certificate import Certifier
from clusterglm.glm.proof.dual_bound import dual_bound
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.scan import scan
from clusterglm.glm.trace import Tolerance

mp = mpmath.mp.clone()
mp.dps = 50
ABLE = ("proximal_newton", "proximal_gradient", "admm", "async_newton")
GROUPS = "x0+x1+x2,x3+x4"  # x5 is by itself
NUMBERS = np.array([-1, 0, 0, 0, 1, 1, -1])  # of an intercept and six columns


class Exact:
    """P under a group penalty in 50 digits, and Newton's method with the groups that are off 0; loss by loss.

    Not below the infimum, whatever comes out: an imperfect optimum can hide a fault of a bound, never invent one.
    """

    def __init__(self, A: np.ndarray, y: np.ndarray, name: str, penalty: Penalty) -> None:
        self.A, self.y, self.name = mp.matrix(A.tolist()), [mp.mpf(v) for v in y.tolist()], name
        self.n, self.p = A.shape
        self.l1, self.l2 = ([mp.mpf(v) for v in x.tolist()] for x in (penalty.l1, penalty.l2))
        numbers = np.full(self.p, -1) if penalty.groups is None else penalty.groups
        alone = [[j] for j in range(self.p) if numbers[j] < 0 and penalty.l1[j] > 0]
        self.groups = alone + [np.flatnonzero(numbers == k).tolist() for k in range(numbers.max() + 1)]

    def terms(self, y: Any, eta: Any) -> tuple[Any, Any, Any]:
        if self.name == "gaussian":
            return (y - eta) ** 2 / 2, eta - y, mp.mpf(1)
        if self.name == "poisson":
            mu = mp.exp(eta)
            return (y * mp.log(y) if y > 0 else 0) - y - y * eta + mu, mu - y, mu
        mu = 1 / (1 + mp.exp(-eta))
        return mp.log1p(mp.exp(-abs(eta))) + max(eta, mp.mpf(0)) - y * eta, mu - y, mu * (1 - mu)

    def objective(self, beta: Any) -> Any:
        b = mp.matrix([mp.mpf(v) for v in beta])
        loss = mp.fsum(self.terms(y, e)[0] for y, e in zip(self.y, self.A * b, strict=True)) / self.n
        ridge = mp.fsum(c * v * v / 2 for c, v in zip(self.l2, b, strict=True))
        return loss + ridge + mp.fsum(self.norm(b, own) for own in self.groups)

    def norm(self, b: Any, own: list[int]) -> Any:
        return mp.sqrt(mp.fsum((self.l1[j] * b[j]) ** 2 for j in own))

    def minimise(self, start: np.ndarray, steps: int = 12) -> Any:
        """Return the optimum from a start whose groups at 0 stay there, and the largest residual in the end."""
        b = mp.matrix([mp.mpf(v) for v in start.tolist()])
        zero = {j for own in self.groups for j in own if not self.norm(b, own)}
        S = [j for j in range(self.p) if j not in zero]
        for _ in range(steps):
            s, h = zip(*[self.terms(y, e)[1:] for y, e in zip(self.y, self.A * b, strict=True)], strict=True)
            mean = [mp.fsum(s[i] * self.A[i, j] for i in range(self.n)) / self.n for j in range(self.p)]
            g = [mean[j] + self.l2[j] * b[j] for j in range(self.p)]
            H = mp.matrix(len(S))
            for a, j in enumerate(S):
                for c, k in enumerate(S):
                    H[a, c] = mp.fsum(h[i] * self.A[i, j] * self.A[i, k] for i in range(self.n)) / self.n
                H[a, a] += self.l2[j]
            for own in self.groups:
                size = self.norm(b, own)
                for j in own if size else []:
                    g[j] += self.l1[j] ** 2 * b[j] / size
                    for k in own:
                        both = self.l1[j] ** 2 * self.l1[k] ** 2 * b[j] * b[k] / size**3
                        H[S.index(j), S.index(k)] += (self.l1[j] ** 2 / size if j == k else 0) - both
            if not S:
                return b, mp.mpf(0), g
            d = mp.lu_solve(H, -mp.matrix([g[j] for j in S]))
            for a, j in enumerate(S):
                b[j] += d[a]
        return b, max(abs(g[j]) for j in S), g

    def pulls(self, b: Any, g: list[Any]) -> list[Any]:
        """Return how hard the loss pulls at every group that is 0: at the optimum 1 at most."""
        zero = [own for own in self.groups if not self.norm(b, own)]
        return [mp.sqrt(mp.fsum((g[j] / self.l1[j]) ** 2 for j in own)) for own in zero]


@settings(derandomize=True, max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), even=st.booleans(), ridge=st.sampled_from([0.0, 0.3]))
def test_the_prox_is_the_minimiser(seed: int, even: bool, ridge: float) -> None:
    random = np.random.default_rng(seed)
    l1 = np.concatenate([[0.0], random.uniform(0.1, 2, 6)])
    penalty = Penalty(l1, ridge * l1 * l1, groups=NUMBERS)
    v, step = 3 * random.standard_normal(7), np.full(7, 0.7) if even else random.uniform(0.1, 3, 7)

    def objective(b: np.ndarray) -> float:
        return penalty.value(b) + float((((b - v) ** 2) / (2 * step)).sum())

    found = penalty.prox(v, step)
    assert np.all(np.abs(penalty.residual(found, (found - v) / step)) <= 1e-13 * (1 + np.abs(v / step)))
    how = {"maxiter": 8000, "xatol": 1e-9, "fatol": 1e-13}
    peer = minimize(objective, found + 0.1, method="Nelder-Mead", options=how)
    assert objective(found) <= peer.fun + 1e-12
    if even and not ridge:  # the closed form
        own = NUMBERS == 0
        equal = Penalty(np.where(own, 0.4, l1), np.zeros(7), groups=NUMBERS)
        shrunk = max(1 - 0.7 * 0.4 / np.linalg.norm(v[own]), 0.0) * v[own]
        np.testing.assert_allclose(equal.prox(v, 0.7)[own], shrunk, rtol=1e-14, atol=1e-300)


def test_value_rise_slopes_and_what_is_off() -> None:
    penalty = Penalty(np.array([0.0, 3, 3, 3, 2, 2, 1.0]), np.array([0.0, 9, 9, 9, 4, 4, 0]), groups=NUMBERS)
    beta = np.array([7.0, 1, 2, 2, 0, 0, -4])
    assert penalty.value(beta) == pytest.approx(3 * 3 + 4 + 9 * 9 / 2)
    assert penalty.off(beta).tolist() == [True, True, True, True, False, False, True]
    to = np.array([7.0, 1, 2, 0, 0.3, 0.4, 1])
    whole = penalty.value(to) - penalty.value(beta) - 0.5 * penalty.l2 @ (to**2 - beta**2)
    assert penalty.rise(beta, to) == pytest.approx(whole)
    np.testing.assert_allclose(penalty.slopes(beta, to), [0, 1, 2, 2, 1.2, 1.6, -1])
    assert penalty.free.tolist() == [True] + [False] * 6
    assert group_norm.norms(np.array([0, 0]), np.array([3e-200, 4e-200])).tolist() == [5e-200, 5e-200]
    part = penalty.take(np.array([0, 4, 6]))
    assert part.value(np.array([1.0, -2.0, 1.0])) == pytest.approx(4 + 8 + 1)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_model_is_solved_to_rounding(seed: int, ridge: float) -> None:
    random = np.random.default_rng(seed)
    p, numbers = 12, np.array([-1, 0, 0, 0, 1, 1, 1, 1, -1, 2, 2, 2])
    A = random.standard_normal((20, p)) * 10.0 ** random.integers(-3, 4, p)
    A[:, 1] = A[:, 0] * (1 + 1e-6 * random.standard_normal(20))
    A[:, 5] = A[:, 4] if seed % 5 == 0 else A[:, 5]  # collinear within a group
    H, g, center = A.T @ A, A.T @ random.standard_normal(20), random.standard_normal(p)
    l1 = random.random(p) * np.sqrt(np.diag(H)) * 10 ** random.uniform(-2, 1)
    l1[0] = 0.0 if seed % 2 else l1[0]
    penalty = Penalty(l1, ridge * l1 * l1, groups=numbers)
    z, units = minimise(H, g, center, penalty), np.sqrt(np.diag(H))
    left = np.max(np.abs(penalty.residual(z, g + H @ (z - center))) / units)
    assert left <= 1e-11 * np.max(np.abs(penalty.residual(center, g)) / units)


def test_on_orthonormal_columns_the_answer_is_known() -> None:
    random = np.random.default_rng(4)
    Q, _ = np.linalg.qr(random.standard_normal((60, 6)))
    X, y = Q * np.sqrt(60), random.standard_normal(60) + 0.4 * Q[:, 0] * np.sqrt(60)
    alpha, pull = 0.1, X.T @ y / 60
    found = clusterglm.fit(
        data=from_arrays(X, y), solver="proximal_newton", family="gaussian", penalty="group", alpha=alpha, tol=1e-9,
        penalty_groups=GROUPS, intercept=False,
    )  # fmt: skip
    for own in ([0, 1, 2], [3, 4], [5]):
        shrunk = max(1 - alpha * np.sqrt(len(own)) / np.linalg.norm(pull[own]), 0) * pull[own]
        np.testing.assert_allclose(found.coefficients[own], shrunk, atol=1e-12)
    assert found.coefficients[0] != 0
    assert (found.coefficients == 0).any()


@pytest.mark.parametrize("solver", ABLE)
@pytest.mark.parametrize("pair", ["gaussian", "logit", "poisson"])
@pytest.mark.parametrize(("share", "standardize"), [(1.0, False), (0.6, True)])
def test_answers_and_certificates_against_50_digits(pair: str, solver: str, share: float, standardize: bool) -> None:
    X, y = drawn(pair, np.random.default_rng(8), 120, 6)
    X, alpha = X * np.array([1, 3, 0.5, 1, 2, 1]), {"logit": 0.09, "gaussian": 0.25, "poisson": 0.4}[pair]
    found = clusterglm.fit(
        data=(X, y), solver=solver, **options(pair), penalty="group", alpha=alpha, l1_ratio=share, tol=1e-7,
        penalty_groups=GROUPS, standardize=standardize,
    )  # fmt: skip
    sd = np.append(1.0, X.std(axis=0)) if standardize else None
    penalty = elastic_net(alpha, share, np.array([0.0] + [1.0] * 6), sd, NUMBERS)
    name = {"logit": "binomial"}.get(pair, pair)
    exact = Exact(np.column_stack([np.ones(120), X]), y, name, penalty)
    beta = np.append(found.intercept, found.coefficients)
    best, left, g = exact.minimise(beta)
    assert left < 1e-30
    assert all(pull <= 1 for pull in exact.pulls(best, g))
    assert found.status == "optimal"
    np.testing.assert_allclose(beta, [float(b) for b in best], rtol=1e-7, atol=1e-8)
    true = exact.objective(beta) - exact.objective(best)
    assert true <= found.certificate["gap"] <= 1e-12
    assert (found.coefficients == 0).any() or share < 1
    assert found.objective == pytest.approx(float(exact.objective(beta)), rel=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 0.02])
@pytest.mark.parametrize("name", ["gaussian", "binomial", "poisson"])
def test_no_bound_is_below_the_truth(make_table: Any, name: str, ridge: float) -> None:
    """Far and near: the free bound, the curvature bound, and the one along a step, which is tight near the optimum."""
    tightness = []
    for seed in range(3):
        t = make_table(name, 50, 6, seed)
        l1 = 0.08 * np.array([0.0, *[np.sqrt(3)] * 3, *[np.sqrt(2)] * 2, 1])
        penalty = Penalty(l1, ridge * l1 * l1, groups=NUMBERS)
        problem = Problem(t.rows(), FAMILIES[name], penalty, float(t.w.sum()))
        null = np.array([FAMILIES[name].predictor(float(t.y.mean())), *[0.0] * 6])
        beta = null
        for _ in range(12):
            point = problem.at(beta, hessian=True)
            beta = minimise(point.hessian, point.gradient, beta, penalty)  # type: ignore[arg-type]
        exact = Exact(t.A, t.y, name, penalty)
        best, left, _ = exact.minimise(beta)
        assert left < 1e-25
        optimum, closest = exact.objective(best), np.array([float(b) for b in best])
        (seen,) = t.rows().sum(scan, FAMILIES[name])
        largest = np.maximum(np.abs(seen.smallest), np.abs(seen.largest))
        random = np.random.default_rng(seed)
        for size in (1.0, 1e-1, 1e-3, 1e-6, 0.0):
            at = closest + size * random.standard_normal(7) * ((closest != 0) | (random.random() < 0.5))
            true = exact.objective(at) - optimum
            certifier = Certifier(problem, largest, 0.0, Frame.of(seen))
            certifier(problem.at(null, hessian=True))
            assert certifier(problem.at(at)).gap >= true
            point = problem.at(at, hessian=True)
            assert certifier.from_reference(point, point).gap >= true
            along = dual_bound(problem, point, largest).gap
            assert along + 1e-15 * point.objective >= true
            if size == 1e-3:
                tightness.append(float(along / true))
    assert np.median(tightness) < 1.2


def test_the_strongest_strength_is_where_the_last_group_goes() -> None:
    X, y = drawn("logit", np.random.default_rng(3), 300, 6)
    slope = np.append(0.0, X.T @ (y.mean() - y) / 300)
    whole = elastic_net(1.0, 1.0, np.array([0.0] + [1.0] * 6), None, NUMBERS)
    top = smallest_null_strength(slope, whole)
    sizes = [np.linalg.norm(slope[k == NUMBERS]) / np.sqrt((k == NUMBERS).sum()) for k in (0, 1)]
    assert top == pytest.approx(max(*sizes, abs(slope[6])))
    for alpha, zero in ((top * 1.0001, True), (top * 0.99, False)):
        how = {"family": "binomial", "penalty": "group", "alpha": alpha, "penalty_groups": GROUPS, "tol": 1e-6}
        found = clusterglm.fit(data=(X, y), solver="proximal_newton", **how)
        assert found.status == "optimal"
        assert (found.coefficients == 0).all() == zero


def test_groups_of_one_are_lasso_and_one_of_all_is_known_by_its_equation() -> None:
    X, y = drawn("poisson", np.random.default_rng(5), 200, 6)
    how = {"data": (X, y), "solver": "proximal_newton", "family": "poisson", "alpha": 0.05, "tol": 1e-8}
    lasso, single = clusterglm.fit(penalty="l1", **how), clusterglm.fit(penalty="group", **how)
    np.testing.assert_allclose(single.coefficients, lasso.coefficients, atol=1e-10)
    b = clusterglm.fit(penalty="group", penalty_groups=["x*"], **how)
    mu = np.exp(b.intercept + X @ b.coefficients)
    size = np.linalg.norm(b.coefficients)
    np.testing.assert_allclose(X.T @ (y - mu) / 200, 0.05 * np.sqrt(6) * b.coefficients / size, atol=1e-9)


def test_levels_of_a_coded_column_come_and_go_together() -> None:
    import pandas as pd

    random = np.random.default_rng(1)
    city, noise = random.choice(list("abcd"), 400), random.choice(list("uvw"), 400)
    x = random.standard_normal(400)
    y = x + np.where(city == "b", 1.5, np.where(city == "c", -1, 0.0)) + random.standard_normal(400)
    frame = pd.DataFrame({"x": x, "city": city, "noise": noise, "y": y})
    found = clusterglm.fit(
        data=frame, target="y", solver="proximal_newton", family="gaussian", penalty="group", alpha=0.1, tol=1e-6
    )
    coded = {name: c for name, c in zip(found.feature_names, found.coefficients, strict=True) if "[T." in name}
    assert all((c != 0) == name.startswith("city") for name, c in coded.items())
    assert len(coded) == 5


def test_a_path_begins_where_all_groups_are_0() -> None:
    X, y = drawn("logit", np.random.default_rng(2), 400, 6)
    names = [f"x{j}" for j in range(6)]
    model = Model(family("logit"), "group", l1_ratio=1.0, groups=(("x0", "x1", "x2"), ("x3", "x4")))
    path = fit_path(from_arrays(X, y, intercept=True), names, model, Grid(8, 0.01), 3, Limits(Tolerance(1e-6)))
    off = path.coefficients != 0
    assert not off[0].any()
    assert off[1].any()
    for own in ([0, 1, 2], [3, 4]):
        assert (off[:, own].all(axis=1) == off[:, own].any(axis=1)).all()
    assert max(c.error_in_se for c in path.certificates) <= 1e-6
    assert path.held_out is not None


def test_more_columns_than_a_hessian_may_have() -> None:
    random = np.random.default_rng(1)
    X = random.standard_normal((120, 4200)) / 10
    y = (random.random(120) < 1 / (1 + np.exp(-X[:, :4].sum(axis=1) * 8))).astype(float)
    groups = [[f"x{j}" for j in range(k, k + 4)] for k in range(0, 4200, 4)]
    how = {"family": "binomial", "penalty": "group", "alpha": 0.012, "rel_gap": 1e-6}
    found = clusterglm.fit(data=(X, y), solver="auto", penalty_groups=groups, **how)
    assert found.solver == "proximal_gradient"
    assert found.status == "optimal"
    sizes = np.linalg.norm(found.coefficients.reshape(-1, 4), axis=1)
    assert 0 < np.count_nonzero(sizes) < 120
    slope = X.T @ (1 / (1 + np.exp(-found.intercept - X @ found.coefficients)) - y) / 120
    pull = np.linalg.norm(slope.reshape(-1, 4), axis=1) / (2 * 0.012)
    assert pull.max() <= 1 + 1e-3
    assert (pull[sizes > 0] >= 1 - 1e-3).all()


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ({"solver": "newton"}, UsageError, "norm of a group has a kink"),
        ({"solver": "lbfgs"}, UsageError, "norm of a group has a kink"),
        ({"solver": "gradient_descent"}, UsageError, "norm of a group has a kink"),
        ({"bounds": "x0=0:"}, UsageError, "both bounds and groups"),
        ({"penalty": "l1", "penalty_groups": "x0+x1"}, UsageError, "go with --penalty group"),
        ({"l1_ratio": 0.0}, UsageError, "use --penalty l2"),
        ({"penalty_groups": "x0+,x1"}, UsageError, "write NAME"),
        ({"penalty_groups": "x0+x9"}, DataError, "no such column"),
        ({"penalty_groups": "x0+x1,x1+x2"}, DataError, "in two groups"),
        ({"penalty_groups": "x0+x1", "penalty_factors": "x0=2"}, DataError, "same factor"),
        ({"penalty_groups": "x0+x1", "summary": True}, UsageError, "without a penalty"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any], error: type[Exception], match: str) -> None:
    X, y = drawn("gaussian", np.random.default_rng(2), 40, 3)
    how = {"solver": "proximal_newton", "family": "gaussian", "penalty": "group", "alpha": 0.1}
    with pytest.raises(error, match=match):
        clusterglm.fit(data=(X, y), **how | words)


def test_a_factor_of_0_takes_a_group_out_of_the_penalty() -> None:
    X, y = drawn("gaussian", np.random.default_rng(2), 60, 6)
    found = clusterglm.fit(
        data=(X, y), solver="proximal_newton", family="gaussian", penalty="group", alpha=9.0, tol=1e-8,
        penalty_groups=GROUPS, penalty_factors={"x3": 0, "x4": 0},
    )  # fmt: skip
    A = np.column_stack([np.ones(60), X[:, 3:5]])
    np.testing.assert_allclose(found.coefficients, [0, 0, 0, *np.linalg.lstsq(A, y)[0][1:], 0], atol=1e-9)
