"""How far a point can be from the optimum: a rigorous bound from its gradient and one exact Hessian.

Let q be the subgradient of Omega at beta nearest to -g, xi = g + q, H^ = Hessian of f + diag(l2), and

    delta = ||xi||_{H^-1},    A = max_i ||a_i||_{H^-1},    tau = c A delta        (c: the family's self-concordance)

    tau < 1:   P(beta) - P* <= delta^2 w(tau),   w(tau) = [tau + (1 - tau) log(1 - tau)] / tau^2
               ||beta* - beta||_H^ <= delta (-log(1 - tau)) / tau

Proof: along d = beta* - beta with r = ||d||_H^, |phi'''| <= c A r phi'' for phi(t) = (f + L2 part)(beta + t d), so
phi(1) >= phi(0) + phi'(0) + (e^-m + m - 1) r^2 / m^2 with m = c A r; the L1 part adds q'd; xi'd >= -delta r; maximise
over r. (Generalised self-concordance: Bach 2010, EJS 4; Sun and Tran-Dinh 2019, Math. Prog. 178.)

A Hessian taken at beta_0 follows the iterate: h(eta) >= h(eta_0) exp(-c |eta - eta_0|), so H^(beta) >= e^-m H^(beta_0)
with m = c max_i |a_i'(beta - beta_0)|. That is at most c A_0 ||beta - beta_0||_H^0, and at most what the columns'
extremes allow.

A is bounded by these too, or measured exactly in one pass where that is too coarse: with a_i = z + d_i, z the middle of
the columns' ranges and |d_ij| at most half of them, s_j, and H^-1 = R R',

    ||a_i||_{H^-1} <= ||R'z|| + ||R' d_i|| <= ||R'z|| + sqrt(v) ||diag(s) R||_2         (v: the columns that vary)

With any matrix below the Hessian in its place delta and A, and with them tau, can only be larger: the right-hand sides
still hold, and the left-hand one is still the distance in the norm of the Hessian itself, that of the standard errors
at beta. So a Hessian of a share of the rows (sample.py), times that share, will do; it is the one bound here that needs
no exact Hessian.

Where c holds for predictors from the least to the greatest of any row and 1/c beyond alone (families whose curvature
falls without bound far out), the same is true as long as nothing above leaves that range: m - log(1 - tau) <= 1. The
minimiser then lies inside of it, and by convexity it is the only one. The range comes from the columns' extremes, or
is measured exactly in one pass.

Bounds on the coefficients are a part of Omega: all of this holds with what pushes against them in q.

That needs a definite Hessian, and is all there is with bounds. Two more bounds on P(beta) - P* do not: along the step
of the quadratic model, by the Hessian at the point or by two passes (dual_bound.py), and from the gradient and the
input scan alone (free_gap.py). The smallest is the certificate's. Only the first also bounds the coefficients in
standard errors; where none is known to be definite, ``gap_in_se`` says what the gap amounts to: an error of t standard
errors along one direction costs t^2 phi / (2 W), so sqrt(2 W gap / phi) is free of units and of n. For the gaussian
family, whose objective is a quadratic, that is a bound for every combination of the coefficients that the data
determine.

Rounding: with C the Hessian of the scaled columns, 1 / lambda_min(C) <= tr C^-1. The computed Hessian is trusted for
1 - 10 p eps tr C^-1 of itself, and delta is raised by what the rounding of gradient and predictor can amount to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels
from clusterglm.glm.algebra import MOST_COLUMNS, inverse_root, largest_eigenvalue
from clusterglm.glm.problem import Point, Problem
from clusterglm.glm.proof.dual_bound import dual_bound, step_bound
from clusterglm.glm.proof.duality import EVERYWHERE, Span, gradient_noise, objective_noise, omega
from clusterglm.glm.proof.free_gap import Frame, constant_column, free_gap, null_level

Array = NDArray[np.float64]
_EPS = float(np.finfo(float).eps)
_LEAST = 1e-290  # dispersion of a perfect fit: W / phi stays a number


@dataclass(frozen=True)
class Certificate:
    """What is known about a point.

    ``gap`` bounds P(beta) - P*, ``error_in_se`` every linear combination of beta - beta* in its standard errors; both
    are infinite while the bound does not apply yet. ``kkt`` is the largest first-order error of a coefficient in
    standard errors, ``estimate`` the first-order value of ``error_in_se``: neither is a bound. ``rounding`` and
    ``rounding_in_se`` are the parts of ``gap`` and ``error_in_se`` that stand for the rounding of the sums.
    ``method`` says how the gap is bounded: ``curvature``, ``dual``, ``free`` or ``none``. ``gap_in_se`` is the gap in
    standard errors, sqrt(2 W gap / phi), where no Hessian is known to be definite, and infinite elsewhere.
    """

    method: str
    gap: float
    error_in_se: float
    kkt: float
    estimate: float
    rounding: float
    rounding_in_se: float = 0.0
    gap_in_se: float = np.inf


@dataclass(frozen=True)
class _Reference:
    """A Hessian or what bounds it from below: where it was taken, R with R R' = H^-1, sqrt of its diagonal, the bound
    on A, tr C^-1, the share of the rows that it is of, and c around it."""

    beta: Array
    root: Array
    units: Array
    reach: float
    spread: float
    share: float
    concordance: float


class Certifier:
    """Certifies the points of one problem.

    Parameters
    ----------
    problem : Problem
    largest : array (p,)
        Bounds on max_i |a_ij|.
    offset : float
        A bound on |offset_i|.
    frame : Frame, optional
        What the input scan says of the columns: the free gap needs it.
    """

    def __init__(self, problem: Problem, largest: Array, offset: float = 0.0, frame: Frame | None = None) -> None:
        self.problem, self.offset, self.frame = problem, offset, frame
        self.largest = np.where(largest > 0, largest, 1.0)
        self.reference: _Reference | None = None
        self._units: Array | None = None  # of the last exact Hessian or diagonal, definite or not
        self._best = np.inf  # the smallest objective seen
        self._level: tuple[float, float] | None = None
        self._measured: tuple[Array, Span] | None = None

    def __call__(self, point: Point) -> Certificate:
        """Return what is proven without a pass; a point that carries an exact Hessian becomes the reference."""
        if np.isfinite(point.objective):
            self._best = min(self._best, point.objective + self._sums(point))
        if point.diagonal is not None:
            self._units = np.sqrt(point.diagonal + self.problem.penalty.l2)
        if point.hessian is not None:
            self._refer(point)
        certificate = self._smaller(self._by_reference(point), "free", self._free(point), point)
        if point.hessian is None or (self.reference is not None and np.isfinite(certificate.error_in_se)):
            return certificate
        return self._by_step(certificate, point, measure=False)

    def sharpen(self, point: Point) -> Certificate:
        """Certify by one exact Hessian pass at the point, and one or two more where tau is bounded too coarsely.

        With more columns than a Hessian may have, by the dual bound.
        """
        if point.hessian is None and len(point.beta) > MOST_COLUMNS:
            return self.dual(point)
        if not np.isfinite(self.problem.family.self_concordance) and np.isfinite(point.objective):
            (found,) = self.problem.sum(kernels.span, point.beta)
            blur = 4 * len(point.beta) * _EPS * (float(self.largest @ np.abs(point.beta)) + self.offset)
            self._measured = point.beta, Span(-float(found[0]) - blur, float(found[1]) + blur)
        if point.hessian is None or point.share < 1:
            hessian = self.problem.at(point.beta, hessian=True, exact=True).hessian
            point = Point(point.beta, point.loss, point.gradient, hessian, point.objective)
        certificate = self(point)
        if self.reference is None:
            sure = certificate.method == "curvature"
            return certificate if sure else self._by_step(certificate, point, measure=True)
        if np.isfinite(certificate.error_in_se):
            return certificate
        old = self.reference
        (reach,) = self.problem.sum(kernels.leverage, old.root)
        # The exact maximum carries the rounding of p products.
        exact = float(reach[0]) * (1 + 4 * len(old.beta) * _EPS)
        self.reference = replace(old, reach=min(exact, old.reach))
        sharper = self._by_reference(point)
        return sharper if sharper.gap <= certificate.gap else certificate

    def from_reference(self, reference: Point, point: Point) -> Certificate:
        """Return what the Hessian at ``reference`` proves of ``point``."""
        self._refer(reference)
        return self._by_reference(point)

    @property
    def ill_conditioned(self) -> bool:
        """Whether the last definite Hessian leaves fewer than ten digits to what is solved with it."""
        return self.reference is not None and self.reference.spread * _EPS > 1e-10

    def dual(self, point: Point) -> Certificate:
        """Certify by two passes without forming a Hessian: along a step among the columns that are off 0."""
        bound = dual_bound(self.problem, point, self.largest, self.offset, span=self._span(point.beta))
        return self._smaller(self(point), "dual", (bound.gap, bound.rounding), point)

    def _by_reference(self, point: Point) -> Certificate:
        """Return what the last definite Hessian proves."""
        rounding, reference = self._sums(point), self.reference
        if reference is None or not np.isfinite(point.objective):
            return Certificate("none", np.inf, np.inf, self._kkt(point), np.inf, rounding)
        xi, c = self.problem.penalty.residual(point.beta, point.gradient), reference.concordance
        m = c * self._farthest(point.beta - reference.beta, reference)
        in_se, kkt = float(np.sqrt(self.precision(point))), self._kkt(point)
        first = float(np.linalg.norm(reference.root.T @ xi))
        noise = self._noise(point, reference)
        flat = first + noise
        # What rounding may do is known once the predictors are measured, and may be anything until then.
        estimate = in_se * (flat if self._measured_at(point.beta) else first)
        if not (np.isfinite(c) and np.isfinite(noise)):
            return Certificate("none", np.inf, np.inf, kkt, estimate, rounding)
        with np.errstate(over="ignore"):
            delta = flat * float(np.exp(m / 2))
            tau = c * reference.reach * float(np.exp(m / 2)) * delta
        far = 1.0 if np.isfinite(self.problem.family.self_concordance) else -np.expm1(m - 1)
        if not tau < far:
            return Certificate("none", np.inf, np.inf, kkt, estimate, rounding)
        gap, radius = delta * delta * omega(tau) + rounding, delta * _radius(tau)
        blur = noise * float(np.exp(m / 2))
        rounding += blur * blur * omega(tau)
        return Certificate("curvature", gap, in_se * radius, kkt, estimate, rounding, in_se * blur)

    def _free(self, point: Point) -> tuple[float, float]:
        """Return the free gap and its rounding.

        Losses are not negative, so P(beta) is a bound, and all there is to say of a perfect fit. Least squares always
        have a solution; in the other families an objective near 0 is the mark of separation, and claims nothing.
        """
        family, penalty = self.problem.family, self.problem.penalty
        itself = np.inf
        if family.quadratic:
            blur = 4 * _EPS * (float(self.largest @ np.abs(point.beta)) + self.offset)  # rounding of a residual
            loss = (np.sqrt(2 * point.loss) + blur) ** 2 / 2
            itself = float(point.objective - point.loss + loss) * (1 + 64 * _EPS)
        if self.frame is None or penalty.bounded:
            return itself, itself - point.objective
        if self._level is None and (j := constant_column(penalty, self.frame)) is not None and j >= 0:
            value = float(self.frame.largest[j])
            self._level = null_level(family, point, j, value, self.offset, self._span(point.beta))
        span = self._span(point.beta)
        gap, rounding = free_gap(family, penalty, point, self.frame, self._best, self._level, self.offset, span)
        return (gap, rounding) if gap < itself else (itself, itself - point.objective)

    def _by_step(self, certificate: Certificate, point: Point, measure: bool) -> Certificate:
        bound = step_bound(self.problem, point, self.largest, self.offset, measure, self._span(point.beta))
        return self._smaller(certificate, "curvature", (bound.gap, bound.rounding), point)

    def _smaller(self, certificate: Certificate, method: str, found: tuple[float, float], point: Point) -> Certificate:
        """Return the certificate with a gap found otherwise, where that is smaller."""
        sums = self._sums(point)
        gap, rounding = found[0] + sums, found[1] + sums
        if not gap < certificate.gap:
            return certificate
        smaller = replace(certificate, method=method, gap=gap, rounding=rounding)
        if self.reference is not None:
            return smaller
        # The rounding of the objective that is reported has no part in the error of the coefficients.
        in_se, blurred = (float(np.sqrt(2 * part) * np.sqrt(self.precision(point))) for part in found)
        error = in_se if self.problem.family.quadratic else np.inf
        return replace(smaller, error_in_se=error, gap_in_se=in_se, rounding_in_se=blurred)

    def _refer(self, point: Point) -> None:
        H = point.share * point.hessian + np.diag(self.problem.penalty.l2)  # type: ignore[operator]
        root = inverse_root(H)
        units = np.sqrt(np.diag(H))
        self._units = np.sqrt(point.curvatures + self.problem.penalty.l2)
        spread = np.inf if root is None else float(np.sum((units[:, None] * root) ** 2))
        doubt = 10 * len(H) * _EPS * spread
        if root is None or doubt > 0.1:
            self.reference = None
            return
        c = self.problem.family.concordance(*self._span(point.beta))
        sure = root / np.sqrt(1 - doubt)
        reach = self._reach(sure) if c > 0 else 0.0  # where c is 0, the Hessian is the same everywhere
        self.reference = _Reference(point.beta, sure, units, reach, spread, point.share, c)

    def _reach(self, root: Array) -> float:
        """Return a bound on max ||a_i|| in the norm of H^-1, from the columns' extremes."""
        p, middle, half = len(root), np.zeros(len(root)), self.largest
        if self.frame is not None:
            middle = self.frame.smallest / 2 + self.frame.largest / 2
            # Not self.frame.largest - middle: a range may be lost beside a large mean.
            half = self.frame.largest / 2 - self.frame.smallest / 2 + _EPS * np.abs(middle)
            half = np.where(self.frame.largest > self.frame.smallest, half, 0.0)
        scaled = half[:, None] * root
        around = largest_eigenvalue(scaled.T @ scaled) + 10 * p * _EPS * float(np.sum(scaled * scaled))
        reach = float(np.linalg.norm(root.T @ middle)) + np.sqrt(np.count_nonzero(half) * around)
        return float(reach * (1 + 4 * p * _EPS))

    def _farthest(self, step: Array, reference: _Reference) -> float:
        """Return a bound on max |a_i' step|."""
        from scipy.linalg import solve_triangular

        # R is upper triangular, and R^-1 step has the norm of the step in H.
        moved = reference.reach * float(np.linalg.norm(solve_triangular(reference.root, step, check_finite=False)))
        if self.frame is None:
            return min(moved, float(self.largest @ np.abs(step)) * (1 + 4 * len(step) * _EPS))
        span = self.frame.span(step, 0.0)
        return min(moved, max(-span.low, span.high))

    def _measured_at(self, beta: Array) -> bool:
        """Whether the predictors at ``beta`` are measured, or need not be."""
        known = self._measured is not None and np.array_equal(self._measured[0], beta)
        return known or bool(np.isfinite(self.problem.family.self_concordance))

    def _span(self, beta: Array) -> Span:
        """Return what the predictors at ``beta`` lie between, where that is of any use."""
        if np.isfinite(self.problem.family.self_concordance):
            return EVERYWHERE
        if self._measured is not None and self._measured_at(beta):
            return self._measured[1]
        if self.frame is not None:
            return self.frame.span(beta, self.offset)
        reach = float(self.largest @ np.abs(beta)) + self.offset
        return Span(-reach, reach)

    def _sums(self, point: Point) -> float:
        """Return the rounding of the objective: that of its sums, and that of the predictors under them."""
        if not np.isfinite(point.objective):
            return np.inf
        curvature = self._mean_curvature(point)
        units = self.largest * np.sqrt(curvature)
        if point.diagonal is not None or (point.hessian is not None and point.share == 1):
            known = np.sqrt(np.maximum(point.curvatures, 0.0))
            units = np.minimum(units, known)
            # Where no frame bounds the mean of h, an intercept's own curvature is it.
            if self.frame is None or not np.isfinite(curvature):
                curvature = min(curvature, float(np.max(known / self.largest)) ** 2)
        if not np.isfinite(curvature):
            return np.inf
        family, loss = self.problem.family, point.loss
        span = self._span(point.beta)
        predictors = objective_noise(family, loss, point.beta, units, self.largest, self.offset, curvature, span)
        return family.ulps * _EPS * abs(point.objective) + predictors

    def _mean_curvature(self, point: Point) -> float:
        """Return a bound on the mean of h at a point, which need not know its Hessian; infinite without one."""
        target = self.frame.target if self.frame is not None else np.inf
        return self.problem.family.mean_curvature(point.loss, target, self._span(point.beta).low)

    def _noise(self, point: Point, reference: _Reference) -> float:
        """Return what rounding may add to delta: that of the sums, and that of eta, beta_j a_ij by beta_j a_ij."""
        sums = np.sqrt(len(point.beta) * reference.spread * self._dispersion(point))
        level = float(np.max(reference.units / self.largest)) * self.offset
        if reference.share == 1 and self.problem.family.canonical:
            return _EPS * float(4 * sums + 2 * (np.abs(point.beta) @ reference.units + level))
        # Coordinate by coordinate: the rows that the reference does not know may bend more than those that it does.
        family, curvature = self.problem.family, self._mean_curvature(point)
        units = self.largest * np.sqrt(curvature)
        if not np.isfinite(curvature):
            # An intercept's own curvature is the mean of h; as near as anything is proven it grows by e at most.
            units = reference.units * np.exp(0.5)
            curvature = float(np.max(units / self.largest)) ** 2
        span = self._span(point.beta)
        noise = gradient_noise(family, point.loss, point.beta, units, self.largest, self.offset, curvature, span)
        return float(np.linalg.norm(noise / reference.units) * np.sqrt(reference.spread))

    def _kkt(self, point: Point) -> float:
        if self._units is None or not np.isfinite(point.objective):
            return np.inf
        xi = self.problem.penalty.residual(point.beta, point.gradient)
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = np.max(np.where(xi == 0, 0.0, np.abs(xi) / self._units), initial=0.0)
        return float(np.sqrt(self.precision(point)) * worst)

    def precision(self, point: Point) -> float:
        """Return W / phi: what turns a squared distance into squared standard errors."""
        return self.problem.weight / self._dispersion(point)

    def _dispersion(self, point: Point) -> float:
        """Return Pearson's phi, W in the denominator; 1 where the family has none. Above 0, also for a perfect fit."""
        if not self.problem.family.has_dispersion:
            return 1.0
        return max(2 * point.loss, _LEAST)


def _radius(tau: float) -> float:
    """Return -log(1 - tau) / tau, 1 at 0."""
    return float(-np.log1p(-tau) / tau) if tau > 0 else 1.0
