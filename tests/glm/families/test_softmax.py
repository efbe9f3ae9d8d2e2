"""Several classes: the answers of statsmodels and scikit-learn, and no bound below the truth, in 50 digits."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

import clusterglm
from clusterglm.data.rows import from_arrays
from clusterglm.errors import DataError, UsageError
from clusterglm.glm import kernels
from clusterglm.glm.families.softmax import Multinomial, gauge
from clusterglm.glm.model import Model
from clusterglm.glm.paths.path import fit_path
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Problem
from clusterglm.glm.proof.certificate import Certifier
from clusterglm.glm.proof.dual_bound import step_bound
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.scan import scan
from clusterglm.glm.solvers import SOLVERS

mp = mpmath.mp.clone()
mp.dps = 50
K = 3
ABLE = [name for name, solver in SOLVERS.items() if not solver.in_parts]


def drawn(n: int = 300, p: int = 4, classes: int = K, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return X (n, p) and the numbers of classes (n,), each of which has rows."""
    random = np.random.default_rng([seed, n, p])
    X = random.standard_normal((n, p))
    eta = X @ random.standard_normal((p, classes)) * 0.7 + 0.3 * np.arange(classes)
    return X, (eta + random.gumbel(size=eta.shape)).argmax(axis=1).astype(float)


class Exact:
    """P in 50 digits, and Newton's method in its own coordinates: all classes, the loss term by term."""

    def __init__(self, A: np.ndarray, y: np.ndarray, penalty: Penalty) -> None:
        self.A, self.y, self.n, self.p = [[mp.mpf(v) for v in row] for row in A.tolist()], y.astype(int), *A.shape
        self.l1, self.l2 = ([mp.mpf(v) for v in x.tolist()] for x in (penalty.l1, penalty.l2))

    def probabilities(self, b: list[Any]) -> tuple[Any, list[list[Any]]]:
        """Return the mean loss, and the probabilities of every row."""
        loss, found = mp.mpf(0), []
        for row, own in zip(self.A, self.y, strict=True):
            eta = [mp.fsum(x * b[k * self.p + j] for j, x in enumerate(row)) for k in range(K)]
            e = [mp.exp(v - max(eta)) for v in eta]
            loss += max(eta) + mp.log(mp.fsum(e)) - eta[own]
            found.append([v / mp.fsum(e) for v in e])
        return loss / self.n, found

    def objective(self, beta: Any) -> Any:
        b = [mp.mpf(v) for v in beta]
        penalty = mp.fsum(a * abs(v) + c * v * v / 2 for a, c, v in zip(self.l1, self.l2, b, strict=True))
        return self.probabilities(b)[0] + penalty

    def minimise(self, start: np.ndarray) -> tuple[list[Any], Any]:
        """Return the optimum with the signs of ``start``, and the largest residual; flat directions stay."""
        b = [mp.mpf(v) for v in start.tolist()]
        S = [i for i in range(K * self.p) if self.l1[i] == 0 or b[i] != 0]
        for _ in range(8):
            _, prob = self.probabilities(b)
            g = [self.l2[i] * b[i] + self.l1[i] * mp.sign(b[i]) for i in range(K * self.p)]
            H = np.zeros((K * self.p, K * self.p))
            for row, p, own in zip(self.A, prob, self.y, strict=True):
                for k in range(K):
                    for j in range(self.p):
                        g[k * self.p + j] += (p[k] - (k == own)) * row[j] / self.n
            P, A = np.array([[float(v) for v in p] for p in prob]), np.array([[float(v) for v in r] for r in self.A])
            for k in range(K):
                for j in range(K):
                    w = P[:, k] * ((k == j) - P[:, j]) / self.n
                    H[k * self.p : (k + 1) * self.p, j * self.p : (j + 1) * self.p] = (A.T * w) @ A
            left = max(abs(g[i]) for i in S)
            if left < 1e-28:
                break
            H += np.diag([float(c) for c in self.l2])
            # Singular where a column has no penalty: the least-norm step, of a residual that is brought to its size.
            step = np.linalg.lstsq(H[np.ix_(S, S)], np.array([float(g[i] / left) for i in S]), rcond=1e-12)[0]
            for i, d in zip(S, step.tolist(), strict=True):
                b[i] -= left * mp.mpf(d)
        return b, left


