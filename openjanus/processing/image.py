"""Pictures to pixels and back.

    path, data URL, open file ─► decoded ─┐
    PIL image ────────────────────────────┼─► to_rgb ─► understanding_pixels | generation_pixels
    uint8 array or tensor ────────────────┘

`to_rgb` is the one rule for pictures of every mode, number format and source. `understanding_pixels` fits the whole
picture into a square on grey, unless the eye wants it squashed or cropped; `generation_pixels` fills the square and
crops what hangs over (arXiv 2410.13848 §4.1; deepseek-ai/Janus, image_processing_vlm.py). Pixels are NCHW float in
[-1, 1].
"""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Annotated, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from openjanus.config import Config, ConfigError, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range

# A small file can declare a huge picture: refuse before decoding. Pillow's own limit only warns.
MAX_PIXELS = 64_000_000
Level = Annotated[int, Range(0, 255)]
# What a picture may be given as; text is a path or a data URL.
Picture = Image.Image | str | os.PathLike[str] | np.ndarray | Tensor
PICTURE = (
    "a picture: path, data URL, PIL image, or array or tensor, uint8 [H, W, 3], [H, W, 4], [H, W] or uint16 [H, W]"
)
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
ESCAPED = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%0D": b"", b"%0A": b"", b"%20": b""}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # what the look of a picture depends on
STRIP_ROWS = 256
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class PixelConfig(Config):
    """How the understanding eye wants its pictures: fitted into a square of `size_px`, then (x / 255 - mean) / std.

    fit: the whole picture on the background (`pad`), both sides stretched (`squash`), or the middle of the picture
    (`crop`). resize_px: the short side of a picture before it is cropped, or both sides of a squashed one, if that is
    more than size_px; 0: the same.
    """

    size_px: PositiveInt = 384
    min_side_px: PositiveInt = 14  # a long and narrow picture is not made narrower than this
    background: tuple[Level, Level, Level] = (127, 127, 127)
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0.5, 0.5, 0.5)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.5, 0.5, 0.5)
    fit: Literal["pad", "squash", "crop"] = "pad"
    resize_px: NonNegativeInt = 0
    resample: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"

    def check(self) -> None:
        if self.min_side_px > self.size_px:
            raise ConfigError(f"min_side_px is {self.min_side_px}, expected at most size_px {self.size_px}")
        if self.resize_px and (self.fit == "pad" or self.resize_px < self.size_px):
            raise ConfigError(
                f"resize_px is {self.resize_px}, expected size_px {self.size_px} or more, or 0 with fit=pad"
            )


def as_image(picture: Picture) -> Image.Image:
    """A picture in any form that a user may have it in, as RGB by the rule of `to_rgb`.

    picture: the path of a file, a data URL (`data:image/png;base64,...`), a PIL image of any mode, or an array or
    tensor: uint8 [H, W, C] with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels, uint8 [H, W], uint16 [H, W].
    Raises ValueError for anything else, for what cannot be read, and for a picture larger than `MAX_PIXELS`.
    """
    if isinstance(picture, str) and picture[:5].lower() == "data:":
        return read_image(BytesIO(data_url_bytes(picture)), "the picture")
    if isinstance(picture, str) and picture[:8].lower().startswith(("http://", "https://")):
        raise ValueError(f"{picture[:80]}: no remote pictures are loaded; expected {PICTURE}")
    if isinstance(picture, (str, os.PathLike)):
        return open_image(picture)
    if isinstance(picture, (np.ndarray, Tensor)):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise ValueError(f"got {type(picture).__name__}; expected {PICTURE}")
    try:
        _check_size(picture, MAX_PIXELS)
        return to_rgb(picture)
    except Image.DecompressionBombError as error:
        raise _too_large("the picture", error, MAX_PIXELS) from None
    except Exception as error:  # a file that was opened and not read yet may be damaged, or closed
        raise ValueError(f"the picture: not a readable picture ({error})") from None


def open_image(path: os.PathLike[str] | str) -> Image.Image:
    """Reads a picture file as RGB by the rule of `to_rgb`, of an animation the first frame.

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
    file: IO[bytes], name: str, max_pixels: int | None = None, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """As `open_image`, from an open file; `name` stands for it in errors. max_pixels: None for `MAX_PIXELS`. formats:
    those of Pillow's that are tried."""
    max_pixels = max_pixels or MAX_PIXELS
    try:
        try:
            return _decode(file, max_pixels, formats)
        except Image.DecompressionBombError:
            raise
        except Exception:  # Pillow may have stumbled over metadata, which nobody needs
            file.seek(0)
            if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
                raise
            return _decode(_without_metadata(file), max_pixels, formats)
    except Image.DecompressionBombError as error:
        raise _too_large(name, error, max_pixels) from None
    except UnidentifiedImageError:  # its own words hold the address of an object
        raise ValueError(f"{name}: not a readable picture (unknown format)") from None
    except Exception as error:  # on damaged files Pillow's decoders raise whatever they stumble over
        raise ValueError(f"{name}: not a readable picture ({error})") from None


