"""How far a point can be from the optimum: a rigorous bound from its gradient and one exact Hessian.

Let q be the subgradient of Omega at beta nearest to -g, xi = g + q, H^ = Hessian of f + diag(l2), and

    delta = ||xi||_{H^-1},    A = max_i ||a_i||_{H^-1},    tau = c A delta        (c: the family's self-concordance)

    tau < 1:   P(beta) - P* <= delta^2 w(tau),   w(tau) = [tau + (1 - tau) log(1 - tau)] / tau^2
               ||beta* - beta||_H^ <= delta (-log(1 - tau)) / tau

Proof: along d = beta* - beta with r = ||d||_H^, |phi'''| <= c A r phi'' for phi(t) = (f + L2 part)(beta + t d), so
phi(1) >= phi(0) + phi'(0) + (e^-m + m - 1) r^2 / m^2 with m = c A r; the L1 part adds q'd; xi'd >= -delta r; maximise
over r. (Generalised self-concordance: Bach 2010, EJS 4; Sun and Tran-Dinh 2019, Math. Prog. 178.)

A Hessian taken at beta_0 follows the iterate: h(eta) >= h(eta_0) exp(-c |eta - eta_0|) and
|a_i'(beta - beta_0)| <= A_0 r with r = ||beta - beta_0||_H^0, so H^(beta) >= e^-m H^(beta_0), m = c A_0 r.
A_0 is bounded by the columns' largest entries, or measured exactly in one pass where that is too coarse.

Rounding: with C the Hessian of the scaled columns, 1 / lambda_min(C) <= tr C^-1. The computed Hessian is trusted for
1 - 10 p eps tr C^-1 of itself, and delta is raised by what the rounding of gradient and predictor can amount to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels
from clusterglm.glm.algebra import inverse_root, smallest_eigenvalue
from clusterglm.glm.problem import Point, Problem

Array = NDArray[np.float64]
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class Certificate:
    """What is known about a point.

    ``gap`` bounds P(beta) - P*, ``error_in_se`` every linear combination of beta - beta* in its standard errors; both
    are infinite while the bound does not apply yet. ``kkt`` is the largest first-order error of a coefficient in
    standard errors, ``estimate`` the first-order value of ``error_in_se``: neither is a bound. ``rounding`` and
    ``rounding_in_se`` are the parts of ``gap`` and ``error_in_se`` that stand for the rounding of the sums.
    """

    method: str
    gap: float
    error_in_se: float
    kkt: float
    estimate: float
    rounding: float
    rounding_in_se: float = 0.0


@dataclass(frozen=True)
class _Reference:
    """An exact Hessian: where it was taken, R with R R' = H^-1, sqrt of its diagonal, the bound on A, and tr C^-1."""

    beta: Array
    root: Array
    units: Array
    reach: float
    spread: float


