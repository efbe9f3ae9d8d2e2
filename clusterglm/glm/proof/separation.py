"""Directions along which the loss falls for ever: where one exists no coefficients are the best.

    binomial: (2y - 1) a'd >= 0 in every row, a'd = 0 where 0 < y < 1     (Albert and Anderson 1984, Biometrika 71)
    log link: a'd = 0 where y > 0, a'd <= 0 where y = 0                   (Correia, Guimaraes and Zylkin 2019)

and a'd != 0 in some row. Candidates come from the coefficients, which grow along such a direction; they are near one,
and a claim needs more. A row agrees when it violates by no more than the rounding of a'd, in columns of one scale:

    violation <= 64 p eps ||a|| ||d||

so a row of the other class counts however small it is beside the others. A candidate that is off by more than rounding,
but by less than 1e-10, is put right first: where only some rows are separated d is orthogonal to all others, whose row
space is found by a triangular factor of those rows, each scaled to length 1, merged along the tree (TSQR: Demmel,
Grigori, Hoemmen and Langou 2012, SIAM J. Sci. Comput. 34). Their Gram matrix would square the small rows away. Rows
that contradict one another leave no direction orthogonal to them, or one that other rows contradict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import MOST_COLUMNS
from clusterglm.glm.families.family import Family
from clusterglm.glm.kernels import Block, Extremes, gram, is_sparse, predictor
from clusterglm.glm.problem import Problem

Array = NDArray[np.float64]
SEARCH, MOST_SEARCH = 2, 4  # passes that a search takes, and with a candidate that must be put right
_EPS = float(np.finfo(float).eps)
_TAILS = (1e-1, 1e-2, 1e-4, 1e-6)  # score and curvature of rows that a direction of recession may move
_DOUBT = 1e-10  # violation up to which a candidate may be near a direction of recession
_FELT = 1e-8  # |a'd| of some row, without which a direction moves nothing


def overlap(block: Block, family: Family, beta: Array, thresholds: tuple[float, ...]) -> tuple[Array, ...]:
    """Return X'X over the rows whose score or curvature at ``beta`` exceeds each threshold.

    Far out along a direction of recession the rows that it moves have neither; all others are orthogonal to it.
    """
    _, score, curvature = family.terms(block.y, predictor(block, beta, family.harmless))
    level = np.maximum(np.abs(score), curvature)
    if block.weights is not None:
        level = np.where(block.weights > 0, level, 0.0)
    return tuple(gram(block.X, np.where(level > t, 1.0, 0.0)) for t in thresholds)


def margins(block: Block, family: Family, directions: Array, units: Array) -> tuple[Extremes]:
    """Return what tells which columns of ``directions`` (p, K) are of recession, as maxima over rows of weight: (2, K).

    The largest violation beside the length of its row in columns divided by ``units`` (p,), and the largest |a_i'd|.
    """
    t, y = block.X @ directions if family.predictors == 1 else _apart(block, family, directions), block.y[:, None]
    if family.recession == "classes":
        t, violation = np.abs(t), np.maximum(-t, 0.0)
    elif family.recession == "signs":
        violation = np.where(y == 1, -t, np.where(y == 0, t, np.abs(t)))
    else:
        violation = np.where(y > 0, np.abs(t), t)
    length = _lengths(block.X, units[: block.X.shape[1]])[:, None]
    violation = np.divide(violation, length, out=np.zeros_like(t), where=length > 0)
    if block.weights is not None:
        violation, t = violation[block.weights > 0], t[block.weights > 0]
    return (Extremes(np.stack([violation.max(axis=0, initial=-np.inf), np.abs(t).max(axis=0, initial=0.0)])),)


def _apart(block: Block, family: Family, directions: Array) -> Array:
    """Return by how much every direction (K p, C) moves a row's own class away from the nearest other, (m, C)."""
    rows, own = np.arange(len(block.y)), block.y.astype(np.intp)
    found = []
    for d in directions.T:
        moved = (block.X @ d.reshape(family.predictors, -1).T).T
        mine = moved[own, rows].copy()
        moved[own, rows] = -np.inf
        found.append(mine - moved.max(axis=0))
    return np.column_stack(found)


def _lengths(X: Any, units: Array) -> Array:
    """Return the length of every row in columns divided by ``units``, (m,)."""
    if is_sparse(X):
        scaled = X.multiply(1 / units)
        return np.asarray(np.sqrt(scaled.multiply(scaled).sum(axis=1))).ravel()
    return np.asarray(np.linalg.norm(X / units, axis=1))


