"""Sums one by one as they come, for solvers that wait for nobody.

Rows lie in lanes: the chunks of one worker thread, which works on one question at a time. ``ask`` puts a question to
some lanes, and ``come`` waits for any that have an answer. An answer is the lane's sub-trees of the fixed tree
(tree.py): those of all lanes at one point, put together by ``total``, have the bits of a pass.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clusterglm.data.chunk import Kernel, subtotals
from clusterglm.data.tree import Node, first_block, fold
from clusterglm.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Future

    from clusterglm.data.dask_rows import DaskRows
    from clusterglm.data.rows import LocalRows
    from clusterglm.data.tasks import Share

_ATTEMPTS = 30
_GLANCE = 2.0  # seconds between looks at what goes on


class Lane(NamedTuple):
    """The worker whose thread it is ("" in this process), its rows, the seconds of its last pass, nan if unknown."""

    name: str
    rows: int
    seconds: float


def total(answers: Iterable[list[Node]]) -> tuple[Any, ...]:
    """Return the sums over several lanes, of each its answer at the same point."""
    return fold(sorted(itertools.chain(*answers), key=first_block))


class LocalArrivals:
    """Rows in this process: one lane, which has its answer as soon as it is asked."""

    total = staticmethod(total)
    now = staticmethod(time.perf_counter)

    def __init__(self, rows: LocalRows) -> None:
        self._rows = rows
        self.lanes = [Lane("", rows.rows, math.nan)]
        self._asked: list[tuple[Kernel, tuple[Any, ...]]] = []

    def ask(self, lanes: Sequence[int], kernel: Kernel, *args: Any) -> None:
        self._asked += [(kernel, args) for _ in lanes]

    def come(self, seconds: float) -> list[tuple[int, list[Node]]]:  # noqa: ARG002  nothing to wait for
        answers = [(0, subtotals(self._rows.chunk, kernel, args)) for kernel, args in self._asked]
        self._rows.reads += len(answers)
        self._asked = []
        return answers

    def close(self) -> None:
        self._asked = []


class DaskArrivals:
    """Rows on workers: a lane for each thread, as the chunks lay when this was made.

    Where they have moved since, a lane is worked on elsewhere. Its answer is the same.
    """

    total = staticmethod(total)
    now = staticmethod(time.perf_counter)

    def __init__(self, rows: DaskRows) -> None:
        self._rows = rows
        self._questions: dict[int, tuple[Kernel, tuple[Any, ...]]] = {}  # of every lane that has not answered yet
        self._futures: dict[Future, int] = {}
        self._heard, self._attempt = time.monotonic(), 0
        self._shares: list[Share] = []
        while not self._shares:
            self._shares = self._tried(rows.shares) or []
        self.lanes = [Lane(share.worker, rows.rows_of(share), rows.expected(share)) for share in self._shares]

    def ask(self, lanes: Sequence[int], kernel: Kernel, *args: Any) -> None:
        """Ask these lanes, none of which has a question yet, for the kernel's sums over their rows."""
        self._heard = time.monotonic()
        self._questions |= dict.fromkeys(lanes, (kernel, args))
        self._tried(lambda: self._submit(lanes))

    def come(self, seconds: float) -> list[tuple[int, list[Node]]]:
        """Return the answers that there are, after ``seconds`` without any none; what was lost is asked again.

        Raises
        ------
        ClusterError
            The scheduler is gone, or what is lost is lost again and again.
        """
        until = time.monotonic() + seconds
        while True:
            answers: list[tuple[int, list[Node]]] | None = self._tried(lambda: self._ready(until))
            if answers is not None:
                return answers
            if time.monotonic() >= until:
                return []

    def close(self) -> None:
        """Let go of what nobody waits for any more."""
        self._rows.client.cancel(list(self._futures), force=True)
        self._futures.clear()
        self._questions.clear()

    def _submit(self, lanes: Sequence[int]) -> None:
        open_questions = {id(self._questions[lane]): self._questions[lane] for lane in lanes}
        for question in open_questions.values():
            own = [lane for lane in lanes if self._questions[lane] is question]
            futures = self._rows.begin([self._shares[lane] for lane in own], *question)
            self._futures |= dict(zip(futures, own, strict=True))

    def _ready(self, until: float) -> list[tuple[int, list[Node]]] | None:
        """Return what has come, None for nothing within a glance."""
        from clusterglm.data.tasks import results, waited

        glance = max(min(_GLANCE, until - time.monotonic()), 0.0)
        if not waited(list(self._futures), glance, "FIRST_COMPLETED"):
            if time.monotonic() - self._heard > self._rows.limit:
                raise TimeoutError(f"no task finished in {self._rows.limit:.0f} s")
            return None
        done = [future for future in self._futures if future.done()]
        answers = [answer.result for answer in results(self._rows.client, done)]
        self._heard, self._attempt = time.monotonic(), 0
        lanes = [self._futures.pop(future) for future in done]
        for lane in lanes:
            del self._questions[lane]
        return list(zip(lanes, answers, strict=True))

    def _tried(self, action: Callable[[], Any]) -> Any:
        """Return what ``action`` does; None where it met trouble, and all open questions were asked anew."""
        from clusterglm.data.tasks import raise_own_error, retried

        while True:
            try:
                return action()
            except retried() as error:
                self._attempt += 1
                futures = list(self._futures)
                raise_own_error(futures)
                if self._attempt > _ATTEMPTS:
                    told = f"{_ATTEMPTS} tries of one question failed: {self._rows.troubles[-1]}"
                    raise ClusterError("cluster", self._rows.address, told) from error
                self._rows.recover(futures, error, self._attempt)
                self._futures.clear()
                self._heard = time.monotonic()
                action = self._ask_again

    def _ask_again(self) -> None:
        self._submit(list(self._questions))