@pytest.mark.parametrize("weighted", [False, True])
def test_the_kernels_are_the_textbook_and_its_differences(table: Any, weighted: bool) -> None:
    X, y = drawn(60, 2)
    w = np.random.default_rng(1).integers(0, 3, 60).astype(float) if weighted else None
    t, family = table(np.column_stack([np.ones(60), X]), y, w), Multinomial(K)
    beta = np.random.default_rng(2).standard_normal(9)

    def at(b: np.ndarray) -> Any:
        return t.rows().sum(kernels.hessian, family, b)

    total, g, H = at(beta)
    eta = t.A @ beta.reshape(K, 3).T
    losses = np.log(np.exp(eta).sum(axis=1)) - eta[np.arange(60), y.astype(int)]
    assert total == pytest.approx(t.w @ losses, rel=1e-13)
    for j, e in enumerate(np.eye(9) * 1e-5):
        (up, g_up, _), (down, g_down, _) = at(beta + e), at(beta - e)
        assert g[j] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(H[j], (g_up - g_down) / 2e-5, rtol=1e-5, atol=1e-5)
    both = t.rows().sum(kernels.gradient, family, np.column_stack([beta, beta / 2]))
    np.testing.assert_allclose(both[1][:, 0], g, rtol=1e-12)
    assert t.rows().sum(kernels.loss, family, np.column_stack([beta, beta]))[0] == pytest.approx([total, total])
    wide = t.rows().sum(kernels.loss, family, beta * 1e5)[0]
    assert np.isfinite(wide)
    assert wide > 0


@pytest.mark.parametrize("name", ["anes96", "drawn"])
@pytest.mark.parametrize("covariance", ["nonrobust", "HC0"])
def test_unpenalised_answers_and_inference_are_those_of_statsmodels(name: str, covariance: str) -> None:
    X, y = drawn()
    if name == "anes96":
        data = sm.datasets.anes96.load_pandas()
        X, y = data.exog.to_numpy(dtype=float), data.endog.to_numpy(dtype=float)
    found = clusterglm.fit(
        data=(X, y), solver="newton", family="multinomial", summary=True, covariance=covariance, tol=1e-8
    )
    assert found.status == "optimal"
    peer = sm.MNLogit(y, sm.add_constant(X)).fit(disp=0, method="newton", tol=1e-14, maxiter=100, cov_type=covariance)
    i = found.inference
    np.testing.assert_allclose(i.estimate, peer.params.T.ravel(), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(i.standard_error, peer.bse.T.ravel(), rtol=1e-7)
    np.testing.assert_allclose(i.p_value, peer.pvalues.T.ravel(), rtol=1e-5, atol=1e-9)
    assert i.log_likelihood == pytest.approx(peer.llf, rel=1e-10)
    assert i.null_log_likelihood == pytest.approx(peer.llnull, rel=1e-9)
    assert (i.aic, i.bic) == pytest.approx((peer.aic, peer.bic), rel=1e-10)
    assert (i.df_model, i.df_residual) == (peer.df_model, peer.df_resid)
    np.testing.assert_allclose(found.coefficients, i.estimate)
    assert found.feature_names[:2] == ["1:intercept", "1:x0"]
    assert "1:intercept" in found.summary()


def test_clustered_errors_are_those_of_statsmodels() -> None:
    import pandas as pd

    X, y = drawn()
    group = np.random.default_rng(9).integers(0, 30, len(y))
    frame = pd.DataFrame(X, columns=list("abcd")).assign(y=y, group=group)
    found = clusterglm.fit(
        data=frame, target="y", features=list("abcd"), solver="newton", family="multinomial", tol=1e-8,
        summary=True, covariance="cluster", groups="group",
    )  # fmt: skip
    words = {"cov_type": "cluster", "cov_kwds": {"groups": group}}
    peer = sm.MNLogit(y, sm.add_constant(X)).fit(disp=0, method="newton", tol=1e-14, **words)
    assert found.inference.groups == 30
    np.testing.assert_allclose(found.inference.standard_error, peer.bse.T.ravel(), rtol=1e-7)


@pytest.mark.parametrize("solver", ABLE)
def test_ridge_answers_are_those_of_scikit_learn_by_every_solver(solver: str) -> None:
    X, y = drawn()
    w = np.random.default_rng(3).integers(0, 3, len(y)).astype(float)
    peer = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12, max_iter=500).fit(X, y, sample_weight=w)
    found = clusterglm.fit(data=(X, y, w), solver=solver, family="multinomial", penalty="l2", lamduh=2.0, tol=1e-8)
    assert found.status == "optimal"
    told = found.model()
    np.testing.assert_allclose(told["coefficients"], peer.coef_, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(
        told["intercept"] - told["intercept"][0], peer.intercept_ - peer.intercept_[0], rtol=1e-7, atol=1e-8
    )


def test_an_answer_at_the_working_precision_keeps_its_proof() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(4000, 3)), random.integers(0, 4, 4000).astype(float)
    y[X[:, 1] > 0.5] = 2
    found = clusterglm.fit(
        data=(X, y), family="multinomial", penalty="group", alpha=0.02, penalty_groups="x0+x1", tol=1e-6
    )
    assert found.status == "optimal"
    assert found.certificate["gap"] < 1e-13