@dataclass(frozen=True)
class Triangle:
    """The triangular factor of some rows, (k, p) with k <= p; ``+`` is that of both, and as an array it is R."""

    R: Array

    def __add__(self, other: Triangle) -> Triangle:
        return Triangle.of(np.vstack([self.R, other.R]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.R.astype(dtype or np.float64)

    @classmethod
    def of(cls, rows: Array) -> Triangle:
        return cls(np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > 1 else rows)


def doubtful(block: Block, direction: Array, units: Array, columns: NDArray[np.intp]) -> tuple[Triangle]:
    """Return the triangular factor of the rows that ``direction`` (p,) hardly moves, each divided by its length.

    Of these ``columns`` alone, in ``units`` (p,) in which the direction has length 1; of rows of positive weight.
    """
    length = _lengths(block.X, units)
    some = (np.abs(block.X @ direction) <= _DOUBT * length) & (length > 0)
    if block.weights is not None:
        some &= block.weights > 0
    found, size = Triangle(np.empty((0, len(columns)))), max(1024, len(columns))
    for rows in np.array_split(np.flatnonzero(some), -(-np.count_nonzero(some) // size) or 1):
        X = block.X[rows][:, columns]
        X = X.toarray() if is_sparse(X) else X
        found = found + Triangle.of(X / units[columns] / length[rows, None])
    return (found,)


def direction_of_recession(problem: Problem, beta: Array, before: Array, largest: Array) -> Array | None:
    """Return a direction of recession that costs no penalty, (p,) of length 1, or None; ``SEARCH`` passes or two more.

    Candidates: the last step, the coefficients, and, unless there are too many columns for a Gram matrix, the
    coefficients' part orthogonal to all rows that are still felt.

    Parameters
    ----------
    problem : Problem
    beta, before : array (p,)
        The last two iterates.
    largest : array (p,)
        Bounds on max_i |a_ij|, above 0.
    """
    free = np.flatnonzero(problem.penalty.free)
    units = largest[free]
    candidates = [(beta[free] - before[free]) * units, beta[free] * units]
    wide = len(beta) > MOST_COLUMNS or problem.family.predictors > 1
    for felt in () if wide else problem.sum(overlap, problem.family, beta, _TAILS):
        values, vectors = np.linalg.eigh(felt[np.ix_(free, free)] / units / units[:, None])
        flat = vectors[:, values <= 10 * len(free) * _EPS * max(values[-1], 0.0)]
        candidates.append(flat @ (flat.T @ (beta[free] * units)))
    scaled = _unit(np.column_stack(candidates))
    violation = _violations(problem, scaled, free, largest)
    rounding = 64 * len(free) * _EPS
    best = int(np.argmin(violation))
    if violation[best] > (_DOUBT if wide else rounding):
        if wide or not violation[best] <= _DOUBT or problem.left < MOST_SEARCH - SEARCH:
            return None
        direction = _spread(scaled[:, best], free, largest)
        (R,) = problem.sum(doubtful, direction, largest, free)
        _, sizes, across = np.linalg.svd(R)
        sizes = np.append(sizes, np.zeros(len(free) - len(sizes)))
        flat = across[sizes <= 10 * len(free) * _EPS * max(sizes[0], 1.0)]
        scaled, best = _unit((flat.T @ (flat @ scaled[:, best]))[:, None]), 0
        if not _violations(problem, scaled, free, largest)[0] <= rounding:
            return None
    direction = _spread(scaled[:, best], free, largest)
    return direction / np.linalg.norm(direction)


def _unit(columns: Array) -> Array:
    """Return the columns at length 1, those of zeros as they are."""
    length = np.linalg.norm(columns, axis=0)
    return columns / np.where(length > 0, length, 1.0)


def _spread(scaled: Array, free: NDArray[np.intp], largest: Array) -> Array:
    """Return directions among the ``free`` columns in their own units as ones among all columns."""
    spread = np.zeros((len(largest), *scaled.shape[1:]))
    spread[free] = (scaled.T / largest[free]).T
    return spread


def _violations(problem: Problem, scaled: Array, free: NDArray[np.intp], largest: Array) -> Array:
    """Return the largest violation of every column of ``scaled``, (K,); infinite where it moves no row. One pass."""
    directions = _spread(scaled, free, largest)
    ((violation, moved),) = problem.sum(margins, problem.family, directions, largest)
    return np.where(moved > _FELT * (largest @ np.abs(directions)), violation, np.inf)
