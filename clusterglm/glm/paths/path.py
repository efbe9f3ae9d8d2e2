"""A path of penalties, and k-fold cross-validation of it, in passes that all strengths and folds share.

    minimise  P_a(beta) = f(beta) + a Omega(beta)   for strengths a_1 > ... > a_L, on all rows and without each fold

Every strength begins at the path of a sample of the rows, solved in this process. A pass then takes the gradients of
all strengths at once, and Newton steps go by Hessians at a few of the strengths (path_steps.py): a Hessian from a
neighbour is exact enough for a step, and bounds the neighbours' own from below (certificate.py), so that every answer
is proven. The model that leaves a fold out lies within about sqrt(p / n) of that of all rows, whose sums are kept apart
by fold: one Newton step from there, by the Hessian of the other folds, and one pass, which proves it and holds it
against the fold. Of least squares the Gram matrices of the folds say all: one pass serves the whole path and all folds.

Friedman, Hastie and Tibshirani (2010), JSS 33(1): the grid, and the rule of one standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError, UsageError
from clusterglm.glm.algebra import MOST_COLUMNS
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Fit, Limits, Model
from clusterglm.glm.paths.folds import Outside
from clusterglm.glm.paths.lockstep import Lockstep, sample_path
from clusterglm.glm.penalties import Penalty, smallest_null_strength
from clusterglm.glm.problem import Columns, Problem, Rows
from clusterglm.glm.proof.certificate import Certificate
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.sample import Drawn, SampleRows, draw
from clusterglm.glm.scan import refuse
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.start import Look, look, null_intercept

Array = NDArray[np.float64]
STRENGTHS, SMALLEST, FOLDS = 50, 1e-3, 5
_ALL_BYTES = 2**25  # rows so few that all of them are the sample
_SMALLEST_SHARE = 1e-3  # of L1, with which the largest strength is found where there is none


@dataclass(frozen=True)
class Grid:
    """The strengths: ``alphas`` as given, or ``count`` from the one at which all is zero to ``smallest`` of it."""

    count: int = STRENGTHS
    smallest: float = SMALLEST
    alphas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.count, Integral) or self.count < 1:
            raise UsageError("--strengths", self.count, "must be at least 1")
        if not 0 < self.smallest < 1:
            raise UsageError("--smallest", self.smallest, "must lie between 0 and 1")
        for alpha in self.alphas:
            if not 0 < alpha < np.inf:
                raise UsageError("--alphas", alpha, "must be greater than 0")

    def strengths(self, largest: float) -> Array:
        """Return the strengths, (L,), the largest first."""
        if self.alphas:
            return np.sort(np.array(self.alphas, dtype=np.float64))[::-1].copy()
        return largest * np.geomspace(1.0, self.smallest, self.count)


@dataclass(frozen=True)
class Path:
    """The answers of all strengths, one a row, with what cross-validation says of them.

    ``coefficients`` (L, p) without the intercept, ``intercepts`` (L,) or None. ``held_out`` (F, L) is the mean deviance
    of the rows of every fold under the model that leaves them out; ``mean`` and ``error`` (L,) are its mean over the
    folds and the standard error of that. ``best`` has the smallest mean, ``simplest`` is the strongest penalty within
    one standard error of it; both are indices. ``fold_certificates`` are (F, L).
    """

    alphas: Array
    coefficients: Array
    intercepts: Array | None
    objectives: Array
    deviance_explained: Array
    certificates: list[Certificate]
    passes: int
    weight: float
    notes: list[str]
    held_out: Array | None = None
    fold_certificates: list[list[Certificate]] | None = None
    mean: Array | None = None
    error: Array | None = None
    best: int | None = None
    simplest: int | None = None


def fit_path(
    rows: Rows,
    names: Sequence[str],
    model: Model,
    grid: Grid | None = None,
    folds: int = 1,
    limits: Limits | None = None,
    locate: Callable[[int], str] = "row {}".format,
    target: str = "y",
    seen: Look | None = None,
) -> Path:
    """Return the path of ``model``, whose own strength does not count; with ``folds`` > 1 cross-validated.

    Raises
    ------
    UsageError
        No penalty, too many columns, or strengths or folds that make no sense.
    DataError
        Rows that no model can be fitted to, as in ``fit``.
    """
    grid, limits = grid or Grid(), limits or Limits()
    family, first = model.family, int(model.intercept)
    labels = ["intercept"] * first + list(names)
    _refuse(model, folds, len(labels), rows.rows)
    seen = look(rows, model, len(labels), limits.start) if seen is None else seen
    scan = seen.scan
    notes = refuse(scan, labels, replace(model, alpha=1.0, lamduh=None), locate, target)
    sd = np.where(scan.deviation > 0, scan.deviation, 1.0)
    factors = model.penalty_factors(labels)
    constant = scan.constant.copy()
    constant[:first] = False
    kept = np.flatnonzero(~constant)
    if constant.any():
        notes.append(f"warning: {int(constant.sum())} constant columns: coefficients set to 0")
    if not (factors[kept] > 0).any():
        raise DataError("columns", None, "none carries a penalty: nothing to choose a strength for")

    def penalty(alpha: float, share: float | None = None) -> Penalty:
        return model.penalty_of(alpha, labels, sd, share).take(kept)

    problem = Problem(rows, family, penalty(1.0), scan.weight, on_pass=limits.on_pass, passes=1, read=0)
    if constant.any():
        problem.rows = Columns(rows, kept)
    null = np.zeros(len(kept))
    if first:
        null[0] = null_intercept(problem, model, scan)
    free = np.flatnonzero(factors[kept] == 0)
    null = _null(problem, null, free) if len(free) > first else null
    steps = Lockstep(problem, folds, limits.tolerance, Frame.of(scan, kept), scan.largest_offset)
    slope = steps.begin(null)
    if folds > 1 and not (steps.weights > 0).all():
        cure = f"fold {int(np.argmin(steps.weights)) + 1} has no row with a weight above 0: take fewer"
        raise DataError("--folds", folds, cure)
    largest = smallest_null_strength(slope, penalty(1.0, max(model.share, _SMALLEST_SHARE)))
    alphas = grid.strengths(largest * (1 + 1e-9))  # so that all is zero at the first, whatever the rounding
    penalties = [penalty(a) for a in alphas]
    sample = _sample(problem, seen, len(kept), kept if constant.any() else None)
    begun, nearby = sample_path(sample, family, penalties, penalties[0].clip(null))
    for k, each in enumerate(penalties):
        if (each.clip(null) == null).all() and not each.residual(null, slope)[~each.free].any():
            begun[:, k] = null  # where all is zero, and no step by a Hessian from elsewhere comes near enough to say so
    whole = sample.rows == rows.rows if isinstance(sample, SampleRows | Columns) else True
    unfinished: list[str] = []

    def by_itself(k: int, within: Rows, begin: Array | None) -> Fit:
        own = replace(model, alpha=float(alphas[k]), lamduh=None)
        found = fit(within, names, own, SOLVERS["proximal_newton"], replace(limits, begin=begin), (), locate, target)
        if found.status == "interrupted":
            raise KeyboardInterrupt
        problem.passes += found.passes
        if found.status not in ("optimal", "converged"):
            unfinished.append(found.status)
        return found

    for k in steps.solve(penalties, begun, None if whole else nearby):
        # What lockstep could not settle is fitted by itself.
        alone = by_itself(k, rows, None)
        steps.replace(k, alone.beta[kept], alone.certificate)
    if unfinished:
        notes.append(_unfinished(unfinished, len(alphas), "models"))
    betas = np.zeros((len(alphas), len(labels)))
    betas[:, kept] = steps.betas.T
    path = Path(
        alphas=alphas,
        coefficients=betas[:, first:],
        intercepts=betas[:, 0] if first else None,
        objectives=steps.losses + np.array([p.value(steps.betas[:, k]) for k, p in enumerate(penalties)]),
        deviance_explained=1 - steps.losses / steps.null_loss if steps.null_loss > 0 else np.ones(len(alphas)),
        certificates=steps.certificates,
        passes=problem.passes,
        weight=scan.weight,
        notes=notes,
    )
    if folds == 1:
        return path
    losses, certificates, astray = steps.cross(penalties)
    unfinished.clear()
    for f, k in astray:
        try:
            alone = by_itself(k, Outside(rows, folds, f), betas[k])
        except DataError as refused:
            raise DataError("--folds", folds, f"without fold {f + 1}: {refused}: take other folds") from refused
        losses[f, k] = 2 * steps.fold_losses(alone.beta[kept][:, None])[f, 0] / steps.weights[f]
        certificates[f][k] = alone.certificate
    if unfinished:
        notes.append(_unfinished(unfinished, folds * len(alphas), "models without a fold"))
    if unproven := sum(not np.isfinite(min(c.error_in_se, c.gap_in_se)) for own in certificates for c in own):
        notes.append(f"note: {unproven} of {folds * len(alphas)} models without a fold have no bound on their error")
    mean = losses.mean(axis=0)
    with np.errstate(invalid="ignore"):  # a row outside of where a model has predictors has an infinite loss
        error = losses.std(axis=0, ddof=1) / np.sqrt(folds)
    best = int(np.argmin(mean))
    simplest = int(np.argmax(mean <= mean[best] + error[best]))
    return replace(
        path,
        passes=problem.passes,
        held_out=losses,
        fold_certificates=certificates,
        mean=mean,
        error=error,
        best=best,
        simplest=simplest,
    )


def _unfinished(statuses: list[str], all_of: int, models: str) -> str:
    return f"warning: {len(statuses)} of {all_of} {models} have no answer: {', '.join(sorted(set(statuses)))}"


def _refuse(model: Model, folds: int, columns: int, rows: int) -> None:
    if model.penalty == "none":
        raise UsageError("--penalty", "none", "has no strength to choose: l1, l2, elastic-net or group")
    if model.family.predictors != 1:
        raise UsageError("--family", model.family.name, "has no path of penalties: fit single strengths")
    if columns > MOST_COLUMNS:
        raise UsageError("columns", columns, f"a path needs Hessians, which are formed up to {MOST_COLUMNS} columns")
    if folds < 1 or folds > rows // 2:
        raise UsageError("--folds", folds, f"must be 2 to half of the {rows} rows")


def _null(problem: Problem, beta: Array, free: NDArray[np.intp]) -> Array:
    """Return the model of the columns without penalty alone, by damped Newton steps."""
    point = problem.at(beta, hessian=True)
    for _ in range(50):
        H = point.hessian[np.ix_(free, free)]  # type: ignore[index]
        step = np.zeros_like(beta)
        step[free] = -np.linalg.lstsq(H, point.gradient[free], rcond=None)[0]
        decrement = -float(step @ point.gradient)
        if decrement <= 1e-14 * max(point.loss, 1e-300):
            break
        t = 1.0
        while t > 1e-8:
            trial = problem.at(point.beta + t * step, hessian=True)
            if trial.loss <= point.loss:
                break
            t /= 2
        point = trial
    return point.beta


def _sample(problem: Problem, seen: Look, columns: int, kept: NDArray[np.intp] | None) -> Rows:
    """Return rows in this process that a path can begin on; the rows themselves where there are none."""
    if seen.met is not None:
        return seen.met.sample if kept is None else Columns(seen.met.sample, kept)
    if seen.drawn is not None:
        sample: Rows = SampleRows(seen.drawn)
        return sample if kept is None else Columns(sample, kept)
    if problem.rows.rows * columns * 8 <= _ALL_BYTES:
        (drawn,) = problem.rows.sum(draw, 1)
        problem.passes += 1
        assert isinstance(drawn, Drawn)
        return SampleRows(drawn)
    return problem  # type: ignore[return-value]
