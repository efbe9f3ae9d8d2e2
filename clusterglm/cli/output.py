"""The only printer: stdout carries data, stderr words. Nothing here writes control characters."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from clusterglm.errors import redact


def data(text: str) -> None:
    """Print a result."""
    print(text)


def data_json(value: Any) -> None:
    """Print a result for machines: ASCII only, so that no locale can fail on it."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as their longest cell."""
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        data("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def words(text: str) -> None:
    """Print a line for people, secrets redacted."""
    print(redact(text), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print something worth knowing."""
    words(f"note: {text}")


def warning(text: str) -> None:
    """Print something worth doing something about."""
    words(f"warning: {text}")
