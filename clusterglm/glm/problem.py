"""A problem: rows x family x penalty. It counts passes over the data, the unit of cost on a cluster.

    P(beta) = (1/W) sum_i w_i l(y_i, eta_i) + Omega(beta),    W = sum_i w_i,  eta_i = offset_i + a_i' beta

Every pass goes through here and is written into a journal. Because passes give the same bits wherever they run, a fit
that was cut off resumes by running its solver again on the recorded passes, and goes on with new ones where the
journal ends: no solver needs to know how to save itself. Sums for which the journal has no room, as those of many local
problems with many columns, are made again. The first recorded pass is made once more, because rows can
change while nothing about their files does: another answer than the recorded one is an error. Nor does a solver need to
count: a pass beyond the limit is not made, whoever asks for it.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels
from clusterglm.glm.families.family import Family
from clusterglm.glm.lanes import Lanes, Round
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.penalties.quadratic import minimise

Array = NDArray[np.float64]
Total = tuple[Array, ...]
_JOURNAL_BYTES = 2**28  # of sums to keep, which are written at every checkpoint
_ROUNDED = 1e-9  # relative: far above what rounding does to sums of 1e9 rows, and to no answer does less matter


class Rows(Protocol):
    """The verbs of rows, in memory or on a cluster (data/rows.py)."""

    @property
    def rows(self) -> int: ...
    @property
    def local_problems(self) -> int: ...
    def sum(self, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> tuple[Any, ...]: ...
    def each(self, step: Callable[..., Any], states: Sequence[Any], *args: Any) -> tuple[list[Any], int]: ...


@dataclass(frozen=True)
class Ranges:
    """The shares of a point that local problems or lanes have: weight W_c / W (N,), gradient (N, p), Hessian (N, p, p)
    or None."""

    weight: Array
    gradient: Array
    hessian: Array | None

    def take(self, columns: NDArray[np.intp]) -> Ranges:
        H = None if self.hessian is None else self.hessian[:, columns[:, None], columns]
        return Ranges(self.weight, self.gradient[:, columns], H)


@dataclass(frozen=True)
class Point:
    """Coefficients and what a pass found there: mean loss f, its gradient (p,) and Hessian (p, p) or None, P.

    ``parts`` are the shares of local problems, or of lanes (lanes.py), and ``diagonal`` (p,) is that of the Hessian,
    where they were asked for.
    With ``share`` < 1 the Hessian is that of some rows, which have this share of W. It is as good for a step, and
    share x Hessian bounds the Hessian of all rows from below: what is left out is positive semi-definite.
    """

    beta: Array
    loss: float
    gradient: Array
    hessian: Array | None
    objective: float
    parts: Ranges | None = None
    diagonal: Array | None = None
    share: float = 1.0

    @property
    def curvatures(self) -> Array:
        """The Hessian's diagonal, (p,), of a point that was asked for it or for the Hessian."""
        if self.diagonal is not None:
            return self.diagonal
        assert self.hessian is not None
        return np.diag(self.hessian)

    @property
    def ranges(self) -> Ranges:
        """The local problems' shares of a point that was asked for them."""
        assert self.parts is not None
        return self.parts


@dataclass(frozen=True)
class Recorded:
    """One pass in a journal: how many readings of the rows it was, what was asked (a digest), and the sums; None in
    place of those that were too large to keep, which are made again."""

    passes: int
    key: str
    total: Total | None


@dataclass(frozen=True)
class Solution:
    """Where a solver ended and why: a status of the stopping rule, or ``stalled`` when no step makes progress."""

    point: Point
    status: str


class OutOfPasses(Exception):
    """A pass was asked for beyond the limit; the fit ends at the last recorded iterate."""


class OtherRows(Exception):
    """The rows are not those whose sums a journal holds."""


