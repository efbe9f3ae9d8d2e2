"""The words that users hand to a batch system: what may stand in a directive, in a path, in a job's script.

Directives know no quoting that all systems share, so what may stand there is listed. Everything in the body of a
script goes through :func:`shell`. Nothing that passes here can end a line, begin an option or reach a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from clusterglm.errors import UsageError

# Slurm's constraints need & | ( ) [ ] and *, PBS's selections : + and =, reservations and hosts the rest.
_WORD = re.compile(r"[A-Za-z0-9_.,:+@/&|()*\[\]=][A-Za-z0-9_.,:+@/&|()*\[\]=-]{0,127}")
# Slurm and LSF expand % in names of logs; ; | = stand between the fields of a cluster's tag; $ and \ are expanded by
# some system or other; : stands behind a host.
_PATH = re.compile(r"/[\w/.+~@-]{0,1023}")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/=-]{0,127}")
_COMMAND = re.compile(r"\+?[A-Za-z_][\w.]{0,63}\s*=\s*[\w .,:+@/&|()*\[\]=<>!?-]{1,190}", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,30}")
# What begins like this is read as a directive by some system, wherever in a script it stands.
_DIRECTIVE = re.compile(r"\s*#\s*(?:SBATCH|PBS|MSUB|BSUB|OAR|CONDOR|COBALT|FLUX|\$)", re.IGNORECASE)


def word(value: object, what: str) -> str:
    """Return the name of a queue, partition, account, quality of service, reservation or constraint.

    Raises
    ------
    UsageError
        It is empty, longer than 128 characters, begins with ``-`` or holds a character that no such name has.
    """
    text = str(value)
    if not _WORD.fullmatch(text):
        raise UsageError(what, text, "letters, digits and _.,:+@/&|()*[]=- only, not beginning with -, at most 128")
    return text


def interface(value: object, what: str = "--interface") -> str:
    """Return the name of a network interface such as ``ib0``.

    Raises
    ------
    UsageError
        Not a name of one.
    """
    text = str(value)
    if not _INTERFACE.fullmatch(text):
        raise UsageError(what, text, "not the name of a network interface: write one such as ib0")
    return text


def path(value: object, what: str) -> str:
    """Return an absolute path that may stand in a directive and in a cluster's tag.

    Raises
    ------
    UsageError
        It is relative, climbs with ``..``, or holds a blank or a character that a batch system would expand.
    """
    text = str(value)
    if not text.startswith("/") or ".." in PurePosixPath(text).parts:
        raise UsageError(what, text, "must be an absolute path without ..")
    if not _PATH.fullmatch(text):
        raise UsageError(what, text, "letters, digits and /._+~@- only: batch systems expand or split other characters")
    return str(PurePosixPath("/", text.lstrip("/")))


def modules(value: str | Iterable[str], what: str = "--modules") -> tuple[str, ...]:
    """Return the names of environment modules, separated by blanks or commas: ``gcc/13 python/3.12``.

    Raises
    ------
    UsageError
        None is there, or one is not a name of a module.
    """
    names = (value if isinstance(value, str) else " ".join(map(str, value))).replace(",", " ").split()
    for name in names or [""]:
        if not _MODULE.fullmatch(name):
            raise UsageError(what, name, "not a module's name: write gcc/13 python/3.12")
    return tuple(names)


def prologue(value: object, what: str = "--prologue") -> str:
    """Return lines of shell that a job runs first, as they are: they are the user's own.

    Raises
    ------
    UsageError
        They hold control characters, or a line that a batch system would read as a directive.
    """
    text = str(value).replace("\r\n", "\n").strip("\n")
    for line in text.split("\n"):
        if any(not (c.isprintable() or c == "\t") for c in line):
            raise UsageError(what, line, "holds control characters")
        if _DIRECTIVE.match(line):
            raise UsageError(what, line, "would be read as a directive: use the target's own options")
    return text


def directive(value: object, what: str = "--directive") -> str:
    """Return an option of the batch system's own, as it stands in a job script: ``--gres=gpu:1``.

    Raises
    ------
    UsageError
        It does not begin with ``-``, or holds a quote, a backslash, a control character or ``#``.
    """
    text = str(value).strip()
    if not text.startswith("-") or len(text) > 256:
        raise UsageError(what, text, "not an option of the batch system: write one such as --gres=gpu:1")
    if any(not c.isprintable() or c in "\"'\\#`$;%" for c in text):
        raise UsageError(what, text, "holds a quote, # ; % $ or another character that batch systems expand")
    return text


def command(value: object, what: str = "--directive") -> str:
    """Return a command of HTCondor's submit description: ``requirements = Memory > 4000``.

    Raises
    ------
    UsageError
        Anything else.
    """
    if not _COMMAND.fullmatch(text := str(value).strip()):
        raise UsageError(what, text, "not a command of a submit description: write one such as request_gpus = 1")
    return text


def shell(*arguments: object) -> str:
    """Return a line of shell that runs exactly these words."""
    return shlex.join(str(argument) for argument in arguments)


def first_lines(modules: Sequence[str] | None, prologue: Iterable[str]) -> list[str]:
    """Return the lines that make a job's environment: its modules, then the user's own."""
    return [*([shell("module", "load", *modules)] if modules else []), *prologue]
