"""Messages and progress bars on stderr; stdout is for results."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# No markup, because paths may contain brackets; no wrapping, so that a path can be copied.
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of a command: `with progress_bar("drawing") as report: report(done, total)`.

    On a terminal it is a bar that disappears at the end; else, as in a log file, a line every ten seconds.
    """
    if not console.is_terminal:
        yield _lines(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(name: str) -> Callable[[int, int], None]:
    shown_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > SECONDS_BETWEEN_LINES:
            console.print(f"{name} {done}/{total}")
            shown_at = time.monotonic()

    return report
