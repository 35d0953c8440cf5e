"""Drawings to files: PNG with the prompt and settings inside, and a contact sheet for several."""

import os
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


def save_png(image: Image.Image, path: Path, prompt: str, options: SamplingOptions, index: int) -> None:
    """Writes one picture, whole or not at all; its PNG text holds prompt, settings and number within the request."""
    _write(image, path, _info(prompt, options, index))


def png_bytes(image: Image.Image, prompt: str, options: SamplingOptions, index: int) -> bytes:
    """The same as bytes."""
    file = BytesIO()
    image.save(file, "PNG", pnginfo=_info(prompt, options, index))
    return file.getvalue()


def save_contact_sheet(images: Sequence[Image.Image], path: Path) -> None:
    """All pictures on one sheet, as square as it goes."""
    _write(contact_sheet(images), path, None)


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


def file_names(prompts: Sequence[str]) -> list[str]:
    """The words of each prompt as a file name, numbered where two prompts have the same."""
    names: list[str] = []
    for prompt in prompts:
        words = "".join(c if c.isalnum() and c.isascii() else " " for c in prompt.lower()).split()
        slug = "-".join(words)[:60].strip("-") or "drawing"
        more = (f"{slug}-{number}" for number in range(2, len(prompts) + 1))
        names.append(slug if slug not in names else next(name for name in more if name not in names))
    return names


def _info(prompt: str, options: SamplingOptions, index: int) -> PngInfo:
    info = PngInfo()
    info.add_itxt("prompt", prompt)
    for name, value in {**asdict(options), "index": index, "software": "openjanus"}.items():
        info.add_text(name, str(value))
    return info


def _write(image: Image.Image, path: Path, info: PngInfo | None) -> None:
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    try:
        image.save(draft, "PNG", pnginfo=info)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
