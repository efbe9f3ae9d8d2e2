"""Inference for the multinomial family: as in inference.py, of the coefficients of every class less those of the first.

    H_kl = X' diag(w p_k (d_kl - p_l)) X,    J_kl = X' diag(w s_k s_l) X,    k, l = 2..K

H is Fisher's information too. Statistics are z; the log-likelihood is minus the sum of the losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Array, Family
from clusterglm.glm.families.softmax import hessian, predictors
from clusterglm.glm.inference import Grouped, Inference, Wanted, inverse
from clusterglm.glm.kernels import Block, gram, is_sparse, on_columns
from clusterglm.glm.problem import Point, Problem


def moments(block: Block, family: Family, beta: Array, analytic: int) -> tuple[Any, ...]:
    """Return (H, J, sum of w sum_k (y_k - p_k)^2 / p_k, rows of positive weight, sum of w)."""
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    _, score, p = family.terms(block.y, predictors(block, family, beta))
    H = hessian(block, family, beta, gram)[2]
    K, columns = len(p), block.X.shape[1]
    J = np.empty((K, columns, K, columns))
    twice = w * w if analytic else w
    for k in range(K):
        for j in range(k + 1):
            # Of two classes the product of the scores is negative where the row is of one of them, positive elsewhere.
            product = twice * score[k] * score[j]
            parts = [gram(block.X, np.maximum(side * product, 0.0)) for side in (1, -1)]
            J[k, :, j] = J[j, :, k] = parts[0] - parts[1]
    pearson = float((w * (score * score / np.maximum(p, 1e-300)).sum(axis=0)).sum())
    size = K * columns
    return H, J.reshape(size, size), pearson, float((w > 0).sum()), float(w.sum())


def scores(block: Block, family: Family, beta: Array, columns: NDArray[np.intp], beside: int) -> tuple[Grouped]:
    """Return the sums of w s_k a over every group, class by class; ``columns`` and ``beside`` as in inference.py."""
    group = block.X[:, beside:]
    group = group.toarray() if is_sparse(group) else group
    ids = group[:, 0] if group.shape[1] == 1 else group @ np.arange(1.0, group.shape[1] + 1)
    inner: Any = on_columns(block, columns, lambda narrow: narrow)
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    _, score, _ = family.terms(block.y, predictors(inner, family, beta))
    X = inner.X.toarray() if is_sparse(inner.X) else inner.X
    each = np.concatenate([(w * s)[:, None] * X for s in score], axis=1)
    found, place = np.unique(ids[w > 0], return_inverse=True)
    sums = np.zeros((len(found), each.shape[1]))
    np.add.at(sums, place, each[w > 0])
    return (Grouped(found, sums),)


def infer_classes(
    problem: Problem, point: Point, wanted: Wanted, names: Sequence[str], kept: NDArray[np.intp], null: Array
) -> Inference:
    """Return the inference at ``point``, the optimum of a problem without a penalty; by one pass, two for groups.

    Parameters are as in ``inference.infer``. ``names`` of the answer are ``k:NAME`` for classes k from 1 on, and its
    vectors are class by class.
    """
    from scipy.stats import norm

    family, analytic = problem.family, int(wanted.weights == "analytic")
    K, p = family.predictors, len(names)
    H, J, pearson, rows, weight = problem.sum(moments, family, point.beta, analytic)
    n, width = float(rows if analytic else weight), len(kept)
    rest = slice(width, K * width)  # without the first class
    left, groups, covariance = n - (K - 1) * width, None, inverse(H[rest, rest])
    spare = left if left > 0 else np.nan
    if wanted.covariance != "nonrobust":
        squared = J[rest, rest]
        if wanted.covariance == "cluster":
            assert wanted.groups is not None
            (sums,) = problem.sum_over(wanted.groups, scores, family, point.beta, kept, p)
            groups = len(sums)
            squared = sums[:, rest].T @ sums[:, rest] * (groups / max(groups - 1, 1)) * (n - 1) / spare
        elif wanted.covariance == "HC1":
            squared = squared * n / spare
        covariance = covariance @ squared @ covariance
    each = point.beta.reshape(K, width)
    beta = (each[1:] - each[0]).ravel()
    error = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = beta / error
    half = float(norm.ppf(0.5 + wanted.level / 2)) * error
    place = (np.arange(K - 1)[:, None] * p + kept).ravel()

    def full(values: Array, missing: float = np.nan) -> Array:
        spread = np.full((K - 1) * p, missing)
        spread[place] = values
        return spread

    whole = np.full(((K - 1) * p, (K - 1) * p), np.nan)
    whole[np.ix_(place, place)] = covariance
    shares = family.mean(null.reshape(K, -1)[:, :1])[:, 0]
    null_loss = -float((shares * np.log(shares)).sum())
    log, null_log = -point.loss * float(weight), -null_loss * float(weight)
    count = 2 * len(beta) - 2 * log
    return Inference(
        names=[f"{k}:{name}" for k in range(1, K) for name in names],
        estimate=full(beta, 0.0),
        standard_error=full(error),
        statistic=full(statistic),
        p_value=full(2 * norm.sf(np.abs(statistic))),
        low=full(beta - half),
        high=full(beta + half),
        covariance=whole,
        kind="z",
        method=wanted.covariance,
        level=wanted.level,
        observations=n,
        df_model=len(beta) - (K - 1),
        df_residual=left,
        dispersion=1.0,
        pearson=float(pearson),
        deviance=-2 * log,
        null_deviance=-2 * null_log,
        log_likelihood=log,
        null_log_likelihood=null_log,
        aic=count,
        bic=count + len(beta) * (np.log(n) - 2),
        pseudo_r2=float(-np.expm1(2 * (null_log - log) / n)),
        groups=groups,
    )
