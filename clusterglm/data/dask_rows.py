"""Rows held on the workers of a Dask cluster, and the round that survives the loss of any of them.

Rows are tasks with a recipe, never scattered data: a lost chunk is made again. Coefficients travel by value. A round is
a barrier with a limit that runs from the last task that finished; on trouble the round is tried again from the same
coefficients, under new keys, because Dask blames innocent tasks for the death of a worker and never forgets. What a
kernel or a loader raises itself is bad data or a bug, and is not tried again.

A pass is one task a worker thread, over all the chunks that lie with it. It finds them there by name: were it to wait
for them, the scheduler would look at every one in every pass, and its cost grow with their number. Where one has gone
meanwhile, the task says so, and another waits for the chunks of that share. When a task had to wait for chunks or has
run elsewhere than they lay, or a round had to be tried again, the chunks are asked for their places anew. When workers
have come or gone, each takes its share (placement.py): Dask by itself gives no rows to those that come, and its
``rebalance`` moves none unless its scheduler was started for that.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from clusterglm.data import tally, tasks
from clusterglm.data.arrivals import DaskArrivals
from clusterglm.data.chunk import Kernel
from clusterglm.data.chunks import Plan
from clusterglm.data.placement import place
from clusterglm.data.rows import Step
from clusterglm.data.tasks import Done, Share, map_where, on_share, raise_own_error, results, retried, waited
from clusterglm.data.tree import first_block, fold
from clusterglm.errors import ClusterError
from clusterglm.scheduler import known_workers

if TYPE_CHECKING:
    from distributed import Client, Future

_ATTEMPTS = 30
_LONGEST_BACK_OFF = 2.0  # seconds
_GLANCE = 2.0  # seconds between looks at a round that goes on
_SETTLED = 2.0  # seconds between looks at who the workers are
_ASKED = 10.0  # seconds between two wishes for workers, which may wait in a queue
_MOVES = 5  # tries to spread the chunks evenly when workers have come or gone
_ROUND_LIMIT = 150.0  # seconds without any task finishing: above twice the worker-ttl of 60 s
_round_number = itertools.count()

Make = Callable[["Client", Sequence[int], int, Sequence[str] | None], "list[Future]"]


class DaskRows:
    """Rows as one future a chunk.

    Parameters
    ----------
    client : Client
        The cluster.
    make : callable
        ``make(client, indices, generation, workers)`` submits the chunks of these indices, each for the worker that is
        wished for it, and returns their futures.
    plan : Plan
        Sizes of chunks and local problems.
    locate : callable
        From a global row to the words that say where it came from.
    ask_for : callable, optional
        Asks the cluster's launcher for this many workers; None where somebody else started the cluster.
    most : int, optional
        The most workers that it is asked for; fewer where there are fewer chunks. By default those of the plan.
    on_rows : callable, optional
        ``on_rows(done, total, seconds)`` is called about once a second in a long pass.
    limit : float
        Seconds without any task finishing after which a round counts as stuck.
    """

    def __init__(
        self,
        client: Client,
        make: Make,
        plan: Plan,
        locate: Callable[[int], str],
        ask_for: Callable[[int], object] | None = None,
        on_rows: tally.OnRows | None = None,
        limit: float = _ROUND_LIMIT,
        most: int | None = None,
    ) -> None:
        self.client, self.make, self.plan, self.locate = client, make, plan, locate
        self.ask_for, self.limit, self.most = ask_for, limit, most
        threads_each = max(1, plan.threads // max(1, plan.workers))
        self.wanted = plan.workers if most is None else min(most, math.ceil(plan.chunks / threads_each))
        self.address = client.scheduler.address  # which a client that has lost it no longer knows
        self.rows, self.columns = plan.rows, plan.columns
        self.local_problems, self.nbytes = plan.local_problems, plan.bytes
        self.generation = 0
        self.tasks = 0
        self.troubles: list[str] = []
        self.chunks: list[Future] = []
        self._shares: list[Share] = []
        self._homes: list[str | None] = [None] * plan.chunks  # where each was last wished for
        self._threads: dict[str, int] = {}
        self._looked, self._moves, self._asked = 0.0, 0, -math.inf
        self._pace: dict[str, float] = {}  # seconds a row, of every worker in the last pass
        self._tally = None if on_rows is None else tally.Tally(client, plan.rows, on_rows)

    def load(self) -> DaskRows:
        """Make all chunks and wait for them. Raises what a loader raised: ``DataError`` for bad data."""
        self._threads, self._looked = self._workers(), time.monotonic()
        self._keep()
        homes = place(self._homes, self._threads) if self._threads else None
        self._homes = list(homes or self._homes)
        self.chunks = self.make(self.client, range(self.plan.chunks), 0, homes)
        self.tasks += len(self.chunks)
        self._shares = [Share("", (i,)) for i in range(len(self.chunks))]
        self._round(tasks.lengths)
        # Where a chunk is made is a wish; who was offered more than their share would keep it.
        self._shares, self._looked, self._moves = [], 0.0, _MOVES
        return self

    def sum(self, kernel: Kernel, *args: Any) -> tuple[Any, ...]:
        nodes = self._round(tasks.sums, kernel=kernel, args=args)
        return fold(sorted(itertools.chain(*nodes), key=first_block))

    def each(self, step: Step, states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        size = self.plan.local_rows
        per_chunk = self.plan.chunk_rows // size
        of_chunk = [list(states[i : i + per_chunk]) for i in range(0, len(states), per_chunk)]
        found = dict(itertools.chain(*self._round(tasks.each, of_chunk, step=step, args=args, problem_rows=size)))
        parts = [found[first] for first in sorted(found)]
        return [result for results, _ in parts for result in results], max(reads for _, reads in parts)

    def arrivals(self) -> DaskArrivals:
        """Return the shares of the worker threads, whose sums come one by one."""
        return DaskArrivals(self)

    def shares(self) -> list[Share]:
        """Return the chunks of every worker thread as they lie now."""
        self._settle()
        self._shares = self._shares or self._share_out()
        return self._shares

    def rows_of(self, share: Share) -> int:
        """Return how many rows a share has."""
        size = self.plan.chunk_rows
        return sum(min(size, self.rows - i * size) for i in share.chunks)

    def expected(self, share: Share) -> float:
        """Return how many seconds a share took in the last pass; nan where nobody knows."""
        return self._pace.get(share.worker, math.nan) * self.rows_of(share)

    def begin(self, shares: Sequence[Share], kernel: Kernel, args: tuple[Any, ...]) -> list[Future]:
        """Submit the sums of these shares, once their chunks are there; return futures of ``Done`` with sub-trees."""
        words = {"kernel": kernel, "args": args}
        waiting = [share._replace(lies=False) for share in shares]
        return self._begin(f"arrival-{_new_name()}", tasks.sums, waiting, [None] * len(shares), words)

    def spread(self) -> dict[str, int]:
        """Return how many chunks lie on each worker, by address."""
        workers = Counter(dict.fromkeys(self._workers(), 0))
        workers.update(holder for holder in self._holders() if holder is not None)
        return dict(workers)

    def close(self) -> None:
        """Let the workers forget the rows."""
        if self._tally is not None:
            self._tally.close()
        self.client.cancel(self.chunks, force=True)
        self.chunks = []

    def _round(self, function: Callable[..., Any], of_chunk: Sequence[Any] | None = None, **words: Any) -> list[Any]:
        """Return ``function(chunks, items, **words)`` of every share, ``items`` being those of its chunks."""
        for attempt in range(_ATTEMPTS):
            futures: list[Future] = []
            try:
                shares = self.shares()
                told = None if self._tally is None else self._tally.begin(_new_name())
                found = self._found(function, shares, of_chunk, words, told, futures)
                self._pace = {
                    done.worker: done.seconds / self.rows_of(share) for share, done in zip(shares, found, strict=True)
                }
                if any(
                    share.worker != done.worker or not share.lies for share, done in zip(shares, found, strict=True)
                ):
                    self._shares = []
                return [done.result for done in found]
            except retried() as error:
                raise_own_error(futures)
                self.recover(futures, error, attempt)
        raise ClusterError("cluster", self.address, f"{_ATTEMPTS} tries of one round failed: {self.troubles[-1]}")

    def _found(
        self,
        function: Callable[..., Any],
        shares: Sequence[Share],
        of_chunk: Sequence[Any] | None,
        words: dict[str, Any],
        told: str | None,
        futures: list[Future],
    ) -> list[Done]:
        """Return what the tasks of these shares have done, and add their futures to ``futures``."""
        items = [None if of_chunk is None else [of_chunk[i] for i in share.chunks] for share in shares]
        begun = self._begin(f"{function.__name__}-{_new_name()}", function, shares, items, words, told)
        futures += begun
        self._barrier(begun)
        found: list[Done] = results(self.client, begun)
        gone = [i for i, done in enumerate(found) if done.gone]
        if gone:
            self._shares = []
            waiting = [shares[i]._replace(lies=False) for i in gone]
            for i, done in zip(gone, self._found(function, waiting, of_chunk, words, told, futures), strict=True):
                found[i] = done
        return found

    def _begin(
        self,
        prefix: str,
        call: Callable[..., Any],
        shares: Sequence[Share],
        items: Sequence[Any],
        words: dict[str, Any],
        told: str | None = None,
    ) -> list[Future]:
        keys = [f"{prefix}-{i}" for i in range(len(shares))]
        chunks = [[self.chunks[i] for i in share.chunks] for share in shares]
        work = [
            (tuple(chunk.key for chunk in own) if share.lies else own, item)
            for share, own, item in zip(shares, chunks, items, strict=True)
        ]
        # Rows in memory that a task waits for draw it to them. Others weigh nothing, and the wish must be said.
        drawn = self.plan.storage == "memory"
        homes = ["" if drawn and not share.lies else share.worker for share in shares]
        futures = map_where(self.client, on_share, work, keys, homes, call=call, told=told, words=words)
        self.tasks += len(futures)
        return futures

    def _workers(self) -> dict[str, int]:
        """Return the threads of every worker, by address."""
        found = known_workers(self.client)
        return {address: worker["nthreads"] for address, worker in found.items()}

    def _held(self, lost: Collection[int] = ()) -> list[Collection[str]]:
        """Return the workers that hold each chunk.

        Nobody is asked about those that are known to be ``lost``: of one that was cancelled Dask says nothing else.
        """
        held = self.client.who_has([chunk for i, chunk in enumerate(self.chunks) if i not in lost])
        return [held.get(chunk.key, ()) for chunk in self.chunks]

    def _holders(self, lost: Collection[int] = (), held: Sequence[Collection[str]] | None = None) -> list[str | None]:
        """Return where every chunk lies, of several places the one that it was made for; None for nowhere.

        What is not in memory weighs nothing, and lies wherever its tasks are sent: nobody is asked about it.
        """
        if self.plan.storage != "memory":
            return [home if home in self._threads else None for home in self._homes]
        places = zip(self._homes, self._held(lost) if held is None else held, strict=True)
        return [home if home in found else min(found, default=None) for home, found in places]

    def _settle(self) -> None:
        """Give every worker its share of the chunks when workers have come or gone.

        Dask takes where a chunk is to be made for a wish, and may move it afterwards: up to ``_MOVES`` tries a change.
        """
        if time.monotonic() - self._looked < _SETTLED:
            return
        self._looked, threads = time.monotonic(), self._workers()
        self._keep()
        if threads and threads != self._threads:
            self._threads, self._moves = threads, _MOVES
        if not threads or not self._moves:
            return
        holders = self._holders()
        homes = place(holders, threads)
        moved = [i for i, home in enumerate(homes) if home != holders[i]]
        if moved:
            self._moves -= 1
            self._shares = []
            self._make_again(moved, homes)

    def _keep(self, at_work: bool = False) -> None:
        """Ask for the workers that are missing, or between two passes for fewer where some can have no work."""
        if self.ask_for is None or time.monotonic() - self._asked < _ASKED:
            return
        self._asked, present = time.monotonic(), len(self._workers())
        if present < self.wanted or (self.most is not None and present > self.wanted and not at_work):
            self.ask_for(self.wanted)

    def _make_again(self, indices: list[int], homes: Sequence[str] | None) -> None:
        """Replace these chunks by new ones, made where ``homes`` has a worker for every chunk."""
        self.generation += 1
        wished = None if homes is None else [homes[i] for i in indices]
        for i, chunk in zip(indices, self.make(self.client, indices, self.generation, wished), strict=True):
            self.chunks[i], self._homes[i] = chunk, None if homes is None else homes[i]
        self.tasks += len(indices)

    def _share_out(self) -> list[Share]:
        """Return the chunks of every worker thread, neighbours together; a chunk that is nowhere is one by itself."""
        threads, held = self._workers(), self._held()
        of_worker: dict[str, list[int]] = {}
        shares = []
        for i, holder in enumerate(self._holders(held=held)):
            if holder in threads:
                of_worker.setdefault(holder, []).append(i)
            else:
                shares.append(Share("", (i,)))
        for address, chunks in of_worker.items():
            count = min(threads[address], len(chunks))
            cuts = [k * len(chunks) // count for k in range(count + 1)]
            for a, b in itertools.pairwise(cuts):
                own = tuple(chunks[a:b])
                shares.append(Share(address, own, all(address in held[i] for i in own)))
        return shares

    def _barrier(self, futures: list[Future]) -> None:
        """Wait for all; raise TimeoutError when nothing has finished for ``limit`` seconds, or nothing ever will."""
        done, since, stranded = -1, time.monotonic(), False
        while not waited(futures, min(_GLANCE, self.limit)):
            self._keep(at_work=True)
            finished = sum(future.done() for future in (*self.chunks, *futures))
            before, stranded = stranded, self._stranded()
            if finished != done:
                done, since = finished, time.monotonic()
            elif before and stranded:
                raise TimeoutError("nobody does what was wished for workers that have gone")
            elif time.monotonic() - since >= self.limit:
                raise TimeoutError(f"no task finished in {self.limit:.0f} s")

    def _stranded(self) -> bool:
        """Whether a lost chunk is being made by nobody, or nobody does anything, although there are workers at work.

        When all workers die at once, Dask does not offer what was wished for one of them to those that come after: a
        chunk that they had, one that they were to make, and a task over their chunks.
        """
        if not any(worker["status"] == "running" for worker in known_workers(self.client).values()):
            return False
        made = {key for keys in self.client.processing().values() for key in keys}
        return not made or not {chunk.key for chunk in self.chunks if chunk.status == "lost"} <= made

    def recover(self, futures: list[Future], error: BaseException, attempt: int) -> None:
        """Put back what is lost, so that the round can be tried again. Raises ClusterError without a scheduler."""
        self.troubles.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".strip(": "))
        if self.client.status != "running":
            # A client reconnects by itself only where it was told to; its scheduler is gone for good here.
            raise ClusterError("cluster", self.address, "the scheduler is gone") from error
        self.client.cancel(futures, force=True)
        self._shares = []
        time.sleep(min(0.1 * 2**attempt, _LONGEST_BACK_OFF))
        lost = [i for i, chunk in enumerate(self.chunks) if chunk.status not in ("finished", "pending")]
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            lost = [i for i, chunk in enumerate(self.chunks) if chunk.status != "finished"]
        if isinstance(error, tasks.StaleBlame):
            lost = list(range(len(self.chunks)))  # chunks in memory hold the task that has it
        if lost:
            threads, holders = self._workers(), self._holders(set(lost))
            for i in lost:
                holders[i] = None
            # What a chunk is made from may have keys of its own, which fail as they did before while anything holds
            # them: this chunk, or one in memory that was made from them too.
            self._forgive([self.chunks[i].key for i in lost if self.chunks[i].status == "error"])
            self.client.cancel([self.chunks[i] for i in lost], force=True)
            self._make_again(lost, place(holders, threads) if threads else None)
        if self.ask_for is not None and len(known_workers(self.client)) < self.wanted:
            self.ask_for(self.wanted)

    def _forgive(self, keys: list[Any]) -> None:
        """Let what these keys failed by be tried again."""
        if keys:
            with suppress(KeyError):  # the scheduler has forgotten one meanwhile: all the better
                # Not client.retry, which stumbles over keys that are not a client's own (distributed 2025).
                self.client.sync(self.client.scheduler.retry, keys=keys, client=self.client.id)


def _new_name() -> str:
    return f"{next(_round_number)}-{time.time_ns():x}"