class Certifier:
    """Certifies the points of one problem. ``largest`` (p,) are bounds on max_i |a_ij|, ``offset`` on |offset_i|."""

    def __init__(self, problem: Problem, largest: Array, offset: float = 0.0) -> None:
        self.problem, self.offset = problem, offset
        self.largest = np.where(largest > 0, largest, 1.0)
        self.reference: _Reference | None = None

    def __call__(self, point: Point) -> Certificate:
        """Return what the last exact Hessian proves; a point that carries one becomes the reference."""
        if point.hessian is not None:
            self._refer(point)
        rounding = 8 * _EPS * (abs(point.objective) + float(np.abs(point.gradient) @ np.abs(point.beta)))
        reference = self.reference
        if reference is None or not np.isfinite(point.objective):
            return Certificate("none", np.inf, np.inf, self._kkt(point), np.inf, rounding)
        xi = self.problem.penalty.residual(point.beta, point.gradient)
        c = self.problem.family.self_concordance
        # R is triangular, so R^-1 (beta - beta_0) has the norm of beta - beta_0 in H.
        moved = float(np.linalg.norm(np.linalg.solve(reference.root, point.beta - reference.beta)))
        m = c * reference.reach * moved
        noise = self._noise(point, reference)
        flat = float(np.linalg.norm(reference.root.T @ xi)) + noise
        in_se = float(np.sqrt(self.problem.weight / self._dispersion(point)))
        kkt, estimate = self._kkt(point), in_se * flat
        with np.errstate(over="ignore"):
            delta = flat * float(np.exp(m / 2))
            tau = c * reference.reach * float(np.exp(m / 2)) * delta
            # A standard error at the point is as small as the Hessian there allows, which is at most e^m H(beta_0).
            in_se *= float(np.exp(m))
        if not tau < 1:
            return Certificate("none", np.inf, np.inf, kkt, estimate, rounding)
        gap, radius = delta * delta * _omega(tau), delta * _radius(tau)
        rounding_in_se = in_se * noise * float(np.exp(m / 2))
        return Certificate("curvature", gap + rounding, in_se * radius, kkt, estimate, rounding, rounding_in_se)

    def sharpen(self, point: Point) -> Certificate:
        """Certify by one exact Hessian pass at the point, and one more for A where its bound is too coarse."""
        if point.hessian is None:
            hessian = self.problem.at(point.beta, hessian=True).hessian
            point = Point(point.beta, point.loss, point.gradient, hessian, point.objective)
        certificate = self(point)
        if self.reference is None or np.isfinite(certificate.gap):
            return certificate
        old = self.reference
        (reach,) = self.problem.sum(kernels.leverage, old.root)
        # The exact maximum carries the rounding of p products.
        exact = float(reach[0]) * (1 + 4 * len(old.beta) * _EPS)
        self.reference = replace(old, reach=min(exact, old.reach))
        return self(Point(point.beta, point.loss, point.gradient, None, point.objective))

    def _refer(self, point: Point) -> None:
        H = point.hessian + np.diag(self.problem.penalty.l2)  # type: ignore[operator]
        root = inverse_root(H)
        units = np.sqrt(np.diag(H))
        spread = np.inf if root is None else float(np.sum((units[:, None] * root) ** 2))
        doubt = 10 * len(H) * _EPS * spread
        if root is None or doubt > 0.1:
            self.reference = None
            return
        # ||S^-1 a_i||^2 <= p for S = diag(largest), hence A^2 <= p / smallest eigenvalue of S^-1 H S^-1.
        scaled = H / self.largest / self.largest[:, None]
        smallest = smallest_eigenvalue(scaled) - 10 * _EPS * float(np.trace(scaled))
        reach = np.sqrt(len(H) / smallest) if smallest > 0 else np.inf
        if not self.problem.family.self_concordance:
            reach = 0.0  # the Hessian is the same everywhere
        self.reference = _Reference(point.beta, root / np.sqrt(1 - doubt), units, float(reach), spread)

    def _noise(self, point: Point, reference: _Reference) -> float:
        """Return what rounding may add to delta: that of the sums, and that of eta, beta_j a_ij by beta_j a_ij."""
        sums = np.sqrt(len(point.beta) * reference.spread * self._dispersion(point))
        level = float(np.max(reference.units / self.largest)) * self.offset
        return _EPS * float(4 * sums + 2 * (np.abs(point.beta) @ reference.units + level))

    def _kkt(self, point: Point) -> float:
        if self.reference is None or not np.isfinite(point.objective):
            return np.inf
        xi = self.problem.penalty.residual(point.beta, point.gradient)
        worst = np.max(np.abs(xi) / self.reference.units, initial=0.0)
        return float(np.sqrt(self.problem.weight / self._dispersion(point)) * worst)

    def _dispersion(self, point: Point) -> float:
        """Return Pearson's phi, W in the denominator; 1 where the family has none. Above 0, also for a perfect fit."""
        if not self.problem.family.has_dispersion:
            return 1.0
        return max(2 * point.loss, np.finfo(float).tiny)


def _omega(tau: float) -> float:
    """Return [tau + (1 - tau) log(1 - tau)] / tau^2, 1/2 at 0, rounded upward."""
    if tau < 1e-4:
        return 0.5 + tau / 4  # the series is 1/2 + tau/6 + tau^2/12 + ...
    return float((tau + (1 - tau) * np.log1p(-tau)) / tau**2)


def _radius(tau: float) -> float:
    """Return -log(1 - tau) / tau, 1 at 0."""
    return float(-np.log1p(-tau) / tau) if tau > 0 else 1.0
