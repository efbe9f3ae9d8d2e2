"""A run folder, read back and checked: JSON and parquet only, so that nothing in it can run code."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterglm.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

Table = dict[str, "np.ndarray[Any, Any]"]

# What the page shows, by key: float is any number, [x] a list of x, {"*": x} a mapping to x. Null may stand for all
# but an entry of a list.
_RESULT: dict[str, Any] = {
    "solver": str,
    "family": str,
    "status": str,
    "rows": int,
    "columns": int,
    "coefficients": [float],
    "feature_names": list,
    "certificate": {"method": str, "*": float},
    "passes": int,
    "link": str,
    "penalty": str,
    "truth": [float],
    "notes": list,
    "columns_dropped": list,
    "versions": dict,
    "command": str,
    "request": dict,
    "tolerance": {"kind": str, "value": float},
    "seconds": {"*": float},
    "chunks": {"count": float, "rows": float, "spread": {"*": int}},
    "parameters": {"*": float},
    "start_saved": {"*": float},
    "classes": list,
    "inference": {
        "names": list,
        "kind": str,
        "method": str,
        **dict.fromkeys(("estimate", "standard_error", "statistic", "p_value", "low", "high"), list),
        **dict.fromkeys(("level", "observations", "df_residual", "dispersion", "pearson"), float),
        **dict.fromkeys(("deviance", "null_deviance", "log_likelihood", "aic", "bic", "pseudo_r2"), float),
    },
    "asynchronous": {
        "lanes": [{"worker": str, "rows": int}],
        "rounds": [{"seconds": float, "moved": float, "exact": bool, "ages": [int]}],
    },
    "memory": {"limit": float, "peak": float, "worker": {"*": float}},
}
_RESULT |= dict.fromkeys(
    ("alpha", "l1_ratio", "lamduh", "objective", "null_objective", "intercept", "iterations"), float
)
_RESULT |= dict.fromkeys(("tasks", "tasks_dropped", "workers", "threads", "truth_error", "cost"), float)
_NEEDED = tuple(_RESULT)[:9]
_PLAN: dict[str, Any] = {"reasons": list, "measured": {"*": float}}
_PLAN |= dict.fromkeys(("chunks", "workers", "bytes", "bytes_per_worker", "tasks_per_pass"), float)
_PLAN |= dict.fromkeys(("passes", "seconds_load", "seconds_fit", "seconds_per_pass", "peak_memory"), float)
_HISTORY = (
    *("iteration", "passes", "read", "seconds", "step"),
    *("objective", "gap", "relative_gap", "error_in_se", "kkt"),
)
_TASKS = ("name", "key", "worker", "thread", "start", "stop", "action", "nbytes")
_TEXTS = ("name", "key", "worker", "action")


@dataclass(frozen=True)
class Run:
    """What a run folder says. ``history`` and ``tasks`` map column names to arrays, empty where the file is absent."""

    folder: Path
    result: dict[str, Any]
    history: Table
    tasks: Table
    plan: dict[str, Any]


def number(value: Any) -> float:
    """Return ``value`` as a float, NaN where it is null: result.json writes null for what was not measured."""
    return math.nan if value is None else float(value)


def read_run(folder: Path) -> Run:
    """Read ``result.json``, ``history.parquet``, ``tasks.parquet`` and ``plan.json``; only the first must be there.

    Raises
    ------
    UsageError
        ``folder`` is not a run folder.
    DataError
        A file in it cannot be read, or does not hold what a run writes.
    """
    if not (folder / "result.json").exists():
        what = "no such folder" if not folder.exists() else "no result.json in it"
        raise UsageError("RUN", folder, f"{what}: name a folder that clusterglm fit has written")
    result = _json(folder / "result.json", _RESULT)
    for key in _NEEDED:
        if result.get(key) is None:
            raise _damaged(folder / "result.json", key)
    if len(result["coefficients"]) != len(result["feature_names"]):
        raise _damaged(folder / "result.json", "feature_names")
    plan = _json(folder / "plan.json", _PLAN) if (folder / "plan.json").exists() else {}
    return Run(
        folder, result, _table(folder / "history.parquet", _HISTORY), _table(folder / "tasks.parquet", _TASKS), plan
    )


def _damaged(path: Path, key: str) -> DataError:
    return DataError(str(path), key, "missing or not what a fit writes: run the fit again")


def _regular(path: Path) -> None:
    # A pipe under this name would be waited on for ever.
    if not path.is_file():
        raise DataError(str(path), None, "not a regular file: run the fit again")


def _json(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    _regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(str(path), error.strerror, "cannot be read: check its permissions") from None
    except (ValueError, RecursionError):
        raise DataError(str(path), None, "not readable as JSON: copy the folder again, or run the fit again") from None
    if not isinstance(content, dict):
        raise DataError(str(path), None, "not readable as a run's JSON: run the fit again")
    for key, kind in shape.items():
        if not _fits(content.get(key), kind):
            raise _damaged(path, key)
    return content


def _fits(value: Any, kind: Any) -> bool:
    if value is None:
        return True
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if isinstance(kind, list):
        return isinstance(value, list) and all(entry is not None and _fits(entry, kind[0]) for entry in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(
            _fits(entry, kind.get(name, kind.get("*", object))) for name, entry in value.items()
        )
    return isinstance(value, kind)


def _table(path: Path, columns: tuple[str, ...]) -> Table:
    import numpy as np

    if not path.exists():
        return {name: np.empty(0) for name in columns}
    _regular(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))  # names of paths need not be UTF-8
    except (pa.ArrowException, OSError, ValueError):
        raise DataError(
            str(path), None, "not readable as parquet: copy the folder again, or run the fit again"
        ) from None
    for name in columns:
        if name not in table.column_names:
            raise _damaged(path, name)
    arrays = {name: table.column(name).to_numpy() for name in columns}
    for name, array in arrays.items():
        if (array.dtype.kind in "iuf") == (name in _TEXTS):
            raise _damaged(path, name)
    return arrays
