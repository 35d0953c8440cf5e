"""Ctrl-C and SIGTERM during a training: the step is finished, a checkpoint is saved, and the program ends.

    training        first signal ─► the step ends ─► checkpoint ─► exit      second signal ─► exit at once
    previewing      first signal ─► exit at once: the checkpoint is complete

Ctrl-C raises KeyboardInterrupt, SIGTERM SystemExit 143.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

NOTICE = b"\ninterrupted: finishing the step, then saving; once more ends at once\n"


class Interruption:
    """A context that handles both signals, unless outside the main thread or for signals that were ignored before.

    requested: the signal that arrived. saved: whether all progress is saved.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.saved = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as the shell sets it for background jobs
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def end_if_requested(self) -> None:
        """Ends the program if a signal arrived. Call it after saving."""
        if self.requested is not None:
            _end(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.saved or self.requested is not None:
            _end(number)
        self.requested = number
        os.write(2, NOTICE)  # not print: the signal may have interrupted one


def _end(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
