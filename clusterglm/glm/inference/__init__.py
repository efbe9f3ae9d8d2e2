"""What a fit without a penalty says of its coefficients: standard errors, tests and intervals, by two more passes.

    I = X' diag(w i) X,    H = X' diag(w h) X,    J = X' diag(w s^2) X    i = E h, at the coefficients

    nonrobust    phi I^-1                           phi: Pearson's X^2 / (n - p), 1 where the family has none
    HC0, HC1     H^-1 J H^-1, HC1 times n / (n - p) (Huber 1967; White 1980, Econometrica 48)
    cluster      H^-1 [sum_g u_g u_g'] H^-1 times G/(G-1) (n-1)/(n-p),  u_g = sum of w s a over the rows of a group
                 (Liang and Zeger 1986, Biometrika 73; Cameron and Miller 2015, J. Human Resources 50)

Weights are how often a row was seen, and n is their sum; ``analytic`` weights say how exact a row is, n counts the
rows, and J has w^2. Estimates beside their standard errors are compared to the normal distribution, and to Student's
with n - p degrees of freedom (G - 1 for groups) where phi is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import inverse_root
from clusterglm.glm.families.family import Family
from clusterglm.glm.families.likelihood import log_density
from clusterglm.glm.kernels import Block, gram, is_sparse, predictor
from clusterglm.glm.problem import Point, Problem, Rows

Array = NDArray[np.float64]
COVARIANCES = ("nonrobust", "HC0", "HC1", "cluster")
WEIGHTS = ("frequency", "analytic")


@dataclass(frozen=True)
class Wanted:
    """What is asked for: one of ``COVARIANCES``, one of ``WEIGHTS``, and the level of the intervals.

    ``groups`` are rows with the columns of the model, and behind them those that say which group a row belongs to.
    """

    covariance: str = "nonrobust"
    weights: str = "frequency"
    level: float = 0.95
    groups: Rows | None = None


@dataclass(frozen=True)
class Inference:
    """Estimates of ``names`` and what is known of them, (p,) each; NaN for columns that were left out.

    ``statistic`` is z or t as ``kind`` says, ``low`` and ``high`` bound the interval of ``level``; ``covariance`` is
    (p, p). ``observations`` n, ``groups`` where the covariance is clustered. Deviances are not divided by n.
    """

    names: list[str]
    estimate: Array
    standard_error: Array
    statistic: Array
    p_value: Array
    low: Array
    high: Array
    covariance: Array
    kind: str
    method: str
    level: float
    observations: float
    df_model: int
    df_residual: float
    dispersion: float
    pearson: float
    deviance: float
    null_deviance: float
    log_likelihood: float
    null_log_likelihood: float
    aic: float
    bic: float
    pseudo_r2: float
    groups: int | None = None


@dataclass(frozen=True)
class Grouped:
    """Sums of every group: ``ids`` (G,) sorted, ``sums`` (G, p); ``+`` adds those of the same group."""

    ids: Array
    sums: Array

    def __add__(self, other: Grouped) -> Grouped:
        ids, place = np.unique(np.concatenate([self.ids, other.ids]), return_inverse=True)
        sums = np.zeros((len(ids), self.sums.shape[1]))
        np.add.at(sums, place, np.vstack([self.sums, other.sums]))
        return Grouped(ids, sums)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.sums.astype(dtype or np.float64)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def moments(block: Block, family: Family, beta: Array, analytic: int) -> tuple[Any, ...]:
    """Return (I, H, J, sum of w (y - mu)^2 / V(mu), rows of positive weight, sum of w)."""
    w, eta, score, curvature = _terms(block, family, beta)
    mu = family.mean(eta)
    pearson = np.where(w > 0, w * (block.y - mu) ** 2 / family.variance(mu), 0.0)
    expected = gram(block.X, np.where(w > 0, w * family.information(eta), 0.0))
    observed = gram(block.X, w * curvature)
    squared = gram(block.X, (w * w if analytic else w) * score * score)
    return expected, observed, squared, float(pearson.sum()), float((w > 0).sum()), float(w.sum())


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def likelihoods(block: Block, family: Family, levels: Array, dispersions: Array, analytic: int) -> tuple[Any, ...]:
    """Return (sum of w log f, sum of w l) at every column of ``levels`` (p, K) with its dispersion, (K,) each."""
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    eta = predictor(block, levels, family.harmless)
    losses = np.where(w > 0, w * family.loss(block.y, eta), 0.0).sum(axis=1)
    exact = analytic and family.has_dispersion
    unit = np.where(w > 0, w, 1.0) if exact else 1.0
    logs = [log_density(family, block.y, family.mean(e), phi / unit) for e, phi in zip(eta, dispersions, strict=True)]
    counted = np.where(w > 0, 1.0 if exact else w, 0.0)
    return np.array([np.where(w > 0, counted * log, 0.0).sum() for log in logs]), losses


@np.errstate(over="ignore", invalid="ignore")
def scores(block: Block, family: Family, beta: Array, columns: NDArray[np.intp], beside: int) -> tuple[Grouped]:
    """Return the sums of w s a over every group, a being these ``columns``; those from ``beside`` on name the group.

    One of them is its number; of several, each is 1 in the rows of one group, and none in those of the first.
    """
    X, group = block.X[:, columns], block.X[:, beside:]
    if is_sparse(X):
        X, group = X.toarray(), group.toarray()
    ids = group[:, 0] if group.shape[1] == 1 else group @ np.arange(1.0, group.shape[1] + 1)
    inner = block._replace(X=np.ascontiguousarray(X))  # type: ignore[attr-defined]
    w, _, score, _ = _terms(inner, family, beta)
    found, place = np.unique(ids[w > 0], return_inverse=True)
    sums = np.zeros((len(found), len(columns)))
    np.add.at(sums, place, ((w * score)[:, None] * X)[w > 0])
    return (Grouped(found, sums),)


def _terms(block: Block, family: Family, beta: Array) -> tuple[Array, Array, Array, Array]:
    """Return weights, predictors, scores and curvatures, 0 in rows of weight 0."""
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    eta = predictor(block, beta, family.harmless)
    _, score, curvature = family.terms(block.y, eta)
    return w, eta, np.where(w > 0, score, 0.0), np.where(w > 0, curvature, 0.0)


def infer(
    problem: Problem, point: Point, wanted: Wanted, names: Sequence[str], kept: NDArray[np.intp], null: Array
) -> Inference:
    """Return the inference at ``point``, the optimum of a problem without a penalty; by two passes, three for groups.

    Parameters
    ----------
    problem : Problem
    point : Point
        Its columns are ``kept`` of ``names``.
    wanted : Wanted
    names : sequence of str
    kept : array of int
    null : array (p,)
        The model with nothing but an intercept, of all ``names``.
    """
    from scipy.stats import norm, t

    family, beta, analytic = problem.family, point.beta, int(wanted.weights == "analytic")
    expected, observed, squared, pearson, rows, weight = problem.sum(moments, family, beta, analytic)
    n, p = float(rows if analytic else weight), len(beta)
    left = n - p
    spare = left if left > 0 else np.nan  # of as many coefficients as observations no error is left to estimate
    dispersion = float(pearson) / spare if family.has_dispersion else 1.0
    # Of least squares the log-likelihood is the largest over the dispersion too, as everywhere.
    dispersions = np.array([2 * point.loss * weight / n if family.quadratic else dispersion, dispersion])
    levels = np.column_stack([beta, null[kept]])
    logs, losses = problem.sum(likelihoods, family, levels, dispersions, analytic)
    groups = None
    if wanted.covariance == "nonrobust":
        covariance = dispersion * inverse(expected)
    else:
        bread = inverse(observed)
        if wanted.covariance == "cluster":
            assert wanted.groups is not None
            (sums,) = problem.sum_over(wanted.groups, scores, family, beta, kept, len(names))
            groups = len(sums)
            squared = sums.T @ sums * (groups / max(groups - 1, 1)) * (n - 1) / spare
        elif wanted.covariance == "HC1":
            squared = squared * n / spare
        covariance = bread @ squared @ bread
    error = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = beta / error
    freedom = left if groups is None else groups - 1.0
    law = t(freedom) if family.has_dispersion else norm()
    half = float(law.ppf(0.5 + wanted.level / 2)) * error
    full = _spread(kept, len(names))
    count = 2 * p - 2 * float(logs[0])
    return Inference(
        names=list(names),
        estimate=np.where(np.isfinite(full(beta)), full(beta), 0.0),
        standard_error=full(error),
        statistic=full(statistic),
        p_value=full(2 * law.sf(np.abs(statistic))),
        low=full(beta - half),
        high=full(beta + half),
        covariance=_spread_square(covariance, kept, len(names)),
        kind="t" if family.has_dispersion else "z",
        method=wanted.covariance,
        level=wanted.level,
        observations=n,
        df_model=p - 1,
        df_residual=left,
        dispersion=dispersion,
        pearson=float(pearson),
        deviance=2 * float(losses[0]),
        null_deviance=2 * float(losses[1]),
        log_likelihood=float(logs[0]),
        null_log_likelihood=float(logs[1]),
        aic=count,
        bic=count + p * (np.log(n) - 2),
        pseudo_r2=float(-np.expm1(2 * (logs[1] - logs[0]) / n)),
        groups=groups,
    )


def inverse(H: Array) -> Array:
    """Return H^-1, NaN where H is not numerically positive definite."""
    root = inverse_root(H)
    return np.full_like(H, np.nan) if root is None else np.asarray(root @ root.T)


def _spread(kept: NDArray[np.intp], columns: int) -> Any:
    def full(values: Array) -> Array:
        spread = np.full(columns, np.nan)
        spread[kept] = values
        return spread

    return full


def _spread_square(covariance: Array, kept: NDArray[np.intp], columns: int) -> Array:
    spread = np.full((columns, columns), np.nan)
    spread[np.ix_(kept, kept)] = covariance
    return spread
