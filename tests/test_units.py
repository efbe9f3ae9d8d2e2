"""Counts, sizes and durations as people write them; whatever else they write is refused as usage."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterglm.errors import UsageError
from clusterglm.units import format_duration, format_size, parse_count, parse_duration, parse_size, rounded_up


@pytest.mark.parametrize(("text", "count"), [("8e8", 800_000_000), ("8_000", 8000), (7, 7), ("1e12", 10**12)])
def test_counts(text: str | int, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("0", "must be at least 1"),
        ("-1", "must be at least 1"),
        ("nan", "not a count of rows"),
        ("inf", "not a count of rows"),
        ("1e30", "more than 1e12"),
        ("10k", "write 10000 or 1e4"),
        ("1.5", "not a count of rows"),
        ("", "not a count of rows"),
    ],
)
def test_what_is_no_count_is_refused(text: str, cure: str) -> None:
    with pytest.raises(UsageError, match=cure):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("4GiB", 4 * 2**30), ("1.5 kB", 1500), ("100", 100), ("2e9", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["abc", "0", "-4GB", "", "4XB", "nan", "1e400GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 4GB or 4GiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("02:00:00", 7200), ("90", 90), ("10min", 600), ("1 d", 86400), ("1:30", 90), ("30 seconds", 30)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["25:99", "-1h", "abc", "", "0", "1:2:3:4", "5 parsecs"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 2h or 02:00:00"):
        parse_duration(text)


@given(st.integers(1, 10**12))
def test_every_count_survives_being_written(count: int) -> None:
    assert parse_count(str(count)) == parse_count(f"{count:_}") == count


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_every_clock_time_survives_being_written(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours:02}:{minutes:02}:{seconds:02}") == 3600 * hours + 60 * minutes + seconds


@given(st.one_of(st.text(), st.floats(), st.integers()))
def test_whatever_is_written_is_parsed_or_refused(text: object) -> None:
    for parse in (parse_count, parse_size, parse_duration):
        with contextlib.suppress(UsageError):
            assert parse(text) >= 1  # type: ignore[operator]


def test_formats() -> None:
    assert format_size(960_000_000) == "960.0 MB"
    assert format_size(12) == "12 B"
    assert [format_duration(s) for s in (0.42, 12, 200, 7500)] == ["0.42 s", "12 s", "3 min 20 s", "2 h 05 min"]


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_what_is_proven_is_never_said_to_be_less(bound: float) -> None:
    said = float(f"{rounded_up(bound):.1e}")
    assert bound <= said <= bound * 1.1 * (1 + 1e-12)


@pytest.mark.parametrize(("bound", "said"), [(0.0, 0.0), (5.61e-11, 5.7e-11), (9.91, 10.0), (2.5, 2.5)])
def test_bounds_have_two_digits(bound: float, said: float) -> None:
    assert rounded_up(bound) == said
    assert math.isinf(rounded_up(math.inf))
