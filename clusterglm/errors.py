"""The tree of errors: each class carries its exit code, each error what happened, to what, and the cure.

A message has the shape ``<what> (<value>): <what to do>`` and is one line. ``cli/`` prints it after ``error:`` and
ends with ``exit_code``; from Python the same object is raised.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

USAGE, FAILURE, NOT_CONVERGED, CLUSTER, DATA, RESUMABLE, INTERRUPTED = 2, 1, 3, 4, 5, 75, 130

_LONGEST_VALUE = 80
_SECRETS = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "[redacted]"),
    (re.compile(r"(?i)\b((?:[a-z_-]*(?:secret|token|password|passwd)[a-z_-]*)\s*[=:]\s*)[^\s&,;]+"), r"\1[redacted]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S), "[redacted]"),
    (re.compile(r"(?<=://)[^/\s@]+@"), "[redacted]@"),
    (re.compile(r"(?i)([?&][a-z_-]*(?:sig|signature|credential|key)=)[^&\s]+"), r"\1[redacted]"),  # of signed URLs
)


def redact(text: str) -> str:
    """Return ``text`` with access keys, passwords, private keys and the user part of URLs replaced."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def printable(text: str) -> str:
    """Return ``text`` as one line: whatever a terminal would take for a command or a line end is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def quoted(value: object) -> str:
    """Return a user's value as messages show it: control characters escaped, secrets redacted, cut at 80 characters."""
    text = redact(printable(str(value)))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


class ClusterglmError(Exception):
    """What happened, to what, and the cure, in one line.

    Parameters
    ----------
    what : str
        The option, column, file or cluster that the message is about.
    value : object, optional
        Its value as the user gave it; None leaves the parentheses out.
    cure : str
        What is wrong and what to do about it.
    """

    exit_code = FAILURE

    def __init__(self, what: str, value: object = None, cure: str = "") -> None:
        super().__init__(what, value, cure)
        self.what, self.value, self.cure = what, value, cure

    def __str__(self) -> str:
        what = printable(self.what)  # often a column's name
        head = what if self.value is None else f"{what} ({quoted(self.value)})"
        return redact(f"{head}: {self.cure}" if self.cure else head)


class UsageError(ClusterglmError):
    """An option, argument or configuration value that is refused before anything is started."""

    exit_code = USAGE


class ClusterError(ClusterglmError):
    """Cluster or environment: lost scheduler, missing program, a name in use, a folder that cannot be written."""

    exit_code = CLUSTER


class Taken(ClusterError):
    """A name that another command took a moment before: whatever carries it in the cloud is that one's."""


class DataError(ClusterglmError):
    """Data that had to be opened to be refused: missing, unreadable, not finite, outside the family's range."""

    exit_code = DATA


class Interrupted(ClusterglmError):
    """A signal ended the command. ``resumable`` says that a checkpoint is on disk."""

    exit_code = INTERRUPTED

    def __init__(self, what: str, value: object = None, cure: str = "", resumable: bool = False) -> None:
        super().__init__(what, value, cure)
        self.resumable = resumable
        if resumable:
            self.exit_code = RESUMABLE


def unknown(
    what: str, value: str, choices: Iterable[str], error: type[ClusterglmError] = UsageError
) -> ClusterglmError:
    """Return the error for a value that is not among ``choices``: the nearest one first, then all of them."""
    names = list(choices)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return error(what, value, f"not known: {hint}One of {', '.join(names)}")
