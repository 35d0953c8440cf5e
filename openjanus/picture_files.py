"""Drawings to files: PNG with the prompt and settings inside, and a contact sheet for several.

No file is ever overwritten: a name that exists gets a number, `two-red-apples-seed1-0-2.png`.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from openjanus.inference.sampling import SamplingOptions

CELL_PX = 192
GAP_PX = 8
PAPER = (245, 245, 245)
MAX_ON_SHEET = 256
MAX_NAME_LETTERS, MAX_NAME_BYTES = 60, 180  # file systems end at 255 bytes; seed, numbers and ending need some of them


class PictureFolder:
    """Writes pictures into a folder, each whole or not at all, and none over a file that exists."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._numbers: Counter[str] = Counter()  # of the last file of each name: many equal names take linear time

    def save(self, image: Image.Image, name: str, prompt: str, options: SamplingOptions, index: int) -> Path:
        """Writes a drawing as `name.png`, or with a number if there is one; its PNG text holds prompt, settings and
        number within the request. Returns the path."""
        return self._write(image, name, _info(prompt, options, index))

    def save_sheet(self, images: Sequence[Image.Image], name: str) -> Path:
        """All pictures on one sheet, as square as it goes."""
        return self._write(contact_sheet(images), name, None)

    def _write(self, image: Image.Image, name: str, info: PngInfo | None) -> Path:
        draft = self.folder / f".{name}.draft-{os.getpid()}"
        try:
            image.save(draft, "PNG", pnginfo=info)
            path = self._claim(name)
            try:
                draft.replace(path)
            except OSError:
                path.unlink()
                raise
        finally:
            draft.unlink(missing_ok=True)
        return path

    def _claim(self, name: str) -> Path:
        """An empty file that was not there before, whoever else writes into the folder."""
        while True:
            self._numbers[name] += 1
            number = self._numbers[name]
            path = self.folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            try:
                path.touch(exist_ok=False)
                return path
            except FileExistsError:
                pass


def png_bytes(image: Image.Image, prompt: str, options: SamplingOptions, index: int) -> bytes:
    """A drawing as `PictureFolder.save` writes it."""
    file = BytesIO()
    image.save(file, "PNG", pnginfo=_info(prompt, options, index))
    return file.getvalue()


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures in rows of `columns`; small ones are enlarged to be looked at."""
    columns = columns or min(len(images), max(1, round(len(images) ** 0.5 + 0.49)))
    rows = -(-len(images) // columns)
    cell = max(CELL_PX, images[0].width)
    step = cell + GAP_PX
    sheet = Image.new("RGB", (columns * step + GAP_PX, rows * step + GAP_PX), PAPER)
    for i, image in enumerate(images):
        large = image if image.width == cell else image.resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(large, (GAP_PX + i % columns * step, GAP_PX + i // columns * step))
    return sheet


def file_name(prompt: str) -> str:
    """The words of a prompt as a file name without ending: letters and digits of any script, joined by hyphens."""
    text = unicodedata.normalize("NFC", prompt.lower())
    words = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()
    slug = "-".join(words)[:MAX_NAME_LETTERS].encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return slug.strip("-") or "drawing"


def _info(prompt: str, options: SamplingOptions, index: int) -> PngInfo:
    info = PngInfo()
    info.add_itxt("prompt", prompt.replace("\0", "\ufffd"))  # NUL would end the text
    for name, value in {**asdict(options), "index": index, "software": "openjanus"}.items():
        if value is not None:
            info.add_text(name, str(value))
    return info
