"""The only printer: stdout carries data, stderr words. Nothing here writes control characters."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from clusterglm.errors import ClusterError, printable, redact


def data(text: str) -> None:
    """Print a result."""
    with _stdout():
        print(text)


def data_json(value: Any) -> None:
    """Print a result for machines: ASCII only, so that no locale can fail on it."""
    data(json.dumps(value, indent=2, ensure_ascii=True))


def flush() -> None:
    """Bring out what was printed, as long as there is somebody to be told that it cannot be."""
    with _stdout():
        sys.stdout.flush()


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    """Raise ClusterError where stdout cannot be written; that nobody reads any more stays a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        forget(sys.stdout)
        cure = "redirect it to where there is room"
        raise ClusterError("stdout", (error.strerror or str(error)).lower(), cure) from error


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as their longest cell."""
    lines = [list(head), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        data("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def words(text: str) -> None:
    """Print a line for people, secrets redacted. That nobody can read it any more is no reason to stop."""
    try:
        print(redact(text), file=sys.stderr, flush=True)
    except OSError:
        forget(sys.stderr)


def note(text: str) -> None:
    """Print something worth knowing."""
    words(f"note: {text}")


def warning(text: str) -> None:
    """Print something worth doing something about."""
    words(f"warning: {text}")


def forget(stream: TextIO) -> None:
    """Point a stream that nobody reads any more at nothing, so that the interpreter's flush at the end stays silent."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