def data_url_bytes(url: str) -> bytes:
    """The bytes of `data:image/...;base64,...`. Raises ValueError for anything else."""
    if not (head := DATA_URL.match(url)):
        raise ValueError("expected a data URL in base64, such as data:image/png;base64,...")
    try:
        body = url[head.end() :].encode("ascii")
        for escaped, plain in ESCAPED.items():
            body = body.replace(escaped, plain).replace(escaped.lower(), plain)
        body = body.translate(None, b" \t\r\n")  # some encoders break the lines
        return base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the picture is not base64") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture of Pillow's as RGB without metadata: upright by its EXIF, transparent parts white.

    16-bit greys are scaled to 8 bits. Modes I and F do not say what white is; their largest value does: up to 1 (F), up
    to 255, or else 65,535. The given picture stays as it is; one that needs nothing is returned itself. Raises what
    Pillow raises for a damaged file.
    """
    if 0 in image.size:
        raise ValueError(f"{image.width} x {image.height} pixels: it is empty")
    if type(image) is Image.Image and image.mode == "RGB" and not image.info and not image.getexif():
        return image
    image.load()  # orientation may stand behind the pixels; for TIFF Pillow turns the picture here
    turn = _orientation(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        rgb = _from_grey(image)
    elif image.has_transparency_data:
        rgb = _on_white(image)
    else:
        rgb = image.convert("RGB")
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}  # nothing is left that could turn it again
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    """A picture with transparent parts. Strip by strip: whole copies of a large picture would take much memory."""
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        rgba = strip.convert("LA" if strip.mode == "La" else "RGBA").convert("RGBA")
        paper = Image.new("RGBA", strip.size, "white")
        rgb.paste(Image.alpha_composite(paper, rgba).convert("RGB"), (0, top))
    return rgb


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata says nothing, and refuses nothing
        return None


def _from_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits."""
    grey = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0, posinf=65535, neginf=0).clip(0, 65535)
    if image.mode.startswith("I;") or grey.max() > 255:
        white = 65535
    else:
        white = 1 if image.mode == "F" and grey.max() <= 1 else 255
    levels = (grey * (255 / white)).round().astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        levels[grey == transparent] = 255
    return Image.fromarray(levels).convert("RGB")


def _from_array(array: np.ndarray | Tensor) -> Image.Image:
    kind = "tensor" if isinstance(array, Tensor) else "array"
    dtype, shape = str(array.dtype).removeprefix("torch."), list(array.shape)
    fits = len(shape) == 2 or (len(shape) == 3 and 1 <= shape[2] <= 4)
    if not (fits and (dtype == "uint8" or (dtype == "uint16" and len(shape) == 2))):
        raise ValueError(f"got a {dtype} {kind} {shape}; expected {PICTURE}")
    if 0 in shape:
        raise ValueError(f"a picture of {shape[1]} x {shape[0]} pixels is empty")
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if shape[2:] == [1] else values))


def _decode(file: IO[bytes], max_pixels: int, formats: tuple[str, ...] | None) -> Image.Image:
    with Image.open(file, formats=formats) as image:
        _check_size(image, max_pixels)
        image.seek(0)
        return to_rgb(image)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")


def _too_large(name: str, error: Exception, max_pixels: int) -> ValueError:
    return ValueError(f"{name}: {error}; at most {max_pixels:,} pixels are read: shrink the picture")


def _without_metadata(png: IO[bytes]) -> IO[bytes]:
    """A PNG without its texts, colour profile and so on: Pillow refuses a picture for large or damaged ones."""
    kept = [PNG_SIGNATURE]
    while len(head := png.read(8)) == 8:
        body = png.read(int.from_bytes(head[:4]) + 4)
        if head[4:] in PNG_CHUNKS:
            kept += [head, body]
    return BytesIO(b"".join(kept))


def fitted(image: Image.Image, c: PixelConfig) -> Image.Image:
    """The picture resized as `c.fit` says, before it is padded or cropped. What is fitted stays as it is.

    Raises ValueError for a picture that is too narrow to be cropped.
    """
    width, height = image.size
    if c.fit == "pad":  # the whole picture, long side to `size_px`
        longest = max(image.size)
        width, height = image.size if longest == c.size_px else (int(side / longest * c.size_px) for side in image.size)
        width, height = max(width, c.min_side_px), max(height, c.min_side_px)
    else:
        side, shortest = c.resize_px or c.size_px, min(image.size)
        squash = c.fit == "squash"
        width, height = (side if squash or x == shortest else int(side * x / shortest) for x in image.size)
        if width * height > MAX_PIXELS:
            raise ValueError(f"the picture: {image.width} x {image.height} pixels are too narrow to be cropped")
    return resized(image, (width, height), c)


def resized(image: Image.Image, size: tuple[int, int], c: PixelConfig) -> Image.Image:
    """The picture, width and height changed to `size`."""
    return image if size == image.size else image.resize(size, Image.Resampling[c.resample.upper()])


def understanding_pixels(image: Image.Image, c: PixelConfig) -> Tensor:
    """The picture, `fitted`, on the background or cropped: [3, size, size], normalised."""
    image = fitted(to_rgb(image), c)
    left, top = ((side - c.size_px) // 2 for side in image.size)
    if c.fit != "pad":
        image = image.crop((left, top, left + c.size_px, top + c.size_px))
    elif image.size != (c.size_px, c.size_px):
        square = Image.new("RGB", (c.size_px, c.size_px), c.background)
        square.paste(image, ((c.size_px - image.width) // 2, (c.size_px - image.height) // 2))
        image = square
    return normalised(image, c)


def normalised(image: Image.Image, c: PixelConfig) -> Tensor:
    """RGB [H, W] -> [3, H, W]."""
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / np.float32(255))
    return (pixels - torch.tensor(c.mean)[:, None, None]) / torch.tensor(c.std)[:, None, None]


def centre_square(image: Image.Image) -> Image.Image:
    """The middle of the long side, at full resolution."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def generation_pixels(image: Image.Image, size_px: int) -> Tensor:
    """Short side to `size_px`, the middle of the long side: [3, size, size] in [-1, 1]."""
    image = to_rgb(image)
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
