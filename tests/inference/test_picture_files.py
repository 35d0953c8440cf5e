"""Drawings as files: the settings inside, the sheet's layout, and whole files or none."""

import numpy as np
import pytest
from PIL import Image

from openjanus.inference.picture_files import (
    CELL_PX,
    GAP_PX,
    PAPER,
    contact_sheet,
    png_bytes,
    save_contact_sheet,
    save_png,
)
from openjanus.inference.sampling import SamplingOptions

OPTIONS = SamplingOptions(temperature=0.5, top_k=7, top_p=0.9, guidance=3.0, seed=11, n=4)


def plain(color: str, side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), color)


def test_a_png_tells_how_it_was_made(tmp_path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    save_png(picture, tmp_path / "a.png", "zwei rote Äpfel 🍎", OPTIONS, 2)
    with Image.open(tmp_path / "a.png") as again:
        assert again.text == {
            "prompt": "zwei rote Äpfel 🍎", "temperature": "0.5", "top_k": "7", "top_p": "0.9", "guidance": "3.0",
            "seed": "11", "n": "4", "index": "2", "software": "openjanus",
        }  # fmt: skip
        assert np.array_equal(np.asarray(again), np.asarray(picture))
    assert png_bytes(picture, "zwei rote Äpfel 🍎", OPTIONS, 2) == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 3, 2), (9, 3, 3), (10, 4, 3)]
)
def test_a_sheet_is_as_square_as_it_goes(count, columns, rows) -> None:
    step = CELL_PX + GAP_PX
    assert contact_sheet([plain("red")] * count).size == (columns * step + GAP_PX, rows * step + GAP_PX)


def test_a_sheet_holds_each_picture_in_reading_order() -> None:
    colors = ["red", "lime", "blue", "black", "white"]
    sheet, step = contact_sheet([plain(color) for color in colors], columns=2), CELL_PX + GAP_PX
    for number, color in enumerate(colors):
        corner = (GAP_PX + number % 2 * step, GAP_PX + number // 2 * step)
        cell = sheet.crop((*corner, corner[0] + CELL_PX, corner[1] + CELL_PX))
        assert cell.getcolors() == [(CELL_PX**2, plain(color).getpixel((0, 0)))]
    assert sheet.getpixel((0, 0)) == sheet.getpixel((sheet.width - step, sheet.height - step)) == PAPER


def test_large_pictures_keep_their_size_on_a_sheet() -> None:
    assert contact_sheet([plain("red", 384)]).size == (384 + 2 * GAP_PX, 384 + 2 * GAP_PX)


def test_a_failing_write_leaves_nothing_and_harms_nothing(tmp_path, monkeypatch) -> None:
    def fail_half_way(image, draft, *args, **kwargs) -> None:
        draft.write_bytes(b"\x89PNG half")
        raise OSError("disk full")

    path = tmp_path / "a.png"
    save_png(plain("red"), path, "a", OPTIONS, 0)
    before = path.read_bytes()
    monkeypatch.setattr(Image.Image, "save", fail_half_way)
    for write in (
        lambda: save_png(plain("blue"), path, "a", OPTIONS, 0),
        lambda: save_contact_sheet([plain("blue")], tmp_path / "sheet.png"),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before
