"""Counts, sizes and durations as people write them: ``8e8``, ``30GB``, ``2h``, ``02:00:00``."""

from __future__ import annotations

import decimal
import math
import re

from clusterglm.errors import UsageError

MOST_ROWS = 10**12
LEAST_MEMORY = 250 * 10**6  # bytes; a worker process takes up to 180 MB before it holds a row
_SIZE = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("", 1000), ("ib", 1024), ("i", 1024))
}
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600, "d": 86400, "day": 86400}


def parse_count(text: str | int | float, what: str = "--rows", of: str = "rows", most: int = MOST_ROWS) -> int:
    """Return a positive whole number written as ``8000000``, ``8e6`` or ``8_000_000``.

    Raises
    ------
    UsageError
        Not a number, not whole, below 1, or above ``most``.
    """
    try:
        number = float(str(text).replace("_", ""))
    except ValueError:
        number = math.nan
    if math.isinf(number) or math.isnan(number) or number != math.floor(number):
        example = "10000 or 1e4" if str(text).lower().endswith("k") else "a whole number such as 10000 or 1e4"
        raise UsageError(what, text, f"not a count of {of}: write {example}")
    if number < 1:
        raise UsageError(what, text, "must be at least 1")
    if number > most:
        raise UsageError(what, text, f"more than {most:.0e}".replace("e+", "e"))
    return int(str(text)) if str(text).isdigit() else int(number)


def parse_size(text: str | int | float, what: str = "--memory") -> int:
    """Return bytes from ``4GB`` (powers of 1000), ``4GiB`` (powers of 1024) or a plain number of bytes.

    Raises
    ------
    UsageError
        Not a size, or not above zero.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(text).lower())
    if not match or match[2] not in _SIZE:
        raise UsageError(what, text, "not a size: write 4GB or 4GiB")
    size = float(match[1]) * _SIZE[match[2]]
    if not 1 <= size < 2**63:
        raise UsageError(what, text, "not a size: write 4GB or 4GiB")
    return int(size)


def parse_memory(text: str | int | float, what: str = "--memory") -> int:
    """Return the bytes of one worker process, as ``parse_size`` reads them.

    Raises
    ------
    UsageError
        Not a size, or so little that the process would be killed over and over before it holds a row.
    """
    size = parse_size(text, what)
    if size < LEAST_MEMORY:
        raise UsageError(what, text, f"less than the {format_size(LEAST_MEMORY)} that a worker needs: write 1GB")
    return size


def parse_duration(text: str | int | float, what: str = "--timeout") -> int:
    """Return seconds from ``90``, ``30s``, ``10min``, ``2h``, ``1d``, ``MM:SS`` or ``HH:MM:SS``.

    Raises
    ------
    UsageError
        Not a duration, minutes or seconds of 60 and more behind a colon, or not above zero.
    """
    value = str(text).strip().lower()
    seconds = 0.0
    if match := re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]*)", value):
        unit = match[2].rstrip("s") or "s"
        unit = {"hour": "h", "minute": "min", "second": "s", "econd": "s"}.get(unit, unit)
        seconds = float(match[1]) * _SECONDS.get(unit, 0)
    elif match := re.fullmatch(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})", value):
        hours, minutes, rest = int(match[1] or 0), int(match[2]), int(match[3])
        if rest < 60 and (minutes < 60 or match[1] is None):
            seconds = hours * 3600 + minutes * 60 + rest
    if seconds < 1:
        raise UsageError(what, text, "not a duration: write 2h or 02:00:00")
    return int(seconds)


def rounded_up(bound: float) -> float:
    """Return what is proven with two significant digits, not below it, for less would be no bound."""
    if not math.isfinite(bound):
        return bound
    up = decimal.Context(prec=2, rounding=decimal.ROUND_CEILING)
    return float(up.create_decimal(repr(float(bound))))


def format_size(size: float) -> str:
    """Return bytes as people read them, in powers of 1000: ``960.0 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError  # pragma: no cover


def format_duration(seconds: float) -> str:
    """Return seconds as people read them: ``0.42 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"
