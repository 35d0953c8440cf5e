"""Pictures as they lie in users' files. They are read when they are needed, not when the files are listed."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from openjanus.processing.image import DATA_URL, data_url_bytes, read_image

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class Stored(Protocol):
    """A picture somewhere in a file: `name` for errors, `stamp` changes when the file does."""

    @property
    def name(self) -> str: ...

    @property
    def stamp(self) -> str: ...

    def read(self) -> bytes:
        """The bytes of the picture's file. Raises OSError or ValueError if they cannot be read."""
        ...


@dataclass(frozen=True)
class FilePicture:
    """A picture in a file of its own, or a part of another file: `size` bytes from `offset`."""

    path: Path
    offset: int = 0
    size: int | None = None
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def stamp(self) -> str:
        state = os.stat(self.path)
        return f"{state.st_size}:{state.st_mtime_ns}"

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read() if self.size is None else file.read(self.size)


@dataclass(frozen=True)
class InlinePicture:
    """A picture that was inside a record: a data URL, or bytes."""

    name: str
    content: str | bytes
    stamp: str = ""

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else data_url_bytes(self.content)


@dataclass(frozen=True)
class CellPicture:
    """A picture in a table whose cells are read one by one: `cell()` gives its bytes."""

    name: str
    stamp: str
    cell: Callable[[], bytes]

    def read(self) -> bytes:
        return self.cell()


def open_picture(stored: Stored) -> Image.Image:
    """As RGB (processing/image.py). Raises ValueError that names the file if it cannot be read."""
    try:
        content = stored.read()
    except FileNotFoundError:
        raise ValueError(f"{stored.name}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{stored.name}: cannot be read ({error})") from None
    return read_image(BytesIO(content), stored.name)


def digest_of(content: bytes) -> str:
    """A hash of a picture's bytes, or of a text's: equal contents have equal digests."""
    return hashlib.sha256(content).hexdigest()[:32]


def find_picture(value: Any, folder: Path, where: str) -> Stored:
    """The picture that a cell of a record names: a path from `folder`, a data URL, bytes, or {"bytes", "path"}.

    Raises ValueError for anything else.
    """
    if isinstance(value, dict) and set(value) <= {"bytes", "path", "url"}:
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, bytes):
        return InlinePicture(f"{where}, picture", value)
    if isinstance(value, str) and DATA_URL.match(value):
        return InlinePicture(f"{where}, picture", value)
    if isinstance(value, str) and value.lower().startswith(("http://", "https://")):
        raise ValueError(f"{value[:80]}: no remote pictures are loaded; download it, and give its path")
    if isinstance(value, str) and value.strip():
        return FilePicture(folder / value)
    raise ValueError(f"a picture is {type(value).__name__} {str(value)[:40]!r}; expected the path of a file")
