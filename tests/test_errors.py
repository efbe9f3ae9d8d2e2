"""Messages: one line, the value as given, no secret; each class its exit code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterglm import errors


def test_a_message_says_what_the_value_and_the_cure() -> None:
    assert str(errors.UsageError("--rows", 0, "must be at least 1")) == "--rows (0): must be at least 1"
    assert str(errors.DataError("target y", None, "nothing to fit")) == "target y: nothing to fit"


def test_the_name_of_a_column_cannot_break_the_line_of_a_message() -> None:
    assert str(errors.DataError("column a\n\x1b[2Jb", None, "not finite")) == r"column a\n\x1b[2Jb: not finite"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ClusterglmError, 1),
        (errors.UsageError, 2),
        (errors.ClusterError, 4),
        (errors.DataError, 5),
        (errors.Interrupted, 130),
    ],
)
def test_each_class_has_its_exit_code(error: type[errors.ClusterglmError], code: int) -> None:
    assert error("x").exit_code == code


def test_an_interruption_with_a_checkpoint_is_resumable() -> None:
    assert errors.Interrupted("interrupted", resumable=True).exit_code == 75


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key AKIAIOSFODNN7EXAMPLE refused", "AKIAIOSFODNN7EXAMPLE"),
        ("ASIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"),
        ("aws_secret_access_key=wJalrXUtnFEMI", "wJalrXUtnFEMI"),
        ("token: abc123def", "abc123def"),
        ("PASSWORD=hunter2&x=1", "hunter2"),
        ("s3://user:pw@bucket/key", "user:pw"),
        ("https://h/k?X-Amz-Credential=me%2F2026&X-Amz-Signature=beef", "beef"),
        ("https://h/k?X-Amz-Credential=me%2F2026&X-Amz-Signature=beef", "me%2F"),
        ("https://h/k?sv=1&sig=beef", "beef"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "MIIE"),
    ],
)
def test_secrets_do_not_reach_messages(text: str, secret: str) -> None:
    assert secret not in errors.redact(text)
    assert secret not in str(errors.ClusterError("ec2", text, text))


@given(st.text(max_size=300))
def test_a_quoted_value_is_one_short_printable_line(value: str) -> None:
    shown = errors.quoted(value)
    assert len(shown) <= 80
    assert shown.isprintable()


def test_an_unknown_name_is_answered_with_the_nearest_first() -> None:
    error = errors.unknown("solver", "newtn", ["admm", "newton"])
    assert str(error) == "solver (newtn): not known: did you mean newton? One of admm, newton"
