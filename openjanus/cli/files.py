"""Checks of files and folders that commands make before any long work starts."""

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
