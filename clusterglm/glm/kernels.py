"""Kernels: from one micro-block of rows, the family and the coefficients to a tuple of sums.

Kernels are pure, and their results are added entry by entry along the tree of the rows that they run on, so an entry
may be a number, an array, or anything with a ``+`` (``Extremes`` and ``Scan`` below). A block stays in cache while its
kernel runs: X is read from memory once for loss, gradient and Hessian together. This is the file to make fast.

Shapes: block.X (m, p) with a leading column of ones for an intercept; beta (p,), or (p, K) for K candidates. block.X
may also be a CSR array of scipy, which no kernel turns into a dense one but where it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families import softmax
from clusterglm.glm.families.family import Family

Array = NDArray[np.float64]
# Coefficients far out give sums that are not finite: that is the answer, and no reason for a warning.
_quiet = np.errstate(over="ignore", invalid="ignore")
_FEW = 32  # columns, up to which an odd one costs syrk as much as several others
_BITS = 2**64 - 1  # what a uint64 keeps of a product, and a Python int does not by itself


class Block(Protocol):
    """What a kernel sees of the rows; ``start`` is the global index of the first one."""

    @property
    def X(self) -> Any: ...
    @property
    def y(self) -> Array: ...
    @property
    def weights(self) -> Array | None: ...
    @property
    def offset(self) -> Array | None: ...
    @property
    def start(self) -> int: ...


class Piece(NamedTuple):
    """A block of rows put together by the engine itself."""

    X: Any
    y: Array
    weights: Array | None
    offset: Array | None
    start: int


def is_sparse(X: Any) -> bool:
    """Whether X is a sparse array; asked without importing scipy, which a refusal of bad input has no time for."""
    return hasattr(X, "indptr")


def predictor(block: Block, beta: Array, harmless: float = 0.0) -> Array:
    """Return eta = offset + X beta, (m,) or (K, m); ``harmless`` in rows of weight 0, whose loss may not be finite."""
    # One candidate a row: elementwise functions then run along the rows, where numpy has vector instructions.
    eta: Array = block.X @ beta if beta.ndim == 1 else beta.T @ block.X.T
    if block.offset is not None:
        eta += block.offset
    if block.weights is not None:
        eta[..., block.weights == 0] = harmless
    return eta


def _or_nan(total: Array, sums: Array) -> Array:
    """Return NaN for sums whose loss is not finite: infinities of two signs must not meet in the tree."""
    return sums if math.isfinite(total) else np.full_like(sums, np.nan)


@_quiet
def loss(block: Block, family: Family, beta: Array) -> tuple[Array]:
    """Return (sum of w l,): one number, or K of them."""
    if beta.ndim == 2:
        return (np.array([loss(block, family, each)[0] for each in np.ascontiguousarray(beta.T)]),)
    if family.predictors != 1:
        return softmax.loss(block, family, beta)
    return (family.total(block.y, predictor(block, beta, family.harmless), block.weights),)


@_quiet
def gradient(block: Block, family: Family, beta: Array) -> tuple[Array, Array]:
    """Return (sum of w l, X'(w s)): a number and (p,), or (K,) and (p, K)."""
    if beta.ndim == 2:  # one after the other: the terms of all of them would not stay in cache
        found = [gradient(block, family, each) for each in np.ascontiguousarray(beta.T)]
        return np.array([total for total, _ in found]), np.column_stack([g for _, g in found])
    if family.predictors != 1:
        return softmax.gradient(block, family, beta)
    total, score, _ = family.sums(block.y, predictor(block, beta, family.harmless), block.weights)
    return total, _or_nan(total, score @ block.X)


@_quiet
def hessian(block: Block, family: Family, beta: Array) -> tuple[Array, Array, Array]:
    """Return (sum of w l, X'(w s), X' diag(w h) X)."""
    if family.predictors != 1:
        return softmax.hessian(block, family, beta, gram)
    total, score, curvature = family.sums(block.y, predictor(block, beta, family.harmless), block.weights)
    return total, _or_nan(total, score @ block.X), _or_nan(total, gram(block.X, curvature))


@_quiet
def hessian_of_share(block: Block, family: Family, beta: Array, every: int) -> tuple[Array, Array, Array, float]:
    """Return (sum of w l, X'(w s), X_S' diag(w h) X_S, sum of w_S), S the rows of the micro-blocks ``in_share``."""
    if in_share(block.start // len(block.y), every):
        return weighed(block, hessian, family, beta)
    p = len(beta)
    return *gradient(block, family, beta), np.zeros((p, p)), 0.0


def hessian_at(family: Family, beta: Array, every: int) -> tuple[Callable[..., tuple[Any, ...]], tuple[Any, ...]]:
    """Return the kernel of a Hessian of one in ``every`` micro-blocks, and its arguments."""
    return (hessian_of_share, (family, beta, every)) if every > 1 else (hessian, (family, beta))


def in_share(index: int, every: int) -> bool:
    """Whether the micro-block is the one of its ``every`` neighbours that a hash points at.

    So the share is 1 / ``every`` of any stretch, and no period in the order of the rows can mislead it. Of the first
    neighbours it is the first, so that there is one.
    """
    group = index // every
    which = hashed(group) % every if group else 0
    return bool(index % every == which)


def hashed(index: Any) -> Any:
    """Return a hash of 64 bits of an int or a uint64 array.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    z = (index + 1) * 0x9E3779B97F4A7C15 & _BITS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _BITS
    return z ^ z >> 31


@_quiet
def diagonal(block: Block, family: Family, beta: Array) -> tuple[Array, Array, Array]:
    """Return (sum of w l, X'(w s), the diagonal of X' diag(w h) X): a number, (p,) and (p,)."""
    total, score, curvature = family.sums(block.y, predictor(block, beta, family.harmless), block.weights)
    return total, _or_nan(total, score @ block.X), _or_nan(total, curvature @ (block.X * block.X))


def gram(X: Any, h: Array) -> Array:
    """Return X' diag(h) X, dense (p, p), symmetric to the bit; ``h`` (m,), 0 or more."""
    p = X.shape[1]
    if is_sparse(X):
        H: Array = (X.T @ X.multiply(h[:, None])).toarray()
        return (H + H.T) / 2
    # One array twice: numpy calls syrk, half of gemm, and faster for few columns too (measured, OpenBLAS 0.3). The
    # numbers are repeated because numpy takes a while to begin each row of a product of (m, 1) and (m, p).
    root = np.repeat(np.sqrt(h), p).reshape(X.shape)
    root *= X
    if p % 2 == 0 or p > _FEW:
        return np.asarray(root.T @ root)
    H = np.empty((p, p))
    H[:-1, :-1] = root[:, :-1].T @ root[:, :-1]
    H[-1] = H[:, -1] = root[:, -1] @ root
    return H


def weighed(block: Block, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> tuple[Any, ...]:
    """Return the sums of ``kernel``, and the sum of the rows' weights: their number where they have none."""
    weight = float(len(block.y)) if block.weights is None else float(block.weights.sum())
    return (*kernel(block, *args), weight)


@_quiet
def intercept_terms(block: Block, family: Family, level: float) -> tuple[float, float, float]:
    """Return (sum of w l, sum of w s, sum of w h) of the model with nothing but an intercept."""
    w = np.ones(len(block.y)) if block.weights is None else block.weights
    eta = np.full(len(block.y), level) if block.offset is None else level + block.offset
    terms = family.terms(block.y, np.where(w > 0, eta, family.harmless))
    return tuple(float(w @ t) for t in terms)  # type: ignore[return-value]


@dataclass(frozen=True)
class Extremes:
    """A running maximum whose ``+`` keeps the larger, entry by entry."""

    largest: Array

    def __add__(self, other: Extremes) -> Extremes:
        return Extremes(np.maximum(self.largest, other.largest))


def leverage(block: Block, inverse_root: Array) -> tuple[Extremes]:
    """Return max ||a_i' R|| over rows of positive weight: with R R' = H^-1, max ||a_i|| in the norm of H^-1."""
    rows = block.X if block.weights is None else block.X[block.weights > 0]
    if len(inverse_root) > rows.shape[1]:  # of several predictors
        return (Extremes(np.max(softmax.widest(rows, inverse_root), initial=0.0, keepdims=True)),)
    z = rows @ inverse_root
    return (Extremes(np.sqrt(np.max(np.einsum("ij,ij->i", z, z), initial=0.0, keepdims=True))),)


def span(block: Block, beta: Array) -> tuple[Extremes]:
    """Return (-eta, eta) at their largest over rows of positive weight, (2,)."""
    eta = predictor(block, beta)
    eta = eta if block.weights is None else eta[block.weights > 0]
    ends = np.array([np.max(-eta, initial=-np.inf), np.max(eta, initial=-np.inf)])
    return (Extremes(ends),)


def on_columns(block: Block, columns: NDArray[np.intp], kernel: Callable[..., Any], *args: Any) -> Any:
    """Return ``kernel`` on the same rows with these columns alone."""
    narrow = block.X[:, columns]
    if not is_sparse(narrow):
        narrow = np.ascontiguousarray(narrow)
    return kernel(Piece(narrow, block.y, block.weights, block.offset, block.start), *args)
