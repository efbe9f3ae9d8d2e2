"""One row for every iteration, and the rule that ends a fit.

A solver says ``stop(trace(point))`` once an iteration and returns when that is a status. The rule is about the proven
distance to the optimum, never about the change of an iterate, and no fit ends without a status:

optimal        the bound is within the tolerance (or at the working precision of the sums, with a note)
converged      the optimality conditions hold to the tolerance, but no bound exists
max_passes     the passes are used up
interrupted    by Ctrl-C
no_finite_mle  the coefficients grow without end: a direction of recession was found and verified
diverged       the objective is not finite, or no step makes progress
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.proof.certificate import Certificate, Certifier
from clusterglm.glm.proof.separation import MOST_SEARCH, SEARCH, direction_of_recession

Array = NDArray[np.float64]
_SUSPECT = 15.0  # |beta_j| sd_j beyond which separation is looked for
_AT_ROUNDING = 1e-13  # gap beside the null objective, below which sums of float64 tell nothing
_SMALL = 1e-6  # gap beside the null objective up to which rounding may end a fit
_LONG = 32  # iterations without a bound after which it is looked for in any case
_BETWEEN_PROOFS = 8  # iterations from one proof by a singular Hessian to the next


@dataclass(frozen=True)
class Iteration:
    """One row of the trace; its point has a Hessian and shares of local problems only while it is the last.

    ``passes`` over the rows up to here, of which ``read`` were made in the ``seconds`` since the fit began: the others
    belong to loading or to an earlier run.
    """

    iteration: int
    passes: int
    read: int
    seconds: float
    point: Point
    certificate: Certificate
    step: float


class Trace:
    """Collects the iterations of a fit that ``began`` (a ``time.perf_counter``) and hands each to ``on_iteration``."""

    def __init__(
        self,
        problem: Problem,
        certifier: Certifier,
        on_iteration: Callable[[Iteration], None] | None = None,
        began: float | None = None,
    ) -> None:
        self.problem, self.certifier, self._on_iteration = problem, certifier, on_iteration
        self.iterations: list[Iteration] = []
        self._began = time.perf_counter() if began is None else began

    def __call__(self, point: Point, step: float = np.nan) -> Iteration:
        """Record ``point``, the iterate after a step of length ``step``, and return its row."""
        row = Iteration(len(self.iterations), *self._clock(), point, self.certifier(point), step)
        if self.iterations:  # what is behind has done its work: p x p numbers of every iterate would add up
            last = self.iterations[-1]
            self.iterations[-1] = replace(last, point=replace(last.point, hessian=None, parts=None))
        self.iterations.append(row)
        if self._on_iteration is not None:
            self._on_iteration(row)
        return row

    def replace(self, certificate: Certificate) -> Iteration:
        """Put a sharper certificate of the same point into the last row."""
        passes, read, seconds = self._clock()
        row = replace(self.iterations[-1], certificate=certificate, passes=passes, read=read, seconds=seconds)
        self.iterations[-1] = row
        return self.iterations[-1]

    def _clock(self) -> tuple[int, int, float]:
        return self.problem.passes, self.problem.read, time.perf_counter() - self._began


@dataclass(frozen=True)
class Tolerance:
    """``tol``: certified error of the coefficients in standard errors; ``rel_gap``: gap over the null objective.

    Where no Hessian is definite coefficients have no standard errors, and ``tol`` is about the gap: gap <= tol^2 phi /
    (2 W), what an error of ``tol`` standard errors costs in the objective.
    """

    tol: float = 0.01
    rel_gap: float | None = None

    def relative(self, weight: float, null_objective: float) -> float:
        """Return the gap over the null objective that this is, of rows of so much weight and a dispersion of 1."""
        return self.tol**2 / (2 * weight * null_objective) if self.rel_gap is None else self.rel_gap

    def met(self, certificate: Certificate, null_objective: float) -> bool:
        if self.rel_gap is not None:
            return certificate.gap <= self.rel_gap * null_objective
        return self._in_se(certificate) <= self.tol

    def distance(self, null_objective: float, precision: float) -> float:
        """Return the distance to the optimum in the Hessian's norm that is asked for; ``precision`` is W/phi."""
        if self.rel_gap is not None:
            return float(np.sqrt(2 * self.rel_gap * null_objective))
        return float(self.tol / np.sqrt(precision))

    @staticmethod
    def _in_se(certificate: Certificate) -> float:
        """Return the error in standard errors; where no Hessian is definite, what the gap amounts to."""
        return min(certificate.error_in_se, certificate.gap_in_se)

    def out_of_reach(self, certificate: Certificate) -> bool:
        """Whether what is bounded is no more than twice the rounding of the sums."""
        if self.rel_gap is not None:
            return certificate.gap <= 2 * certificate.rounding
        return self._in_se(certificate) <= 2 * certificate.rounding_in_se

    def worth_proving(self, certificate: Certificate, null_objective: float, precision: float) -> bool:
        """Whether the first-order estimate says that an exact Hessian would prove the point; ``precision`` is W/phi."""
        if self.rel_gap is not None:
            # To first order the gap is delta^2 / 2, and estimate^2 = W / phi delta^2.
            return bool((certificate.estimate / np.sqrt(precision)) ** 2 / 2 <= self.rel_gap * null_objective)
        return certificate.estimate <= self.tol


