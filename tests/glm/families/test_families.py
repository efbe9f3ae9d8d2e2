"""Families against 100-digit decimals: only the loss is written down again, its derivatives are differences of it."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterglm.errors import UsageError
from clusterglm.glm.families import FAMILIES, get_family
from clusterglm.glm.families.family import Family

TARGETS = {
    "gaussian": [0.0, 1e6, -3.3, 1e-9],
    "binomial": [0.0, 1.0, 0.25, 1e-9],
    "poisson": [0.0, 1.0, 7.0, 1e6, 0.3],
}
PREDICTORS = [0.0, *(s * e for s in (1, -1) for e in (1e-8, 0.5, 3, 20, 36, 40, 700, 1e4))]
STEP = Decimal("1e-25")


def exact_loss(family: str, y: Decimal, eta: Decimal) -> Decimal:
    def xlogx(x: Decimal) -> Decimal:
        return x * x.ln() if x > 0 else Decimal(0)

    if family == "gaussian":
        return (y - eta) ** 2 / 2
    if family == "poisson":
        return xlogx(y) - y * eta - y + eta.exp()
    return (1 + eta.exp()).ln() - y * eta + xlogx(y) + xlogx(1 - y)


def exact(family: str, y: float, eta: float) -> tuple[float, float, float]:
    """Return loss, score and curvature to double precision."""
    with localcontext() as context:
        context.prec = 100
        if family == "binomial" and abs(eta) > 30:
            context.prec = int(100 + 2 * abs(eta) / 2.3)  # 1 + e^-eta must keep the digits of e^-eta
        t, e = Decimal(y), Decimal(eta)
        below, at, above = (exact_loss(family, t, e + k * STEP) for k in (-1, 0, 1))
        return float(at), float((above - below) / (2 * STEP)), float((above - 2 * at + below) / STEP**2)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("fractions", [False, True])
def test_loss_at_zero_is_the_sum_of_losses(name: str, fractions: bool) -> None:
    random = np.random.default_rng(1)
    y, w = random.integers(0, 2, 50).astype(float), random.random(50)
    if fractions:
        y[20:] = random.random(30)
    losses = FAMILIES[name].loss(y, np.zeros(50))
    assert FAMILIES[name].loss_at_zero(y) == pytest.approx(losses.sum(), rel=1e-14)
    assert FAMILIES[name].loss_at_zero(y, w) == pytest.approx(w @ losses, rel=1e-14)


@pytest.mark.parametrize("name", FAMILIES)
def test_terms_agree_with_a_hundred_digits(name: str) -> None:
    for y in TARGETS[name]:
        for eta in PREDICTORS:
            if name == "poisson" and eta > 700:
                continue
            got = [float(t[0]) for t in FAMILIES[name].terms(np.array([y]), np.array([eta]))]
            if name == "binomial" and abs(eta) == 1e4:  # straight lines in double precision
                at = exact(name, y, np.sign(eta) * 800)
                want = (at[0] + 9200 * abs(at[1]), at[1], 0.0)
            else:
                want = exact(name, y, eta)
            assert np.isfinite(got).all()
            scale = abs(y) * max(1.0, abs(eta)) + abs(eta)
            assert got[0] == pytest.approx(want[0], rel=1e-14 + 3e-16 * abs(eta), abs=4e-16 * scale)
            rounded = 0.0 if y == 0.0 or (name == "binomial" and y == 1.0) else 2e-16 * abs(y)
            assert got[1] == pytest.approx(want[1], rel=4e-15, abs=1e-45 + rounded)
            assert got[2] == pytest.approx(want[2], rel=4e-15)


@pytest.mark.parametrize("y", [1.0, 7.0, 0.3, 1e6])
def test_poisson_near_a_saturated_fit_loses_no_digits(y: float) -> None:
    for r in (0.0, 1e-12, -1e-9, 1e-6, -1e-4, 1e-2):
        eta = np.log(y) + r
        loss, score, _ = (float(t[0]) for t in FAMILIES["poisson"].terms(np.array([y]), np.array([eta])))
        want = exact("poisson", y, float(eta))
        assert loss >= 0
        assert loss == pytest.approx(want[0], abs=1e-15 * y * (abs(r) * np.log(y + 3) + 1e-15))
        assert score == pytest.approx(want[1], abs=4e-16 * y * max(1.0, abs(np.log(y))))


@pytest.mark.parametrize("eta", [30.0, 37.0, 50.0, 300.0, 700.0])
def test_the_score_of_a_well_fitted_row_keeps_its_digits(eta: float) -> None:
    """mu - 1 would be a multiple of 1e-16, and 0 from 37 on: a separated fit would look optimal."""
    for y, e in ((1.0, eta), (0.0, -eta)):
        _, score, curvature = (float(t[0]) for t in FAMILIES["binomial"].terms(np.array([y]), np.array([e])))
        assert score == pytest.approx((-1) ** y * np.exp(-eta), rel=1e-13)
        assert curvature == pytest.approx(np.exp(-eta), rel=1e-13)


def targets(name: str) -> st.SearchStrategy[float]:
    ranges = {"gaussian": (-1e4, 1e4), "binomial": (0.0, 1.0), "poisson": (0.0, 1e9)}
    return st.floats(*ranges[name])


@pytest.mark.parametrize("name", FAMILIES)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(data=st.data(), eta=st.floats(-1e4, 1e4))
def test_loss_is_never_negative_and_curvature_obeys_its_bounds(name: str, data: st.DataObject, eta: float) -> None:
    family = FAMILIES[name]
    y = np.array([data.draw(targets(name))])
    loss, _, h = family.terms(y, np.array([eta]))
    assert not np.isnan([loss, h]).any()
    assert loss[0] >= 0
    assert 0 <= h[0] <= family.curvature_bound * (1 + 1e-15)
    near = family.terms(y, np.array([eta + 0.125]))[2]  # |dh/deta| <= c h
    if np.isfinite([h[0], near[0]]).all() and h[0] > 1e-290:
        assert abs(np.log(near[0] / h[0])) <= 0.125 * family.self_concordance + 1e-9
    assert family.loss(y, np.array([eta]))[0] == loss[0]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_predictor_undoes_mean(family: Family) -> None:
    eta = np.array([-30.0, -1.0, 0.0, 0.5, 3.0])
    mu = family.mean(eta)
    np.testing.assert_allclose([family.predictor(float(m)) for m in mu], eta, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(family.terms(np.zeros(5), eta)[1], mu, rtol=1e-15)


def test_what_the_families_take() -> None:
    y = np.array([-1.0, -1e-9, 0.0, 0.5, 1.0, 1.5])
    assert FAMILIES["gaussian"].outside(y).tolist() == [False] * 6
    assert FAMILIES["binomial"].outside(y).tolist() == [True, True, False, False, False, True]
    assert FAMILIES["poisson"].outside(y).tolist() == [True, True, False, False, False, False]


def test_means_at_the_edge_have_an_infinite_predictor() -> None:
    assert FAMILIES["binomial"].predictor(0.0) == FAMILIES["poisson"].predictor(0.0) == -np.inf
    assert FAMILIES["binomial"].predictor(1.0) == np.inf
    assert FAMILIES["poisson"].mean(np.array([1e4]))[0] == np.inf


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_found_by_name_and_own_link(name: str) -> None:
    assert get_family(name) is get_family(name, FAMILIES[name].link) is FAMILIES[name]
    with pytest.raises(UsageError, match="--link"):
        get_family(name, "loglog")


def test_an_unknown_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--family \(binomal\).*did you mean binomial"):
        get_family("binomal")


@given(st.integers(0, 2**32), st.integers(1, 200), st.sampled_from([0, 0.1, 2, 30, 700]), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_sums_are_those_of_the_terms(seed: int, rows: int, spread: float, alike: bool, weighted: bool) -> None:
    """In all kinds of data: far from the optimum, at a close fit where nearly all losses vanish, alike rows."""
    random = np.random.default_rng(seed)
    for name, family in FAMILIES.items():
        eta = spread * (np.ones(rows) if alike else random.standard_normal(rows))
        if name == "binomial":
            wrong = random.random(rows) < random.choice([0.0, 0.3])
            y = ((eta > 0) != wrong).astype(float)
        else:
            eta = np.clip(eta, -30, 30)
            y = (
                np.exp(eta) * random.choice([1.0, 1.0 + 1e-9, 3.0])
                if name == "poisson"
                else eta + random.choice([0, 1])
            )
            y = np.round(y) if random.random() < 0.7 else y
        w = random.random(rows) if weighted else None
        losses, score, curvature = family.terms(y, eta)
        exactly = math.fsum(losses if w is None else w * losses)
        total, scores, curvatures = family.sums(y, eta, w)
        for got in (total, family.total(y, eta, w)):
            assert abs(float(got) - exactly) <= family.ulps * np.finfo(float).eps * exactly, (name, float(got), exactly)
        np.testing.assert_allclose(scores, score if w is None else w * score, rtol=1e-14)
        np.testing.assert_allclose(curvatures, curvature if w is None else w * curvature, rtol=1e-14)


def test_counts_below_zero_are_left_to_the_scan_to_refuse() -> None:
    y = np.array([-300.0, -1.0, 2.0])
    assert np.isfinite(FAMILIES["poisson"].loss(y, np.zeros(3))).all()
    assert (FAMILIES["poisson"].outside(y) == [True, True, False]).all()
