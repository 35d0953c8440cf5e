"""Pictures of every kind end as RGB, or in one clear error."""

import base64
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from openjanus.processing.image import (
    PixelConfig,
    as_image,
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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A small PNG that declares 100,000 x 100,000 pixels."""
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


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F")
WORDS = ("I;16", "I;16L", "I;16B", "I;16N")
SIZES = {"the model's": (16, 16), "another": (31, 20)}


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A grey picture, mode L or LA, in any mode of Pillow."""
    if mode in WORDS:
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, image.size, (np.asarray(image).astype(order) * 257).astype(order).tobytes())
    if mode == "PA":
        palette = image.convert("L").convert("P")
        palette.putalpha(image.getchannel("A") if image.mode == "LA" else 255)
        return palette
    on_the_way = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}.get(mode)
    return (image.convert(on_the_way) if on_the_way else image).convert(mode)


def black_and_white(width: int, height: int) -> Image.Image:
    """Left half black, right half white: what every mode can hold."""
    levels = np.zeros((height, width), np.uint8)
    levels[:, width // 2 :] = 255
    return Image.fromarray(levels)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", MODES + WORDS)
def test_a_picture_of_any_mode_gives_the_pixels_of_its_rgb(mode, size) -> None:
    image = black_and_white(*size)
    wanted = image.convert("RGB")
    given = in_mode(image, mode)
    assert given.mode == mode
    level = 2 / 255
    for pixels in (lambda i: understanding_pixels(i, PixelConfig(16)), lambda i: generation_pixels(i, 16)):
        assert (pixels(given) - pixels(wanted)).abs().max() <= level + 1e-6


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_transparent_parts_are_white_in_every_mode_and_size(mode, size) -> None:
    opaque_half = black_and_white(*size)
    image = Image.new("L", size, 0)
    image.putalpha(opaque_half)
    wanted = Image.fromarray(255 - np.asarray(opaque_half))
    given = in_mode(image, mode)
    assert given.mode == mode
    assert torch.equal(understanding_pixels(given, PixelConfig(16)), understanding_pixels(wanted, PixelConfig(16)))
    assert torch.equal(generation_pixels(given, 16), generation_pixels(wanted, 16))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16", "I"])
def test_a_value_that_stands_for_transparent_is_white(mode, size) -> None:
    image = in_mode(black_and_white(*size), mode)
    image.info["transparency"] = image.getpixel((0, 0))
    white = Image.new("RGB", size, "white")
    assert torch.equal(understanding_pixels(image, PixelConfig(16)), understanding_pixels(white, PixelConfig(16)))


def turned(size: tuple[int, int], orientation: int) -> Image.Image:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image.getexif()[0x0112] = orientation
    return image


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_from_memory_is_turned_as_one_from_a_file(size, orientation, tmp_path) -> None:
    image = turned(size, orientation)
    image.save(tmp_path / "a.png", exif=image.getexif())
    of_file = open_image(tmp_path / "a.png")
    assert (of_file.size == size[::-1]) == (orientation in (5, 6, 7, 8)) or size[0] == size[1]
    for given in (image, Image.open(tmp_path / "a.png"), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert as_image(given).tobytes() == of_file.tobytes()
    wanted = understanding_pixels(of_file, PixelConfig(16))
    assert torch.equal(understanding_pixels(image, PixelConfig(16)), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_once(kind, tmp_path) -> None:
    image = turned((31, 20), 6)
    path = tmp_path / f"a.{kind.lower()}"
    image.save(path, kind, exif=image.getexif())
    once = open_image(path)
    assert once.size == (20, 31)
    assert as_image(once).tobytes() == once.tobytes()
    with Image.open(path) as lazy:
        assert as_image(lazy).tobytes() == as_image(lazy).tobytes() == once.tobytes()


def test_the_users_picture_stays_as_it_is() -> None:
    image = turned((31, 20), 6)
    before = image.tobytes()
    as_image(image)
    assert image.size == (31, 20) and image.tobytes() == before and image.getexif()[0x0112] == 6


def test_greys_of_any_number_format_are_scaled_by_their_range() -> None:
    levels = np.array([[0, 51, 255]])
    for array in (
        levels.astype(np.uint8),
        (levels * 257).astype(np.uint16),
        levels.astype(np.int32),
        (levels * 257).astype(np.int32),
        (levels / 255).astype(np.float32),
        levels.astype(np.float32),
        (levels * 257).astype(np.float32),
    ):
        assert np.asarray(as_image(Image.fromarray(array)))[0, :, 0].tolist() == [0, 51, 255], array.dtype
    wild = Image.fromarray(np.array([[np.nan, -5.0, np.inf]], np.float32))
    assert np.asarray(as_image(wild))[0, :, 0].tolist() == [0, 0, 255]


RGB = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "form", [lambda a: a, torch.from_numpy, lambda a: np.asfortranarray(a), lambda a: a[::-1][::-1]]
)
def test_arrays_and_tensors_are_pictures(form) -> None:
    wanted = Image.fromarray(RGB)
    assert as_image(form(RGB)).tobytes() == wanted.tobytes()
    rgba = np.dstack([RGB, np.full((20, 31), 255, np.uint8)])
    assert as_image(form(rgba)).tobytes() == wanted.tobytes()
    grey = wanted.convert("L")
    for array in (np.asarray(grey), np.asarray(grey)[..., None], np.dstack([np.asarray(grey), rgba[..., 3]])):
        assert as_image(form(array.copy())).tobytes() == grey.convert("RGB").tobytes()
    assert as_image(np.asarray(grey).astype(np.uint16) * 257).tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RGB.transpose(2, 0, 1), r"uint8 array \[3, 20, 31\]"),
        (RGB / 255, r"float64 array \[20, 31, 3\]"),
        (torch.rand(20, 31, 3), r"float32 tensor \[20, 31, 3\]"),
        (torch.rand(20, 31, 3).bfloat16(), r"bfloat16 tensor"),
        (RGB[None], r"uint8 array \[1, 20, 31, 3\]"),
        (RGB[:0], r"0 x 31|31 x 0"),
        (Image.new("RGB", (0, 5)), "0 x 5"),
        (None, "NoneType"),
        (b"\x89PNG", "bytes"),
        (7, "int"),
        ([RGB], "list"),
        ("https://example.org/a.png", "no remote pictures are loaded"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,???", "not base64"),
        (Path("none.png"), "none.png: no such file"),
        ("\0.png", "null byte"),
    ],
)
def test_what_is_no_picture_is_told_with_what_is_expected(given, words) -> None:
    with pytest.raises(ValueError, match=words):
        as_image(given)


