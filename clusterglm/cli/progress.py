"""How a fit goes on, on stderr: one line that renews itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from clusterglm.cli import output
from clusterglm.errors import printable
from clusterglm.units import format_duration, rounded_up

if TYPE_CHECKING:
    from clusterglm.glm.trace import Iteration

_SECONDS_BETWEEN_LINES = 5.0
_LONGEST_FORECAST = 86_400.0  # seconds: beyond a day the first steps say nothing


class Display:
    """Meets ``clusterglm.progress.Progress``."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        plain = os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
        self.live = not quiet and not plain and sys.stderr.isatty()
        self._shown = -math.inf
        self._first: tuple[float, float] | None = None
        self._pending = False
        self._before = 0
        self._lock = threading.Lock()  # rows are told by another thread

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def phase(self, text: str) -> None:
        if not self.quiet:
            self._clear()
            self._line(text, keep=True)

    def note(self, text: str) -> None:
        if not self.quiet:
            self._clear()
            output.words(printable(text))

    def iteration(self, row: Iteration, null_objective: float, rows: int) -> None:  # noqa: ARG002
        if self.quiet or (not self.live and time.monotonic() - self._shown < _SECONDS_BETWEEN_LINES and row.iteration):
            return
        self._shown = time.monotonic()
        gap = row.certificate.gap
        parts = [
            f"pass {row.passes}",
            f"objective {row.point.objective:.10g}",
            f"gap {rounded_up(gap):.1e}" if math.isfinite(gap) else "gap not certified yet",
        ]
        if row.iteration == 0:
            self._before = row.passes
        elif row.seconds > 0:
            parts.append(f"{rows * (row.passes - self._before) / row.seconds:.2g} rows/s")
        if (left := self._left(row)) is not None:
            parts.append(f"about {format_duration(left)} left")
        self._line("  ".join(parts), keep=not self.live)

    def rows(self, done: int, total: int, seconds: float) -> None:
        """Show how many rows are done after ``seconds``, and the time left at this speed."""
        if self.quiet or (not self.live and time.monotonic() - self._shown < _SECONDS_BETWEEN_LINES and done < total):
            return
        self._shown = time.monotonic()
        parts = [f"{done:,} of {total:,} rows"]
        if done and seconds > 0:
            left = seconds * (total - done) / done
            parts += [f"{done / seconds:.2g} rows/s", f"about {format_duration(left)} left"]
        self._line("  ".join(parts), keep=not self.live)

    def _left(self, row: Iteration) -> float | None:
        """Return the seconds left if the error goes on falling as fast as it has: first-order, hence 'about'."""
        error = row.certificate.estimate
        if not (math.isfinite(error) and error > 0.01 and row.seconds > 0):
            return None
        if self._first is None:
            self._first = (row.seconds, error)
            return None
        seconds, first = self._first
        rate = math.log(first / error) / (row.seconds - seconds) if row.seconds > seconds else 0.0
        left = math.log(error / 0.01) / rate if rate > 0 else math.inf
        return left if left < _LONGEST_FORECAST else None

    def _line(self, text: str, keep: bool) -> None:
        with self._lock:
            if keep:
                output.words(text)
                return
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
            self._pending = True

    def _clear(self) -> None:
        with self._lock:
            if not self._pending:
                return
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)
            self._pending = False
