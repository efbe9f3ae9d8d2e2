"""The duality gap of a point, written as a sum of terms that are never negative: nothing cancels.

    minimise  P(beta) = (1/W) sum_i w_i l(y_i, eta_i) + Omega(beta),  eta_i = offset_i + a_i' beta

Theorem. Take any v_i for which l_i*(v_i) = sup over eta of v_i eta - l(y_i, eta) is finite, any 0 < k <= 1, and
u = -(1/W) sum_i w_i v_i a_i. If u is 0 at the coefficients without penalty, then for the infimum P* of P, attained or
not,

    P(beta) - P* <= F_k + sum_j [ Omega_j(beta_j) + Omega_j*(k u_j) - k u_j beta_j ]

    Omega_j*(v)  = (|v| - l1_j)+^2 / (2 l2_j);   0 up to |v| = l1_j and infinite beyond where l2_j = 0
                   a group is one such term in (l1_j b_j), of l1 = 1 and l2 = l2_j / l1_j^2, with norms for |.|
    F_k         <= k F + (1 - k) f,              F = (1/W) sum_i w_i F_i,   f = mean loss
    F_k         <= (k sqrt F + (1 - k) sqrt f)^2     for the gaussian family
    F_i          = l(y_i, eta_i) + l_i*(v_i) - v_i eta_i

Proof. l(y, eta') >= v eta' - l*(v) for every eta' (Fenchel, Young), so l(y, eta) - l(y, eta') <= F_i + v (eta - eta').
The weighted mean is f(beta) - f(beta') <= F + u'(beta' - beta): offsets drop out. Add Omega(beta) - Omega(beta') and
take the supremum over beta'. For k < 1 put k v in place of v: its u is k u; F_i is convex in v, and at v = 0 it is
l(y, eta) - inf l <= l(y, eta); for the gaussian family sqrt(2 F_i) = |v - s| is a norm. QED

Only convexity and l >= 0 are asked of a family. k takes the place of the scaling of a dual point (Duenner, Forte, Takac
and Jaggi 2016, ICML) and of a radius around the solution: it makes |k u_j| <= l1_j true. At k = 0 the bound is P(beta)
itself. Whoever calls chooses v, with the score s and the curvature h of the row:

    v = s                u = -g, F = 0: the *free* gap (free_gap.py)
    v = s + h (a'd)      u = -(g + H d), F <= d'Hd omega(tau), tau = c max |a_i'd|: of second order (dual_bound.py)

For the second, l(y, eta + r) >= l + s r + h (e^-c|r| + c|r| - 1) / c^2 where |h'| <= c h, so F_i is at most
h sup over r of [t r - (e^-c|r| + c|r| - 1) / c^2] = h t^2 omega(c |t|), t = a'd, taken at |r| = -log(1 - c|t|) / c. A c
that holds from the least to the greatest predictor and 1/c beyond will do where that is at most 1/c, for c |t| up to
``REACH``: F_i is a supremum of a concave function of r, which falls at both ends of that range.

Rounding: ``noise`` (p,) bounds the error of u; the bound is taken at its worst u. See ``gradient_noise``; that of the
objective itself is ``objective_noise``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Family
from clusterglm.glm.penalties import Penalty, group_norm

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)
_SHRINKAGE = 1 - np.array([0.0, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])


class Span(NamedTuple):
    """What all predictors lie between."""

    low: float
    high: float


EVERYWHERE = Span(-np.inf, np.inf)
REACH = float(-np.expm1(-1.0))  # -log(1 - tau) <= 1


def omega(tau: float) -> float:
    """Return [tau + (1 - tau) log(1 - tau)] / tau^2, 1/2 at 0 and 1 at 1, rounded upward."""
    if tau < 1e-4:
        return 0.5 + tau / 4  # the series is 1/2 + tau/6 + tau^2/12 + ...
    return float((tau + (1 - tau) * np.log1p(-tau)) / tau**2)


def duality_gap(
    penalty: Penalty, beta: Array, u: Array, noise: Array, divergence: float, loss: float, quadratic: bool
) -> float:
    """Return the theorem's bound, least over k.

    Parameters
    ----------
    penalty : Penalty
    beta, u, noise : array (p,)
        The coefficients, u and a bound on the error of u. Coefficients without penalty are left out: their u must be 0.
    divergence, loss : float
        F and f.
    quadratic : bool
        Whether the family is gaussian.
    """
    some = ~penalty.free
    some[penalty.grouped] = False
    l1, l2, b = penalty.l1[some], penalty.l2[some], np.abs(beta[some])
    # beta_j > 0 without loss of generality: along = u_j in its direction.
    along, n = np.where(beta[some] < 0, -u[some], u[some]), noise[some]
    size = np.abs(along) + n
    sharp = l2 == 0
    with np.errstate(divide="ignore"):
        most = float(np.min(l1[sharp] / size[sharp], initial=1.0))
    groups = _Groups.of(penalty, beta, u, noise)
    k = min(most, groups.most()) * _SHRINKAGE
    mean_part = k * divergence + (1 - k) * loss
    if quadratic:
        mean_part = (k * np.sqrt(divergence) + (1 - k) * np.sqrt(loss)) ** 2
    # Convex in u: the worst u within its error is at one of the ends.
    ends = _penalty_part(l1, l2, b, k[:, None] * np.stack([along - n, along + n])[:, None])
    gaps = mean_part + ends.max(axis=0).sum(axis=1) + groups.parts(k)
    return float(np.min(gaps)) * (1 + 4 * (len(b) + 4) * EPS)


class _Groups(NamedTuple):
    """The groups of a penalty in units of l1: c = l1 beta, w = u / l1 and its error, and the ridge l2 / l1^2."""

    numbers: NDArray[np.intp]
    c: Array
    w: Array
    noise: Array
    ridge: Array

    @classmethod
    def of(cls, penalty: Penalty, beta: Array, u: Array, noise: Array) -> _Groups:
        g = penalty.grouped
        l1, numbers = penalty.l1[g], np.empty(0, dtype=np.intp) if penalty.groups is None else penalty.groups[g]
        return cls(numbers, l1 * beta[g], u[g] / l1, noise[g] / l1, penalty.l2[g] / (l1 * l1))

    def most(self) -> float:
        """Return the largest k <= 1 with ||k w_g|| <= 1 wherever there is no ridge."""
        sharp = self.ridge == 0
        size = group_norm.norms(self.numbers, np.abs(self.w) + self.noise)[sharp]
        members = group_norm.sums(self.numbers, np.ones_like(self.w))[sharp]
        with np.errstate(divide="ignore"):
            return float(np.min(1 / size / (1 + (members + 8) * EPS), initial=1.0))

    def parts(self, k: Array) -> Array:
        """Return the sum over the groups of the theorem's terms for every k, (K,)."""
        if not len(self.c):
            return np.zeros_like(k)
        parts = [group_norm.gap(self.numbers, self.c, one * self.w, one * self.noise, self.ridge) for one in k]
        return np.array(parts)


