"""Checks of files and folders that commands make before any long work starts."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def check_folder(folder: Path) -> None:
    """Makes the folder and writes a probe into it. Raises ValueError if either fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".openjanus-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{folder}: cannot write there ({error.strerror})") from None


@contextmanager
def folder_to_write(folder: Path) -> Iterator[None]:
    """As `check_folder`, around the work; a folder that was not there before goes again if the work fails."""
    is_new = not folder.exists()
    check_folder(folder)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise
