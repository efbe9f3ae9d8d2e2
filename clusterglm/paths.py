"""Paths of penalties and their cross-validation from end to end, and beside them one fit, at the strength chosen.

The fit is one like any other, with its run folder and its certificate; what it took is what the path is compared to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterglm.data.chunk import one_blas_thread
from clusterglm.data.rows import Here
from clusterglm.errors import UsageError
from clusterglm.fitting import _Fitting, conduct
from clusterglm.glm.model import Fit, Limits
from clusterglm.glm.paths.path import FOLDS, Grid, Path, fit_path
from clusterglm.glm.start import Look, look
from clusterglm.here import request_here
from clusterglm.progress import Progress
from clusterglm.request import CLASSES, Request
from clusterglm.result import Result
from clusterglm.solving import solve

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.data.sources import Source

PATH_FILE = "path.json"
_SOLVERS = ("auto", "proximal_newton")
_NOT_HERE = ("alpha", "lamduh", "summary", "covariance", "groups")


@dataclass
class PathResult:
    """What ``path`` and ``cv`` return, and ``path.json`` holds.

    ``path`` has the answers of all strengths. ``chosen`` is the strength of ``fit``: the best one by cross-validation,
    the weakest without. ``seconds`` are those of the path; ``fit`` has its own, and its own passes.
    """

    path: Path
    feature_names: list[str]
    chosen: int
    seconds: float
    fit: Result
    folder: FilePath | None = field(default=None)

    def table(self) -> dict[str, list[Any]]:
        """Return one list a column, one entry a strength: the content of ``path.parquet``."""
        p = self.path
        told: dict[str, Any] = {
            "alpha": p.alphas,
            "nonzero": np.count_nonzero(p.coefficients, axis=1),
            "objective": p.objectives,
            "deviance_explained": p.deviance_explained,
            "gap": [c.gap for c in p.certificates],
            "error_in_se": [c.error_in_se for c in p.certificates],
        }
        if p.held_out is not None and p.fold_certificates is not None:
            told |= {"cv_mean": p.mean, "cv_error": p.error}
            told["cv_error_in_se"] = [max(c.error_in_se for c in own) for own in zip(*p.fold_certificates, strict=True)]
        return {name: [v.item() if hasattr(v, "item") else v for v in values] for name, values in told.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``path.json``."""
        p = self.path
        return {
            "family": self.fit.family,
            "link": self.fit.link,
            "penalty": self.fit.penalty,
            "l1_ratio": self.fit.l1_ratio,
            "rows": self.fit.rows,
            "feature_names": self.feature_names,
            "coefficients": p.coefficients,
            "intercepts": p.intercepts,
            **self.table(),
            "folds": None if p.held_out is None else len(p.held_out),
            "held_out": p.held_out,
            "best": p.best,
            "simplest": p.simplest,
            "chosen": self.chosen,
            "passes": p.passes,
            "seconds": self.seconds,
            "one_fit": {"passes": self.fit.passes, "seconds": self.fit.seconds["fit"], "alpha": self.fit.alpha},
            "notes": p.notes,
        }


def path(client: Client | None = None, *, data: Any = None, grid: Grid | None = None, **words: Any) -> PathResult:
    """Fit all strengths of a penalty, and return their answers, each with its certificate.

    Parameters
    ----------
    client, data, out, overwrite, workers, ..., and the options of a model
        As in ``clusterglm.fit``; ``penalty`` is l1 unless it is said.
    grid : Grid, optional
        The strengths: 50 from the one at which all is zero to a thousandth of it.

    Raises
    ------
    UsageError, DataError, ClusterError, Interrupted
        As ``clusterglm.fit``.
    """
    return _conduct(client, data, grid or Grid(), 1, words)


def cv(
    client: Client | None = None, *, data: Any = None, grid: Grid | None = None, folds: int = FOLDS, **words: Any
) -> PathResult:
    """Choose the strength of a penalty by cross-validation, and fit it; all as in ``path``.

    ``folds`` parts of the rows, told by a hash of their index, are held out in turn.
    """
    if not isinstance(folds, Integral) or folds < 2:
        raise UsageError("--folds", folds, "must be at least 2")
    return _conduct(client, data, grid or Grid(), folds, words)


