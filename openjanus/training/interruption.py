"""Ctrl-C and SIGTERM while a training runs: the step is finished and saved, then the program ends.

    training        first signal ─► the step ends ─► checkpoint ─► exit      second signal ─► exit at once
    previewing      first signal ─► exit at once: the checkpoint holds everything

It exits as if nobody had listened: KeyboardInterrupt for Ctrl-C, SystemExit 143 for SIGTERM.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

NOTICE = b"\ninterrupted: finishing the step, then saving; once more ends at once\n"


class Interruption:
    """Entered, it listens to both signals, unless it is outside the main thread or a signal was ignored before.

    requested: the signal that asks for the end. saved: whether nothing would be lost if the program ended now.
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
        """Ends the program if a signal came. Call it when everything is saved."""
        if self.requested is not None:
            _end(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.saved or self.requested is not None:
            _end(number)
        self.requested = number
        os.write(2, NOTICE)  # not print: the signal may have come in the middle of one


def _end(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
