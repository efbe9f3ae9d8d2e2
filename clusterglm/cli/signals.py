"""How a signal ends a command: as a ``KeyboardInterrupt``, raised where it gets out and stays what it is.

Everything below catches that one exception and no other for a signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from clusterglm.errors import INTERRUPTED, RESUMABLE

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLEANING_SECONDS = 4.0  # after a signal
_A_MOMENT = 0.01  # seconds


def listen() -> None:
    """Let these signals interrupt this process from now on, but for those that it was born deaf to (nohup)."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _swallowed


def ignore() -> None:
    """Let none of these signals reach this process any more."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def one_interruption(checkpoint: Path | None = None, seconds: float = _CLEANING_SECONDS) -> Iterator[None]:
    """Let the first signal end the command, and no second one the cleaning up after it, which has a time limit instead.

    ``checkpoint`` is the file that says that the work can go on.
    """

    def leave() -> None:
        os._exit(RESUMABLE if checkpoint is not None and checkpoint.exists() else INTERRUPTED)

    def interrupt_once(number: int, frame: FrameType | None) -> None:
        for name in ours:
            signal.signal(name, signal.SIG_IGN)
        watch = threading.Timer(seconds, leave)
        watch.daemon = True
        watch.start()
        _interrupt(number, frame)

    ours = [name for name in ENDING if signal.getsignal(name) is _interrupt]
    for name in ours:
        signal.signal(name, interrupt_once)
    yield
    for name in ours:
        signal.signal(name, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Raise ``KeyboardInterrupt``, but not in the making of a class: Python before 3.12 makes a RuntimeError of it."""
    at = frame
    while at is not None:
        if at.f_code.co_name == "__set_name__":
            _again()
            return
        at = at.f_back
    raise KeyboardInterrupt


def _swallowed(event: Any) -> None:
    """Take note of an error out of a place that raises none, such as a callback of the garbage collector."""
    if event.exc_type is KeyboardInterrupt:
        _again()
    else:
        sys.__unraisablehook__(event)


def _again() -> None:
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, _A_MOMENT)
