"""The norms of groups of coefficients, which have a kink where a whole group is 0.

    N(c) = sum_g ||c_g||_2,    subgradients w: w_g = c_g / ||c_g|| off 0 and ||w_g|| <= 1 at 0

Here are N's minimisation with a separable quadratic, and its part in a duality gap. ``groups`` (k,) are the numbers of
the groups that the k coefficients belong to, from 0 on.

Yuan and Lin (2006), "Model selection and estimation in regression with grouped variables", JRSS B 68(1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.intp]
_EPS = float(np.finfo(float).eps)
_MOST_STEPS = 100


def norms(groups: Groups, v: Array) -> Array:
    """Return the norm of every coefficient's group, (k,)."""
    largest = np.zeros(int(groups.max(initial=-1)) + 1)
    np.maximum.at(largest, groups, np.abs(v))
    scale = np.where(largest > 0, largest, 1.0)[groups]
    with np.errstate(invalid="ignore"):  # of infinities there is no norm
        found: Array = scale * np.sqrt(sums(groups, (v / scale) ** 2))
    return found


def sums(groups: Groups, v: Array) -> Array:
    """Return the sum over every coefficient's group, (k,)."""
    return np.asarray(np.bincount(groups, v)[groups], dtype=np.float64)


def heads(groups: Groups) -> NDArray[np.bool_]:
    """Return which coefficients are the first of their group, (k,)."""
    first = np.zeros(len(groups), dtype=np.bool_)
    first[np.unique(groups, return_index=True)[1]] = True
    return first


def directions(groups: Groups, c: Array) -> Array:
    """Return c_g / ||c_g||, (k,), 0 where a group is 0."""
    n = norms(groups, c)
    return c / np.where(n > 0, n, 1.0)


def minimise(groups: Groups, pull: Array, curvature: Array) -> Array:
    """Return argmin_c sum_j [curvature_j c_j^2 / 2 - pull_j c_j] + N(c), (k,): block soft-thresholding.

    With equal curvatures a in a group it is (1 - 1 / ||pull_g||)+ pull_g / a. Otherwise c_j = r pull_j / (1 +
    curvature_j r) where r = ||c_g|| solves ||pull_j / (1 + curvature_j r)|| = 1. The reciprocal of that norm is concave
    in r, so that Newton steps from 0 rise to the root (as in a trust region: Conn, Gould and Toint 2000, section 7.3).
    """
    n = norms(groups, pull)
    r = np.zeros_like(pull)
    moves = n > 1
    for _ in range(_MOST_STEPS):
        bent = 1 + curvature * r
        q = pull / bent
        size = norms(groups, q)
        fall = sums(groups, q * q * curvature / bent)
        step = np.where(moves & (fall > 0), (size - 1) * size * size / np.where(fall > 0, fall, 1.0), 0.0)
        grown = np.maximum(r + step, r)
        if np.all(grown - r <= 2 * _EPS * r):
            break
        r = grown
    found: Array = np.where(moves, r * pull / (1 + curvature * r), 0.0)
    return found


def gap(groups: Groups, c: Array, w: Array, blur: Array, ridge: Array) -> float:
    """Return sum_g of N_g + ridge ||c_g||^2 / 2 + (their conjugate at w) - w_g'c_g, at the worst w within ``blur``.

    Where there is no ridge it is for ||w_g|| <= 1, within ``blur``. In a group all ``ridge`` (k,) are equal. With w~
    the part of w within the ball and e the rest, the terms are ||c|| - w~'c and ridge / 2 ||c - e / ridge||^2, none of
    which cancels: 1 - cos = (1 - ||w~||^2 + ||w~ - c / ||c|| ||^2) / 2. The conjugate bends by 1 / ridge at most.
    """
    n, r, soft = norms(groups, c), norms(groups, w), np.where(ridge > 0, ridge, 1.0)
    inside = w / np.maximum(r, 1.0)
    beyond = np.where(ridge > 0, w - inside, 0.0) / soft
    short = np.maximum(1 - r, 0.0) * (1 + np.minimum(r, 1.0))
    apart = sums(groups, (inside - directions(groups, c)) ** 2)
    within = norms(groups, np.abs(w) + blur) <= 1
    bent = np.where((ridge > 0) & ~within, blur * blur / (2 * soft), 0.0)
    each = ridge / 2 * (c - beyond) ** 2 + np.abs(c - beyond) * blur + bent
    rounding = (sums(groups, np.ones_like(c)) + 8) * _EPS * n
    return float(each.sum() + (n * (short + apart) / 2 + rounding)[heads(groups)].sum())
