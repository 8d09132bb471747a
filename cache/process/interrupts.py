"""Signals that ask a run to end: Ctrl-C, SIGTERM (a batch system, a container), SIGHUP (a dropped connection).

A command unwinds on each of them, so that nothing stays behind; SIGHUP that was ignored on entry, as under nohup, stays ignored.
Processes that a command starts do not hear them: the command ends them.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """`handler` for every stopping signal, the handlers before at the end. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = [number for number in STOPPING if not (number == signal.SIGHUP and ignored)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def unwinding() -> Iterator[threading.Event]:
    """The first stopping signal raises KeyboardInterrupt, and so does every Ctrl-C; others (a shell and the kernel both hang up)
    do not disturb the cleaning up. Gives an event that the first of them sets.
    """
    heard = threading.Event()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if not heard.is_set() or number == signal.SIGINT:
            heard.set()
            raise KeyboardInterrupt

    with handling(interrupt):
        yield heard


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """A process started in here never hears a stopping signal, not even before it can say so: the parent handles them.

    They reach the whole group (a terminal, a batch system), and a worker that died of one would cost what it has in hand.
    """
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # it unblocks some of them when it starts
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def be_deaf() -> None:
    """In a child: ignore the stopping signals."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
