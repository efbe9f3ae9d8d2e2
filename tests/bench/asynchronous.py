"""What one slow worker costs a fit that waits for it, and one that does not.

    python tests/bench/asynchronous.py [rows] [columns] [workers] [rounds]        (by default 2e6, 15, 4 and 3)

Workers of one thread each, of which one is throttled: held by signals to a tenth of the processor time that the others
have, from before the rows are loaded to the end. Every fit begins at the null model and ends at a proven relative gap
of 1e-8. In every round each solver makes one fit, the synchronous one and its asynchronous counterpart after each
other; the table has the medians of seconds (of the fit, and with planning and loading), and of ratios of the same
round. Ratios can be compared between machines; the seconds cannot.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

import clusterglm
from clusterglm.clusters.embedded import embedded
from clusterglm.units import parse_count

sys.path.insert(0, str(Path(__file__).parents[1]))
from throttle import throttled

PAIRS = (("newton", "async_newton"), ("admm", "async_admm"))
SHARE = 0.1  # of the time in which the slow worker runs


def main(rows: str = "2e6", columns: str = "15", workers: str = "4", rounds: str = "3") -> None:
    shape = {"rows": parse_count(rows), "columns": parse_count(columns, "columns", of="columns")}
    options: dict[str, Any] = {**shape, "start": "null", "rel_gap": 1e-8, "penalty": "l2", "alpha": 1e-6}
    found: dict[str, list[Any]] = {name: [] for pair in PAIRS for name in pair}
    with embedded(parse_count(workers, "workers", of="workers")) as (client, _):
        *others, slow = sorted(client.run(os.getpid).values())
        with throttled(slow, others, SHARE):
            for _ in range(int(rounds)):
                for name in found:
                    result = clusterglm.fit(client, solver=name, **options)
                    found[name].append(result)
                    print(f"{name}: {result.seconds['fit']:.2f} s, {result.passes} passes", file=sys.stderr)
    print(f"{shape['rows']:,} rows x {shape['columns']} columns, {workers} workers, one at {SHARE:.0%} of its speed\n")
    print(f"{'solver':14} {'status':9} {'gap':>8} {'passes':>6} {'fit s':>8} {'whole s':>8} {'ratio':>6} slow asked")
    for waiting, going_on in PAIRS:
        for name in (waiting, going_on):
            fits = found[name]
            ratio = statistics.median(
                f.seconds["fit"] / w.seconds["fit"] for f, w in zip(fits, found[waiting], strict=True)
            )
            seconds = statistics.median(f.seconds["fit"] for f in fits)
            whole = statistics.median(sum(f.seconds.values()) for f in fits)
            last = fits[-1]
            gap = last.certificate["relative_gap"]
            print(
                f"{name:14} {last.status:9} {gap:8.1e} {last.passes:6} {seconds:8.2f} {whole:8.2f} {ratio:6.2f} "
                f"{asked(last):>10}"
            )
        assert np.allclose(found[waiting][-1].coefficients, found[going_on][-1].coefficients, rtol=0, atol=1e-3)


def asked(result: Any) -> str:
    """Return how many of the rounds the slowest worker took part in."""
    if result.asynchronous is None:
        return "always"
    heard = np.array([[age == 0 for age in step["ages"]] for step in result.asynchronous["rounds"]])
    return f"{heard.sum(axis=0).min()} of {len(heard)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
