"""Signals that end the server: SIGTERM, SIGHUP and SIGINT (Ctrl-C).

    before serving: the process ends at once ─► while serving: the server decides ─► after serving: ignored

Handlers are installed before anything slow begins: process 1 of a container has no default handlers, so a signal would
be lost. This module does not import torch.
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
    """Within this context `handler` is called with the number of each signal. After it signals are ignored, since the
    process is about to end; after an exception the previous handlers are restored. Outside the main thread, which
    cannot set handlers, it has no effect. A SIGHUP that nohup(1) ignores stays ignored."""
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
    """The handler for a process that does not serve requests yet."""
    with suppress(OSError):
        os.write(2, f"ended by {signal.Signals(number).name} before the server was ready\n".encode())
    leave(128 + number)


def leave(code: int) -> None:
    """Ends the process without waiting for threads: a thread inside torch would abort the interpreter's shutdown."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
