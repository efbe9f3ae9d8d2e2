"""From a request and rows, wherever they are, to a fit: with inference, and with a theta that is estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clusterglm import groups
from clusterglm.data.rows import Rows
from clusterglm.errors import DataError
from clusterglm.glm.fit import fit as fit_rows
from clusterglm.glm.inference import Wanted
from clusterglm.glm.inference.theta import fit_theta
from clusterglm.glm.model import STARTS, Fit, Limits, Model
from clusterglm.glm.problem import Problem, Recorded
from clusterglm.glm.start import Look
from clusterglm.glm.trace import Iteration
from clusterglm.model import FittedModel, load_model
from clusterglm.progress import Progress
from clusterglm.request import ESTIMATE, Request


def solve(
    rows: Rows,
    all_names: Sequence[str],
    names: Sequence[str],
    request: Request,
    progress: Progress,
    journal: Sequence[Recorded],
    on_pass: Callable[[Problem], None] | None,
    target: str,
    seen: Look | None = None,
) -> Fit:
    """Return the fit that was asked for, on rows whose columns are ``all_names``, those of the model ``names``.

    Raises
    ------
    UsageError, DataError
        What was refused.
    """

    def tell(row: Iteration, null_objective: float) -> None:
        progress.iteration(row, null_objective, rows.rows)

    limits = Limits(request.tolerance, request.max_passes, request.start, on_pass=on_pass, on_iteration=tell)
    if request.start not in STARTS:
        limits = replace(limits, begin=_earlier(request, names))
    wanted = None
    if request.summary:
        told = rows if request.groups is not None else None
        wanted = Wanted(request.covariance or "nonrobust", request.weights_are, request.level, told)
    inner, solver = groups.model_rows(rows, all_names, names), request.method
    if request.theta != ESTIMATE:
        return fit_rows(inner, names, request.model, solver, limits, journal, rows.locate, target, seen, wanted)

    def at(model: Model, begin: Any, last: bool) -> Fit:
        told = wanted if last else None
        given = limits if begin is None else replace(limits, begin=begin)
        return fit_rows(inner, names, model, solver, given, (), rows.locate, target, None if last else seen, told)

    return fit_theta(inner, request.model, at)


def _earlier(request: Request, names: Sequence[str]) -> np.ndarray:
    """Return the coefficients of an earlier fit, (p,) with the intercept first, 0 for columns that it had not.

    Raises
    ------
    DataError
        No such model, or one of classes where there are none.
    """
    model = load_model(request.start)
    if bool(model.classes) != (request.model.family.predictors != 1):
        raise DataError("--start", request.start, f"a model of {model.family.name}: begin at one of the same family")
    if model.classes:
        return np.concatenate([_begun(model.of_class(k), request, names) for k in range(len(model.classes))])
    return _begun(model, request, names)


def _begun(model: FittedModel, request: Request, names: Sequence[str]) -> np.ndarray:
    known = dict(zip(model.feature_names, model.coefficients, strict=True))
    first = [model.intercept or 0.0] if request.model.intercept else []
    return np.array([*first, *(known.get(name, 0.0) for name in names)], dtype=np.float64)
