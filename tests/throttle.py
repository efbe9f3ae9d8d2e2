"""A worker that is really slow: its process is stopped and let go on again, many times a second."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_PERIOD = 0.05  # seconds from one stop to the next


@contextlib.contextmanager
def throttled(pid: int, share: float = 0.1) -> Iterator[None]:
    """Let the process ``pid`` run for ``share`` of the time only."""
    over = threading.Event()

    def alternate() -> None:
        while not over.wait(_PERIOD * share):
            os.kill(pid, signal.SIGSTOP)
            over.wait(_PERIOD * (1 - share))
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
