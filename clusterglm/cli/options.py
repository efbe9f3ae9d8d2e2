"""The options of a command from the fields of a dataclass, as clusters/launcher.py declares them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import typer


class Parameter(NamedTuple):
    """A parameter of a command: its type, and typer's description of it."""

    kind: Any
    default: Any


def of_fields(kind: type[Any]) -> dict[str, Parameter]:
    """Return an option for every field: a flag, one that may be repeated, or one with a value that is parsed later."""
    return {item.name: _parameter(item) for item in dataclasses.fields(kind)}


def of_target(target: type[Any]) -> dict[str, Parameter]:
    """Return a target's options; one that reaches hosts takes them as an argument too."""
    own = of_fields(target)
    if "hosts" in own:
        argument = typer.Argument(None, metavar="[INVENTORY]", help="Hosts, as for --hosts.")
        own["inventory"] = Parameter(str | None, argument)
    return own


def _parameter(item: dataclasses.Field[Any]) -> Parameter:
    name, words = item.name.replace("_", "-"), item.metadata["help"]
    if item.metadata.get("flag"):
        return Parameter(bool | None, typer.Option(None, f"--{name}/--no-{name}", help=words))
    kind: Any = list[str] | None if item.metadata.get("repeated") else str | None
    return Parameter(kind, typer.Option(None, f"--{name}", metavar="VALUE", help=words))


def give(command: Callable[..., None], parameters: Mapping[str, Parameter]) -> Callable[..., None]:
    """Return the command, which takes any keywords, with the signature that typer reads."""
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in parameters.items()
        ]
    )
    command.__annotations__ = {name: kind for name, (kind, _) in parameters.items()} | {"return": None}
    return command
