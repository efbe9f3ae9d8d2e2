"""The column that says which rows belong together: it travels behind the columns of the model, and is none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clusterglm.glm.problem import Columns


def names(all_names: Sequence[str], made: dict[str, Any], groups: str | None) -> list[str]:
    """Return the names of the model's columns: all but the last ones, which ``groups`` was made into."""
    if groups is None:
        return list(all_names)
    labels = made.get("levels", {}).get(groups)
    return list(all_names)[: len(all_names) - (1 if labels is None else len(labels) - 1)]


def coding(made: dict[str, Any], groups: str | None) -> dict[str, Any]:
    """Return what a prediction needs to make the rows again, without the groups."""
    if groups is None:
        return made
    levels = {name: labels for name, labels in made.get("levels", {}).items() if name != groups}
    return made | {"features": [name for name in made["features"] if name != groups], "levels": levels}


def model_rows(rows: Any, all_names: Sequence[str], model_names: Sequence[str]) -> Any:
    """Return the rows with the columns of the model alone."""
    beside = len(all_names) - len(model_names)
    return Columns(rows, np.arange(rows.columns - beside)) if beside else rows
