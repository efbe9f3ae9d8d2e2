"""Rows in lanes that answer by a clock of their own: what a slow worker does to a fit, to the second and at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clusterglm.data.arrivals import Lane, total
from clusterglm.data.chunk import Chunk, subtotals
from clusterglm.data.rows import LocalRows
from clusterglm.glm import kernels

GRADIENT = 0.5  # of the seconds of a pass with a Hessian


class Timed(LocalRows):
    """Rows of which every lane takes its ``seconds`` for a pass with a Hessian; a round of all waits for the slowest.

    ``known``: whether a fit knows the seconds before it asks; ``jitter`` is the standard deviation of their logarithm.
    """

    def __init__(
        self, chunk: Chunk, problem_rows: int, seconds: Sequence[float], known: bool = True, jitter: float = 0.0
    ) -> None:
        super().__init__(chunk, problem_rows, intercept=True)
        self.clock, self.seconds, self.known = 0.0, list(seconds), known
        self.random, self.jitter = np.random.default_rng(1), jitter
        blocks = -(-len(chunk) // chunk.block_rows)
        cuts = [k * blocks // len(seconds) * chunk.block_rows for k in range(len(seconds))]
        self.shares = [chunk.part(a, b) for a, b in itertools.pairwise([*cuts, len(chunk)])]

    def takes(self, lane: int, kernel: Callable[..., Any], args: Sequence[Any]) -> float:
        with_hessian = any(f in (kernels.hessian, kernels.hessian_of_share) for f in (kernel, *args) if callable(f))
        return self.seconds[lane] * (1.0 if with_hessian else GRADIENT) * math.exp(self.jitter * self.random.normal())

    def sum(self, kernel: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
        self.clock += max(self.takes(i, kernel, args) for i in range(len(self.shares)))
        return super().sum(kernel, *args)

    def each(self, step: Callable[..., Any], states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        self.clock += max(self.takes(i, step, args) for i in range(len(self.shares)))
        return super().each(step, states, *args)

    def arrivals(self) -> TimedArrivals:  # type: ignore[override]
        return TimedArrivals(self)


class TimedArrivals:
    total = staticmethod(total)

    def __init__(self, rows: Timed) -> None:
        self._rows = rows
        told = rows.seconds if rows.known else [math.nan] * len(rows.seconds)
        self.lanes = [Lane(f"lane {i}", len(share), told[i]) for i, share in enumerate(rows.shares)]
        self._due: list[tuple[float, int, Any, tuple[Any, ...]]] = []

    def now(self) -> float:
        return self._rows.clock

    def ask(self, lanes: Sequence[int], kernel: Any, *args: Any) -> None:
        assert not {lane for _, lane, _, _ in self._due} & set(lanes)
        self._due += [(self.now() + self._rows.takes(lane, kernel, args), lane, kernel, args) for lane in lanes]

    def come(self, seconds: float) -> list[tuple[int, Any]]:
        at = min((due for due, *_ in self._due), default=math.inf)
        if at > self.now() + seconds:
            self._rows.clock += seconds
            return []
        self._rows.clock = max(at, self.now())
        done = [entry for entry in self._due if entry[0] <= at]
        self._due = [entry for entry in self._due if entry[0] > at]
        return [(lane, subtotals(self._rows.shares[lane], kernel, args)) for _, lane, kernel, args in done]

    def close(self) -> None:
        self._due = []
