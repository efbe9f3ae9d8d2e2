"""What a machine of the clouds has: cores as its provider counts them, memory, and how fast one of them is.

From the providers' public tables, 2026-11. A core is a hardware thread there, two of which share the units that a
kernel needs, so ``speed``, relative to a whole core of 2022 at 3 GHz, is an estimate until a fit measures it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from clusterglm.errors import UsageError, unknown

_USABLE = 0.93  # of the memory: the system takes the rest
DISK = 40 * 10**9  # bytes of the volume that a machine gets unless it is told otherwise


class Machine(NamedTuple):
    """``cores`` hardware threads, ``memory`` bytes for workers, ``speed`` of a core as in forecast.typical."""

    cores: int
    memory: int
    speed: float


# family: GiB of memory a core, relative speed of a core, and its sizes in quarters of the cores
_TO_24 = (2, 4, 8, 12, 16, 24)
_TO_32 = (*_TO_24, 32)
_TO_48 = (*_TO_32, 48)
_INTEL_7 = (*_TO_24, 48)
FAMILIES: dict[str, tuple[float, float, tuple[int, ...]]] = {
    "m4": (4, 0.45, (2, 4, 10, 16)),
    "m5": (4, 0.55, _TO_24),
    "m5a": (4, 0.45, _TO_24),
    "m6i": (4, 0.65, _TO_32),
    "m6a": (4, 0.65, _TO_48),
    "m7i": (4, 0.7, _INTEL_7),
    "m7a": (4, 1.0, _TO_48),
    "c5": (2, 0.6, (2, 4, 9, 12, 18, 24)),
    "c6i": (2, 0.65, _TO_32),
    "c6a": (2, 0.65, _TO_48),
    "c7i": (2, 0.7, _INTEL_7),
    "c7a": (2, 1.0, _TO_48),
    "r4": (7.625, 0.45, (2, 4, 8, 16)),
    "r5": (8, 0.55, _TO_24),
    "r6i": (8, 0.65, _TO_32),
    "r7i": (8, 0.7, _INTEL_7),
}


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
    if family not in FAMILIES:
        raise unknown(option, instance_type, [f"{name}.{size}" for name in FAMILIES])
    per_core, speed, larger = FAMILIES[family]
    sizes = {"large": 2, "xlarge": 4} | {f"{n}xlarge": 4 * n for n in larger}
    if size not in sizes:
        raise unknown(option, instance_type, [f"{family}.{name}" for name in sizes])
    cores = sizes[size]
    return Machine(cores, int(_USABLE * per_core * cores * 2**30), speed)
