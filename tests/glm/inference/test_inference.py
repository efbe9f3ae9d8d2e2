"""Standard errors, tests, intervals and likelihoods beside those of statsmodels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from made import PAIRS, PEERS, drawn, family, options

import clusterglm
from clusterglm.errors import DataError, UsageError
from clusterglm.glm.inference.theta import _most_likely

pytestmark = pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.DomainWarning")
NAMES = ["a", "b", "c"]


def agree(found: Any, peer: Any, order: list[int] | None = None, near: float = 1e-7) -> None:
    """Compare coefficients to ``near`` of a standard error or of themselves, all the rest relatively."""
    i = found.inference
    order = list(range(len(i.names))) if order is None else order
    b, error = np.asarray(peer.params)[order], np.asarray(peer.bse)[order]
    assert (np.abs(i.estimate - b) <= near * (np.abs(b) + error)).all()
    np.testing.assert_allclose(i.standard_error, error, rtol=near)
    np.testing.assert_allclose(i.covariance, np.asarray(peer.cov_params())[np.ix_(order, order)], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(i.statistic, np.asarray(peer.tvalues)[order], rtol=near, atol=near)
    np.testing.assert_allclose(i.p_value, np.asarray(peer.pvalues)[order], rtol=1e-5, atol=1e-9)
    ends = np.asarray(peer.conf_int())[order]
    assert (np.abs(np.column_stack([i.low, i.high]) - ends) <= near * (np.abs(ends) + error[:, None])).all()
    ours = [i.log_likelihood, i.aic, i.bic, i.deviance, i.null_deviance, i.pearson, i.dispersion, i.df_residual]
    theirs = [peer.llf, peer.aic, peer.bic_llf, peer.deviance, peer.null_deviance, peer.pearson_chi2, peer.scale]
    np.testing.assert_allclose(ours, [*theirs, peer.df_resid], rtol=near, atol=1e-9)
    # Its number of observations in this one place is that of the rows, whatever their weights.
    peers = 1 - (1 - peer.pseudo_rsquared()) ** (peer.nobs / i.observations)
    assert i.pseudo_r2 == pytest.approx(peers, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("covariance", ["nonrobust", "HC0", "cluster"])
def test_inference_is_that_of_statsmodels(pair: str, covariance: str) -> None:
    for seed in range(2):
        random = np.random.default_rng([seed, 8])
        X, y = drawn(pair, random, 300, 3)
        g, offset = random.integers(0, 20, 300), 0.1 * random.random(300)
        frame = pd.DataFrame(X, columns=NAMES).assign(y=y, g=g, o=offset)
        clustered = covariance == "cluster"
        found = clusterglm.fit(
            data=frame, target="y", features=NAMES, offset="o", solver="newton", tol=1e-9, summary=True,
            covariance=covariance, **({"groups": "g"} if clustered else {}), **options(pair),
        )  # fmt: skip
        peer = sm.GLM(y, sm.add_constant(X), PEERS[pair](), offset=offset).fit(
            tol=1e-14, maxiter=300, cov_type=covariance, use_t=family(pair).has_dispersion,
            **({"cov_kwds": {"groups": g}} if clustered else {}),
        )  # fmt: skip
        agree(found, peer)
        assert found.inference.groups == (20 if clustered else None)
        assert found.feature_names == NAMES


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", ["frequency", "analytic"])
def test_weights_are_frequencies_or_variances(pair: str, kind: str) -> None:
    random = np.random.default_rng(21)
    X, y = drawn(pair, random, 200, 3)
    w = random.integers(1, 4, 200).astype(float)
    if kind == "analytic" and family(pair).has_dispersion:
        w = random.uniform(0.5, 2.0, 200)
    frame = pd.DataFrame(X, columns=NAMES).assign(y=y, w=w)
    how: dict[str, Any] = {"solver": "newton", "tol": 1e-9, "summary": True, "target": "y", "weights": "w"}
    given = {"freq_weights": w} if kind == "frequency" else {"var_weights": w}
    for covariance in ("nonrobust", "HC0"):
        found = clusterglm.fit(data=frame, **how, **options(pair), weights_are=kind, covariance=covariance)
        peer = sm.GLM(y, sm.add_constant(X), PEERS[pair](), **given).fit(
            tol=1e-14, maxiter=300, use_t=family(pair).has_dispersion, cov_type=covariance
        )
        agree(found, peer)


def test_hc1_is_hc0_times_n_over_its_degrees_of_freedom() -> None:
    X, y = drawn("gaussian", np.random.default_rng(4), 60, 3)
    found = clusterglm.fit(data=(X, y), solver="newton", family="gaussian", summary=True, covariance="HC1")
    peer = sm.OLS(y, sm.add_constant(X)).fit(cov_type="HC1")
    np.testing.assert_allclose(found.inference.standard_error, peer.bse, rtol=1e-10)
    X, y = drawn("poisson", np.random.default_rng(4), 60, 3)
    how: dict[str, Any] = {"data": (X, y), "solver": "newton", "family": "poisson", "summary": True}
    errors = [clusterglm.fit(covariance=c, **how).inference.standard_error for c in ("HC0", "HC1")]
    np.testing.assert_allclose(errors[1] / errors[0], np.sqrt(60 / 56), rtol=1e-12)


def shipped() -> dict[str, tuple[str, Any, Any]]:
    """Return (pair, y or (y, weights), X) for the data sets of statsmodels that have a generalized linear model."""
    from statsmodels import datasets as ds

    star, committee, cpunish = (d.load_pandas() for d in (ds.star98, ds.committee, ds.cpunish))
    counts = star.endog.to_numpy(dtype=float)
    randhie, fair, ccard = (d.load_pandas() for d in (ds.randhie, ds.fair, ds.ccard))
    affairs = (fair.endog > 0).astype(float)
    cancer, crime = ds.cancer.load_pandas(), ds.statecrime.load_pandas()
    votes, modes = ds.anes96.load_pandas().data, ds.modechoice.load_pandas().data
    firms, river, spots = (d.load_pandas().data for d in (ds.grunfeld, ds.nile, ds.sunspots))
    strikes, smoking = ds.strikes.load_pandas().data, ds.china_smoking.load_pandas().data.to_numpy(dtype=float)
    voters, travel = (
        ["logpopul", "TVnews", "selfLR", "age", "educ", "income"],
        ["ttme", "invc", "invt", "hinc", "psize"],
    )
    cells = smoking.reshape(-1, 2)  # a city's smokers, then its others: with cancer and without
    cities = np.column_stack([np.tile([1.0, 0.0], 8), np.repeat(np.eye(8), 2, axis=0)[:, 1:]])
    return {
        "star98": ("logit", (counts[:, 0] / counts.sum(1), counts.sum(1)), star.exog),
        "scotland": ("gamma-inverse", ds.scotland.load_pandas().endog, ds.scotland.load_pandas().exog),
        "scotland, log": ("gamma", ds.scotland.load_pandas().endog, ds.scotland.load_pandas().exog),
        "cpunish": ("poisson", cpunish.endog, cpunish.exog),
        "committee": ("negative-binomial", committee.endog, committee.exog),
        "spector": ("probit", ds.spector.load_pandas().endog, ds.spector.load_pandas().exog),
        "spector, logit": ("logit", ds.spector.load_pandas().endog, ds.spector.load_pandas().exog),
        "fair": ("logit", affairs, fair.exog),
        "fair, cloglog": ("cloglog", affairs, fair.exog),
        "randhie": ("poisson", randhie.endog, randhie.exog),
        "randhie, tweedie": ("tweedie", randhie.endog, randhie.exog),
        "longley": ("gaussian", ds.longley.load_pandas().endog, ds.longley.load_pandas().exog),
        "stackloss": ("gaussian", ds.stackloss.load_pandas().endog, ds.stackloss.load_pandas().exog),
        "ccard": ("gaussian", ccard.endog, ccard.exog),
        "cancer": ("poisson", cancer.data["cancer"], np.log(cancer.data[["population"]])),
        "statecrime": ("gamma", crime.endog, crime.exog[["urban", "poverty", "hs_grad", "single"]]),
        "copper": ("gamma", ds.copper.load_pandas().endog, ds.copper.load_pandas().exog),
        "engel": ("gamma", ds.engel.load_pandas().endog, ds.engel.load_pandas().exog),
        "heart": ("gamma", ds.heart.load_pandas().endog, ds.heart.load_pandas().exog),
        "star98, probit": ("probit", (counts[:, 0] / counts.sum(1), counts.sum(1)), star.exog),
        "star98, cloglog": ("cloglog", (counts[:, 0] / counts.sum(1), counts.sum(1)), star.exog),
        "cpunish, negative binomial": ("negative-binomial", cpunish.endog, cpunish.exog),
        "randhie, negative binomial": ("negative-binomial", randhie.endog, randhie.exog),
        "fair, poisson": ("poisson", fair.endog, fair.exog),
        "fair, tweedie": ("tweedie", fair.endog, fair.exog),
        "anes96": ("logit", votes["vote"], votes[voters]),
        "anes96, probit": ("probit", votes["vote"], votes[voters]),
        "modechoice": ("logit", modes["choice"], modes[travel]),
        "modechoice, cloglog": ("cloglog", modes["choice"], modes[travel]),
        "china_smoking": ("logit", (cells[:, 0] / cells.sum(1), cells.sum(1)), cities),
        "grunfeld": ("gaussian", firms["invest"], firms[["value", "capital"]]),
        "grunfeld, gamma": ("gamma", firms["invest"], firms[["value", "capital"]]),
        "nile": ("gaussian", river["volume"], river[["year"]]),
        "nile, gamma inverse": ("gamma-inverse", river["volume"], river[["year"]]),
        "nile, inverse gaussian": ("inverse-gaussian", river["volume"], river[["year"]]),
        "sunspots": ("tweedie", spots["SUNACTIVITY"], spots[["YEAR"]]),
        "strikes": ("gamma", strikes["duration"], strikes[["iprod"]]),
    }


@pytest.mark.parametrize("name", shipped())
def test_data_sets_of_statsmodels_give_its_answers(name: str) -> None:
    pair, y, X = shipped()[name]
    y, weights = y if isinstance(y, tuple) else (np.asarray(y, dtype=float), None)
    X = np.asarray(X, dtype=float)
    X = X[:, X.std(axis=0) > 0]  # the constant is ours
    data = (X, y) if weights is None else (X, y, weights)
    found = clusterglm.fit(data=data, solver="newton", tol=1e-8, summary=True, weights_are="frequency", **options(pair))
    assert found.status == "optimal"
    target = y if weights is None else np.column_stack([y * weights, (1 - y) * weights])
    # statsmodels begins at the means of the targets: the answer, in standardised columns, does not depend on it.
    scale, mean = X.std(axis=0), X.mean(axis=0)
    peer = sm.GLM(target, sm.add_constant((X - mean) / scale), PEERS[pair]()).fit(
        tol=1e-15, maxiter=500, tol_criterion="params", use_t=family(pair).has_dispersion
    )
    i = found.inference
    np.testing.assert_allclose(i.estimate[1:] * scale, peer.params[1:], rtol=1e-7, atol=1e-7 * np.max(peer.bse[1:]))
    np.testing.assert_allclose(i.standard_error[1:] * scale, peer.bse[1:], rtol=1e-7)
    np.testing.assert_allclose(i.p_value[1:], peer.pvalues[1:], rtol=1e-5, atol=1e-8)
    assert i.deviance == pytest.approx(peer.deviance, rel=1e-9)
    if weights is None:
        assert i.log_likelihood == pytest.approx(peer.llf, rel=1e-9)
        assert i.bic == pytest.approx(peer.bic_llf, rel=1e-9)


def test_theta_is_estimated_as_the_likelihood_says() -> None:
    random = np.random.default_rng(0)
    X, y = drawn("negative-binomial", random, 800, 3)
    how: dict[str, Any] = {"solver": "newton", "tol": 1e-8, "summary": True, "family": "negative-binomial"}
    found = clusterglm.fit(data=(X, y), theta="estimate", **how)
    peer = sm.NegativeBinomial(y, sm.add_constant(X)).fit(disp=0, method="newton", tol=1e-12, maxiter=200)
    assert found.parameters["theta"] == pytest.approx(1 / peer.params[-1], rel=1e-7)
    np.testing.assert_allclose(found.inference.estimate, peer.params[:-1], rtol=1e-7)
    assert found.inference.log_likelihood == pytest.approx(peer.llf, rel=1e-10)
    assert (found.inference.aic, found.inference.bic) == pytest.approx((peer.aic, peer.bic), rel=1e-10)
    assert any(note.startswith("note: theta") for note in found.notes)
    with pytest.raises(DataError, match="no more than Poisson's"):
        clusterglm.fit(data=(X, np.tile([1.0, 2.0], 400)), theta="estimate", **how)


@pytest.mark.parametrize("slope", [1e-20, -1e-20, 0.0])
def test_the_search_for_theta_stays_where_no_step_leads_away(slope: float) -> None:
    # Which sign is left at the answer depends on how a processor rounds.
    rows: Any = SimpleNamespace(sum=lambda *_: (slope, -4.0))
    assert _most_likely(rows, np.zeros(1), 2.5) == (2.5, 0.5, 1)


@pytest.mark.parametrize("covariance", ["nonrobust", "HC1"])
def test_without_more_observations_than_coefficients_there_are_no_errors(covariance: str) -> None:
    X, y = drawn("gaussian", np.random.default_rng(5), 30, 3)
    how: dict[str, Any] = {"family": "gaussian", "summary": True, "covariance": covariance}
    for data in ((X[:4], y[:4]), (X, y, np.full(30, 1 / 30))):  # weights that sum to 1 do not count rows
        found = clusterglm.fit(data=data, **how)
        assert np.isnan(found.inference.standard_error).all()
        assert any("observations, no more than coefficients" in note for note in found.notes)
    exact = clusterglm.fit(data=(X, y, np.full(30, 1 / 30)), weights_are="analytic", **how)
    plain = clusterglm.fit(data=(X, y), **how)
    np.testing.assert_allclose(exact.inference.standard_error, plain.inference.standard_error, rtol=1e-9)


def test_a_summary_keeps_its_columns_apart() -> None:
    X, _ = drawn("gaussian", np.random.default_rng(5), 50, 2)
    told = clusterglm.fit(data=(X, 1 + 2 * X[:, 0]), family="gaussian", summary=True, level=0.999).summary()
    [line] = [line for line in told.splitlines() if line.startswith("x0")]
    assert len(line.split()) == 7
    assert "[0.0005    0.9995]" in told


def test_columns_left_out_have_no_standard_error() -> None:
    X, y = drawn("poisson", np.random.default_rng(1), 100, 2)
    found = clusterglm.fit(data=(np.column_stack([X, X[:, 0]]), y), solver="newton", family="poisson", summary=True)
    assert np.isnan(found.inference.standard_error).tolist() == [False, False, False, True]
    assert found.inference.estimate[3] == 0
    assert "nan" in found.summary()


def test_groups_may_be_words_and_travel_to_the_workers_as_they_are() -> None:
    random = np.random.default_rng(3)
    X, y = drawn("poisson", random, 200, 3)
    g = random.choice(["x", "y", "z", "w"], 200)
    frame = pd.DataFrame(X, columns=NAMES).assign(y=y, g=g)
    how: dict[str, Any] = {"target": "y", "features": NAMES, "solver": "newton", "family": "poisson", "summary": True}
    found = clusterglm.fit(data=frame, groups="g", covariance="cluster", tol=1e-9, **how)
    peer = sm.GLM(y, sm.add_constant(X), PEERS["poisson"]()).fit(
        tol=1e-14, cov_type="cluster", cov_kwds={"groups": pd.factorize(g)[0]}
    )
    agree(found, peer)
    assert found.levels == {}
    assert found.features == NAMES
    frame.loc[5, "g"] = None
    with pytest.raises(DataError):
        clusterglm.fit(data=frame, groups="g", covariance="cluster", **how)


def test_the_summary_reads_like_that_of_statsmodels() -> None:
    X, y = drawn("gamma", np.random.default_rng(5), 300, 3)
    frame = pd.DataFrame(X, columns=NAMES).assign(y=y)
    found = clusterglm.fit(data=frame, target="y", solver="newton", tol=1e-9, summary=True, family="gamma")
    peer = sm.GLM(y, sm.add_constant(pd.DataFrame(X, columns=NAMES)), PEERS["gamma"]()).fit(use_t=True)
    ours, theirs = (text.splitlines() for text in (found.summary(), peer.summary().as_text()))
    for name in NAMES:
        [mine], [other] = ([line.split() for line in text if line.split()[:1] == [name]] for text in (ours, theirs))
        assert mine == other
    for fact in ("No. Observations:", "Df Residuals:", "Scale:", "Log-Likelihood:", "Deviance:", "Pearson chi2:"):
        [mine], [other] = ([line.split(fact)[1].split()[0] for line in text if fact in line] for text in (ours, theirs))
        assert mine == other


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"penalty": "l2", "alpha": 0.1}, "--summary: standard errors are for fits without a penalty"),
        ({"covariance": "HC9"}, "--covariance"),
        ({"covariance": "cluster"}, "--groups"),
        ({"level": 1.5}, "--level"),
        ({"weights_are": "odd"}, "--weights-are"),
        ({"summary": False, "covariance": "HC0"}, "without --summary"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any], match: str) -> None:
    how = {"solver": "newton", "family": "gaussian", "summary": True} | words
    with pytest.raises(UsageError, match=match):
        clusterglm.fit(data=(np.ones((5, 1)), np.arange(5.0)), **how)


def test_a_fit_without_inference_has_no_summary() -> None:
    X, y = drawn("gaussian", np.random.default_rng(5), 30, 1)
    with pytest.raises(UsageError, match="no standard errors"):
        clusterglm.fit(data=(X, y), solver="newton", family="gaussian").summary()
