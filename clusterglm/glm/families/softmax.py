"""The multinomial family: K classes, each with a linear predictor of its own.

    l(y, eta) = log sum_k e^eta_k - eta_y,    s = p - e_y,    h = diag(p) - p p',    p_k = e^eta_k / sum_l e^eta_l

Coefficients are one vector, class by class: beta = (b_1, ..., b_K), eta_k = a'b_k. All K are there and none is a
reference, so that a penalty treats them alike; predictors may all move by the same amount, and the coefficients without
penalty are held where their sum over the classes is 0 (``gauge``).

What certificates rest on: along a move r of the predictors, with range(r) = max_k r_k - min_k r_k,

    |D^3 l[r, r, r]| <= range(r) D^2 l[r, r],    h <= 1/2 (I - 11'/K)    (third central moments; Boehning 1992, AISM 44)

so c = 1 with range(a'd_k) in the place of |a'd|. For the dual bound along d: q = p + h t, t_k = a'd_k, is a
distribution where range(t) < 1, and l + l*(q - e_y) - (q - e_y)'eta is its divergence sum_k q_k log(q_k / p_k) from p,
which is at most t'h t omega(range(t)): q_k = p_k (1 + t_k - t'p), and (1 + x) log(1 + x) - x <= x^2 omega(tau) for x >=
-tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Array, Family


@dataclass(frozen=True)
class Multinomial(Family):
    """K classes; targets are their numbers, from 0 on. ``classes`` is 0 until the rows have told."""

    classes: int = 0

    name = "multinomial"
    link = "logit"
    curvature_bound = 0.25
    self_concordance = 1.0
    recession = "classes"
    whole = True
    takes = "the numbers of classes, from 0 on"

    @property
    def predictors(self) -> int:
        return self.classes

    def terms(self, y: Array, eta: Array) -> tuple[Array, Array, Array]:
        """Return (l, s, p): (m,), (K, m) and (K, m); ``eta`` is (K, m)."""
        # Rows of weight 0 may be of any class.
        rows, own = np.arange(eta.shape[1]), np.minimum(y.astype(np.intp), len(eta) - 1)
        top = eta.argmax(axis=0)
        highest = eta[top, rows]
        e = np.exp(eta - highest)
        e[top, rows] = 0.0
        others = e.sum(axis=0)  # without the 1 of the likeliest class, whose digits would be lost beside it
        e[top, rows] = 1.0
        p = e / (1 + others)
        score = p.copy()
        score[own, rows] = 0.0
        score[own, rows] = -score.sum(axis=0)
        return (highest - eta[own, rows]) + np.log1p(others), score, p

    def loss_at_zero(self, y: Array, w: Array | None = None) -> float:  # noqa: ARG002
        return 0.0  # of which nobody asks: K is not known yet

    def mean(self, eta: Array) -> Array:
        e = np.exp(eta - eta.max(axis=0))
        return np.asarray(e / e.sum(axis=0))

    def predictor(self, mean: float) -> float:
        return mean

    def variance(self, mean: Array) -> Array:
        return mean * (1 - mean)

    def outside(self, y: Array) -> NDArray[np.bool_]:
        beyond = self.classes if self.classes else np.inf
        return np.asarray((y < 0) | (y >= beyond) | (y != np.floor(y)))


def predictors(block: Any, family: Family, beta: Array) -> Array:
    """Return eta, (K, m), 0 in rows of weight 0."""
    eta: Array = (block.X @ beta.reshape(family.predictors, -1).T).T
    if block.weights is not None:
        eta = np.where(block.weights > 0, eta, 0.0)
    return eta


def loss(block: Any, family: Family, beta: Array) -> tuple[Any]:
    """Return (sum of w l,)."""
    values = family.terms(block.y, predictors(block, family, beta))[0]
    return (values.sum() if block.weights is None else values @ block.weights,)


def gradient(block: Any, family: Family, beta: Array) -> tuple[Any, Array]:
    """Return (sum of w l, its gradient): a number and (K p,)."""
    values, score, _ = family.terms(block.y, predictors(block, family, beta))
    if block.weights is not None:
        values, score = values * block.weights, score * block.weights
    return values.sum(), (score @ block.X).ravel()


def hessian(block: Any, family: Family, beta: Array, gram: Any) -> tuple[Any, Array, Array]:
    """Return (sum of w l, its gradient, its Hessian): a number, (K p,) and (K p, K p); ``gram`` as in kernels."""
    values, score, p = family.terms(block.y, predictors(block, family, beta))
    w = 1.0 if block.weights is None else block.weights
    K, columns = len(p), block.X.shape[1]
    H = np.empty((K, columns, K, columns))
    for k in range(K):
        H[k, :, k] = gram(block.X, w * p[k] * (1 - p[k]))
        for j in range(k):
            H[k, :, j] = H[j, :, k] = -gram(block.X, w * p[k] * p[j])
    size = K * columns
    return (w * values).sum(), ((w * score) @ block.X).ravel(), H.reshape(size, size)


def class_weights(block: Any, classes: int) -> tuple[Array]:
    """Return the weight of the rows of every class, (K,)."""
    own = np.minimum(block.y.astype(np.intp), classes - 1)
    return (np.bincount(own, block.weights, classes).astype(np.float64),)


def moves(X: Any, direction: Array) -> Array:
    """Return how far a step moves the predictors apart: max_k a'd_k - min_k a'd_k of every row of X, (m,)."""
    moved = (X @ direction.reshape(-1, X.shape[1]).T).T
    return np.asarray(moved.max(axis=0) - moved.min(axis=0))


def widest(X: Any, inverse_root: Array) -> Array:
    """Return a bound on range(a'd_k) over all d with ||d||_H <= 1, (m,), where R R' = H^-1.

    It is the largest ||R'(e_k - e_l) (x) a||, and no more than the sum of the two largest ||R' e_k (x) a||.
    """
    columns = X.shape[1]
    blocks = inverse_root.reshape(-1, columns, inverse_root.shape[1])
    lengths = np.array([np.sqrt(((X @ R) ** 2).sum(axis=1)) for R in blocks])
    return np.asarray(np.sort(lengths, axis=0)[-2:].sum(axis=0))


def gauge(free: NDArray[np.bool_], squares: Array, classes: int) -> Array:
    """Return the Hessian of 1/2 sum_j squares_j / K (sum_k b_kj)^2 over the ``free`` columns, (K p, K p).

    The loss does not change where a column's coefficients all move alike. So this may be added to an objective in which
    such a column has no penalty: its infimum stays the same, and so do value and gradient wherever the sums are 0.
    ``squares`` (p,) are the columns' mean squares.
    """
    each = np.where(free, squares / classes, 0.0)
    return np.kron(np.ones((classes, classes)), np.diag(each))
