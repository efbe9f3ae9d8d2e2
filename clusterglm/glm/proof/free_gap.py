"""The free gap: from the coefficients, the gradient and the input scan, without a Hessian and without a pass.

The theorem of duality.py at v = s: u = -g, F = 0. All columns carry a penalty, but for one that is constant, an
intercept:

    P(beta) - P* <= (1 - k) f + sum_j [ Omega_j(beta_j) + Omega_j*(k u~_j) - k u~_j beta_j ] + k |u_0| (|L - L_0| + r)

in centred columns x~_j = x_j - m_j, m_j the mean: the same P in the coefficients beta and the level L = beta_0 + sum_j
m_j beta_j (for a column of ones), so u~_j = u_j - m_j u_0. L_0 is the level of the null model, and a solution has

    |L* - L_0| <= r = min over t > 0 of  t P_best + sum_j (s_j - t l1_j)+^2 / (2 t l2_j),    s_j = max_i |x~_ij|

Proof. At a solution and at the null model sum_i w_i s_i = 0. Scores grow with eta, so eta_i* >= eta_i^0 in some row and
eta_i* <= eta_i^0 in some row (were all scores larger, so would be their sum). Offsets are the same in both, so L* - L_0
= eta_i* - eta_i^0 - x~_i'beta* gives |L* - L_0| <= max_i |x~_i'beta*| <= sum_j s_j |beta_j*|. Now Omega(beta*) <= P* <=
P_best for every objective seen, because losses are not negative, and by Lagrange's multiplier sum_j s_j |b_j| <= t
P_best + sup_b [ s'|b| - t Omega(b) ]. QED

With the null model's offsets kept, max|offset| is not in it. m_j may be any number; the mean takes the violation of the
intercept's own equation out of the columns'. The bound is of first order in the residual, holds at every iterate and
costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Family
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.problem import Point
from clusterglm.glm.proof.duality import EPS, EVERYWHERE, Span, duality_gap, gradient_noise

Array = NDArray[np.float64]
_MULTIPLIERS = np.logspace(-4, 4, 33)


@dataclass(frozen=True)
class Frame:
    """What the input scan says of the columns of a problem: ``smallest``, ``largest``, ``mean`` are (p,).

    ``target`` is the weighted mean of y.
    """

    smallest: Array
    largest: Array
    mean: Array
    target: float

    @classmethod
    def of(cls, seen: Any, kept: NDArray[np.intp] | slice = slice(None)) -> Frame:
        """Return the frame of a ``Scan`` for the columns that are in the model."""
        return cls(seen.smallest[kept], seen.largest[kept], seen.mean[kept], seen.target_sum / seen.weight)

    @property
    def magnitude(self) -> Array:
        """The largest |a_ij| of every column, (p,)."""
        return np.maximum(np.abs(self.smallest), np.abs(self.largest))

    def span(self, beta: Array, offset: float) -> Span:
        """Return what the predictors at ``beta`` (p,) lie between, with offsets up to ``offset``."""
        ends = np.stack([self.smallest * beta, self.largest * beta])
        beside = offset + 4 * EPS * (len(beta) * float(self.magnitude @ np.abs(beta)) + offset)
        return Span(float(ends.min(axis=0).sum()) - beside, float(ends.max(axis=0).sum()) + beside)

    def spread(self) -> Array:
        """Return max_i |x_ij - m_j|, (p,)."""
        return np.maximum(self.largest - self.mean, self.mean - self.smallest) + 4 * EPS * self.magnitude


def constant_column(penalty: Penalty, frame: Frame) -> int | None:
    """Return the column without penalty, if it is one and constant; -1 if all carry a penalty; None otherwise."""
    free = np.flatnonzero(penalty.free)
    if not len(free):
        return -1
    j = int(free[0])
    return j if len(free) == 1 and frame.smallest[j] == frame.largest[j] != 0 else None


def null_level(
    family: Family, null: Point, j: int, value: float, offset: float = 0.0, span: Span = EVERYWHERE
) -> tuple[float, float] | None:
    """Return an interval around the level of the null model, from a point at which all other coefficients are 0.

    The curvature bound of certificate.py in one dimension: its radius is at most 2 |g_j| / H_jj where tau = |a_j g_j| /
    H_jj <= 1/2. None where the point does not know H_jj or is too far away.
    """
    if (null.hessian is None and null.diagonal is None) or np.delete(null.beta, j).any():
        return None
    slope, bend = float(null.gradient[j]), null.share * float(null.curvatures[j])
    if not (np.isfinite(slope) and bend > 0):
        return None
    tau = family.concordance(*span) * abs(slope) / bend * abs(value)
    if not tau < 0.5:
        return None
    level = float(null.beta[j]) * value
    rounding = 64 * EPS * (abs(level) + offset + abs(value) * float(np.sqrt(null.loss / bend)))
    radius = 2 * abs(slope) / bend * abs(value) + rounding
    return level - radius, level + radius


def level_radius(penalty: Penalty, spread: Array, best: float) -> float:
    """Return r of the module: a bound on sum_j s_j |beta_j*|, infinite where a column carries no penalty."""
    s, l1, l2 = penalty.as_single(spread)
    some = s > 0
    s, l1, l2 = s[some], l1[some], l2[some]
    if not len(s):
        return 0.0
    if ((l1 == 0) & (l2 == 0)).any():
        return np.inf
    sharp = l2 == 0
    soft = np.where(sharp, 1.0, l2)
    least = float(np.max(s[sharp] / l1[sharp], initial=0.0))
    # With L2 alone the best multiplier is sqrt(sum s^2/l2 / (2 P)).
    middle = float(np.sqrt(np.sum(np.where(sharp, 0.0, s * s / soft)) / (2 * best))) if best > 0 else 1.0
    radius = np.inf
    for t in [least, *np.maximum(least, middle * _MULTIPLIERS)]:
        if t > 0:
            excess = np.where(sharp, 0.0, np.maximum(s - t * l1, 0.0))
            radius = min(radius, t * best + float(np.sum(excess * excess / (2 * t * soft))))
    return radius * (1 + 1e-12)


def free_gap(
    family: Family,
    penalty: Penalty,
    point: Point,
    frame: Frame,
    best: float,
    level: tuple[float, float] | None = None,
    offset: float = 0.0,
    span: Span = EVERYWHERE,
) -> tuple[float, float]:
    """Return (the bound, the part of it that stands for rounding); infinite where it does not apply.

    Parameters
    ----------
    family, penalty : Family, Penalty
    point : Point
        Coefficients, mean loss and gradient.
    frame : Frame
    best : float
        The smallest objective of any coefficients: a bound on P*.
    level : (float, float), optional
        An interval that holds the level of the null model, needed for an intercept.
    offset : float
        A bound on |offset_i|.
    span : Span
        What the predictors lie between.
    """
    j = constant_column(penalty, frame)
    if j is None or not np.isfinite(point.objective) or (j >= 0 and level is None):
        return np.inf, 0.0
    largest, curvature = frame.magnitude, family.mean_curvature(point.loss, frame.target, span.low)
    if not np.isfinite(curvature):
        return np.inf, 0.0
    units = largest * np.sqrt(curvature)
    noise = gradient_noise(family, point.loss, point.beta, units, largest, offset, curvature, span)
    if not np.isfinite(noise).all():
        return np.inf, 0.0
    u, extra, blurred = -point.gradient, 0.0, 0.0
    if j >= 0 and level is not None:
        value, slope = float(frame.largest[j]), float(u[j])
        m = frame.mean / value
        radius = level_radius(penalty, np.where(penalty.free, 0.0, frame.spread()), best)
        # Where the level of a solution can be, as seen from that of the point: the worse end counts.
        now = float(frame.mean @ point.beta)
        ends = np.array([level[0] - radius, level[1] + radius]) - now
        extra = max(float(np.max(slope / value * ends)), 0.0)
        blurred = extra + noise[j] / abs(value) * float(np.max(np.abs(ends)))
        noise = noise + np.abs(m) * noise[j] + 4 * EPS * np.abs(m * slope)
        u = u - m * slope

    def gap(noise: Array) -> float:
        return duality_gap(penalty, point.beta, u, noise, 0.0, point.loss, family.quadratic)

    bound = gap(noise) + blurred
    return bound, max(bound - gap(np.zeros_like(noise)) - extra, 0.0)
