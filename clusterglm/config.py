"""Settings: a flag wins over the environment, that over YAML files, that over ``clusterglm.yaml`` beside this file.

They live in the ``clusterglm`` namespace of ``dask.config``, so that one folder configures Dask and clusterglm alike.
Dask reads whatever it finds; here every key and value is checked first, without importing Dask.
"""

from __future__ import annotations

import ast
import difflib
import os
import site
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clusterglm.errors import UsageError, quoted
from clusterglm.units import format_size, parse_count, parse_duration, parse_memory

DEFAULTS = Path(__file__).with_name("clusterglm.yaml")
MOST_BYTES = 10**6
_ENVIRONMENT = "DASK_CLUSTERGLM__"


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not str(value).strip().lstrip("+-").isdigit():
        raise UsageError(what, value, "must be a whole number")
    return parse_count(value, what, of="workers")


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(what, value, "must be a mapping of Dask's own `distributed` settings")
    return dict(value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(what, value, "must be text")
    return value


KEYS: dict[str, Callable[[Any, str], Any]] = {
    "workers": _whole,
    "threads-per-worker": _whole,
    "memory": parse_memory,
    "worker-limit": _whole,
    "start-timeout": parse_duration,
    "connect-timeout": parse_duration,
    "idle-timeout": parse_duration,
    "hosts": _text,
    "ssh-config": _text,
    "known-hosts": _text,
    "distributed": _mapping,
}


def get(key: str) -> Any:
    """Return a setting, parsed: counts as int, sizes in bytes, durations in seconds, None where it is left open.

    Raises
    ------
    UsageError
        A file, variable or value that :func:`check` refuses, or a value of the wrong type set from Python.
    """
    check()
    try:
        import dask.config
    except ValueError as error:  # Dask refuses a malformed file of its own folder while it is imported
        raise UsageError("dask configuration", None, str(error).splitlines()[0]) from error

    import yaml

    dask.config.update_defaults(yaml.safe_load(DEFAULTS.read_text()))
    value = dask.config.get(f"clusterglm.{key}")
    return None if value is None else KEYS[key](value, f"clusterglm.{key}")


def check() -> None:
    """Check the user's ``clusterglm.yaml`` files and environment variables, before anything acts on them.

    Raises
    ------
    UsageError
        A file above 1 MB, not YAML, holding an object tag or no mapping; an unknown key; a value of the wrong type.
    """
    for path in _files():
        _check_file(path)
    for name, text in os.environ.items():
        if name.startswith(_ENVIRONMENT):
            key, *inner = name.removeprefix(_ENVIRONMENT).lower().replace("_", "-").split("--")
            if inner and key == "distributed":
                continue  # Dask's own keys, which only Dask knows
            _check_value("-".join([key, *inner]), _literal(text), what=name)


def _check_file(path: Path) -> None:
    import yaml

    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(path.name, format_size(size), "more than 1 MB")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(str(path), None, f"not plain YAML: {quoted(str(error).splitlines()[0])}") from error
    except OSError as error:
        raise UsageError(str(path), error.strerror, "make it readable, or remove it") from error
    if content is None:
        return
    if not isinstance(content, Mapping):
        raise UsageError(str(path), type(content).__name__, "must be a mapping with the key clusterglm")
    for key in content:
        if key != "clusterglm":
            cure = f"not a key here: write it under clusterglm: in {path}"
            raise UsageError(path.name, key, cure if key in KEYS else _no_key(str(key)))
    section = content.get("clusterglm") or {}
    if not isinstance(section, Mapping):
        raise UsageError(str(path), section, "clusterglm must be a mapping of settings")
    for key, value in section.items():
        _check_value(str(key).replace("_", "-"), value, what=path.name)


def _check_value(key: str, value: Any, what: str) -> None:
    if key not in KEYS:
        raise UsageError(what, key, _no_key(key))
    if value is not None:
        KEYS[key](value, what if what.startswith(_ENVIRONMENT) else f"{what}, {key}")


def _no_key(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS, n=1)
    return f"not a key: did you mean {near[0]}?" if near else f"not a key: one of {', '.join(KEYS)}"


def _literal(text: str) -> Any:
    """Return an environment variable's value as Dask reads it."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None if text.lower() in {"none", "null"} else text


def _files() -> Iterator[Path]:
    """Yield the ``clusterglm.yaml`` files that Dask is going to read (the list of ``dask.config.paths``)."""
    folders = [os.getenv("DASK_ROOT_CONFIG", "/etc/dask"), f"{sys.prefix}/etc/dask"]
    folders += [f"{prefix}/etc/dask" for prefix in site.PREFIXES] + ["~/.config/dask"]
    folders += [os.environ["DASK_CONFIG"]] if "DASK_CONFIG" in os.environ else []
    for folder in dict.fromkeys(folders):
        path = Path(os.path.expanduser(folder))  # noqa: PTH111  Path.expanduser raises where there is no home
        if path.name == DEFAULTS.name and path.is_file():
            yield path
        elif (path / DEFAULTS.name).is_file():
            yield path / DEFAULTS.name
