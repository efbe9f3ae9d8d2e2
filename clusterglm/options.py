"""The options of a fit as they come from Python, where no command line has parsed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Real
from os import PathLike
from typing import Any

from clusterglm.errors import UsageError
from clusterglm.request import Request

_COLUMNS = ("target", "weights", "offset", "groups")
_LISTS = ("features", "categorical", "penalty_groups")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse keywords that are none of ``Request``, and values that are not of the kind that it says.

    Raises
    ------
    UsageError
        Of the first of them.
    """
    kinds = {field.name: str(field.type) for field in fields(Request)}
    for name in sorted(set(options) - set(kinds)):
        raise UsageError(name, None, f"not an option of fit: one of {', '.join(kinds)}")
    for name, value in options.items():
        if value is not None and (cure := _cure(name, value, kinds[name])):
            raise UsageError(name, f"a {type(value).__name__}" if _many(value) else value, cure)


def _many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | PathLike)


def _pair(value: Any) -> bool:
    return _many(value) and [isinstance(end, Real) for end in value] == [True, True]


def _cure(name: str, value: Any, kind: str) -> str:
    """Return what to give in place of the value, nothing where it is right."""
    if kind.startswith("Mapping"):
        if isinstance(value, str):
            return ""
        if name == "bounds":
            good = isinstance(value, Mapping) and all(map(_pair, value.values()))
            return "" if good else "give a dict of pairs: {column: (lower, upper)}"
        good = isinstance(value, Mapping) and all(isinstance(factor, Real) for factor in value.values())
        return "" if good else "give a dict of numbers: {column: factor}"
    if name in _LISTS:
        good = isinstance(value, str) or (_many(value) and (name == "penalty_groups" or not any(map(_many, value))))
        return "" if good else "give a list of names"
    if _many(value):
        return "give one name, a column of the data" if name in _COLUMNS else "give one value"
    if "str" not in kind and "bool" not in kind and not isinstance(value, Real):
        return "give a number"
    return ""
