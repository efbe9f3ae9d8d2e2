"""What machines cost on Google Cloud: list prices in dollars, dated. An unknown price is unknown, never nothing.

``gcp.json`` beside this file has the price of an hour of a core and of a GB of memory of each family, of which
all types are sums; ``volume`` is a GB of standard disk in an hour, of us-central1.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

# GB of memory a core
_MEMORY = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
_OF_N1 = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}


@functools.cache
def _table() -> dict[str, Any]:
    return dict(json.loads(Path(__file__).with_name("gcp.json").read_text()))


def source() -> str:
    """Return where the prices are from."""
    return f"{_table()['source']}, {_table()['date']}; no discounts, addresses or traffic"


def hourly(machine_type: str, region: str, disk: int) -> float | None:
    """Return the dollars of an hour of a machine with ``disk`` GB, None where nobody knows."""
    found = re.fullmatch(r"([a-z0-9]+)-(standard|highmem|highcpu)-([0-9]+)", machine_type)
    if found is None or (prices := _table()["core_and_gigabyte"].get(region, {}).get(found[1])) is None:
        return None
    memory = (_OF_N1 if found[1] == "n1" else _MEMORY)[found[2]]
    return float(int(found[3]) * (prices[0] + memory * prices[1]) + disk * _table()["volume"])