def test_a_picture_object_that_cannot_be_read_is_one_clear_error(tmp_path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a readable picture"):
        as_image(Image.open(tmp_path / "half.png"))
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(ValueError, match="not a readable picture"):
        as_image(closed)


def test_a_bomb_is_refused_from_whatever_source(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("openjanus.processing.image.MAX_PIXELS", 100)
    Image.fromarray(RGB).save(tmp_path / "a.png")
    url = f"data:image/png;base64,{base64.b64encode((tmp_path / 'a.png').read_bytes()).decode()}"
    for given in (tmp_path / "a.png", Image.open(tmp_path / "a.png"), Image.fromarray(RGB), RGB, url):
        with pytest.raises(ValueError, match="31 x 20 pixels; at most 100 pixels"):
            as_image(given)


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/png;BASE64,", "data:;base64,"])
def test_a_data_url_is_a_picture(head) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    body = base64.b64encode(file.getvalue()).decode()
    lines = "\r\n".join(body[i : i + 76] for i in range(0, len(body), 76))
    for words in (body, lines, body.rstrip("="), body.replace("+", "%2B")):
        assert as_image(head + words).tobytes() == RGB.tobytes()


def with_chunks(*chunks: bytes, behind: bool = False) -> io.BytesIO:
    """A PNG with more chunks, before its pixels or behind them."""
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    data = file.getvalue()
    at = len(data) - 12 if behind else 33
    return io.BytesIO(data[:at] + b"".join(chunks) + data[at:])


LARGE = b"x" * (2 << 20)
METADATA = {
    "compressed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
    "international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LARGE)),
    "colour profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
    "unknown compression": chunk(b"iCCP", b"profile\0\7" + zlib.compress(b"x")),
    "a wrong sum": chunk(b"tEXt", b"Comment\0hello")[:-4] + b"\0\0\0\0",
    "half a gamma": chunk(b"gAMA", b"\0"),
    "many texts": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (1 << 20))) * 70,
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("behind", [False, True])
def test_a_picture_is_never_refused_for_its_metadata(name, behind) -> None:
    assert read_image(with_chunks(METADATA[name], behind=behind), "a").tobytes() == RGB.tobytes()


def test_orientation_counts_beside_metadata_that_is_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turn = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert read_image(with_chunks(METADATA["compressed text"], turn), "a").size == (20, 31)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it skips
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0MM\0*"])
def test_a_damaged_orientation_turns_nothing_and_refuses_nothing(kind, exif) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind, exif=exif)
    assert read_image(file, "a").size == (31, 20)


def test_transparency_survives_dropped_metadata() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert("P").save(file, "PNG", transparency=0)
    palette = file.getvalue()
    file = io.BytesIO(palette[:33] + METADATA["colour profile"] + palette[33:])
    assert read_image(file, "a").tobytes() == read_image(io.BytesIO(palette), "a").tobytes()


def test_metadata_does_not_grow_in_memory(tmp_path) -> None:
    """A profile of 200 KB stands for 200 MB: it is dropped, never unpacked."""
    file = with_chunks(chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"\0" * (200 << 20))))
    tracemalloc.start()
    read_image(file, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