def _conduct(client: Client | None, data: Any, grid: Grid, folds: int, words: dict[str, Any]) -> PathResult:
    for name in _NOT_HERE:
        if (given := words.get(name)) is not None and given is not False:
            raise UsageError(f"--{name}", given, "has no effect on a path, which has strengths of its own")
    if words.get("family") == CLASSES:
        raise UsageError("--family", CLASSES, "has no path of penalties: fit single strengths")
    if words.get("solver", "auto") not in _SOLVERS:
        cure = f"a path is solved in lockstep by proximal Newton: {' or '.join(_SOLVERS)}"
        raise UsageError("solver", words["solver"], cure)
    if words.get("resume") is not None:
        raise UsageError("--resume", words["resume"], "a path begins anew: leave it out")
    if words.get("theta") == "estimate":
        raise UsageError("--theta", "estimate", "differs from strength to strength: give a number")
    if words.get("penalty") == "none":
        raise UsageError("--penalty", "none", "has no strength to choose: l1, l2 or elastic-net")
    ratio = words.get("l1_ratio")
    words = {"solver": "proximal_newton", "penalty": "l1" if ratio is None else "elastic-net"} | words | {"alpha": 1.0}
    make, here = partial(_PathFitting, grid, folds), partial(_path_here, grid, folds)
    return conduct(make, here, client, data=data, **words)  # type: ignore[no-any-return]


class _PathFitting(_Fitting):
    """A path on one cluster, then the fit at the strength chosen."""

    def __init__(self, grid: Grid, folds: int, *args: Any) -> None:
        super().__init__(*args)
        self.grid, self.folds = grid, folds

    def look(self, source: Source, plan: Any, rows: Any) -> Look:  # noqa: ARG002
        return look(rows, self.request.model, plan.columns, self.request.start)

    def fit(self, rows: Any, source: Source, names: list[str], target: str, seen: Look) -> Fit:
        began = time.perf_counter()
        self.progress.phase(f"{self.folds} folds, all strengths" if self.folds > 1 else "all strengths")
        limits = Limits(self.request.tolerance, self.request.max_passes, self.request.start)
        self.path = fit_path(rows, names, self.request.model, self.grid, self.folds, limits, rows.locate, target, seen)
        self.path_seconds = time.perf_counter() - began
        for text in self.path.notes:
            self.note(text)
        self.request = replace(self.request, alpha=float(self.path.alphas[_chosen(self.path)]))
        self.progress.phase(f"fitting at alpha {self.request.alpha:.4g}")
        return super().fit(rows, source, names, target, seen)

    def run(self) -> PathResult:  # type: ignore[override]
        result = super().run()
        result.seconds["fit"] -= self.path_seconds
        found = PathResult(self.path, list(result.feature_names), _chosen(self.path), self.path_seconds, result)
        if self.folder is not None:
            write(found, self.folder)
        return found


def _chosen(path: Path) -> int:
    return len(path.alphas) - 1 if path.best is None else path.best


def _path_here(grid: Grid, folds: int, here: Here, options: dict[str, Any], progress: Progress) -> PathResult:
    request: Request = request_here(here, options)
    rows, names, began = here.rows, list(here.names), time.perf_counter()
    limits = Limits(request.tolerance, request.max_passes, request.start)
    with one_blas_thread():
        found = fit_path(rows, names, request.model, grid, folds, limits, rows.locate, here.target)
        path_seconds, again = time.perf_counter() - began, time.perf_counter()
        request = replace(request, alpha=float(found.alphas[_chosen(found)]))
        fitted = solve(rows, names, names, request, progress, [], None, here.target)
    seconds = {"load": 0.0, "fit": time.perf_counter() - again}
    notes = list(dict.fromkeys([*here.notes, *found.notes, *fitted.notes]))
    told = {"notes": notes, "nbytes": rows.nbytes, **here.coding}
    result = Result.of(request, fitted, names, rows.rows, seconds, **told)
    return PathResult(found, names, _chosen(found), path_seconds, result)


def write(found: PathResult, folder: Any) -> None:
    """Write ``path.json``, its tables and its page into a claimed run folder."""
    from clusterglm.report.path import render
    from clusterglm.run_folder import plain, write_whole

    told = plain(found.as_dict())
    folder.write_json(PATH_FILE, told)
    folder.write_table("path.parquet", found.table())
    columns = {name: list(found.path.coefficients[:, j]) for j, name in enumerate(found.feature_names)}
    if found.path.intercepts is not None:
        columns = {"(intercept)": list(found.path.intercepts)} | columns
    folder.write_table("coefficients.parquet", {"alpha": list(found.path.alphas)} | columns)
    write_whole(folder.path / "path.html", render(told).encode("utf-8", "replace"))
    found.folder = folder.path


__all__ = ["Grid", "PathResult", "cv", "path"]