class StoppingRule:
    """Returns a status when the fit is to end, and None while it goes on.

    Parameters
    ----------
    trace : Trace
    tolerance : Tolerance
    null_objective : float
        P at the null model.
    deviations : array (p,)
        The columns' standard deviations, by which coefficients are judged large; 0 for the intercept.
    """

    def __init__(self, trace: Trace, tolerance: Tolerance, null_objective: float, deviations: Array) -> None:
        self.trace, self.tolerance, self.null_objective = trace, tolerance, null_objective
        self.deviations = deviations
        self.notes: list[str] = []
        self.direction: Array | None = None
        self._next_search, self._next_proof = 3, 0

    def __call__(self, row: Iteration) -> str | None:
        problem = self.trace.problem
        if not np.isfinite(row.point.objective):
            return "diverged"
        if self.tolerance.met(row.certificate, self.null_objective):
            return "optimal"
        unproven = False
        proven = problem.left >= 1 and self._worth_proving(row)
        if proven:
            row = self.trace.replace(self.trace.certifier.sharpen(row.point))
            unproven = not row.certificate.gap < row.point.objective
            if unproven:
                self._next_proof = 2 * row.iteration
            elif self.trace.certifier.reference is None:
                self._next_proof = row.iteration + _BETWEEN_PROOFS
        # Rounding blurs a free bound long before it does a bound of second order.
        if self._done(row.certificate, at_best=proven or row.certificate.method != "free"):
            return "optimal"
        bounded = self.trace.certifier.reference is not None or row.certificate.gap < row.point.objective
        settled = not bounded and self._stationary(row.point)
        if settled and not proven and problem.left >= 1:
            # No answer is left without a bound that one more pass would find.
            row = self.trace.replace(self.trace.certifier.sharpen(row.point))
            if self._done(row.certificate):
                return "optimal"
            if row.certificate.gap <= _AT_ROUNDING * max(self.null_objective, row.point.objective):
                self.notes.append("note: stopped at the working precision of float64 sums")
                return "optimal"
        looked_for = settled or unproven or self._suspicious(row) or self._closing(row)
        if looked_for and problem.left >= SEARCH and self._separated(row):
            return "no_finite_mle"
        if settled:
            return "converged"
        return "max_passes" if problem.left < 1 else None

    def distance(self, point: Point) -> float:
        """Return how near to the optimum a fit may end, in the Hessian's norm at ``point``."""
        return self.tolerance.distance(self.null_objective, self.trace.certifier.precision(point))

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

    def exhausted(self) -> str:
        """Return the status where a pass was refused: a proof that it cut short may have had what it needs."""
        certificate = self.trace.replace(self.trace.certifier(self.trace.iterations[-1].point)).certificate
        return "optimal" if self._done(certificate) else "max_passes"

    def _done(self, certificate: Certificate, at_best: bool = True) -> bool:
        """Whether the bound is within the tolerance, or is the best that there will be."""
        if self.tolerance.met(certificate, self.null_objective):
            return True
        if at_best and self._out_of_reach(certificate):
            self.notes.append("note: stopped at the working precision of float64 sums")
            return True
        return False

    def _out_of_reach(self, certificate: Certificate) -> bool:
        small = certificate.gap <= _SMALL * self.null_objective  # a blurred view of a point far off is no proof
        return small and self.tolerance.out_of_reach(certificate)

    def _worth_proving(self, row: Iteration) -> bool:
        if row.iteration < self._next_proof:
            return False
        if self.trace.certifier.reference is None:
            return self._stationary(row.point)
        if self._out_of_reach(row.certificate):
            return True  # a Hessian from elsewhere blurs more than the sums do
        precision = self.trace.certifier.precision(row.point)
        return self.tolerance.worth_proving(row.certificate, self.null_objective, precision)

    def _stationary(self, point: Point) -> bool:
        """Whether the optimality conditions hold in the columns' own units, to 1e-4 of the tolerance's scale."""
        problem = self.trace.problem
        xi = problem.penalty.residual(point.beta, point.gradient)
        units = np.maximum(self.trace.certifier.largest, np.finfo(float).tiny)
        tol = self.tolerance.tol if self.tolerance.rel_gap is None else np.sqrt(self.tolerance.rel_gap)
        return bool(
            np.max(np.abs(xi) / units, initial=0.0) <= tol * 1e-2 / np.sqrt(self.trace.certifier.precision(point))
        )

    def _suspicious(self, row: Iteration) -> bool:
        if row.iteration < self._next_search or np.isfinite(row.certificate.gap):
            return False
        free = self.trace.problem.penalty.free
        far = np.max(np.abs(row.point.beta[free]) * self.deviations[free], initial=0.0)
        return bool(far > _SUSPECT) or row.iteration >= _LONG

    def _closing(self, row: Iteration) -> bool:
        """Whether the passes are about to be used up without a bound: the last chance to learn why."""
        room = self.trace.problem.left
        return room < 2 * MOST_SEARCH and row.iteration >= self._next_search and not np.isfinite(row.certificate.gap)

    def _separated(self, row: Iteration) -> bool:
        """Look for a direction of recession that costs no penalty."""
        problem = self.trace.problem
        free = problem.penalty.free
        if not problem.family.recession or len(self.trace.iterations) < 2:
            return False
        if not self.deviations[free].any():
            return False  # the intercept alone: the target has more than one value
        self._next_search = 2 * row.iteration
        before, largest = self.trace.iterations[-2].point.beta, self.trace.certifier.largest
        self.direction = direction_of_recession(problem, row.point.beta, before, largest)
        return self.direction is not None