class Problem:
    """What a solver is handed. No more than ``limit`` passes are made; there is none until it is set.

    Parameters
    ----------
    rows : Rows
        Where the data are.
    family : Family
    penalty : Penalty
    weight : float
        W, the sum of the rows' weights.
    journal : sequence of Recorded, optional
        Passes of an earlier, interrupted run of the same fit; from the first one that this run does not ask for on,
        they are forgotten.
    on_pass : callable, optional
        Called with this problem after every new pass.
    passes : int
        Passes made before, over the same rows.
    sample : Rows, optional
        Some of the rows, in this process: they steer a solver and cost no pass.
    read : int
        How many of these passes this process has made, and not a journal.

    Hessians that need not be exact are those of one in ``every`` micro-blocks; 1 until it is set. A ``gauge`` is added
    to all of them (softmax.py).
    """

    def __init__(
        self,
        rows: Rows,
        family: Family,
        penalty: Penalty,
        weight: float,
        journal: Sequence[Recorded] = (),
        on_pass: Callable[[Problem], None] | None = None,
        passes: int = 0,
        sample: Rows | None = None,
        read: int = 0,
    ) -> None:
        self.rows, self.family, self.penalty, self.weight = rows, family, penalty, weight
        self.passes, self.sample, self.read = passes, sample, read
        self.limit, self.every = math.inf, 1
        self.gauge: Array | None = None
        self.journal: list[Recorded] = []
        self._recorded = deque(journal)
        self._kept = 0
        self._unverified = bool(self._recorded)
        self._known: dict[str, Total] = {}
        self._on_pass = on_pass
        self._lanes: Lanes | None = None
        self._step: tuple[Point, Penalty, Array] | None = None
        self._rows_read = 0

    @property
    def local_problems(self) -> int:
        return self.rows.local_problems

    @property
    def left(self) -> float:
        """How many passes may still be made."""
        return self.limit - self.passes

    @property
    def replaying(self) -> bool:
        return bool(self._recorded)

    def take(self, columns: NDArray[np.intp]) -> None:
        """Leave all other columns out of the model."""
        self.rows, self.penalty = Columns(self.rows, columns), self.penalty.take(columns)
        if self._lanes is not None:
            self._lanes = self._lanes.take(self.rows.arrivals())
        self.sample = self.sample and Columns(self.sample, columns)

    def know(self, kernel: Callable[..., tuple[Any, ...]], args: tuple[Any, ...], sums: tuple[Any, ...]) -> None:
        """Keep sums that the first look brought, and write them into the journal: who asks for them makes no pass.

        Raises
        ------
        OtherRows
            The journal's first sums are those of others.
        """
        key, total = _digest(kernel, args), _arrays(sums)
        if self._recorded and self._recorded[0].key == key:
            recorded = self._recorded.popleft()
            assert recorded.total is not None  # the first of them always are
            self._verify(recorded.total, (0, total))
            total = recorded.total
        self._known[key] = total
        self._write(Recorded(0, key, total))

    def sum(self, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> Total:
        """Return the sums of any kernel over all rows, as arrays: one pass."""
        return self._pass(_digest(kernel, args), lambda: (1, self.rows.sum(kernel, *args)))

    def sum_over(self, rows: Rows, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> Total:
        """Return the sums over the same rows with other columns: one pass."""
        return self._pass(_digest(kernel, args), lambda: (1, rows.sum(kernel, *args)))

    def each(self, step: Callable[..., tuple[Any, ...]], states: Sequence[Any], *args: Any) -> Total:
        """Run ``step(rows, state, *args)`` on every local problem; return its entries stacked, (N, ...) each.

        Counts as many passes as the busiest local problem made over its rows, known once they are made: a step with
        more than one may end beyond the limit.
        """

        def run() -> tuple[int, tuple[Any, ...]]:
            results, passes = self.rows.each(step, states, *args)
            return passes, tuple(np.stack([np.asarray(r[k]) for r in results]) for k in range(len(results[0])))

        return self._pass(_digest(step, (*states, *args)), run)

    def at(self, beta: Array, hessian: bool = False, ranges: bool = False, exact: bool = False) -> Point:
        """Return loss and gradient at ``beta`` (p,), with the Hessian and the local problems' shares if asked for.

        One pass. An ``exact`` Hessian is that of all rows.
        """
        if hessian and self.every > 1 and not (exact or ranges):
            return self._at_share(beta)
        kernel = kernels.hessian if hessian else kernels.gradient
        if not ranges:
            total, *sums = self.sum(kernel, self.family, beta)
            return self.point(beta, total, *sums)
        losses, *sums, weights = self.each(_range_sums, [None] * self.local_problems, kernel, self.family, beta)
        gradient, H = (s / self.weight for s in sums) if hessian else (sums[0] / self.weight, None)
        parts = Ranges(weights / self.weight, gradient, H)
        return replace(self.point(beta, losses.sum(), *(s.sum(axis=0) for s in sums)), parts=parts)

    @property
    def rounds(self) -> list[Round]:
        """What the lanes were asked, and how old their answers were."""
        return [] if self._lanes is None else self._lanes.rounds

    @property
    def lanes(self) -> Lanes:
        """The rows as they lie with the worker threads, to be asked one by one: who does counts what they read."""
        if self._lanes is None:
            self._lanes = Lanes(self.rows.arrivals(), self.weight)  # type: ignore[attr-defined]
        return self._lanes

    def at_lanes(self, beta: Array) -> Point:
        """Return loss, gradient and Hessian at ``beta`` (p,), with the shares of the lanes: one pass."""
        point = self.ask_lanes(beta, hessian=True, everybody=True)
        assert point is not None
        return point

    def ask_lanes(self, beta: Array, hessian: bool, everybody: bool = False, moved: float = np.nan) -> Point | None:
        """Ask the lanes about ``beta`` (p,), a point that has ``moved`` so far; return it where all have answered.

        Then it was a pass; else as much of one as there were rows to read.
        """
        if self.left < 1:
            raise OutOfPasses
        sizes = [lane.rows for lane in self.lanes.lanes]
        key = _digest(Lanes.ask, (self.family, beta, hessian, sizes))
        kernel = kernels.hessian if hessian else kernels.gradient
        if self._recorded and self._recorded[0].key == key:
            if self._unverified and (then := self._recorded[0].total) is not None:
                now = self.rows.sum(kernels.weighed, kernel, self.family, beta)
                self._verify(then[: len(then) // 2], (1, now))
        else:
            self.lanes.ask(self.family, beta, hessian, everybody, moved)
            if not self.lanes.complete:
                whole, self._rows_read = divmod(self._rows_read + self.lanes.asked_rows, self.rows.rows)
                self.passes, self.read = self.passes + whole, self.read + whole
                return None
        # Where a journal is read again no lane is under way: these sums cannot be made anew.
        sums = self._pass(key, lambda: (1, self.lanes.sums()), always=True)
        (total, gradient, *H, _), (_, *parts, weights) = sums[: len(sums) // 2], sums[len(sums) // 2 :]
        shares = Ranges(weights, parts[0], parts[1] if H else None)
        return replace(self.point(beta, total, gradient, *H), parts=shares)

    def _at_share(self, beta: Array) -> Point:
        kernel, args = kernels.hessian_at(self.family, beta, self.every)
        total, gradient, H, weight = self.sum(kernel, *args)
        share = float(weight) / self.weight
        H = H / share if share > 0 else np.full_like(H, np.nan)
        return replace(self.point(beta, total, gradient, H), share=share)

    def at_diagonal(self, beta: Array) -> Point:
        """Return loss, gradient and the Hessian's diagonal at ``beta`` (p,), for more columns than a Hessian may have.

        One pass.
        """
        total, gradient, diagonal = self.sum(kernels.diagonal, self.family, beta)
        return replace(self.point(beta, total, gradient), diagonal=diagonal / self.weight)

    def at_both(self, first: Array, second: Array) -> tuple[Point, Point]:
        """Return loss and gradient at two points, in one pass."""
        losses, gradients = self.sum(kernels.gradient, self.family, np.column_stack([first, second]))
        return tuple(self.point(b, losses[k], gradients[:, k]) for k, b in enumerate((first, second)))  # type: ignore[return-value]

    def step(self, point: Point) -> Array:
        """Return the step to the minimum of the quadratic model at a point that carries a Hessian, (p,).

        That of the last point is kept: its certificate and the solver ask for the same one.
        """
        if self._step is None or self._step[0] is not point or self._step[1] is not self.penalty:
            assert point.hessian is not None
            found = minimise(point.hessian, point.gradient, point.beta, self.penalty) - point.beta
            self._step = point, self.penalty, found
        return self._step[2]

    def bend(self, beta: Array, step: Array) -> Array:
        """Return what the sample says of the Hessian at ``beta + step`` less that at ``beta``, (p, p)."""
        assert self.sample is not None
        (*_, H, weight), (*_, H_there, _) = (
            self.sample.sum(kernels.weighed, kernels.hessian, self.family, b) for b in (beta, beta + step)
        )
        with np.errstate(invalid="ignore"):  # infinite there, on both sides: nothing is known
            change: Array = (H_there - H) / weight
        return change

    def objectives(self, candidates: Array) -> Array:
        """Return P at the columns of ``candidates`` (p, K), in one pass."""
        (losses,) = self.sum(kernels.loss, self.family, candidates)
        values: Array = losses / self.weight + np.array([self.penalty.value(b) for b in candidates.T])
        return values

    def point(self, beta: Array, total: Any, gradient: Array, hessian: Array | None = None) -> Point:
        """Return the point at which a kernel found these sums over the rows."""
        W = self.weight
        loss = float(total) / W
        H = None if hessian is None else hessian / W if self.gauge is None else hessian / W + self.gauge
        return Point(beta, loss, gradient / W, H, loss + self.penalty.value(beta))

    def _pass(self, key: str, run: Callable[[], tuple[int, tuple[Any, ...]]], always: bool = False) -> Total:
        """Return the sums, and write them into the journal as long as there is room, or ``always``."""
        if key in self._known:
            return self._known.pop(key)
        if self.left < 1:
            raise OutOfPasses
        if self._recorded and self._recorded[0].key != key:
            self._recorded.clear()  # another tolerance, say, has taken another way from here
        replayed = self._recorded.popleft() if self._recorded else None
        if replayed is not None and replayed.total is not None:
            record, total = replayed, replayed.total
            if self._unverified:
                self._verify(total, run())
        else:
            passes, sums = run()
            total = _arrays(sums)
            self.read += passes
            size = self._kept + sum(entry.nbytes for entry in total)
            # The first of them tells whether the rows are still the same.
            kept = always or not self.journal or size <= _JOURNAL_BYTES
            record = Recorded(passes, key, total if kept else None)
        self._write(record)
        return total

    def _write(self, record: Recorded) -> None:
        self._kept += sum(entry.nbytes for entry in record.total or ()) if self.journal else 0
        self.passes += record.passes
        self.journal.append(record)
        if not self._recorded and self._on_pass is not None:
            self._on_pass(self)

    def _verify(self, recorded: Total, made: tuple[int, tuple[Any, ...]]) -> None:
        """Hold recorded sums against those of the rows as they are now; another processor may round differently.

        Raises
        ------
        OtherRows
            They are others.
        """
        passes, sums = made
        self._unverified = False
        self.read += passes
        for then, now in zip(recorded, _arrays(sums), strict=True):
            room = _ROUNDED * np.max(np.abs(then), initial=0.0)
            if then.shape != now.shape or not np.allclose(now, then, rtol=_ROUNDED, atol=room, equal_nan=True):
                raise OtherRows


def _range_sums(rows: Rows, _: None, kernel: Callable[..., Any], family: Family, beta: Array) -> tuple[Any, ...]:
    return rows.sum(kernels.weighed, kernel, family, beta)


def _arrays(sums: tuple[Any, ...]) -> Total:
    return tuple(np.asarray(getattr(s, "largest", s), dtype=np.float64) for s in sums)


def _digest(function: Callable[..., Any], args: Sequence[Any]) -> str:
    """Return what tells one pass from another: the kernel's name and every number that it is given."""
    digest = hashlib.sha256(function.__name__.encode())
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        if isinstance(arg, list | tuple):
            waiting[:0] = arg
        elif isinstance(arg, np.ndarray | float | int):
            digest.update(np.ascontiguousarray(arg, dtype=np.float64).tobytes())
        elif isinstance(arg, Family):
            digest.update(repr(arg).encode())
        elif callable(arg):
            digest.update(getattr(arg, "__name__", type(arg).__name__).encode())
    return digest.hexdigest()[:16]


class Columns:
    """Rows of which only some columns are in the model; the others' coefficients are 0."""

    def __init__(self, rows: Rows, columns: NDArray[np.intp]) -> None:
        self._all, self.columns = rows, columns

    @property
    def rows(self) -> int:
        return self._all.rows

    @property
    def local_problems(self) -> int:
        return self._all.local_problems

    def sum(self, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> tuple[Any, ...]:
        return self._all.sum(kernels.on_columns, self.columns, kernel, *args)

    def each(self, step: Callable[..., Any], states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        return self._all.each(_step_on_columns, states, self.columns, step, *args)

    def arrivals(self) -> Any:
        return _ArrivalsOfColumns(self._all.arrivals(), self.columns)  # type: ignore[attr-defined]


class _ArrivalsOfColumns:
    """Arrivals of rows of which only some columns are in the model."""

    def __init__(self, arrivals: Any, columns: NDArray[np.intp]) -> None:
        self._all, self._columns = arrivals, columns
        self.lanes, self.come, self.close = arrivals.lanes, arrivals.come, arrivals.close
        self.total, self.now = arrivals.total, arrivals.now

    def ask(self, lanes: Sequence[int], kernel: Callable[..., tuple[Any, ...]], *args: Any) -> None:
        self._all.ask(lanes, kernels.on_columns, self._columns, kernel, *args)


def _step_on_columns(rows: Rows, state: Any, columns: NDArray[np.intp], step: Callable[..., Any], *args: Any) -> Any:
    return step(Columns(rows, columns), state, *args)