@pytest.mark.parametrize("penalty", ["l1", "elastic-net", "group"])
@pytest.mark.parametrize("solver", ["proximal_newton", "proximal_gradient"])
def test_penalised_answers_meet_the_conditions_of_the_optimum(penalty: str, solver: str) -> None:
    X, y = drawn()
    how: dict[str, Any] = {"penalty_groups": "x0+x1,x2+x3"} if penalty == "group" else {}
    found = clusterglm.fit(
        data=(X, y), solver=solver, family="multinomial", penalty=penalty, alpha=0.05, tol=1e-8, **how
    )
    assert found.status == "optimal"
    told = found.model()
    B = told["coefficients"]
    eta = X @ B.T + told["intercept"]
    s = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True) - (y[:, None] == np.arange(K))
    g = s.T @ X / len(y)
    np.testing.assert_allclose(s.sum(axis=0), 0, atol=1e-7)
    assert (B == 0).any()
    if penalty == "group":
        for own in ([0, 1], [2, 3]):
            pull, size = np.linalg.norm(g[:, own], axis=1), np.linalg.norm(B[:, own], axis=1)
            assert (pull <= 0.05 * np.sqrt(2) * (1 + 1e-8)).all()
            unit = B[:, own] / np.where(size > 0, size, 1.0)[:, None]
            np.testing.assert_allclose((g[:, own] + 0.05 * np.sqrt(2) * unit)[size > 0], 0, atol=1e-9)
        return
    l1, l2 = (0.05, 0.0) if penalty == "l1" else (0.025, 0.025)
    residual = np.where(B == 0, np.maximum(np.abs(g) - l1, 0), g + l1 * np.sign(B) + l2 * B)
    np.testing.assert_allclose(residual, 0, atol=1e-9)


@pytest.mark.parametrize(("l1", "l2", "free"), [(0.0, 0.0, 1), (0.03, 0.0, 1), (0.0, 0.05, 0), (0.02, 0.02, 1)])
def test_no_bound_is_below_the_truth(table: Any, l1: float, l2: float, free: int) -> None:
    tightness = []
    for seed in range(3):
        X, y = drawn(40, 2, seed=seed)
        t, family = table(np.column_stack([np.ones(40), X]) if free else X, y, intercept=bool(free)), Multinomial(K)
        p = t.A.shape[1]
        some = np.arange(p) >= free
        one = Penalty(l1 * some, l2 * some)
        problem = Problem(t.rows(), family, one.repeated(K), 40.0)
        problem.gauge = gauge(one.free, (t.A**2).mean(axis=0), K)
        beta = np.zeros(K * p)
        for _ in range(15):
            point = problem.at(beta, hessian=True)
            beta = minimise(point.hessian, point.gradient, beta, problem.penalty)  # type: ignore[arg-type]
        exact = Exact(t.A, y, problem.penalty)
        best, left = exact.minimise(beta)
        assert left < 1e-25
        optimum, closest = exact.objective(best), np.array([float(b) for b in best])
        (seen,) = t.rows().sum(scan, family)
        low, high, mean = (np.tile(v, K) for v in (seen.smallest, seen.largest, seen.mean))
        frame, largest = Frame(low, high, mean, 0.0), np.maximum(np.abs(low), np.abs(high))
        random = np.random.default_rng(seed)
        for size in (1.0, 1e-1, 1e-3, 1e-6, 0.0):
            step = size * random.standard_normal((K, p)) * (closest != 0).reshape(K, p)
            step[:, one.free] -= step[:, one.free].mean(axis=0)  # where the gauge is
            at = closest + step.ravel()
            true = exact.objective(at) - optimum
            point = problem.at(at, hessian=True)
            certifier = Certifier(problem, largest, K - 1.0, frame)
            assert certifier(problem.at(at)).gap >= true
            assert certifier.from_reference(point, point).gap >= true
            assert certifier.sharpen(point).gap >= true
            along = step_bound(problem, point, largest, K - 1.0, measure=True).gap
            assert along + 1e-15 * point.objective >= true
            if size == 1e-3:
                tightness.append(float(along / true))
    assert np.median(tightness) < 1.2


def test_two_classes_are_the_binomial_family_and_weights_are_replication() -> None:
    X, y = drawn(classes=2)
    ours, binomial = (
        clusterglm.fit(data=(X, y), solver="newton", family=f, tol=1e-9) for f in ("multinomial", "binomial")
    )
    np.testing.assert_allclose(ours.coefficients, [binomial.intercept, *binomial.coefficients], rtol=1e-9)
    X, y = drawn(100)
    w = np.random.default_rng(0).integers(0, 4, 100)
    how: dict[str, Any] = {"solver": "newton", "family": "multinomial", "tol": 1e-9}
    whole = clusterglm.fit(data=(np.repeat(X, w, axis=0), np.repeat(y, w)), **how)
    np.testing.assert_allclose(clusterglm.fit(data=(X, y, w), **how).coefficients, whole.coefficients, rtol=1e-8)


