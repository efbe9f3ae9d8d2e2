"""A worker that is really slow: its process is stopped and let go on again, many times a second."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_TICK = 0.01  # seconds between two looks
_BUSY = 0.1  # of a core, above which a process is at work
_MEMORY = 0.05  # weight of the last look in the mean


@contextlib.contextmanager
def throttled(pid: int, others: Sequence[int], share: float = 0.1) -> Iterator[None]:
    """Give the process ``pid`` no more than ``share`` of the processor time that the ``others`` have while they work.

    So it is as much slower than they on a busy machine as on one that has nothing else to do.
    """
    over = threading.Event()

    def hold() -> None:
        allowed, speed, stopped = 0.0, 1.0, False
        at, own, theirs = time.monotonic(), _seconds(pid), [_seconds(other) for other in others]
        while not over.wait(_TICK):
            before, at = at, time.monotonic()
            now = [_seconds(other) for other in others]
            rates = [(b - a) / (at - before) for a, b in zip(theirs, now, strict=True)]
            working = [rate for rate in rates if rate > _BUSY]
            if working:
                speed += _MEMORY * (sum(working) / len(working) - speed)
            allowed, theirs = allowed + share * speed * (at - before), now
            used, own = _seconds(pid) - own, _seconds(pid)
            allowed -= used
            if (allowed < 0) != stopped:
                stopped = not stopped
                os.kill(pid, signal.SIGSTOP if stopped else signal.SIGCONT)
            allowed = min(allowed, share * _TICK)  # what was not used is not saved up

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _seconds(pid: int) -> float:
    """Return the processor time of all threads of a process."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9
