"""Rows that answer one by one: who is asked, who is late, what each lane said last and how old that is.

A lane is the rows of one worker thread (data/arrivals.py). A round asks the prompt lanes about a point and goes on when
half of their rows have answered and the others take twice as long: a partial barrier (Zhang and Kwok 2014, ICML). What
comes late is taken when it comes. Lanes that are known to be slow are not asked about points that the next round will
leave behind: to answer a bad question would keep them from a good one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels
from clusterglm.glm.families.family import Family

Array = NDArray[np.float64]
_LATE = 2.0  # times as long as the quickest half of the rows
_HALF = 0.4  # of the rows: one of two workers has it, also where the other one has a chunk more
_NOTICED = 0.1  # seconds later than they, below which nobody is called slow


class Lane(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Arrivals(Protocol):
    """What lanes are asked through (data/arrivals.py)."""

    lanes: Sequence[Lane]

    def now(self) -> float: ...
    def ask(self, lanes: Sequence[int], kernel: Callable[..., tuple[Any, ...]], *args: Any) -> None: ...
    def come(self, seconds: float) -> list[tuple[int, Any]]: ...
    def total(self, answers: Any) -> tuple[Any, ...]: ...
    def close(self) -> None: ...


@dataclass
class Report:
    """What a lane found at ``beta``, the point of number ``step``: its shares of weight, mean loss, gradient (p,) and
    Hessian (p, p) or None, and its ``answer`` while that may become a part of a pass."""

    step: int
    beta: Array
    weight: float
    loss: float
    gradient: Array
    hessian: Array | None
    answer: Any

    def slope(self, beta: Array) -> Array:
        """Return the gradient of its quadratic model at ``beta``, (p,)."""
        found: Array = self.gradient + self.bend @ (beta - self.beta)
        return found

    @property
    def bend(self) -> Array:
        """The Hessian of a report that was asked for it."""
        assert self.hessian is not None
        return self.hessian


@dataclass(frozen=True)
class Round:
    """One line of the trace: when it ended, how far it ``moved`` in the Hessian's norm from the point before, whether
    all lanes answered (``exact``), and how many points ago each lane was last heard of, -1 for never."""

    seconds: float
    moved: float
    exact: bool
    ages: list[int]


@dataclass
class _Question:
    step: int
    beta: Array
    hessian: bool
    asked: float


@dataclass
class Lanes:
    """The lanes of one fit and what they said. ``weight`` is W; ``asked_rows`` are those of the last round."""

    arrivals: Arrivals
    weight: float
    step: int = -1
    reports: dict[int, Report] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    asked_rows: int = 0

    def __post_init__(self) -> None:
        self.lanes = self.arrivals.lanes
        self._busy: dict[int, _Question] = {}
        self._seconds = [lane.seconds for lane in self.lanes]
        self._began = self.arrivals.now()

    def take(self, arrivals: Arrivals) -> Lanes:
        """Return lanes of other columns of the same rows: of what these know, how fast they are is of use to them."""
        self.close()
        other = Lanes(arrivals, self.weight, rounds=self.rounds)
        if len(other.lanes) == len(self.lanes):
            other._seconds = self._seconds
        other._began = self._began
        return other

    @property
    def prompt(self) -> list[int]:
        """The lanes that are not known to be slow."""
        known = [0.0 if math.isnan(s) else s for s in self._seconds]
        half, reached = _HALF * sum(lane.rows for lane in self.lanes), 0
        quickest = 0.0
        for i in sorted(range(len(known)), key=known.__getitem__):
            reached, quickest = reached + self.lanes[i].rows, known[i]
            if reached >= half:
                break
        limit = max(_LATE * quickest, quickest + _NOTICED)
        return [i for i, s in enumerate(known) if s <= limit]

    @property
    def fresh(self) -> list[int]:
        """The lanes whose report is about the newest point."""
        return [i for i, report in sorted(self.reports.items()) if report.step == self.step]

    @property
    def complete(self) -> bool:
        return len(self.fresh) == len(self.lanes)

    def ask(self, family: Family, beta: Array, hessian: bool, everybody: bool = False, moved: float = np.nan) -> None:
        """Ask about ``beta`` (p,), a new point, and hear what comes: of the prompt lanes, or of all and wait for them.

        ``moved`` is for the trace.
        """
        self.step += 1
        for report in self.reports.values():
            report.answer = None
        wanted = list(range(len(self.lanes))) if everybody else self.prompt
        self.asked_rows = 0
        try:
            self._send([i for i in wanted if i not in self._busy], family, beta, hessian)
            self._hear(wanted, family, beta, hessian, everybody)
        except BaseException:
            self.close()
            raise
        ages = [self.step - self.reports[i].step if i in self.reports else -1 for i in range(len(self.lanes))]
        self.rounds.append(Round(self.arrivals.now() - self._began, float(moved), self.complete, ages))

    def sums(self) -> tuple[Any, ...]:
        """Return the sums of all lanes at the newest point as a pass has them, the sum of weights last; and then those
        of each lane in W, stacked, (N, ...) each."""
        reports = [self.reports[i] for i in range(len(self.lanes))]
        whole = self.arrivals.total([report.answer for report in reports])
        parts = [[r.loss for r in reports], [r.gradient for r in reports]]
        if reports[0].hessian is not None:
            parts.append([r.hessian for r in reports])
        return *whole, *(np.array(part) for part in parts), np.array([r.weight for r in reports])

    def close(self) -> None:
        """Wait for nobody any more."""
        self.arrivals.close()
        self._busy.clear()

    def _send(self, lanes: list[int], family: Family, beta: Array, hessian: bool) -> None:
        if not lanes:
            return
        self.arrivals.ask(lanes, kernels.weighed, kernels.hessian if hessian else kernels.gradient, family, beta)
        for lane in lanes:
            self._busy[lane] = _Question(self.step, beta, hessian, self.arrivals.now())
            self.asked_rows += self.lanes[lane].rows

    def _hear(self, wanted: list[int], family: Family, beta: Array, hessian: bool, everybody: bool) -> None:
        began, half, late = self.arrivals.now(), sum(self.lanes[i].rows for i in wanted) / 2, math.inf
        missing = set(wanted)
        while missing:
            left = late - self.arrivals.now()
            if left <= 0:
                return
            for lane, answer in self.arrivals.come(left):
                question = self._busy.pop(lane)
                self._take(lane, question, answer)
                missing -= {lane} if question.step == self.step else set()
            # Who has answered an older question is free for this one.
            self._send([i for i in sorted(missing) if i not in self._busy], family, beta, hessian)
            if not everybody and math.isinf(late) and sum(self.lanes[i].rows for i in self.fresh) >= half:
                now = self.arrivals.now()
                late = max(began + _LATE * (now - began), now + _NOTICED)

    def _take(self, lane: int, question: _Question, answer: Any) -> None:
        sums = (np.asarray(v, dtype=np.float64) / self.weight for v in self.arrivals.total([answer]))
        loss, gradient, *H, weight = sums
        kept = answer if question.step == self.step else None
        found = H[0] if H else None
        self.reports[lane] = Report(question.step, question.beta, float(weight), float(loss), gradient, found, kept)
        if question.hessian or math.isnan(self._seconds[lane]):
            self._seconds[lane] = self.arrivals.now() - question.asked