def test_a_sample_of_many_rows_is_the_start() -> None:
    X, y = drawn(60_000, 3)
    how: dict[str, Any] = {"data": (X, y), "family": "multinomial", "penalty": "l1", "alpha": 0.01, "rel_gap": 1e-8}
    found, null = (clusterglm.fit(solver="proximal_newton", start=s, **how) for s in ("auto", "null"))
    assert found.start.startswith("fit on")
    assert found.passes < null.passes
    np.testing.assert_allclose(found.coefficients, null.coefficients, atol=1e-4)


def test_columns_that_say_nothing_or_repeat_others_are_left_out() -> None:
    X, y = drawn()
    again = np.column_stack([X, np.full(len(y), 2.0), X[:, 0] + X[:, 1]])
    found = clusterglm.fit(data=(again, y), solver="newton", family="multinomial", tol=1e-8, summary=True)
    plain = clusterglm.fit(data=(X, y), solver="newton", family="multinomial", tol=1e-8)
    assert found.columns_dropped == ["x4", "x5"]
    kept = [k for k, name in enumerate(found.feature_names) if name[2:] not in ("x4", "x5")]
    np.testing.assert_allclose(found.coefficients[kept], plain.coefficients, rtol=1e-7)
    assert np.isnan(found.inference.standard_error).sum() == 4


def test_classes_that_a_plane_keeps_apart_have_no_finite_answer() -> None:
    random = np.random.default_rng(0)
    y = np.arange(90) % 3.0
    X = np.column_stack([np.cos(2 * y), np.sin(2 * y)]) * 5 + 0.3 * random.standard_normal((90, 2))
    found = clusterglm.fit(data=(X, y), solver="newton", family="multinomial")
    assert found.status == "no_finite_mle"
    moved = np.column_stack([np.ones(90), X]) @ np.asarray(found.direction).reshape(3, 3).T
    own = moved[np.arange(90), y.astype(int)][:, None]
    assert (own - moved).min() >= -1e-9
    ridge = clusterglm.fit(data=(X, y), solver="newton", family="multinomial", penalty="l2", alpha=0.01)
    assert ridge.status == "optimal"


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [
        ({"solver": "admm"}, UsageError, "know nothing of multinomial's classes"),
        ({"solver": "async_newton"}, UsageError, "know nothing of multinomial's classes"),
        ({"bounds": "x0=0:"}, UsageError, "have none"),
        ({"y": [0, 1, 3] * 10}, DataError, "class 2.*has no row"),
        ({"y": [0, 1.5, 2] * 10}, DataError, "numbers of classes"),
        ({"y": [0.0] * 30}, DataError, "only one class"),
        ({"offset": np.ones(30)}, DataError, "takes none"),
        ({"link": "probit"}, UsageError, "--link"),
        ({"X": np.random.default_rng(0).standard_normal((30, 2001)), "penalty": "l2"}, UsageError, "times 3 classes"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any], error: type[Exception], match: str) -> None:
    X, _ = drawn(30, 2)
    words = dict(words)
    data = (
        words.pop("X", X),
        np.asarray(words.pop("y", np.arange(30) % 3), dtype=float),
        None,
        words.pop("offset", None),
    )
    with pytest.raises(error, match=match):
        clusterglm.fit(data=data, **({"solver": "proximal_newton", "family": "multinomial"} | words))


@pytest.mark.parametrize("penalty", ["none", "l1"])
def test_sparse_rows_and_single_precision_are_the_same_fit(penalty: str) -> None:
    import scipy.sparse

    X, y = drawn(200, 30 if penalty == "l1" else 3)  # more columns than gemm is faster for
    X[np.abs(X) < 0.5] = 0
    how: dict[str, Any] = {"solver": "proximal_newton", "family": "multinomial", "penalty": penalty, "tol": 1e-8}
    how |= {} if penalty == "none" else {"alpha": 0.02}
    dense = clusterglm.fit(data=(X, y), **how)
    assert dense.status == "optimal"
    sparse = clusterglm.fit(data=from_arrays(scipy.sparse.csr_array(X), y, intercept=True), **how)
    np.testing.assert_allclose(sparse.coefficients, dense.coefficients, rtol=1e-8, atol=1e-9)
    single = clusterglm.fit(data=(X, y), dtype="float32", **how)
    np.testing.assert_allclose(single.coefficients, dense.coefficients, atol=1e-5)


def test_paths_are_refused() -> None:
    X, y = drawn(60, 2)
    with pytest.raises(UsageError, match="has no path"):
        fit_path(from_arrays(X, y, intercept=True), ["x0", "x1"], Model(Multinomial(K), "l1"))
