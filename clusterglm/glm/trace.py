"""One row for every iteration, and the rule that ends a fit.

A solver says ``stop(trace(point))`` once an iteration and returns when that is a status. The rule is about the proven
distance to the optimum, never about the change of an iterate, and no fit ends without a status:

optimal        the bound is within the tolerance (or at the working precision of the sums, with a note)
converged      the optimality conditions hold to the tolerance, but no bound exists: the Hessian is singular
max_passes     the passes are used up
no_finite_mle  the coefficients grow without end: a direction of recession was found and verified
diverged       the objective is not finite, or no step makes progress
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels
from clusterglm.glm.certificate import Certificate, Certifier
from clusterglm.glm.problem import Point, Problem, Solution

Array = NDArray[np.float64]
_SUSPECT = 15.0  # |beta_j| sd_j beyond which separation is looked for


@dataclass(frozen=True)
class Iteration:
    """One row of the trace; ``seconds`` since the first pass."""

    iteration: int
    passes: int
    seconds: float
    point: Point
    certificate: Certificate
    step: float


class Trace:
    """Collects the iterations of a fit and hands each to ``on_iteration``."""

    def __init__(
        self, problem: Problem, certifier: Certifier, on_iteration: Callable[[Iteration], None] | None = None
    ) -> None:
        self.problem, self.certifier, self._on_iteration = problem, certifier, on_iteration
        self.iterations: list[Iteration] = []
        self._began = time.perf_counter()

    def __call__(self, point: Point, step: float = np.nan) -> Iteration:
        """Record ``point``, the iterate after a step of length ``step``, and return its row."""
        row = Iteration(len(self.iterations), *self._clock(), point, self.certifier(point), step)
        self.iterations.append(row)
        if self._on_iteration is not None:
            self._on_iteration(row)
        return row

    def replace(self, certificate: Certificate) -> Iteration:
        """Put a sharper certificate of the same point into the last row."""
        passes, seconds = self._clock()
        self.iterations[-1] = replace(self.iterations[-1], certificate=certificate, passes=passes, seconds=seconds)
        return self.iterations[-1]

    def _clock(self) -> tuple[int, float]:
        return self.problem.passes, time.perf_counter() - self._began


@dataclass(frozen=True)
class Tolerance:
    """``tol``: certified error of the coefficients in standard errors; ``rel_gap``: gap over the null objective."""

    tol: float = 0.01
    rel_gap: float | None = None

    def met(self, certificate: Certificate, null_objective: float) -> bool:
        if self.rel_gap is not None:
            return certificate.gap <= self.rel_gap * null_objective
        return certificate.error_in_se <= self.tol

    def worth_proving(self, certificate: Certificate, null_objective: float, weight: float) -> bool:
        """Whether the first-order estimate says that an exact Hessian would prove the point."""
        if self.rel_gap is not None:
            # To first order the gap is delta^2 / 2, and estimate^2 = weight / phi delta^2 with phi at most 1 here.
            return certificate.estimate**2 / (2 * weight) <= self.rel_gap * null_objective
        return certificate.estimate <= self.tol


class StoppingRule:
    """Returns a status when the fit is to end, and None while it goes on.

    Parameters
    ----------
    trace : Trace
    tolerance : Tolerance
    null_objective : float
        P at the null model.
    max_passes : int
    deviations : array (p,)
        The columns' standard deviations, by which coefficients are judged large.
    """

    def __init__(
        self, trace: Trace, tolerance: Tolerance, null_objective: float, max_passes: int, deviations: Array
    ) -> None:
        self.trace, self.tolerance, self.null_objective = trace, tolerance, null_objective
        self.max_passes, self.deviations = max_passes, deviations
        self.notes: list[str] = []
        self.direction: Array | None = None
        self._next_search = 0

    def __call__(self, row: Iteration) -> str | None:
        problem = self.trace.problem
        if not np.isfinite(row.point.objective):
            return "diverged"
        certificate = row.certificate
        if self._done(certificate):
            return "optimal"
        if not np.isfinite(certificate.gap) and self._worth_proving(certificate, problem.weight):
            row = self.trace.replace(self.trace.certifier.sharpen(row.point))
            certificate = row.certificate
            if self._done(certificate):
                return "optimal"
        if self.trace.certifier.reference is None and self._stationary(row.point):
            return "converged"
        last = problem.passes >= self.max_passes
        if (last or self._suspicious(row)) and self._separated(row):
            return "no_finite_mle"
        return "max_passes" if last else None

    def settle(self, solution: Solution) -> str:
        """Return the status of a solver's answer: one that stalled is judged once more, with an exact Hessian."""
        if solution.status != "stalled":
            return solution.status
        certificate = self.trace.replace(self.trace.certifier.sharpen(solution.point)).certificate
        if self._done(certificate):
            return "optimal"
        if self._separated(self.trace.iterations[-1]):
            return "no_finite_mle"
        if certificate.gap <= 1e-10 * max(self.null_objective, solution.point.objective):
            self.notes.append("note: stopped at the working precision of float64 sums")
            return "optimal"
        if self._stationary(solution.point):
            return "converged"
        return "diverged"

    def _done(self, certificate: Certificate) -> bool:
        if self.tolerance.met(certificate, self.null_objective):
            return True
        if certificate.gap <= 2 * certificate.rounding:
            self.notes.append("note: stopped at the working precision of float64 sums")
            return True
        return False

    def _worth_proving(self, certificate: Certificate, weight: float) -> bool:
        reference = self.trace.certifier.reference
        return reference is None or self.tolerance.worth_proving(certificate, self.null_objective, weight)

    def _stationary(self, point: Point) -> bool:
        """Whether the optimality conditions hold in the columns' own units, to 1e-4 of the tolerance's scale."""
        problem = self.trace.problem
        xi = problem.penalty.residual(point.beta, point.gradient)
        units = np.maximum(self.trace.certifier.largest, np.finfo(float).tiny)
        tol = self.tolerance.tol if self.tolerance.rel_gap is None else np.sqrt(self.tolerance.rel_gap)
        return bool(np.max(np.abs(xi) / units, initial=0.0) <= tol * 1e-2 / np.sqrt(problem.weight))

    def _suspicious(self, row: Iteration) -> bool:
        free = self.trace.problem.penalty.free
        if not free.any() or row.iteration < self._next_search or row.iteration < 3:
            return False
        return bool(np.max(np.abs(row.point.beta[free]) * self.deviations[free]) > _SUSPECT)

    def _separated(self, row: Iteration) -> bool:
        """Look for a direction of recession that costs no penalty: the last step, and the coefficients themselves."""
        problem = self.trace.problem
        free = problem.penalty.free
        if problem.family.name not in ("binomial", "poisson") or not free.any() or len(self.trace.iterations) < 2:
            return False
        self._next_search = 2 * row.iteration
        beta = row.point.beta
        for direction in (beta - self.trace.iterations[-2].point.beta, beta):
            d = np.where(free, direction, 0.0)
            length = np.linalg.norm(d)
            if not length > 0 or not np.isfinite(length):
                continue
            ((violation, largest),) = problem.sum(kernels.margins, problem.family, d / length)
            if largest > 0 and violation <= 1e-10 * largest:
                self.direction = d / length
                return True
        return False
