"""What machines cost: list prices in dollars, dated. An unknown price is unknown, never nothing.

``ec2.json`` beside this file has the price of an hour of the size ``large`` of each family, of which all sizes are
multiples; ``volume`` is a GB of gp3 in a month, ``address`` a public address in an hour, both of us-east-1. Newer
prices of a region lie in the user's data folder, where ``clusterglm prices --update`` puts them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterglm.clusters.machines import machine
from clusterglm.errors import ClusterError, UsageError

BOOT_SECONDS = 180.0  # until a machine computes: an estimate until it is measured
_LARGE_CORES = 2
_SOURCE = "Amazon's list prices on demand, Linux"
_HOURS_OF_A_MONTH = 730.0


@functools.cache
def table(region: str) -> dict[str, Any]:
    """Return the prices of a region: their ``date``, ``source``, ``volume``, ``address``, and ``large`` by family."""
    packaged = dict(json.loads(Path(__file__).with_name("ec2.json").read_text()))
    found = packaged | {"large": packaged["large"].get(region, {})}
    with contextlib.suppress(OSError, ValueError, TypeError):  # not there, or not ours
        kept = json.loads(_kept(region).read_text())
        if kept["date"] >= found["date"]:
            found |= {"date": kept["date"], "source": kept["source"], "large": found["large"] | kept["large"]}
    return found


def keep(region: str, large: Mapping[str, float]) -> Path:
    """Keep the prices of a region as of today, and return the file."""
    path = _kept(region)
    content = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "source": _SOURCE, "large": large}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ClusterError("prices", path, f"{error.strerror}: set XDG_DATA_HOME") from error
    table.cache_clear()
    return path


def _kept(region: str) -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("clusterglm")) / "prices" / f"{region}.json"


def hourly(instance_type: str, region: str) -> float | None:
    """Return the dollars of an hour of a machine, None where nobody knows."""
    price = table(region)["large"].get(instance_type.partition(".")[0])
    try:
        return None if price is None else float(price) * machine(instance_type).cores / _LARGE_CORES
    except UsageError:
        return None


def rate(instance_types: Sequence[str], region: str, disk: int, public: bool = True) -> tuple[float, bool]:
    """Return the dollars of an hour of a cluster's machines with ``disk`` GB each, and whether that is all of it."""
    found = [hourly(name, region) for name in instance_types]
    beside = disk * table(region)["volume"] / _HOURS_OF_A_MONTH + (table(region)["address"] if public else 0.0)
    return sum(price for price in found if price is not None) + len(found) * beside, None not in found


def words(dollars: float, complete: bool) -> str:
    """Return dollars as people read them."""
    return f"${dollars:.2f}" if complete else f"at least ${dollars:.2f}, the price of a machine is unknown"


def source(region: str) -> str:
    """Return where the prices of a region are from."""
    return f"{table(region)['source']}, {table(region)['date']}; no discounts, no traffic"
