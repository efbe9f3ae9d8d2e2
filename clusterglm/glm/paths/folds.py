"""Kernels of many coefficient vectors at once, whose sums are kept apart by fold.

A row belongs to the fold that a hash of its global index says, so to the same one under any chunking. The model that
leaves a fold out is fitted to the rows of all others: its sums are those of all rows less those of the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Family
from clusterglm.glm.kernels import Block, Piece, gram, hashed, predictor
from clusterglm.glm.problem import Rows

Array = NDArray[np.float64]
_TOGETHER = 32  # coefficient vectors whose terms stay in cache beside the rows


def fold_of(block: Block, folds: int) -> NDArray[np.intp]:
    """Return the fold of every row, (m,)."""
    index = np.arange(block.start, block.start + len(block.y), dtype=np.uint64)
    return np.asarray(hashed(index) % np.uint64(folds), dtype=np.intp)


def apart(block: Block, folds: int) -> Iterator[Block]:
    """Yield the rows of every fold as a block."""
    if folds == 1:
        yield block
        return
    own = fold_of(block, folds)
    for fold in range(folds):
        some = np.flatnonzero(own == fold)
        w, o = (None if v is None else v[some] for v in (block.weights, block.offset))
        yield Piece(block.X[some], block.y[some], w, o, block.start)


class Outside:
    """Rows of which those of one fold have no weight."""

    def __init__(self, rows: Rows, folds: int, fold: int) -> None:
        self._all, self._folds, self._fold = rows, folds, fold
        self.rows, self.local_problems = rows.rows, rows.local_problems

    def sum(self, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> tuple[Any, ...]:
        return self._all.sum(_without, self._folds, self._fold, kernel, *args)

    def each(self, step: Callable[..., Any], states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        raise NotImplementedError("a fold is left out of sums alone")


def _without(block: Block, folds: int, fold: int, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> Any:
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    return kernel(Piece(block.X, block.y, w * (fold_of(block, folds) != fold), block.offset, block.start), *args)


@np.errstate(over="ignore", invalid="ignore")
def gradients(block: Block, family: Family, points: Array, folds: int) -> tuple[Array, Array]:
    """Return (sum of w, X'(w s)) of every fold at the columns of ``points`` (p, K): (F,) and (F, p, K)."""
    p, K = points.shape
    weight, sums = np.zeros(folds), np.zeros((folds, p, K))
    for fold, rows in enumerate(apart(block, folds)):
        weight[fold] = float(len(rows.y)) if rows.weights is None else float(rows.weights.sum())
        for k in range(0, K, _TOGETHER):
            cut = slice(k, k + _TOGETHER)
            score = family.score(rows.y, predictor(rows, points[:, cut], family.harmless))
            if rows.weights is not None:
                score = rows.weights * score
            sums[fold, :, cut] = (score @ rows.X).T
    return weight, sums


@np.errstate(over="ignore", invalid="ignore")
def losses(block: Block, family: Family, points: Array, folds: int) -> tuple[Array]:
    """Return the sum of w l of every fold at the columns of ``points`` (p, K): (F, K)."""
    found = np.zeros((folds, points.shape[1]))
    for fold, rows in enumerate(apart(block, folds)):
        for k in range(0, points.shape[1], _TOGETHER):
            cut = slice(k, k + _TOGETHER)
            loss = family.loss(rows.y, predictor(rows, points[:, cut], family.harmless))
            found[fold, cut] = loss.sum(axis=1) if rows.weights is None else loss @ rows.weights
    return (found,)


@np.errstate(over="ignore", invalid="ignore")
def hessians(block: Block, family: Family, points: Array, folds: int) -> tuple[Array]:
    """Return X' diag(w h) X of every fold at the columns of ``points`` (p, R): (F, R, p, p)."""
    p, R = points.shape
    found = np.zeros((folds, R, p, p))
    for fold, rows in enumerate(apart(block, folds)):
        for r in range(R):
            _, _, curvature = family.terms(rows.y, predictor(rows, points[:, r], family.harmless))
            found[fold, r] = gram(rows.X, curvature if rows.weights is None else rows.weights * curvature)
    return (found,)


@np.errstate(over="ignore", invalid="ignore")
def outside(block: Block, family: Family, points: Array) -> tuple[Array]:
    """Return X' diag(w h) X over the rows outside of every fold at the columns of its ``points`` (F, p, R).

    Shape: (F, R, p, p).
    """
    folds, p, R = points.shape
    found = np.zeros((folds, R, p, p))
    for fold, rows in enumerate(apart(block, folds)):
        for other in range(folds):
            if other != fold:
                found[other] += hessians(rows, family, points[other], 1)[0][0]
    return (found,)


@np.errstate(over="ignore", invalid="ignore")
def held_out(block: Block, family: Family, points: Array) -> tuple[Array, Array]:
    """Return X'(w s) over the rows outside of every fold, and the sum of w l over those inside of it, at the columns of
    ``points`` (F, p, L), one matrix for the model that leaves the fold out: (F, p, L) and (F, L)."""
    folds, p, L = points.shape
    sums, held = np.zeros((folds, p, L)), np.zeros((folds, L))
    for fold, rows in enumerate(apart(block, folds)):
        held[fold] = losses(rows, family, points[fold], 1)[0][0]
        for other in range(folds):
            if other == fold:
                continue
            for k in range(0, L, _TOGETHER):
                cut = slice(k, k + _TOGETHER)
                score = family.score(rows.y, predictor(rows, points[other][:, cut], family.harmless))
                if rows.weights is not None:
                    score = rows.weights * score
                sums[other, :, cut] += (score @ rows.X).T
    return sums, held
