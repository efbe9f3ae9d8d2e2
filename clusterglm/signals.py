"""How a signal ends the work: as a ``KeyboardInterrupt``, raised where it gets out and stays what it is.

Everything else catches that one exception and no other for a signal.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from clusterglm.errors import INTERRUPTED, RESUMABLE

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLEANING_SECONDS = 4.0  # after a signal
_A_MOMENT = 0.01  # seconds

T = TypeVar("T")
_later: object = None  # stands for a signal that could not be raised and is to be sent once more


def listen() -> None:
    """Let these signals interrupt this process from now on, but for those that it was born deaf to (nohup)."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _swallowed


def ignore() -> None:
    """Let none of these signals reach this process any more."""
    for number in (*ENDING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def one_interruption(checkpoint: Path | None = None, seconds: float = _CLEANING_SECONDS) -> Iterator[None]:
    """Let the first signal end the block, and no second one its cleaning up, which has a time limit instead.

    ``checkpoint`` is the file that says that the work can go on.
    """
    over = False

    def leave() -> None:
        if not over:
            os._exit(RESUMABLE if checkpoint is not None and checkpoint.exists() else INTERRUPTED)

    def interrupt_once(number: int, frame: FrameType | None) -> None:
        if not _makes_a_class(frame):
            for name in ours:
                signal.signal(name, signal.SIG_IGN)
            watch = threading.Timer(seconds, leave)
            watch.daemon = True
            watch.start()
        _interrupt(number, frame)

    ours = [name for name in ENDING if signal.getsignal(name) is _interrupt]
    try:
        for name in ours:
            signal.signal(name, interrupt_once)
        yield
    finally:
        over = True  # and no watch.cancel(), which takes a lock that a signal may have left taken
    for name in ours:
        signal.signal(name, _interrupt)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C in a block that others call be nothing but a KeyboardInterrupt, unless they have a handler for it."""
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Return what ``main`` does, as ``asyncio.run``, whose loop may wait for ever when an exception meets its own code.

    A signal cancels ``main``, and is raised when that has cleaned up, for which it has its time; a second one is raised
    at once.
    """
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(main)
    struck: list[int] = []
    over = False
    task: asyncio.Task[Any] | None = None

    async def cancellable() -> T:
        nonlocal task
        task = asyncio.current_task()
        if struck:  # before there was a task to be cancelled
            raise asyncio.CancelledError
        return await main

    def cancel(number: int, frame: FrameType | None) -> None:
        if over or struck:
            restore()
            before[number](number, frame)
            return
        struck.append(number)
        if task is not None and not task.done():
            task.cancel()
            task.get_loop().call_soon_threadsafe(lambda: None)  # wakes it

    def restore() -> None:
        nonlocal over
        over = True
        for number, handler in before.items():
            if signal.getsignal(number) is cancel:
                signal.signal(number, handler)

    before: dict[int, Any] = {n: handler for n in ENDING if callable(handler := signal.getsignal(n))}
    try:
        for number in before:
            signal.signal(number, cancel)
        return asyncio.run(cancellable())
    finally:
        raised = over
        restore()
        if inspect.getcoroutinestate(main) == inspect.CORO_CREATED:
            main.close()
        if struck and not raised:
            before[struck[0]](struck[0], None)
            raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise ``KeyboardInterrupt``, but not in the making of a class: Python before 3.12 makes a RuntimeError of it."""
    global _later
    if _makes_a_class(frame):
        _send_again(number)
        return
    _later = None
    raise KeyboardInterrupt


def _makes_a_class(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__set_name__":
            return True
        frame = frame.f_back
    return False


def _swallowed(event: Any) -> None:
    """Take note of an error out of a place that raises none, such as a callback of the garbage collector."""
    if event.exc_type is KeyboardInterrupt:
        signal.signal(signal.SIGALRM, _interrupt)
        _send_again(signal.SIGALRM)
    elif "ignored due to race condition" not in str(event.exc_value):  # one of two at once, ignored since the first
        sys.__unraisablehook__(event)


def _send_again(number: int) -> None:
    global _later
    main, _later = threading.main_thread().ident, (mine := object())

    def send() -> None:
        if _later is mine:
            signal.pthread_kill(main, number)  # type: ignore[arg-type]

    timer = threading.Timer(_A_MOMENT, send)
    timer.daemon = True
    timer.start()
