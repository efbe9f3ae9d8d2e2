"""The summary of a fit as text, in the words and the layout of statsmodels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from clusterglm.errors import UsageError

if TYPE_CHECKING:
    from clusterglm.result import Result

_WIDTH = 78
_LARGE = 1e6  # beyond which a column has no room for three digits behind the point
_TITLE = "Generalized Linear Model Regression Results"


def summary(result: Result) -> str:
    """Return the summary of a fit that was made with ``summary=True``.

    Raises
    ------
    UsageError
        The fit has no standard errors.
    """
    found = result.inference
    if found is None:
        raise UsageError("summary", None, "the fit has no standard errors: fit with --summary and without a penalty")
    kind, tail = found.kind, (1 - found.level) / 2
    left = [
        ("Dep. Variable:", str(result.request.get("target") or "y")),
        ("Model:", "GLM"),
        ("Model Family:", result.family),
        ("Link Function:", result.link),
        ("Method:", result.solver),
        ("No. Iterations:", str(result.iterations)),
        ("Covariance Type:", found.method + ("" if found.groups is None else f" ({found.groups} groups)")),
        ("AIC:", f"{found.aic:.5g}"),
        ("Status:", result.status),
        *((f"{name.capitalize()}:", f"{value:.6g}") for name, value in result.parameters.items()),
    ]
    right = [
        ("No. Observations:", f"{found.observations:.0f}"),
        ("Df Residuals:", f"{found.df_residual:.0f}"),
        ("Df Model:", str(found.df_model)),
        ("Scale:", f"{found.dispersion:#8.5g}"),
        ("Log-Likelihood:", f"{found.log_likelihood:#8.5g}"),
        ("Deviance:", f"{found.deviance:#8.5g}"),
        ("Pearson chi2:", f"{found.pearson:#6.3g}"),
        ("Pseudo R-squ. (CS):", f"{found.pseudo_r2:#6.4g}"),
        ("BIC:", f"{found.bic:.5g}"),
    ]
    head = [(_pair(*a) + "   " + _pair(*b)).rstrip() for a, b in zip_longest(left, right, fillvalue=("", ""))]
    names = ["coef", "std err", kind, f"P>|{kind}|", f"[{tail:.6g}", f"{1 - tail:.6g}]"]
    columns = (found.estimate, found.standard_error, found.statistic, found.p_value, found.low, found.high)
    rows = [
        [_number(b, 4), _number(e, 3), _fixed(s), _fixed(p), _number(low, 3), _number(high, 3)]
        for b, e, s, p, low, high in zip(*columns, strict=True)
    ]
    label = max([12, *(len(name) for name in found.names)])
    width = max(_WIDTH, label + 11 * len(names))
    lines = [_TITLE.center(width).rstrip(), "=" * width, *head, "=" * width]
    lines += [_row("", names, label, width), "-" * width]
    lines += [_row(name, row, label, width) for name, row in zip(found.names, rows, strict=True)]
    return "\n".join([*lines, "=" * width])


def _pair(name: str, value: str) -> str:
    room = (_WIDTH - 3) // 2
    return name + value.strip().rjust(room - len(name))


def _row(name: str, cells: Sequence[str], label: int, width: int) -> str:
    room = (width - label) // len(cells)
    return name.ljust(label) + "".join(cell.strip().rjust(room) for cell in cells)


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "nan"
    return f"{value:.{digits}g}" if value and not 1e-4 <= abs(value) < 1e4 else f"{value:.{digits}f}"


def _fixed(value: float) -> str:
    return f"{value:.3f}" if not abs(value) >= _LARGE else f"{value:.3g}"
