"""The first look at the rows: what must be refused, and what every fit needs to know, in one pass.

Moments are merged pairwise (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"): they come
from deviations within the micro-block wherever sums of squares would cancel, so a large mean costs no digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError
from clusterglm.glm.families.family import Family
from clusterglm.glm.kernels import Block, is_sparse

if TYPE_CHECKING:
    from clusterglm.glm.model import Model

Array = NDArray[np.float64]
_NOWHERE = np.iinfo(np.int64).max
_SIDE_BY_SIDE = 64


@dataclass(frozen=True)
class Place:
    """The first row in the data at which something was seen, and the value there."""

    row: int = _NOWHERE
    value: float = 0.0

    def __bool__(self) -> bool:
        return self.row != _NOWHERE

    def __add__(self, other: Place) -> Place:
        return self if self.row <= other.row else other


@dataclass(frozen=True)
class Scan:
    """Weighted moments and extremes of the rows; ``+`` merges two stretches of them.

    ``mean``, ``variance_sum`` (sum of w (x - mean)^2), ``smallest``, ``largest`` are (p,) over rows of positive weight.
    ``bad_column`` is the column of the first value of X that is not finite; ``missing`` (p + 1,) counts the NaNs of its
    columns and of y. ``loss_at_zero`` is the sum of w l(y, 0).
    """

    rows: int
    weight: float
    mean: Array
    variance_sum: Array
    smallest: Array
    largest: Array
    target_sum: float
    target_smallest: float
    target_largest: float
    loss_at_zero: float
    offset_sum: float
    largest_offset: float
    not_whole: int
    missing: Array
    bad_x: Place
    bad_column: int
    bad_y: Place
    bad_weight: Place
    bad_offset: Place
    negative_weight: Place
    outside: Place

    @np.errstate(over="ignore", invalid="ignore")
    def __add__(self, other: Scan) -> Scan:
        weight = self.weight + other.weight
        share = other.weight / weight if weight > 0 else 0.0
        gap = other.mean - self.mean
        # Field by field: a loop over their names takes twice as long, and there is a sum for every micro-block.
        return Scan(
            rows=self.rows + other.rows,
            weight=weight,
            mean=self.mean + share * gap,
            variance_sum=self.variance_sum + other.variance_sum + gap * gap * self.weight * share,
            smallest=np.minimum(self.smallest, other.smallest),
            largest=np.maximum(self.largest, other.largest),
            target_sum=self.target_sum + other.target_sum,
            target_smallest=min(self.target_smallest, other.target_smallest),
            target_largest=max(self.target_largest, other.target_largest),
            loss_at_zero=self.loss_at_zero + other.loss_at_zero,
            offset_sum=self.offset_sum + other.offset_sum,
            largest_offset=max(self.largest_offset, other.largest_offset),
            not_whole=self.not_whole + other.not_whole,
            missing=self.missing + other.missing,
            bad_x=self.bad_x + other.bad_x,
            bad_column=self.bad_column if self.bad_x.row <= other.bad_x.row else other.bad_column,
            bad_y=self.bad_y + other.bad_y,
            bad_weight=self.bad_weight + other.bad_weight,
            bad_offset=self.bad_offset + other.bad_offset,
            negative_weight=self.negative_weight + other.negative_weight,
            outside=self.outside + other.outside,
        )

    @property
    def deviation(self) -> Array:
        """The columns' standard deviations, (p,)."""
        return np.sqrt(self.variance_sum / self.weight)

    @property
    def magnitude(self) -> Array:
        """The columns' largest magnitudes, (p,)."""
        return np.maximum(np.abs(self.smallest), np.abs(self.largest))

    @property
    def constant(self) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = self.smallest == self.largest
        return same


_NOWHERE_SEEN = Place()


def _first(block: Block, bad: NDArray[np.bool_], values: Array) -> Place:
    if not bad.any():
        return _NOWHERE_SEEN
    i = int(np.argmax(bad))
    return Place(block.start + i, float(values[i]))


def _side_by_side(X: Array) -> list[Array]:
    """Return the rows, 64 of them as one vector, and those that are left over.

    Along long vectors numpy has vector instructions.
    """
    n, p = X.shape
    together = n // _SIDE_BY_SIDE * _SIDE_BY_SIDE
    views = [X[:together].reshape(-1, _SIDE_BY_SIDE * p)] if together else []
    return [*views, X[together:]] if together < n else views


