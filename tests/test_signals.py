"""A signal is one KeyboardInterrupt, wherever it strikes, and what runs afterwards is not struck again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import clusterglm
from clusterglm import signals
from clusterglm.errors import Interrupted
from clusterglm.progress import Silent

HEAD = """
import asyncio, gc, os, signal, time
from clusterglm import signals

def strike(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    [0 for _ in range(10)]

class Struck:
    def __set_name__(self, owner, name):
        strike()

signals.listen()
"""


def said(program: str) -> tuple[int, str, str]:
    """Return how a program ends, and what it prints, of which ``HEAD`` is the beginning."""
    done = subprocess.run([sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


def test_a_signal_in_the_making_of_a_class_is_raised_when_it_is_made() -> None:
    program = """
try:
    class Made:
        member = Struck()
    print("made")
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""
    assert said(program) == (0, "made\ninterrupted\n", "")


def test_what_was_to_be_raised_later_is_not_raised_beside_another_signal() -> None:
    program = """
try:
    class Made:
        member = Struck()
    strike(signal.SIGTERM)
except KeyboardInterrupt:
    time.sleep(0.3)
    print("cleaned up")
"""
    assert said(program) == (0, "cleaned up\n", "")


def test_what_was_to_be_raised_later_changes_no_exit_code() -> None:
    program = """
import atexit
atexit.register(time.sleep, 0.3)
class Made:
    member = Struck()
signals.ignore()
raise SystemExit(3)
"""
    assert said(program) == (3, "", "")


@pytest.mark.parametrize("numbers", ["INT", "INT TERM", "TERM HUP INT"])
def test_signals_at_once_are_one_and_whatever_follows_the_block_has_its_time(numbers: str) -> None:
    program = f"""
numbers = [getattr(signal, "SIG" + name) for name in "{numbers}".split()]
try:
    with signals.one_interruption(seconds=0.2):
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        signal.pause()
except KeyboardInterrupt:
    strike()
    time.sleep(0.5)  # longer than what the block had left
    print("cluster down")
"""
    assert said(program) == (0, "cluster down\n", "")


def test_a_block_that_does_not_end_is_left() -> None:
    program = """
with signals.one_interruption(seconds=0.2):
    try:
        strike()
    finally:
        time.sleep(20)
"""
    assert said(program) == (130, "", "")


def test_a_signal_that_nobody_heard_at_birth_stays_unheard() -> None:
    program = "signal.signal(signal.SIGHUP, signal.SIG_IGN); signals.listen(); strike(signal.SIGHUP); print('goes on')"
    assert said(program) == (0, "goes on\n", "")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_signal_cancels_a_coroutine_which_cleans_up(stubborn: bool) -> None:
    cleaned = []

    async def main() -> str:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            cleaned.append("up")
            if not stubborn:
                raise
        return "done"

    with pytest.raises(KeyboardInterrupt):
        signals.run(main())
    assert cleaned == ["up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_ends_a_coroutine_that_does_not_end() -> None:
    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        signals.run(main())
    assert time.monotonic() - began < 30


def test_a_coroutine_returns_what_it_does_in_any_thread() -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        return 42

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(signals.run(main())))
    thread.start()
    thread.join()
    assert [*found, signals.run(main())] == [42, 42]


def test_no_signal_is_lost_in_a_busy_loop() -> None:
    """Raised in the loop's own code, it leaves one in a hundred waiting for ever."""
    program = """
import random
signals.ENDING += (signal.SIGALRM,)
signals.listen()

async def hand(mine, other):
    while True:
        await other.put(await mine.get())

async def busy():
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 0.01))
    pairs = [(asyncio.Queue(), asyncio.Queue()) for _ in range(20)]
    for pair in pairs:
        pair[0].put_nowait(0)
    await asyncio.gather(*(hand(*pair[::way]) for pair in pairs for way in (1, -1)))

for _ in range(100):
    try:
        signals.run(busy())
    except KeyboardInterrupt:
        pass
print("ended")
"""
    assert said(program) == (0, "ended\n", "")


@pytest.mark.parametrize("second", [False, True])
def test_a_coroutine_is_cancelled_in_a_block_that_has_one_interruption(second: bool) -> None:
    program = f"""
async def main():
    try:
        strike()
        await asyncio.sleep(20)
    finally:
        if {second}:
            strike()
        await asyncio.sleep(0.1)
        print("removed")
try:
    with signals.one_interruption(seconds=10):
        signals.run(main())
except KeyboardInterrupt:
    strike()
    print("interrupted")
"""
    assert said(program) == (0, "interrupted\n" if second else "removed\ninterrupted\n", "")


def test_a_handler_that_raises_nothing_has_heard_it_too() -> None:
    program = """
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

async def main():
    strike(signal.SIGTERM)
    await asyncio.sleep(20)
try:
    signals.run(main())
except KeyboardInterrupt:
    strike(signal.SIGTERM)
    print("interrupted", heard)
"""
    assert said(program) == (0, "interrupted [15, 15]\n", "")


class Interrupting(Silent):
    """A fit's progress that strikes in the making of a class, as lazy imports make them, at the second iteration."""

    def __init__(self) -> None:
        self.iterations = 0

    def iteration(self, *_: object) -> None:
        self.iterations += 1
        if self.iterations == 2:

            class Struck:
                def __set_name__(self, owner: type, name: str) -> None:
                    os.kill(os.getpid(), signal.SIGINT)
                    [0 for _ in range(10)]

            class Made:
                member = Struck()

            time.sleep(1)


@pytest.mark.slow
def test_a_fit_from_python_is_interrupted_in_the_making_of_a_class(shared_client: object, tmp_path: object) -> None:
    told = {"solver": "gradient_descent", "rows": 1e5, "columns": 4, "tol": 1e-6, "out": f"{tmp_path}/run"}
    with pytest.raises(Interrupted) as struck:
        clusterglm.fit(shared_client, progress=Interrupting(), **told)  # type: ignore[arg-type]
    assert struck.value.resumable
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
