"""Rows in this process: from what Python gave to a result, without a cluster."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from clusterglm import groups
from clusterglm.data.chunk import one_blas_thread
from clusterglm.data.rows import Here, LocalRows
from clusterglm.errors import UsageError
from clusterglm.progress import Progress
from clusterglm.request import CLASSES, Request, split_names
from clusterglm.result import Result
from clusterglm.solving import solve

if TYPE_CHECKING:
    from clusterglm.data.collections import Collections


class OwnRows(Request):
    """A request for rows that nobody has to generate."""

    most_columns = math.inf
    own_rows = True


def rows_from_python(data: Any, options: dict[str, Any]) -> Here | Collections:
    """Return rows in this process, for which ``options`` then names no column any more, or the source of other rows."""
    if isinstance(data, Here):
        return data
    if isinstance(data, LocalRows):
        return Here(data, [f"x{j}" for j in range(data.columns - data.intercept)])
    from clusterglm.data.from_python import OPTIONS, from_python

    chosen = {name: options.get(name) for name in OPTIONS}
    for name in ("features", "categorical"):
        if isinstance(names := chosen[name], str):
            chosen[name] = split_names(names, f"--{name}")
    if (grouping := options.get("groups")) is not None and chosen["features"] is not None:
        if grouping in chosen["features"]:
            raise UsageError("groups", grouping, "is one of the features: name the features alone")
        chosen["features"] = (*chosen["features"], grouping)
    elif grouping is not None:
        raise UsageError("groups", grouping, "needs the features by name: give a frame, and features")
    intercept = options.get("intercept") is not False
    dtype, classes = options.get("dtype") or "float64", options.get("family") == CLASSES
    found = from_python(data, chosen, intercept=intercept, dtype=dtype, classes=classes)
    if isinstance(found, Here):
        for name in chosen:
            options.pop(name, None)
    return found


def request_here(here: Here, options: dict[str, Any]) -> Request:
    """Return the request for rows that are already in this process."""
    rows = here.rows
    if options.get("family") is None:
        from clusterglm.glm.families import PAIRS

        raise UsageError("family", None, f"needed with rows of your own: one of {', '.join(PAIRS)}")
    if options.get("penalty") is None and options.get("alpha") is None and options.get("lamduh") is None:
        options["penalty"] = "none"
    if options.get("intercept") not in (None, rows.intercept):
        raise UsageError("intercept", options["intercept"], "the rows say otherwise: give it to from_arrays")
    own: dict[str, Any] = {
        "rows": rows.rows,
        "columns": len(here.names),
        "intercept": rows.intercept,
        "dtype": rows.chunk.dtype,
    }
    return OwnRows(**own | {name: value for name, value in options.items() if value is not None})


def fit_here(here: Here, options: dict[str, Any], progress: Progress) -> Result:
    """Fit rows that are already in this process."""
    request, started = request_here(here, options), time.perf_counter()
    names = groups.names(here.names, here.coding, request.groups)
    with one_blas_thread():
        fitted = solve(here.rows, here.names, names, request, progress, [], None, here.target)
    notes = [*here.notes, *request.notes(here.rows.columns), *fitted.notes]
    seconds = {"load": 0.0, "fit": time.perf_counter() - started}
    told = {"notes": notes, "nbytes": here.rows.nbytes, **groups.coding(here.coding, request.groups)}
    return Result.of(request, fitted, names, here.rows.rows, seconds, **told)
