"""Rows drawn from every pair of family and link, with statsmodels' name for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import statsmodels.api as sm
from scipy.special import ndtr

from clusterglm.glm.families import get_family
from clusterglm.glm.families.family import Family

links = sm.families.links
POWER, THETA = 1.4, 2.5
PAIRS: dict[str, tuple[str, str, dict[str, float]]] = {
    "gaussian": ("gaussian", "identity", {}),
    "logit": ("binomial", "logit", {}),
    "probit": ("binomial", "probit", {}),
    "cloglog": ("binomial", "cloglog", {}),
    "poisson": ("poisson", "log", {}),
    "gamma": ("gamma", "log", {}),
    "gamma-inverse": ("gamma", "inverse", {}),
    "inverse-gaussian": ("inverse-gaussian", "inverse-squared", {}),
    "tweedie": ("tweedie", "log", {"power": POWER}),
    "negative-binomial": ("negative-binomial", "log", {"theta": THETA}),
}
PEERS: dict[str, Callable[[], Any]] = {
    "gaussian": sm.families.Gaussian,
    "logit": sm.families.Binomial,
    "probit": lambda: sm.families.Binomial(links.Probit()),
    "cloglog": lambda: sm.families.Binomial(links.CLogLog()),
    "poisson": sm.families.Poisson,
    "gamma": lambda: sm.families.Gamma(links.Log()),
    "gamma-inverse": sm.families.Gamma,
    "inverse-gaussian": sm.families.InverseGaussian,
    "tweedie": lambda: sm.families.Tweedie(links.Log(), POWER),
    "negative-binomial": lambda: sm.families.NegativeBinomial(links.Log(), 1 / THETA),
}


def family(pair: str) -> Family:
    name, link, parameters = PAIRS[pair]
    return get_family(name, link, **parameters)


def options(pair: str) -> dict[str, Any]:
    """Return the pair as options of ``clusterglm.fit``."""
    name, link, parameters = PAIRS[pair]
    return {"family": name, "link": link, **parameters}


def drawn(pair: str, random: np.random.Generator, n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X (n, p) and targets (n,) of a model with an intercept."""
    X = random.standard_normal((n, p))
    eta = X @ random.standard_normal(p) * 0.5 / np.sqrt(p) + 0.2
    if family(pair).positive:
        X = random.random((n, p))
        eta = X @ random.random(p) * 2 / p + 0.4
    mu = {"logit": 1 / (1 + np.exp(-eta)), "probit": ndtr(eta), "cloglog": -np.expm1(-np.exp(eta))}.get(
        pair, np.exp(eta)
    )
    draw = {
        "gaussian": lambda: eta + random.standard_normal(n),
        "poisson": lambda: random.poisson(mu),
        "gamma": lambda: random.gamma(3, mu / 3),
        "gamma-inverse": lambda: random.gamma(3, 1 / eta / 3),
        "inverse-gaussian": lambda: random.wald(eta**-0.5, 5.0),
        "tweedie": lambda: np.array([random.gamma(1.0, 1.0, k).sum() for k in random.poisson(mu)]),
        "negative-binomial": lambda: random.negative_binomial(THETA, THETA / (THETA + mu)),
    }.get(pair, lambda: random.random(n) < mu)
    return X, np.asarray(draw(), dtype=np.float64)
