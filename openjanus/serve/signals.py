"""Signals that end the server: SIGTERM, SIGHUP and SIGINT (Ctrl-C).

    until it serves: the process ends at once ─► while it serves: the server decides ─► when it has ended: ignored

Handlers are there before anything slow begins: process 1 of a container has no others, and a signal without a handler
would be lost. No torch here.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDING = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]


@contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """`handler` gets the number of each signal inside. Behind it signals are ignored, since the process is about to
    end; if something fails inside, the handlers from before are back. Only the main thread can hear signals: nothing
    happens in another. A SIGHUP that nohup(1) ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in ENDING if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]

    def call(number: int, _: Any) -> None:
        handler(number)

    before = {number: signal.signal(number, call) for number in numbers}
    try:
        yield
    except BaseException:
        for number, old in before.items():
            signal.signal(number, old)
        raise
    for number in before:
        signal.signal(number, signal.SIG_IGN)


def end_at_once(number: int) -> None:
    """For a process that owes nobody an answer yet."""
    with suppress(OSError):
        os.write(2, f"ended by {signal.Signals(number).name} before the server was there\n".encode())
    leave(128 + number)


def leave(code: int) -> None:
    """Ends the process without waiting for threads: one that computes would abort the interpreter's own end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
