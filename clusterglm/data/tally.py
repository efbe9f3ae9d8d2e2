"""How a pass goes on: workers tell, at most once a second each, how many more rows they have done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from clusterglm.data.chunk import Held

if TYPE_CHECKING:
    from distributed import Client

_TOPIC = "clusterglm-rows"  # one for all fits: the scheduler keeps the last events of every topic that there ever was
_SECONDS = 1.0

OnRows = Callable[[int, int, float], object]


class Tally:
    """Adds up what the workers tell about a round and hands it on as ``on_rows(done, total, seconds)``.

    That happens in the client's own thread, for whoever waits for the round waits in the other.
    """

    def __init__(self, client: Client, total: int, on_rows: OnRows) -> None:
        self.client, self.total, self.on_rows = client, total, on_rows
        self.round, self.done, self.since = "", 0, 0.0
        client.subscribe_topic(_TOPIC, self._hear)

    def begin(self, name: str) -> str:
        """Begin a round of this name, and return it."""
        self.round, self.done, self.since = name, 0, time.monotonic()
        return name

    def close(self) -> None:
        self.round = ""
        if self.client.status == "running":
            self.client.unsubscribe_topic(_TOPIC)

    def _hear(self, event: tuple[float, Any]) -> None:
        name, rows = event[1]
        if name == self.round:
            self.done += rows
            self.on_rows(self.done, self.total, time.monotonic() - self.since)


def counted(chunks: Iterable[Held], name: str) -> Iterator[Held]:
    """Yield the chunks, and tell about the rows of those that are done with."""
    from distributed import get_worker

    told, rows = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        rows += len(chunk)
        if time.monotonic() - told >= _SECONDS:
            get_worker().log_event(_TOPIC, (name, rows))
            told, rows = time.monotonic(), 0
