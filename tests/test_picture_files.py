"""Drawings as files: the settings inside, the sheet's layout, and whole files or none."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openjanus.inference.sampling import SamplingOptions
from openjanus.picture_files import (
    CELL_PX,
    GAP_PX,
    PAPER,
    PictureFolder,
    contact_sheet,
    file_name,
    png_bytes,
)

OPTIONS = SamplingOptions(temperature=0.5, top_k=7, top_p=0.9, guidance=3.0, seed=11, n=4)


def plain(color: str, side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), color)


def test_a_png_tells_how_it_was_made(tmp_path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert PictureFolder(tmp_path).save(picture, "a", "zwei rote Äpfel 🍎", OPTIONS, 2) == tmp_path / "a.png"
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

    pictures = PictureFolder(tmp_path)
    path = pictures.save(plain("red"), "a", "a", OPTIONS, 0)
    before = path.read_bytes()
    monkeypatch.setattr(Image.Image, "save", fail_half_way)
    for write in (
        lambda: pictures.save(plain("blue"), "a", "a", OPTIONS, 0),
        lambda: pictures.save(plain("blue"), "b", "a", OPTIONS, 0),
        lambda: pictures.save_sheet([plain("blue")], "sheet"),
    ):
        with pytest.raises(OSError, match="disk full"):
            write()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def test_a_file_that_cannot_take_its_place_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail(self, target) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        PictureFolder(tmp_path).save(plain("red"), "a", "a", OPTIONS, 0)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_never_overwritten(tmp_path) -> None:
    (tmp_path / "a.png").write_text("mine")
    (tmp_path / "a-2.png").mkdir()
    (tmp_path / "a-3.png").symlink_to(tmp_path / "nowhere")
    for pictures in (PictureFolder(tmp_path), PictureFolder(tmp_path)):  # as two calls of a command
        for color in ("red", "blue"):
            pictures.save(plain(color), "a", "a", OPTIONS, 0)
        pictures.save_sheet([plain("red")], "a-sheet")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(["a.png", *(f"a-{i}.png" for i in range(2, 8)), "a-sheet.png", "a-sheet-2.png"])
    assert (tmp_path / "a.png").read_text() == "mine" and not (tmp_path / "nowhere").exists()
    for number, color in zip(range(4, 8), ("red", "blue") * 2, strict=True):
        with Image.open(tmp_path / f"a-{number}.png") as image:
            assert image.getpixel((0, 0)) == plain(color).getpixel((0, 0))


def test_a_file_that_appears_while_a_picture_is_written_is_kept(tmp_path, monkeypatch) -> None:
    save = Image.Image.save

    def slow_save(image, draft, *args, **kwargs) -> None:
        (tmp_path / "a.png").write_text("another process's")
        save(image, draft, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", slow_save)
    assert PictureFolder(tmp_path).save(plain("red"), "a", "a", OPTIONS, 0).name == "a-2.png"
    assert (tmp_path / "a.png").read_text() == "another process's"


def test_many_equal_names_take_linear_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Image.Image, "save", lambda image, draft, *args, **kwargs: Path(draft).touch())
    tried = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **kwargs: tried.append(path) or original(path, *args, **kwargs))
    image, pictures = plain("red"), PictureFolder(tmp_path)
    for _ in range(300):
        pictures.save(image, "a", "a", OPTIONS, 0)
    assert len(list(tmp_path.iterdir())) == 300
    assert sum(not str(path).startswith(str(tmp_path / ".")) for path in tried) <= 2 * 300


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Two red apples!", "two-red-apples"),
        ("红苹果", "红苹果"),
        ("красное яблоко", "красное-яблоко"),
        ("تفاحة حمراء", "تفاحة-حمراء"),
        ("लाल सेब", "लाल-सेब"),
        ("a cafe\u0301", "a-café"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\0b\nc\\d:e", "a-b-c-d-e"),
        ("🍎", "drawing"),
        ("...", "drawing"),
    ],
)
def test_letters_of_any_script_are_kept_in_a_file_name(prompt, name) -> None:
    assert file_name(prompt) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("letter", ["a", "ä", "红", "𐍈", "a\u0301\u0302\u0303\u0304"])
def test_a_long_prompt_gives_a_name_that_every_file_system_takes(letter, tmp_path) -> None:
    name = file_name(letter * 500)
    assert 0 < len(name) <= 60 and unicodedata.normalize("NFC", letter)[0] == name[0]
    pictures = PictureFolder(tmp_path)
    for _ in range(2):
        pictures.save(plain("red"), f"{name}-seed{2**57 - 1}-63", letter, OPTIONS, 0)


def test_a_nul_does_not_reach_the_text_of_a_png(tmp_path) -> None:
    path = PictureFolder(tmp_path).save(plain("red"), "a", "a\0b", OPTIONS, 0)
    with Image.open(path) as again:
        assert again.text["prompt"] == "a\ufffdb"
    assert b"a\0b" not in path.read_bytes()
