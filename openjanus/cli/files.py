"""Checks of output folders before any long work starts."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def check_folder(folder: Path) -> None:
    """Makes the folder and creates a test file in it. Raises ValueError if either fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".openjanus-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{folder}: cannot write into it ({error.strerror})") from None


@contextmanager
def folder_to_write(folder: Path) -> Iterator[None]:
    """`check_folder` as a context: if the work fails, a folder that was made here is removed if it is empty."""
    is_new = not folder.exists()
    check_folder(folder)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise
