"""Pictures to pixels and back.

`understanding_pixels` fits the whole picture into a square on grey; `generation_pixels` fills the square and crops what
hangs over (arXiv 2410.13848 §4.1; deepseek-ai/Janus, image_processing_vlm.py). Pixels are NCHW float in [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# A small file can declare a huge picture: refuse before decoding. Pillow's own limit only warns.
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class PixelConfig:
    """How the understanding eye wants its pictures: fitted into a square of `size_px`, then (x / 255 - mean) / std."""

    size_px: int = 384
    min_side_px: int = 14  # a long and narrow picture is not made narrower than this
    background: tuple[int, int, int] = (127, 127, 127)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def open_image(path: Path | str) -> Image.Image:
    """Reads a picture file as RGB: upright by its EXIF, transparency on white, the first frame of an animation.

    Raises ValueError for a file that is missing, no picture, truncated, or larger than `MAX_PIXELS`.
    """
    try:
        with open(path, "rb") as file:
            return read_image(file, str(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: not a readable picture ({error})") from None


def read_image(
    file: IO[bytes], name: str, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """As `open_image`, from an open file; `name` stands for it in errors. formats: those of Pillow's that are tried."""
    try:
        with Image.open(file, formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Image.DecompressionBombError(f"{width} x {height} pixels")
            image.seek(0)
            return to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}; at most {max_pixels:,} pixels are read: shrink the picture") from None
    except UnidentifiedImageError:  # its own words hold the address of an object
        raise ValueError(f"{name}: not a readable picture (unknown format)") from None
    except Exception as error:  # on damaged files Pillow's decoders raise whatever they stumble over
        raise ValueError(f"{name}: not a readable picture ({error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow to RGB; transparent parts become white, 16-bit greys are scaled to 8 bits."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64).clip(0, 65535)
        is_16_bit = image.mode != "I" or grey.max() > 255  # mode I holds integers of any range
        return Image.fromarray((grey / 257 if is_16_bit else grey).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def understanding_pixels(image: Image.Image, c: PixelConfig) -> Tensor:
    """The whole picture, long side to `size_px`, centred on the background: [3, size, size], normalised."""
    width, height = image.size
    longest = max(width, height)
    size = (max(int(width / longest * c.size_px), c.min_side_px), max(int(height / longest * c.size_px), c.min_side_px))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    if size != (c.size_px, c.size_px):
        square = Image.new("RGB", (c.size_px, c.size_px), c.background)
        square.paste(image, ((c.size_px - size[0]) // 2, (c.size_px - size[1]) // 2))
        image = square
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / np.float32(255))
    return (pixels - torch.tensor(c.mean)[:, None, None]) / torch.tensor(c.std)[:, None, None]


def generation_pixels(image: Image.Image, size_px: int) -> Tensor:
    """Short side to `size_px`, the middle of the long side: [3, size, size] in [-1, 1]."""
    if image.size != (size_px, size_px):
        image = ImageOps.fit(image, (size_px, size_px), Image.Resampling.BICUBIC)
    return to_pixels(np.asarray(image))


def to_pixels(array: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """float [M, 3, H, W], clipped to [-1, 1] -> M pictures. Truncates, as the official code does."""
    levels = ((pixels.float().cpu() + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in levels]
