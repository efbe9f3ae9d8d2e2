"""What machines cost: list prices in dollars, dated. An unknown price is unknown, never nothing.

``prices.json`` beside this file has the price of an hour of the size ``large`` of each family, of which all sizes are
multiples; ``volume`` is a GB of gp3 in a month, ``address`` a public address in an hour, both of us-east-1.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterglm.clusters.machines import machine
from clusterglm.errors import UsageError

BOOT_SECONDS = 180.0  # until a machine computes: an estimate until it is measured
_LARGE_CORES = 2
_HOURS_OF_A_MONTH = 730.0


@functools.cache
def table() -> dict[str, Any]:
    """Return the table of prices: ``date``, ``source``, ``volume``, ``address`` and ``large`` by region and family."""
    return dict(json.loads(Path(__file__).with_name("prices.json").read_text()))


def hourly(instance_type: str, region: str) -> float | None:
    """Return the dollars of an hour of a machine, None where nobody knows."""
    price = table()["large"].get(region, {}).get(instance_type.partition(".")[0])
    try:
        return None if price is None else float(price) * machine(instance_type).cores / _LARGE_CORES
    except UsageError:
        return None


def rate(instance_types: Sequence[str], region: str, disk: int, public: bool = True) -> tuple[float, bool]:
    """Return the dollars of an hour of a cluster's machines with ``disk`` GB each, and whether that is all of it."""
    found = [hourly(name, region) for name in instance_types]
    beside = disk * table()["volume"] / _HOURS_OF_A_MONTH + (table()["address"] if public else 0.0)
    return sum(price for price in found if price is not None) + len(found) * beside, None not in found


def words(dollars: float, complete: bool) -> str:
    """Return dollars as people read them."""
    return f"${dollars:.2f}" if complete else f"at least ${dollars:.2f}, the price of a machine is unknown"


def source() -> str:
    """Return where the prices are from."""
    return f"{table()['source']}, {table()['date']}; no discounts, no traffic"
