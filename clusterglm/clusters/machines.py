"""What a machine of the clouds has: cores as its provider counts them, memory, and how fast one of them is.

From the providers' public tables, 2026-11. A core is a hardware thread there, two of which share the units that a
kernel needs, so ``speed``, relative to a whole core of 2022 at 3 GHz, is an estimate until a fit measures it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clusterglm.errors import UsageError, unknown

_USABLE = 0.93  # of the memory: the system takes the rest


class Machine(NamedTuple):
    """``cores`` hardware threads, ``memory`` bytes for workers, ``speed`` of a core as in forecast.typical."""

    cores: int
    memory: int
    speed: float


# family: GiB of memory a core, relative speed of a core
_FAMILIES = {
    "m4": (4, 0.45),
    "m5": (4, 0.55),
    "m5a": (4, 0.45),
    "m6i": (4, 0.65),
    "m6a": (4, 0.65),
    "m7i": (4, 0.7),
    "m7a": (4, 1.0),
    "c5": (2, 0.6),
    "c6i": (2, 0.65),
    "c6a": (2, 0.65),
    "c7i": (2, 0.7),
    "c7a": (2, 1.0),
    "r4": (7.625, 0.45),
    "r5": (8, 0.55),
    "r6i": (8, 0.65),
    "r7i": (8, 0.7),
}
_SIZES = {"large": 2, "xlarge": 4} | {f"{n}xlarge": 4 * n for n in (2, 3, 4, 6, 8, 9, 10, 12, 16, 18, 24, 32, 48)}


def machine(instance_type: str) -> Machine:
    """Return what an EC2 instance type such as ``m4.2xlarge`` has.

    Raises
    ------
    UsageError
        A type that is not in the table.
    """
    option = "--instance-type"
    found = re.fullmatch(r"([a-z0-9]+)\.([a-z0-9]+)", instance_type)
    if found is None:
        raise UsageError(option, instance_type, "not an instance type: write one such as m4.2xlarge")
    family, size = found.groups()
    if family not in _FAMILIES:
        raise unknown(option, instance_type, [f"{name}.{size}" for name in _FAMILIES])
    if size not in _SIZES:
        raise unknown(option, instance_type, [f"{family}.{name}" for name in _SIZES])
    per_core, speed = _FAMILIES[family]
    cores = _SIZES[size]
    return Machine(cores, int(_USABLE * per_core * cores * 2**30), speed)
