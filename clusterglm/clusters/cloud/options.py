"""The words of users to a cloud: types of machines, ranges of addresses, sizes of disks, lines of shell."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any

from clusterglm.errors import UsageError
from clusterglm.units import parse_size

_TYPE = re.compile(r"[a-z0-9-]{2,20}\.[a-z0-9-]{2,20}")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]{2,20}){1,3}-[0-9]{1,2}")
_SECRET = re.compile(
    r"(?i)aws_secret|aws_session_token|(?:password|token|secret)=|\b(?:AKIA|ASIA)[A-Z0-9]{12}|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
)
_LEAST_DISK, _MOST_DISK = 8, 16384  # GB: Ubuntu's own image, and what a volume may have


def instance_type(value: Any, what: str) -> str:
    """Return the name of an instance type. Raises UsageError for what cannot be one."""
    text = str(value)
    if not _TYPE.fullmatch(text):
        raise UsageError(what, text, "not an instance type: write one such as m4.2xlarge")
    return text


def region(value: Any, what: str) -> str:
    """Return the name of a region. Raises UsageError for what cannot be one."""
    text = str(value)
    if not _REGION.fullmatch(text):
        raise UsageError(what, text, "not a region: write one such as us-east-1")
    return text


def address_range(value: Any, what: str) -> str:
    """Return a range of IPv4 addresses, a single one as /32. Raises UsageError for any other, and for all of them."""
    try:
        network = ipaddress.IPv4Network(str(value))
    except ValueError as error:
        raise UsageError(what, value, "not a range of addresses: write 203.0.113.5/32") from error
    if network.prefixlen == 0:
        raise UsageError(what, value, "the whole world: name the addresses that you use")
    return str(network)


def gigabytes(value: Any, what: str) -> int:
    """Return whole GB from ``100GB``. Raises UsageError outside what a volume may have."""
    size = value if isinstance(value, int) else math.ceil(parse_size(value, what) / 10**9)
    if not _LEAST_DISK <= size <= _MOST_DISK:
        raise UsageError(what, value, f"from {_LEAST_DISK}GB to {_MOST_DISK}GB")
    return size


def dollars(value: Any, what: str) -> float:
    """Return dollars from ``5`` or ``$5``. Raises UsageError for what is no sum, or nothing."""
    try:
        found = float(str(value).removeprefix("$"))
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UsageError(what, value, "not a sum of dollars: write 5 or 2.50")
    return found


def line(value: Any, what: str) -> str:
    """Return a line of shell. Raises UsageError where it holds a secret, which user data would show to others."""
    text = str(value)
    if any(not (c.isprintable() or c == "\t") for c in text):
        raise UsageError(what, text, "holds control characters")
    if _SECRET.search(text):
        raise UsageError(what, text, "holds a secret, which others can read there: use --instance-profile")
    return text


def switch(value: Any, what: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise UsageError(what, value, "must be true or false")
    return value
