"""The rounds of an asynchronous fit: which worker thread was how many points behind, round by round."""

from __future__ import annotations

from typing import Any

from clusterglm.report import words
from clusterglm.report.run import number
from clusterglm.units import format_duration

_MOST_LANES = 16  # that have a column each; of more the table shows those that were behind longest


def rounds(result: dict[str, Any]) -> dict[str, Any] | None:
    """Return the table of rounds, (heads, rows, words below it); None of a synchronous fit."""
    found = result.get("asynchronous")
    if not found or not found["rounds"]:
        return None
    ages = [step["ages"] for step in found["rounds"]]
    lanes = range(len(found["lanes"]))
    behind = sorted(lanes, key=lambda i: (-sum(age[i] != 0 for age in ages), i))[:_MOST_LANES]
    shown = sorted(behind)
    head = ["round", "ended", "answered", *(words.place(found["lanes"][i]["worker"]) or "here" for i in shown)]
    rows = []
    for k, step in enumerate(found["rounds"]):
        fresh = sum(age == 0 for age in step["ages"])
        told = f"{fresh} of {len(found['lanes'])}" + (", a full pass" if step["exact"] else "")
        rows.append([str(k), format_duration(number(step["seconds"])), told, *(_age(step["ages"][i]) for i in shown)])
    late = sum(any(age != 0 for age in step) for step in ages)
    say = (
        f"{words.counted(len(ages), 'round')}, {words.count(late)} of them without waiting for everybody. A figure says"
        " how many points ago a worker's thread was last heard of: its rows stand in with a model from there. The fit"
        " ends with a full pass, and the certificate comes from it."
    )
    if len(shown) < len(lanes):
        say += f" Shown are the {len(shown)} of {len(lanes)} threads that were behind most often."
    return {"head": head, "rows": rows, "say": say}


def _age(points: int) -> str:
    return "not yet" if points < 0 else str(points)
