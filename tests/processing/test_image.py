"""Pictures of every kind end as RGB, or in one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from openjanus.processing.image import (
    PixelConfig,
    generation_pixels,
    open_image,
    read_image,
    to_images,
    to_pixels,
    understanding_pixels,
)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "YCbCr"])
def test_every_mode_is_read_as_rgb(mode, tmp_path) -> None:
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.new("L", (6, 4), 204).convert("RGB" if mode in ("CMYK", "P", "YCbCr") else "L").convert(
        "L" if mode == "I;16" else mode
    ).save(path)
    if mode == "1":
        Image.new("1", (6, 4), 1).save(path)
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 204 * 257, np.uint16)).save(path)
    image = open_image(path)
    assert image.mode == "RGB" and image.size == (6, 4)
    wanted = 255 if mode == "1" else 204
    assert np.abs(np.asarray(image).astype(int) - wanted).max() <= 2


def test_transparency_lies_on_white_and_animations_show_their_first_frame(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "moving.gif").getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_applied(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 8)


def bomb() -> bytes:
    """A small PNG that declares 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_bombs_truncated_and_missing_files_are_one_clear_error(tmp_path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    with pytest.raises(ValueError, match="shrink the picture"):
        open_image(tmp_path / "bomb.png")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:1500])
    with pytest.raises(ValueError, match="not a readable picture"):
        open_image(tmp_path / "half.png")
    with pytest.raises(ValueError, match="no such file"):
        open_image(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "PPM"])
@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it skips
def test_damaged_files_of_any_format_are_read_or_named(kind, tmp_path) -> None:
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    path, rng = tmp_path / f"a.{kind.lower()}", np.random.default_rng(0)
    whole = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(whole, kind)
    for _ in range(60):
        data = bytearray(whole.getvalue())
        for place in rng.integers(0, min(len(data), 200), size=3):
            data[place] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, 2 * len(data))])
        try:
            assert open_image(path).mode == "RGB"
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path) -> None:
    Image.fromarray(np.full((4, 6), 255, np.uint16)).save(tmp_path / "dark.png")
    assert open_image(tmp_path / "dark.png").getpixel((0, 0)) == (1, 1, 1)
    Image.fromarray(np.full((4, 6), 70_000, np.int32)).save(tmp_path / "bright.tiff")
    assert open_image(tmp_path / "bright.tiff").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("side", [47, 94, 147, 173, 188, 253, 694])
def test_a_square_picture_gets_no_grey_edge(side) -> None:
    for size_px in (16, 64, 384):
        assert (understanding_pixels(Image.new("RGB", (side, side), "white"), PixelConfig(size_px)) > 0.99).all()


def test_understanding_shows_the_whole_picture_on_grey() -> None:
    pixels = understanding_pixels(Image.new("RGB", (40, 20), "white"), PixelConfig(32))
    grey = torch.tensor(PixelConfig().background) / 127.5 - 1
    assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(pixels[:, 0, 0], grey)
    torch.testing.assert_close(pixels[:, 16, 16], torch.ones(3))
    assert int((pixels[0] > 0.9).sum()) == 32 * 16
    assert understanding_pixels(Image.new("RGB", (1, 3000)), PixelConfig(32)).shape == (3, 32, 32)


def test_generation_fills_the_square_from_the_middle() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    pixels = generation_pixels(Image.fromarray(wide), 10)
    assert pixels.shape == (3, 10, 10)
    assert (pixels > 0.99).all()


def test_pixels_and_images_are_inverse() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    again = np.asarray(to_images(to_pixels(array)[None])[0])
    assert np.abs(again.astype(int) - array).max() <= 1


def test_an_open_file_is_read_within_its_own_bounds() -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(file, "PNG")
    assert read_image(file, "image", 200, ("PNG",)).size == (20, 10)
    with pytest.raises(ValueError, match="image: 20 x 10 pixels; at most 199 pixels"):
        read_image(file, "image", 199)
    with pytest.raises(ValueError, match=r"image: not a readable picture \(unknown format\)"):
        read_image(file, "image", 200, ("JPEG",))