def _penalty_part(l1: Array, l2: Array, b: Array, v: Array) -> Array:
    """Return l1 b + l2 b^2/2 - v b + Omega*(v) for b >= 0, coordinate by coordinate; for |v| <= l1 where l2 = 0."""
    soft = np.where(l2 > 0, l2, 1.0)
    beyond, below = v - l1, np.maximum(-v - l1, 0.0)
    # Beyond l1 the terms make a square: (v - l1 - l2 b)^2 / (2 l2).
    square = (beyond - l2 * b) ** 2 / (2 * soft)
    plain = np.maximum(-beyond, 0.0) * b + l2 * b * b / 2 + below * below / (2 * soft)
    part: Array = np.where((beyond > 0) & (l2 > 0), square, plain)
    return part


def gradient_noise(
    family: Family, loss: float, beta: Array, units: Array, largest: Array, offset: float, curvature: float, span: Span
) -> Array:
    """Return what rounding may have done to the gradient at ``beta``, (p,): a few eps of the sums of absolute terms.

        mean of |s a_j|           <= score_sums,  4 eps of them
        mean of |h a_j| |d eta|   <= 2 eps sqrt H_jj (sum_k |beta_k| sqrt H_kk + (|offset| + 1) sqrt(mean h))

    ``units`` (p,) bound sqrt H_jj, ``curvature`` the mean of h, ``largest`` (p,) the entries of the columns, ``span``
    the predictors.
    """
    moved = float(np.abs(beta) @ units) + (offset + 1) * float(np.sqrt(curvature))
    noise: Array = EPS * (4 * score_sums(family, loss, units, largest, span) + 2 * units * moved)
    return noise


def objective_noise(
    family: Family, loss: float, beta: Array, units: Array, largest: Array, offset: float, curvature: float, span: Span
) -> float:
    """Return what the rounding of the predictors may have done to the mean loss at ``beta``.

        |d eta_i| <= 2 eps e_i,   e_i = sum_j |a_ij beta_j| + |offset_i| + 1
        mean of |s| |d eta|       <= 2 eps (sum_j |beta_j| (mean of |s a_j|) + (|offset| + 1) (mean of |s|))
        mean of h d eta^2         <= (2 eps (sum_j |beta_j| sqrt H_jj + (|offset| + 1) sqrt(mean h)))^2

    The second is all there is of a perfect fit. Arguments as those of ``gradient_noise``.
    """
    size, level = np.append(np.abs(beta), offset + 1), float(np.sqrt(curvature))
    units, largest = np.append(units, level), np.append(largest, 1.0)
    return float(2 * EPS * size @ score_sums(family, loss, units, largest, span) + (2 * EPS * size @ units) ** 2)


def score_sums(family: Family, loss: float, units: Array, largest: Array, span: Span = EVERYWHERE) -> Array:
    """Return a bound on the mean of |s a_j| for columns with ``units`` (p,) >= sqrt H_jj and ``largest`` (p,) >= |a_j|:

        sqrt(2 f H_jj),  largest_j sqrt(2 L f),  1.7 sqrt(f H_jj) + 2 c f largest_j

    for the gaussian family, where s^2 = 2 l; for h <= L, as 0 <= l - s r + L r^2 / 2 at r = s / L; and otherwise, as
    0 <= l - |s| r + (e - 2) h r^2 for 0 <= r <= 1/c.
    """
    if family.quadratic:
        return np.asarray(np.sqrt(2 * loss) * units)
    if np.isfinite(family.curvature_bound):
        return np.asarray(np.sqrt(2 * family.curvature_bound * loss) * largest)
    return np.asarray(1.7 * np.sqrt(loss) * units + 2 * family.concordance(*span) * loss * largest)
