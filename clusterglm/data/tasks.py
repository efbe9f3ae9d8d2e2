"""The tasks of a round on a Dask cluster: where each is to run, what it does with chunks, whose fault an error is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clusterglm.data import tally
from clusterglm.data.chunk import Held, Kernel, subtotals
from clusterglm.data.rows import Step, each_in
from clusterglm.data.tree import Node, push

if TYPE_CHECKING:
    from distributed import Client, Future

_LARGE = 50_000  # bytes of what every task of a map is told, above which it travels by itself, and once


class Share(NamedTuple):
    """The chunks, by their indices, that one task works on, and the worker that holds them ("" where nobody knows).

    ``lies`` tells whether every one has been seen there.
    """

    worker: str
    chunks: tuple[int, ...]
    lies: bool = False


class Done(NamedTuple):
    """Where a task ran, how many seconds it took there, and what it found; ``gone`` if not the chunks themselves."""

    worker: str
    seconds: float
    result: Any
    gone: bool = False


def map_where(
    client: Client,
    function: Callable[..., Any],
    items: Sequence[Any],
    keys: Sequence[str],
    workers: Sequence[str] | None,
    **words: Any,
) -> list[Future]:
    """Map ``function`` over ``items``, each on the worker that is wished for it ("" for any), a wish and not a pin."""
    from dask import annotate
    from dask.sizeof import sizeof

    # Dask makes a task of a large word, too, but under the word's own name and without a priority, and fails on it.
    told = {
        name: client.submit(_itself, word, key=f"told-{keys[0]}-{name}") if sizeof(word) > _LARGE else word
        for name, word in words.items()
    }
    if workers is None:
        return client.map(function, items, key=list(keys), pure=False, **told)  # type: ignore[no-any-return]
    homes = {key: [home] if home else [] for key, home in zip(keys, workers, strict=True)}
    # One call for all of them, for each costs the scheduler more than a millisecond.
    with annotate(workers=homes.__getitem__, allow_other_workers=True):
        return client.map(function, items, key=list(keys), pure=False, **told)  # type: ignore[no-any-return]


def waited(futures: Collection[Future], seconds: float, until: str = "ALL_COMPLETED") -> bool:
    """Wait as long as that, and say whether all have come, or one with ``until="FIRST_COMPLETED"``."""
    from distributed import wait

    try:
        wait(futures, timeout=seconds, return_when=until)
    except TimeoutError as error:
        # Dask's error and the frame that raised it hold one another, and so all frames from here to the fit: their sums
        # would stay in memory until the garbage collector looks at old objects, which it seldom does.
        error.__traceback__ = None
        return False
    return True


def _itself(word: Any) -> Any:
    return word


def retried() -> tuple[type[BaseException], ...]:
    """Return the classes of errors that tell of the cluster, not of the data."""
    from distributed import KilledWorker
    from distributed.client import ClosedClientError, FutureCancelledError, FuturesCancelledError
    from distributed.scheduler import NoValidWorkerError, NoWorkerError

    return (
        KilledWorker,
        StaleBlame,
        NoWorkerError,
        NoValidWorkerError,
        FutureCancelledError,
        FuturesCancelledError,
        ClosedClientError,
        TimeoutError,
        asyncio.TimeoutError,
        OSError,
    )


class StaleBlame(Exception):
    """A task did not run because Dask blames another, and does not know for what any more.

    That is so (distributed 2026.8) where two of the tasks that a chunk is made from died with one worker and were let
    try again: one behind them keeps the blame, and hands it on to all that come, until nothing holds it any more.
    """


def results(client: Client, futures: list[Future]) -> list[Any]:
    """Return what these tasks, all done, have returned. Raises what they raised, or ``StaleBlame``."""
    if any(future.status == "error" and future.exception() is None for future in futures):
        raise StaleBlame("what died with a worker is blamed for ever")
    return client.gather(futures)  # type: ignore[no-any-return]


def raise_own_error(futures: list[Future]) -> None:
    """Raise what the kernel or the loader raised, if one did: a loader's OSError looks like a lost connection."""
    from distributed import KilledWorker
    from distributed.scheduler import NoValidWorkerError, NoWorkerError

    clusters_own = (KilledWorker, NoWorkerError, NoValidWorkerError)
    for future in futures:
        own = future.exception() if future.status == "error" else None
        if own is not None and not isinstance(own, clusters_own):
            raise own


def on_share(
    work: tuple[list[Held] | tuple[str, ...], list[Any] | None],
    call: Callable[..., Any],
    told: str | None,
    words: dict[str, Any],
) -> Done:
    """Return what ``call`` makes of the chunks and their items.

    ``told`` is the name of the round for those who are told how it goes on. A tuple has the names of the chunks, under
    which this worker has them in memory; where it does not, nothing is fetched or done: the sender sends another.
    """
    from distributed import get_worker

    worker, began = get_worker(), time.perf_counter()
    chunks, items = work
    if isinstance(chunks, tuple):
        # Of a worker that spills, what it has in memory: two threads that read one thing back are in each other's way
        # (zict 3), and the other is the worker's own.
        held = getattr(worker.data, "fast", worker.data)
        try:
            chunks = [held[name] for name in chunks]
        except KeyError:
            return Done(worker.address, 0.0, None, gone=True)
    result = call(chunks if told is None else tally.counted(chunks, told), items, **words)
    return Done(worker.address, time.perf_counter() - began, result)


def lengths(chunks: Iterable[Held], _: None) -> list[int]:
    return [len(chunk) for chunk in chunks]


def sums(chunks: Iterable[Held], _: None, kernel: Kernel, args: tuple[Any, ...]) -> list[Node]:
    nodes: list[Node] = []
    for chunk in chunks:
        for node in subtotals(chunk, kernel, args):
            push(nodes, node)
    return nodes


def each(
    chunks: Iterable[Held], states: list[list[Any]], step: Step, args: tuple[Any, ...], problem_rows: int
) -> list[tuple[int, tuple[list[Any], int]]]:
    """Return (first row, (results, reads)) of every chunk."""
    return [
        (chunk.start, each_in(chunk, step, own, args, problem_rows)) for chunk, own in zip(chunks, states, strict=True)
    ]
