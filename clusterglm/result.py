"""What a fit returns and ``result.json`` holds."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from clusterglm.errors import NOT_CONVERGED, redact
from clusterglm.glm import model as glm
from clusterglm.glm.inference import Inference
from clusterglm.glm.solvers import SOLVERS
from clusterglm.request import Request

_PACKAGES = ("clusterglm", "dask", "distributed", "numpy")


@dataclass
class Result:
    """A finished fit.

    ``coefficients`` are in the order of ``feature_names``, in the columns' own units. ``features`` are the columns of
    the data that these are made of, ``levels`` the labels of those that are coded, the reference first. ``objective``
    is the mean loss (half the unit deviance) plus the penalty. ``parameters`` are the family's own, ``power`` or
    ``theta``. ``history`` holds one list a column of ``history.parquet``. Sizes in bytes, times in seconds.
    ``start_saved`` says what a start other than the null model was worth: its ``distance`` from the optimum beside that
    of the null model, the ``passes`` made, those ``foreseen_from_null``, and the difference, which is ``saved``.
    ``classes`` are those of a target that has several: then there is a coefficient, and an intercept among them, for
    every class, ``CLASS:NAME``, one class after another; without a penalty less those of the first, which is left out.
    ``direction`` (intercept first, where there is one) is the verified direction along which the coefficients grow
    without end, where the status is ``no_finite_mle``. ``asynchronous`` has, of an asynchronous solver, whose the
    ``lanes`` are and their rows, and for every one of its ``rounds`` how many points ago each was last heard of, -1 for
    never. ``request`` has all options of the fit, so that it can be called
    again; secrets in them are redacted.
    """

    solver: str
    family: str
    link: str
    parameters: dict[str, float]
    penalty: str
    alpha: float
    l1_ratio: float
    lamduh: float
    rows: int
    columns: int
    dtype: str
    storage: str
    status: str
    coefficients: np.ndarray
    intercept: float | None
    feature_names: list[str]
    features: list[str]
    levels: dict[str, list[str]]
    classes: list[str] | None
    objective: float
    null_objective: float
    certificate: dict[str, Any]
    tolerance: dict[str, Any]
    start: str
    start_saved: dict[str, float] | None
    iterations: int
    passes: int
    bytes: int
    seconds: dict[str, float]
    cost: float | None
    chunks: dict[str, Any]
    tasks: int
    tasks_dropped: int
    workers: int
    threads: int
    blas_threads: int
    memory: dict[str, Any]
    seed: int | None
    truth: np.ndarray | None
    truth_error: float | None
    direction: np.ndarray | None
    columns_dropped: list[str]
    notes: list[str]
    versions: dict[str, str]
    command: str | None
    request: dict[str, Any]
    started: str | None
    resumed: bool
    history: dict[str, Sequence[Any]] = field(repr=False)
    folder: Path | None = None
    inference: Inference | None = None
    asynchronous: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        fitted: glm.Fit,
        names: Sequence[str],
        rows: int,
        seconds: dict[str, float],
        *,
        notes: list[str],
        nbytes: int,
        truth: np.ndarray | None = None,
        **measured: Any,
    ) -> Result:
        """Put together what was asked, found and measured."""
        model, certificate = request.model, asdict(fitted.certificate)
        relative = fitted.certificate.gap / fitted.null_objective if fitted.null_objective > 0 else np.inf
        tolerance = request.tolerance
        rel_gap = tolerance.rel_gap
        told: dict[str, Any] = {
            "chunks": {"count": 1, "rows": rows, "spread": {}},
            "features": list(names),
            "levels": {},
            "classes": None,
            "tasks": 0,
            "tasks_dropped": 0,
            "workers": 0,
            "threads": 1,
            "blas_threads": 1,
            "storage": "memory",
            "memory": {},
            "seed": None,
            "resumed": False,
            "command": None,
            "started": None,
            "cost": None,
        }
        told |= measured
        coefficients, intercept, labels, inference = (
            fitted.coefficients,
            fitted.intercept,
            list(names),
            fitted.inference,
        )
        if coefficients.ndim == 2:
            told["classes"] = told["classes"] or [str(k) for k in range(len(coefficients))]
            first = ["intercept"] if intercept is not None else []
            rows_told = fitted.beta.reshape(len(coefficients), -1)[int(fitted.alpha == 0) :]
            named = told["classes"][int(fitted.alpha == 0) :]
            labels = [f"{of}:{name}" for of in named for name in [*first, *names]]
            coefficients, intercept = rows_told.ravel(), None
            inference = inference and replace(inference, names=labels)
        return cls(
            solver=fitted.solver,
            family=fitted.family.name,
            link=fitted.family.link,
            parameters=fitted.family.parameters,
            penalty=model.penalty,
            alpha=fitted.alpha,
            l1_ratio=model.share,
            lamduh=fitted.alpha * fitted.weight,
            rows=rows,
            columns=len(names),
            dtype=request.dtype,
            status=fitted.status,
            coefficients=coefficients,
            intercept=intercept,  # type: ignore[arg-type]
            feature_names=labels,
            objective=fitted.objective,
            null_objective=fitted.null_objective,
            certificate={
                "method": certificate["method"],
                "gap": certificate["gap"],
                "relative_gap": relative,
                "kkt": certificate["kkt"],
                "error_in_se": certificate["error_in_se"],
            },
            tolerance={"kind": "tol", "value": tolerance.tol}
            if rel_gap is None
            else {"kind": "rel_gap", "value": rel_gap},
            start=fitted.start,
            start_saved=_saved(request, fitted),
            iterations=len(fitted.iterations),
            passes=fitted.passes,
            bytes=nbytes * fitted.passes,
            seconds=seconds,
            truth=truth,
            truth_error=None if truth is None else float(np.max(np.abs(fitted.coefficients - truth))),
            direction=fitted.direction,
            columns_dropped=fitted.dropped,
            request={k: redact(v) if isinstance(v, str) else v for k, v in request.options().items()},
            notes=notes,
            versions=_versions(),
            history=_history(fitted),
            inference=inference,
            asynchronous=_asynchronous(fitted),
            **told,
        )

    @property
    def exit_code(self) -> int:
        return 0 if self.status in ("optimal", "converged") else NOT_CONVERGED

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``result.json``."""
        told = {k: v for k, v in vars(self).items() if k not in ("history", "folder")}
        return told | {"inference": None if self.inference is None else asdict(self.inference)}

    def by_class(self) -> dict[str, Any]:
        """Return ``classes``, ``coefficients`` (K, p), ``intercept`` (K,) or None, and ``feature_names`` (p,)."""
        assert self.classes is not None
        K, told = len(self.classes), int(self.alpha == 0)  # the first one told
        each = np.zeros((K, self.coefficients.size // (K - told)))
        each[told:] = self.coefficients.reshape(K - told, -1)
        first, prefix = each.shape[1] - self.columns, len(self.classes[told]) + 1
        of = self.feature_names[first : each.shape[1]]
        return {
            "classes": self.classes,
            "coefficients": each[:, first:],
            "intercept": each[:, 0] if first else None,
            "feature_names": [name[prefix:] for name in of],
        }

    def summary(self) -> str:
        """Return the summary of a fit that was made with ``summary=True``, as statsmodels writes it.

        Raises
        ------
        UsageError
            The fit has no standard errors.
        """
        from clusterglm.summary import summary

        return summary(self)

    def model(self) -> dict[str, Any]:
        """Return the content of ``model.json``: all that a prediction needs."""
        keys = ("family", "link", "parameters", "feature_names", "coefficients", "intercept", "features", "levels")
        told = {key: getattr(self, key) for key in (*keys, "status", "versions")}
        if self.classes is not None:
            told |= self.by_class()
        return {"schema": 1} | told | {"offset": self.request.get("offset")}


def _saved(request: Request, fitted: glm.Fit) -> dict[str, float] | None:
    """Return what the start was worth; None of the null model, and where nobody knows what that would have taken."""
    solver = SOLVERS.get(fitted.solver)
    pace = solver.pace if solver is not None else None
    away = fitted.null_objective - fitted.objective
    if fitted.start == "null model" or pace is None or fitted.status != "optimal" or not away > 0:
        return None
    relative = request.tolerance.relative(fitted.weight, fitted.null_objective)
    foreseen = 1 + pace.passes(relative, len(fitted.beta), fitted.family.quadratic)
    first, last = fitted.iterations[0], fitted.iterations[-1]
    distance = max(first.point.objective - last.point.objective, 0.0) / away
    saved = {"passes": last.passes, "foreseen_from_null": foreseen, "saved": foreseen - last.passes}
    return {"distance": float(distance), **saved}


def _history(fitted: glm.Fit) -> dict[str, Sequence[Any]]:
    rows = fitted.iterations
    scale = fitted.null_objective if fitted.null_objective > 0 else np.nan
    return {
        "iteration": [row.iteration for row in rows],
        "passes": [row.passes for row in rows],
        "read": [row.read for row in rows],
        "seconds": [row.seconds for row in rows],
        "objective": [float(row.point.objective) for row in rows],
        "gap": [float(row.certificate.gap) for row in rows],
        "relative_gap": [float(row.certificate.gap / scale) for row in rows],
        "error_in_se": [float(row.certificate.error_in_se) for row in rows],
        "kkt": [float(row.certificate.kkt) for row in rows],
        "step": [float(row.step) for row in rows],
    }


def _asynchronous(fitted: glm.Fit) -> dict[str, Any] | None:
    if not fitted.rounds:
        return None
    lanes = [{"worker": name, "rows": rows} for name, rows in fitted.lanes]
    return {"lanes": lanes, "rounds": [asdict(step) for step in fitted.rounds]}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
