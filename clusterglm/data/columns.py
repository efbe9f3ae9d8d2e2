"""Which columns of a table are the features, the target, the weights and the offset; refusals in words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clusterglm.data.files import DataFile
from clusterglm.errors import DataError, UsageError, quoted

EXACT = 2**53  # whole numbers up to here are exact as float64
_NUMERIC = {"number", "bool", "null"}  # null: nothing but missing values, which is a matter of the rows
_CODED = {"string", "category", "code"}
_TEXT = {"string", "category", "mixed"}
_MOST_NAMES = 30


class Column(NamedTuple):
    """``kind`` is number, bool, null, string, category, code, datetime or another word; ``type`` the file's own name.

    A category is text that has declared its levels and their order, a code a number that was declared a category;
    mixed is text that is mostly numbers.

    ``example`` shows a value that is no number, and where it stands, where that is known.
    """

    kind: str
    type: str
    example: str = ""


Schema = dict[str, Column]


class Look(NamedTuple):
    """What is found out about a file before the fit: ``file`` with its pieces, and its ``schema``.

    ``large`` holds, for columns of whole numbers, the largest magnitude above 2^53, None where nobody knows yet;
    ``numbering`` are columns that only number the rows; ``notes`` are about the file as a whole.
    """

    file: DataFile
    schema: Schema
    large: dict[str, int | None]
    numbering: frozenset[str]
    notes: tuple[str, ...] = ()


def rounded(sizes: Mapping[str, float]) -> list[str]:
    """Return warnings about columns of whole numbers, of these magnitudes, that float64 does not tell apart."""
    large = {name: int(size) for name, size in sizes.items() if EXACT <= size < math.inf}
    return [f"warning: column {quoted(name)} ({size}): rounded to float64" for name, size in large.items()]


@dataclass(frozen=True)
class Roles:
    """The columns as the user named them; ``features`` None for every number and category without another role.

    ``categorical`` are features whose numbers are levels. A text is a category by itself, and a bool is 0 and 1. With
    ``classes`` the values of the target are levels too, and it becomes their places, from 0 on.

    Raises
    ------
    UsageError
        What the names alone show: no feature, one named twice, a column in two roles.
    """

    target: str
    features: tuple[str, ...] | None = None
    weights: str | None = None
    offset: str | None = None
    categorical: tuple[str, ...] = ()
    classes: bool = False

    def __post_init__(self) -> None:
        if not self.target:
            raise UsageError("--target", self.target, "name the column to fit")
        named = {self.target: "target"}
        for role in ("weights", "offset"):
            column = getattr(self, role)
            if column == self.target:
                raise UsageError(f"--{role}", column, "is the target")
            if column is not None:
                named[column] = role
        for name in self.categorical:
            if name in named:
                raise UsageError("--categorical", name, f"is the {named[name]}")
            if self.features is not None and name not in self.features:
                raise UsageError("--categorical", name, "is not among --features")
        if self.features is None:
            return
        if not any(self.features):
            raise UsageError("--features", "", "names no column: leave it out to take every number and category")
        for feature in self.features:
            if feature in named:
                raise UsageError("--features", feature, f"is the {named[feature]}")
            if self.features.count(feature) > 1:
                raise UsageError("--features", feature, "named twice")

    @property
    def others(self) -> dict[str, str]:
        """The columns besides the features, by option."""
        named = {"--target": self.target, "--weights": self.weights, "--offset": self.offset}
        return {option: column for option, column in named.items() if column is not None}


def choose(schema: Schema, roles: Roles, url: str, ignored: Collection[str] = ()) -> list[str]:
    """Return the names of the features in order; ``ignored`` columns are taken only where they are named.

    Raises
    ------
    DataError
        A column is missing, neither number nor category, or there is no feature at all.
    """
    for option, column in roles.others.items():
        if column not in schema:
            raise _missing(option, column, schema)
    taken = set(roles.others.values())
    free = [name for name in schema if name not in taken and name not in ignored]
    for option, named in (("--features", roles.features or ()), ("--categorical", roles.categorical)):
        for feature in named:
            if feature not in schema:
                raise _missing(option, feature, [name for name in schema if name not in taken])
    features = list(roles.features or free)
    if not features:
        raise DataError("--data", url, f"no columns besides the target {quoted(roles.target)}")
    usable = [name for name in free if schema[name].kind in _NUMERIC | _CODED]
    for name in features:
        if schema[name].kind == "mixed" and name not in roles.categorical:
            cure = f"correct it, or take all values as levels with --categorical {quoted(name)}"
            raise _not_a_number(f"column {quoted(name)}", schema[name], cure)
        if schema[name].kind not in _NUMERIC | _CODED | {"mixed"}:
            rest = [feature for feature in features if feature in usable]
            cure = f"leave it out with --features {_listed(rest, ',')}" if rest else "no other column can be used"
            raise DataError(f"column {quoted(name)}", schema[name].kind, f"neither number nor category: {cure}")
    for option, name in roles.others.items():
        if option == "--target" and roles.classes and schema[name].kind in _NUMERIC | _CODED | {"mixed"}:
            continue
        if schema[name].kind not in _NUMERIC | {"code"}:
            cure = "map it to 0 and 1, or name another" if option == "--target" else "name another"
            raise _not_a_number(f"{option} {quoted(name)}", schema[name], cure)
    return features


def coded(schema: Schema, features: Sequence[str], roles: Roles) -> list[str]:
    """Return the features that are coded by their levels, in order, and behind them the target of classes."""
    asked = _CODED | {"number", "null", "mixed"}
    found = [name for name in features if schema[name].kind in (asked if name in roles.categorical else _CODED)]
    return [*found, roles.target] if roles.classes else found


def same(name: str, schema: Schema, first: str, expected: Schema, wanted: Sequence[str], whole: bool) -> None:
    """Refuse the file ``name`` whose columns differ from those of the file ``first``.

    The ``wanted`` columns must be there with one type; with ``whole``, where all columns are features, no other may be.
    """
    for column in wanted:
        if column not in schema:
            raise DataError(quoted(name), None, f"no column {quoted(column)}, which {quoted(first)} has: {_ALIKE}")
        here, there = schema[column], expected[column]
        if here[:2] != there[:2] and "null" not in (here.kind, there.kind) and not {here.kind, there.kind} <= _TEXT:
            if here.kind not in _NUMERIC and here.example:
                raise _not_a_number(f"column {quoted(column)}", here, f"{there.type} in {quoted(first)}: correct it")
            text = f"column {quoted(column)} is {here.type}, in {quoted(first)} {there.type}: {_ALIKE}"
            raise DataError(quoted(name), None, text)
    for column in schema if whole else ():
        if column not in expected:
            raise DataError(quoted(name), None, f"column {quoted(column)} is not in {quoted(first)}: {_ALIKE}")


_ALIKE = "write all files with the same columns, or choose with --features"


def _missing(option: str, name: str, columns: Collection[str]) -> DataError:
    near = difflib.get_close_matches(name, columns, n=1)
    hint = f"did you mean {quoted(near[0])}? " if near else ""
    return DataError(option, name, f"no such column: {hint}One of {_listed(columns, ', ')}")


def _not_a_number(what: str, column: Column, cure: str) -> DataError:
    return DataError(what, column.example or column.kind, f"not a number: {cure}")


def _listed(names: Collection[str], comma: str) -> str:
    shown = [quoted(name) for name in list(names)[:_MOST_NAMES]]
    return comma.join(shown) + ("..." if len(names) > _MOST_NAMES else "")