def _of_columns(reduce: np.ufunc, rows: list[Array], p: int) -> Array:
    """Return what ``reduce`` makes of every column, (p,), of rows as ``_side_by_side`` gives them."""
    parts = [reduce.reduce(part).reshape(-1, p) for part in rows]
    found: Array = reduce.reduce(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return found


def _extremes(X: Any) -> tuple[Array, Array]:
    """Return the smallest and the largest of every column; infinite where there are no rows."""
    n, p = X.shape
    if not n:
        return np.full(p, np.inf), np.full(p, -np.inf)
    if is_sparse(X):
        return X.min(axis=0).toarray(), X.max(axis=0).toarray()
    rows = _side_by_side(X)
    return _of_columns(np.minimum, rows, p), _of_columns(np.maximum, rows, p)


def _moments(X: Any, w: Array | None, weight: float, varies: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the mean of every column and the sum of w (x - mean)^2, (p,) each; ``w`` is None where all are 1.

    Columns that do not vary, that of an intercept say, need no sum.
    """
    if w is None and not is_sparse(X):
        p, rows = X.shape[1], _side_by_side(X)
        totals = sum(np.add.reduce(np.add.reduce(part).reshape(-1, p)) for part in rows)
        squares = sum(np.add.reduce(np.einsum("ij,ij->j", part, part).reshape(-1, p)) for part in rows)
        mean = totals / weight
        spread = squares - totals * mean
        # What is left of the squares has lost their first digits, four bits at most but in columns far from 0.
        near = spread > squares / 16
        if not near.all():
            spread[~varies] = 0.0
            far = np.flatnonzero(varies & ~near)
            spread[far] = ((X[:, far] - mean[far]) ** 2).sum(axis=0)
        return mean, spread
    w = np.ones(X.shape[0]) if w is None else w
    mean = (w @ X) / weight
    kept = w > 0
    return mean, _variance_sum(X[kept], w[kept], mean)


def _variance_sum(X: Any, w: Array, mean: Array) -> Any:
    """Return the sum of w (x - mean)^2 of every column, (p,)."""
    if not is_sparse(X):
        deviations = X - mean
        return w @ np.multiply(deviations, deviations, out=deviations)
    stored, row, column = X.data, np.repeat(w, np.diff(X.indptr)), X.indices
    deviations = stored - mean[column]
    absent = np.maximum(w.sum() - np.bincount(column, row, len(mean)), 0.0)  # which deviate by the mean
    return np.bincount(column, row * deviations * deviations, len(mean)) + absent * mean * mean


def _not_finite(block: Block) -> tuple[Place, int]:
    """Return the place of the first value of X that is not finite, and its column."""
    X = block.X
    if is_sparse(X):
        found = np.flatnonzero(~np.isfinite(X.data))[:1]
        i, j = int(np.searchsorted(X.indptr, found, side="right")[0]) - 1, int(X.indices[found][0])
        return Place(block.start + i, float(X.data[found][0])), j
    i, j = (int(k) for k in np.argwhere(~np.isfinite(X))[0])
    return Place(block.start + i, float(X[i, j])), j


def _missing(block: Block) -> Array:
    """Return the NaNs of every column of X and of y, (p + 1,)."""
    X = block.X
    columns = np.bincount(X.indices[np.isnan(X.data)], minlength=X.shape[1]) if is_sparse(X) else np.isnan(X).sum(0)
    return np.append(columns, np.isnan(block.y).sum()).astype(np.float64)


class _Target(NamedTuple):
    """What the targets of a micro-block say: extremes are over rows of positive weight."""

    sum: float
    smallest: float
    largest: float
    loss_at_zero: float
    not_whole: int
    bad: Place
    outside: Place


def _target(block: Block, family: Family) -> _Target:
    y, w = block.y, block.weights
    low, high = float(np.minimum.reduce(y, initial=np.inf)), float(np.maximum.reduce(y, initial=-np.inf))
    # Of many targets the two ends are asked, and all only where these are not what they should be.
    ends = np.array([low, high]) if len(y) else y
    not_whole = int(np.count_nonzero(y != np.floor(y)))
    bad = outside = _NOWHERE_SEEN
    if len(y) and not (math.isfinite(low) and math.isfinite(high)):
        bad = _first(block, ~np.isfinite(y), y)
    else:
        # A proportion tells nothing without the number of its trials.
        proportions = family.name == "binomial" and w is None and not_whole
        if proportions or (family.whole and not_whole) or family.outside(ends).any():
            wrong = family.outside(y)
            outside = _first(block, wrong | ((y > 0) & (y < 1)) if proportions else wrong, y)
    if w is None:
        return _Target(float(y.sum()), low, high, family.loss_at_zero(y), not_whole, bad, outside)
    y_counted, w_counted = y[w > 0], w[w > 0]
    return _Target(
        sum=float(w @ y),
        smallest=float(np.min(y_counted, initial=np.inf)),
        largest=float(np.max(y_counted, initial=-np.inf)),
        loss_at_zero=family.loss_at_zero(y_counted, w_counted),
        not_whole=not_whole,
        bad=bad,
        outside=outside,
    )


def scan(block: Block, family: Family) -> tuple[Scan]:
    """Return the ``Scan`` of one micro-block."""
    X, w, offset = block.X, block.weights, block.offset
    m, p = X.shape
    weight = float(m) if w is None else float(w.sum())
    bad_x, bad_column = _NOWHERE_SEEN, 0
    mean, variance, entries = np.zeros(p), np.zeros(p), X.data if is_sparse(X) else X
    smallest, largest = _extremes(X if w is None else X[w > 0])
    with np.errstate(over="ignore", invalid="ignore"):
        target = _target(block, family)
        if weight > 0 or not math.isfinite(weight):
            mean, variance = _moments(X, w, weight, smallest != largest)
        # A sum of finite numbers can overflow, and rows of weight 0 leave no trace in the mean: then X itself is asked.
        if not (math.isfinite(mean.sum()) and weight > 0) and not np.isfinite(entries).all():
            bad_x, bad_column = _not_finite(block)
        offset_sum = 0.0 if offset is None else float(offset.sum() if w is None else w @ offset)
    return (
        Scan(
            rows=m,
            weight=weight,
            mean=mean,
            variance_sum=variance,
            smallest=smallest,
            largest=largest,
            target_sum=target.sum,
            target_smallest=target.smallest,
            target_largest=target.largest,
            loss_at_zero=target.loss_at_zero,
            offset_sum=offset_sum,
            largest_offset=0.0 if offset is None else float(np.abs(offset).max(initial=0.0)),
            not_whole=target.not_whole,
            missing=_missing(block) if bad_x or not math.isfinite(target.sum) else np.zeros(p + 1),
            bad_x=bad_x,
            bad_column=bad_column,
            bad_y=target.bad,
            bad_weight=_NOWHERE_SEEN if w is None else _first(block, ~np.isfinite(w), w),
            bad_offset=_NOWHERE_SEEN if offset is None else _first(block, ~np.isfinite(offset), offset),
            negative_weight=_NOWHERE_SEEN if w is None else _first(block, w < 0, w),
            outside=target.outside,
        ),
    )


def refuse(seen: Scan, labels: Sequence[str], model: Model, locate: Callable[[int], str], target: str) -> list[str]:
    """Raise DataError for rows that cannot be fitted; return warnings about those that can."""

    def at(place: Place) -> str:
        value = int(place.value) if np.isfinite(place.value) and place.value == int(place.value) else place.value
        return f"{value} in {locate(place.row)}"

    def not_finite(missing: float = 0) -> str:
        if not missing:
            return "not finite: drop or fill these rows"
        values = f"{missing:.0f} value{'s are' if missing > 1 else ' is'}"
        return f"not finite: {values} missing: drop such rows (--missing drop), or fill them"

    family = model.family
    if seen.bad_x:
        missing = seen.missing[seen.bad_column]
        raise DataError(f"column {labels[seen.bad_column]}", at(seen.bad_x), not_finite(missing))
    for name, place in ((f"target {target}", seen.bad_y), ("weights", seen.bad_weight), ("offset", seen.bad_offset)):
        if place:
            raise DataError(name, at(place), not_finite(seen.missing[-1] if place is seen.bad_y else 0))
    if seen.negative_weight:
        raise DataError("weights", at(seen.negative_weight), "weights must be 0 or more")
    if seen.weight == 0:
        raise DataError("weights", None, "their sum is 0")
    if seen.outside:
        cure = f"{family.name} takes {family.takes}"
        if family.name == "binomial" and 0 < seen.outside.value < 1:
            cure = "proportions need --weights, the numbers of their trials"
        if family.name == "binomial" and seen.outside.value == -1:
            cure += ": map -1 to 0"
        raise DataError(f"target {target}", at(seen.outside), cure)
    only = seen.target_smallest
    if only == seen.target_largest and not np.isfinite(family.predictor(only)):
        raise DataError(f"target {target}", None, f"only the value {only:g}: nothing to fit")
    if not model.penalised:
        remedy = "add --penalty l2 --alpha A"
        if seen.rows == 1:
            raise DataError("rows", 1, f"one row fits any line: {remedy}")
        if len(labels) > seen.rows:
            raise DataError("columns", len(labels), f"more than the {seen.rows} rows: {remedy}")
    largest = seen.magnitude
    with np.errstate(over="ignore", under="ignore"):
        square = largest * largest * seen.weight
    for j in map(int, np.flatnonzero(~np.isfinite(square) | ((square < np.finfo(float).tiny) & (largest > 0)))):
        word = "finite" if largest[j] > 1 else "above zero"
        raise DataError(f"column {labels[j]}", f"{largest[j]:g}", f"its square is not {word}: rescale the column")
    if family.name in ("poisson", "negative-binomial") and seen.not_whole:
        return [f"warning: target {target}: {seen.not_whole} values are not whole: fitted as rates"]
    return []
