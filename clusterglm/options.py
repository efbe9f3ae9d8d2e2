"""The options of a fit as they come from Python, where no command line has parsed them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from os import PathLike
from typing import Any

from clusterglm.errors import UsageError
from clusterglm.request import Request

_COLUMNS = ("target", "weights", "offset", "groups")
_NAMES = ("features", "categorical")


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options, those with several values as tuples and dicts, which can be read more than once.

    Raises
    ------
    UsageError
        Of the first keyword that is none of ``Request``, or whose value is not of the kind that it says.
    """
    kinds = {field.name: str(field.type) for field in fields(Request)}
    for name in sorted(set(options) - set(kinds)):
        raise UsageError(name, None, f"not an option of fit: one of {', '.join(kinds)}")
    return {name: None if value is None else _checked(name, value, kinds[name]) for name, value in options.items()}


def _checked(name: str, value: Any, kind: str) -> Any:
    given, several = value, name in _NAMES or name == "penalty_groups" or kind.startswith("Mapping")
    if isinstance(value, str):
        if "str" not in kind and "bool" not in kind:
            raise UsageError(name, value, "give a number")
        return value
    try:
        if name == "penalty_factors":
            return {str(key): float(factor) for key, factor in value.items()}
        if name == "bounds":
            return {str(key): _pair(ends) for key, ends in value.items()}
        if several:
            value = tuple(value)
    except (TypeError, ValueError, AttributeError):
        cures = {
            "penalty_factors": "a dict of numbers: {column: factor}",
            "bounds": "a dict of pairs: {column: (lower, upper)}",
        }
        raise _refused(name, value, f"give {cures.get(name, 'a list of names')}") from None
    if name in _NAMES and any(map(_many, value)):
        raise _refused(name, given, "give a list of names")
    if not several and _many(value) and not _number(value):
        raise _refused(name, value, "give one name, a column of the data" if name in _COLUMNS else "give one value")
    if "str" not in kind and "bool" not in kind and not several and not _number(value):
        raise _refused(name, value, "give a number")
    return value


def _refused(name: str, value: Any, cure: str) -> UsageError:
    return UsageError(name, f"a {type(value).__name__}" if _many(value) else value, cure)


def _many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | PathLike)


def _number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _pair(ends: Any) -> tuple[float, float]:
    lower, upper = ends
    return float(lower), float(upper)
