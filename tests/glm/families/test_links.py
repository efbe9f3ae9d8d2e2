"""Families and links beyond the canonical three: their terms in many digits, their bounds, and their answers."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest
import statsmodels.api as sm
from made import PAIRS, PEERS, drawn, family, options

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.families import PAIRS as ALL
from clusterglm.glm.families import REFUSED, get_family
from clusterglm.glm.model import Model
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Problem
from clusterglm.glm.proof.certificate import Certifier
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.scan import scan

pytestmark = [  # peers that say how they fare; ours are compared to their answers all the same
    pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.DomainWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
NEW = [pair for pair in PAIRS if pair not in ("gaussian", "logit", "poisson")]
POINTS = {
    "probit": ([0, 1, 0.3], [-60, -45, -20, -6, -2, -0.1, 0, 1e-8, 1, 5]),
    "cloglog": ([0, 1, 0.3], [-700, -50, -20, -6.5, -2.2, -2, 0, 1, 3, 5]),
    "gamma": ([1e-3, 1.1, 7.5, 1e5], [-30, -3, 0, 0.5, 7, 30]),
    "gamma-inverse": ([1e-3, 1.1, 7.5, 1e5], [1e-6, 0.1, 1, 10, 1e4]),
    "inverse-gaussian": ([1e-3, 1.1, 7.5, 1e4], [1e-6, 0.1, 1, 10, 1e4]),
    "tweedie": ([0, 0.1, 1.1, 50], [-30, -3, 0, 0.5, 7, 30]),
    "negative-binomial": ([0, 1, 50, 1e4], [-30, -3, 0.1, 7, 30]),
}


def exact_loss(pair: str, y: Any, eta: Any) -> Any:
    def xlogx(x: Any) -> Any:
        return x * mp.log(x) if x > 0 else mp.mpf(0)

    if pair in ("probit", "cloglog"):
        up, down = (
            (mp.ncdf(eta), mp.ncdf(-eta)) if pair == "probit" else (-mp.expm1(-mp.exp(eta)), mp.exp(-mp.exp(eta)))
        )
        logs = (y * mp.log(up) if y > 0 else 0) + ((1 - y) * mp.log(down) if y < 1 else 0)
        return xlogx(y) + xlogx(1 - y) - logs
    if pair in ("gamma", "gamma-inverse"):
        mu = mp.exp(eta) if pair == "gamma" else 1 / eta
        return y / mu - 1 - mp.log(y / mu)
    if pair == "inverse-gaussian":
        mu = 1 / mp.sqrt(eta)
        return (y - mu) ** 2 / (2 * y * mu**2)
    mu = mp.exp(eta)
    if pair == "tweedie":
        p = mp.mpf(family(pair).parameters["power"])
        first = y ** (2 - p) if y > 0 else 0
        return first / ((1 - p) * (2 - p)) - y * mu ** (1 - p) / (1 - p) + mu ** (2 - p) / (2 - p)
    theta = mp.mpf(family(pair).parameters["theta"])
    return (y * mp.log(y / mu) if y > 0 else 0) - (y + theta) * mp.log((y + theta) / (mu + theta))


@pytest.mark.parametrize("pair", NEW)
def test_terms_agree_with_many_digits(pair: str) -> None:
    targets, predictors = POINTS[pair]
    for y in targets:
        for eta in predictors:
            got = [float(t[0]) for t in family(pair).terms(np.array([float(y)]), np.array([float(eta)]))]
            with mp.workdps(100 + int(eta**2 / 4 if pair == "probit" else np.exp(min(eta, 6)) + abs(eta))):
                step = mp.mpf(10) ** -25 * abs(mp.mpf(eta) or 1)
                below, at, above = (exact_loss(pair, mp.mpf(y), mp.mpf(eta) + k * step) for k in (-1, 0, 1))
                want = [float(at), float((above - below) / (2 * step)), float((above - 2 * at + below) / step**2)]
            np.testing.assert_allclose(got, want, rtol=2e-12, atol=1e-300, err_msg=f"{y} {eta}")


@pytest.mark.parametrize("pair", NEW)
def test_losses_stay_numbers_far_out_and_are_never_negative(pair: str) -> None:
    F = family(pair)
    eta = np.array([1e-4, 1e4, 700.0]) if F.positive else np.array([-1e4, -800, -40, 0, 40, 800, 1e4])
    for y in POINTS[pair][0]:
        loss, _, h = F.terms(np.full(len(eta), float(y)), eta)
        assert not np.isnan(loss).any()
        assert (loss >= 0).all()
        assert not (h < 0).any()
    if F.positive:
        assert np.isposinf(F.loss(np.array([1.0, 1.0]), np.array([0.0, -1.0]))).all()


@pytest.mark.parametrize("pair", NEW)
def test_mean_slope_information_and_predictor_belong_together(pair: str) -> None:
    F = family(pair)
    eta = np.array([0.1, 0.7, 2.0]) if F.positive else np.array([-2.0, -0.3, 0.1, 1.0])
    mu, step = F.mean(eta), 1e-6
    np.testing.assert_allclose([F.predictor(float(m)) for m in mu], eta, rtol=1e-12)
    slopes = (F.mean(eta + step) - F.mean(eta - step)) / (2 * step)
    np.testing.assert_allclose(F.slope(eta), slopes, rtol=1e-7)
    np.testing.assert_allclose(F.information(eta), F.slope(eta) ** 2 / F.variance(mu), rtol=1e-9)
    at_mean = F.terms(mu, eta)
    np.testing.assert_allclose(at_mean[1], 0, atol=1e-12 * np.max(mu))
    if pair not in ("probit", "cloglog"):  # h is linear in y, so its expectation is that at the mean
        np.testing.assert_allclose(at_mean[2], F.information(eta), rtol=1e-10)


@pytest.mark.parametrize("pair", NEW)
def test_curvature_changes_no_faster_than_concordance_says(pair: str) -> None:
    F = family(pair)
    eta = np.geomspace(0.01, 50, 400) if F.positive else np.linspace(-25, 5, 600)
    c = np.array([F.concordance(e, e) for e in eta])
    for y in POINTS[pair][0]:
        for there in (-0.999, 0.0, 0.999):
            at = eta + there / c
            step = np.abs(at) * 1e-6 + 1e-9
            below, above = (F.terms(np.full(len(at), float(y)), at + s)[2] for s in (-step, step))
            some = (below > 1e-250) & np.isfinite(above)
            change = np.abs(np.log(above[some] / below[some])) / (2 * step[some])
            assert (change <= c[some] * (1 + 1e-5) + 1e-5).all()


@pytest.mark.parametrize("pair", NEW)
@pytest.mark.parametrize("penalty", ["none", "l1", "l2", "elastic-net"])
def test_no_bound_is_below_the_true_distance(table: Any, pair: str, penalty: str) -> None:
    """At points around the optimum, near and far, with offsets and weights; by every method there is."""
    random, F, told = np.random.default_rng([3, NEW.index(pair)]), family(pair), 0
    for _ in range(3):
        X, y = drawn(pair, random, 60, 3)
        weights, offset = random.integers(0, 3, 60).astype(float), 0.1 * random.random(60)
        t = table(np.column_stack([np.ones(60), X]), y, weights, offset, True)
        strength = np.array([0, 1, 1, 1]) * 0.02
        l1, l2 = strength * (penalty in ("l1", "elastic-net")), strength * (penalty in ("l2", "elastic-net"))
        problem = Problem(t.rows(), F, Penalty(l1, l2), float(t.w.sum()))
        strong = {} if penalty == "none" else {"alpha": 0.04 if penalty == "elastic-net" else 0.02}
        found = clusterglm.fit(
            data=(X, y, weights, offset), solver="proximal_newton", penalty=penalty, tol=1e-7, **strong, **options(pair)
        )
        assert found.status == "optimal"
        best = np.append(found.intercept, found.coefficients)
        optimum = problem.at(best).objective
        (seen,) = t.rows().sum(scan, F)
        frame = Frame.of(seen)
        for distance in (1e-3, 1e-2, 0.1, 0.5):
            certifier = Certifier(problem, frame.magnitude, seen.largest_offset, frame)
            point = problem.at(best + distance * 0.3 * random.standard_normal(4), hessian=True)
            if not np.isfinite(point.objective):
                continue
            true = point.objective - optimum
            for certificate in (certifier(point), certifier.sharpen(point), certifier.dual(point)):
                assert certificate.gap >= true * (1 - 1e-6) - 1e-12
                told += certificate.gap < 3 * true
    assert told  # and they are not idle


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_unpenalised_answers_are_those_of_statsmodels(pair: str, seed: int) -> None:
    X, y = drawn(pair, np.random.default_rng([seed, 1]), 300, 4)
    found = clusterglm.fit(data=(X, y), solver="newton", tol=1e-9, **options(pair))
    peer = sm.GLM(y, sm.add_constant(X), PEERS[pair]()).fit(tol=1e-14, maxiter=300)
    assert found.status == "optimal"
    np.testing.assert_allclose(np.append(found.intercept, found.coefficients), peer.params, rtol=1e-7, atol=1e-8)
    assert 2 * 300 * found.objective == pytest.approx(peer.deviance, rel=1e-9)


@pytest.mark.parametrize("pair", [p for p in PAIRS if p not in ("probit", "gamma-inverse", "inverse-gaussian")])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_penalised_answers_are_those_of_glum(pair: str, share: float) -> None:
    import glum

    X, y = drawn(pair, np.random.default_rng(5), 300, 4)
    peers = {
        "logit": "binomial",
        "cloglog": "binomial",
        "tweedie": glum.TweedieDistribution(family("tweedie").parameters["power"]),
        "negative-binomial": glum.NegativeBinomialDistribution(1 / family("negative-binomial").parameters["theta"]),
        "gaussian": "normal",
    }
    link = "cloglog" if pair == "cloglog" else "auto"
    peer = glum.GeneralizedLinearRegressor(
        alpha=0.02, l1_ratio=share, family=peers.get(pair, pair), link=link, gradient_tol=1e-12, max_iter=5000
    )
    peer.fit(X, y)
    # Its gamma, tweedie and negative binomial losses are half the unit deviance, as ours are.
    found = clusterglm.fit(
        data=(X, y),
        solver="proximal_newton",
        penalty="elastic-net",
        alpha=0.02,
        l1_ratio=share,
        tol=1e-9,
        **options(pair),
    )
    np.testing.assert_allclose(found.coefficients, peer.coef_, rtol=1e-7, atol=1e-8)
    assert found.intercept == pytest.approx(peer.intercept_, rel=1e-7)


@pytest.mark.parametrize("pair", NEW)
def test_weights_are_replication_and_offsets_are_rates(pair: str) -> None:
    random = np.random.default_rng(11)
    X, y = drawn(pair, random, 120, 2)
    w = random.integers(1, 4, 120)
    how: dict[str, Any] = {"solver": "newton", "tol": 1e-9, **options(pair)}
    weighted = clusterglm.fit(data=(X, y, w.astype(float)), **how)
    again = clusterglm.fit(data=(np.repeat(X, w, axis=0), np.repeat(y, w)), **how)
    np.testing.assert_allclose(weighted.coefficients, again.coefficients, rtol=1e-7, atol=1e-9)
    assert weighted.objective == pytest.approx(again.objective, rel=1e-12)
    if pair in ("gamma", "tweedie"):
        # y with offset log e is the rate y / e, with weight e to the power of 2 - power.
        e = random.uniform(0.5, 2.0, 120)
        power = family(pair).parameters.get("power", 2.0)
        offset = clusterglm.fit(data=(X, y, np.ones(120), np.log(e)), **how)
        rates = clusterglm.fit(data=(X, y / e, e ** (2 - power)), **how)
        np.testing.assert_allclose(offset.coefficients, rates.coefficients, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("pair", NEW)
def test_an_intercept_alone_has_the_mean_with_an_offset_or_none(pair: str) -> None:
    random = np.random.default_rng(2)
    X, y = drawn(pair, random, 200, 1)
    offset = 0.2 * random.random(200)
    found = clusterglm.fit(data=(X, y), solver="newton", penalty="l2", alpha=1e9, tol=1e-8, **options(pair))
    assert found.intercept == pytest.approx(family(pair).predictor(float(y.mean())), rel=1e-6)
    shifted = clusterglm.fit(
        data=(X, y, np.ones(200), offset), solver="newton", penalty="l2", alpha=1e9, tol=1e-8, **options(pair)
    )
    peer = sm.GLM(y, np.ones(200), PEERS[pair](), offset=offset).fit(tol=1e-14)
    assert shifted.intercept == pytest.approx(peer.params[0], rel=1e-6)


@pytest.mark.parametrize("pair", ["probit", "cloglog"])
def test_separated_rows_have_no_finite_estimate(pair: str) -> None:
    X = np.linspace(-1, 1, 50)[:, None]
    found = clusterglm.fit(data=(X, (X[:, 0] > 0.05).astype(float)), solver="newton", **options(pair))
    assert found.status == "no_finite_mle"


@pytest.mark.parametrize("pair", ["tweedie", "negative-binomial"])
def test_zeros_that_a_column_separates_have_no_finite_estimate(pair: str) -> None:
    _, y = drawn(pair, np.random.default_rng(0), 80, 1)
    z = (np.arange(80) < 20).astype(float)[:, None]
    y[:20] = 0.0
    assert clusterglm.fit(data=(z, y), solver="newton", **options(pair)).status == "no_finite_mle"


def test_pairs_that_have_no_proof_are_refused_with_the_reason() -> None:
    for (name, link), why in REFUSED.items():
        with pytest.raises(UsageError, match=why.split(",")[0]):
            get_family(name, link)
    for name, links_ in ALL.items():
        for link in links_:
            assert get_family(name, link).link == link
    with pytest.raises(UsageError, match="--power"):
        get_family("poisson", power=1.5)
    with pytest.raises(UsageError, match="must lie between 1 and 2"):
        get_family("tweedie", power=2.5)
    with pytest.raises(UsageError, match="greater than 0"):
        get_family("negative-binomial", theta=-1.0)
    with pytest.raises(UsageError, match="--no-intercept"):
        Model(get_family("gamma", "inverse"), intercept=False)
    with pytest.raises(UsageError, match=r"--family \(gamma\): needs --data"):
        clusterglm.fit(solver="newton", rows=100, family="gamma")


@pytest.mark.parametrize("pair", [p for p in NEW if family(p).takes == "numbers above 0"])
def test_targets_outside_of_the_range_are_refused(pair: str) -> None:
    with pytest.raises(DataError, match="takes numbers above 0"):
        clusterglm.fit(data=(np.ones((3, 1)), np.array([1.0, 0.0, 2.0])), solver="newton", **options(pair))
