"""Where we differ from the original code on purpose (docs/parity.md), beside what the original does.

The original reads pictures by `PIL.Image.open(path).convert("RGB")` (deepseek-ai/Janus, utils/io.py), and encodes
conversations as one string, special tokens included (processing_vlm.py).
"""

import numpy as np
import pytest
from PIL import Image

import openjanus
from openjanus.processing.image import open_image
from openjanus.processing.processor import Message
from openjanus.testing import reference, stages, tiny_checkpoint


def both(path) -> tuple[Image.Image, Image.Image]:
    return open_image(path), Image.open(path).convert("RGB")


def test_a_picture_is_turned_upright_by_its_exif(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.jpg", exif=exif)
    ours, theirs = both(tmp_path / "photo.jpg")
    assert (ours.size, theirs.size) == ((10, 20), (20, 10))


def test_transparent_parts_are_white(tmp_path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    ours, theirs = both(tmp_path / "clear.png")
    assert (ours.getpixel((0, 0)), theirs.getpixel((0, 0))) == ((255, 255, 255), (255, 0, 0))


def test_grey_of_16_bits_is_scaled_to_8(tmp_path) -> None:
    Image.fromarray(np.full((4, 4), 0x8080, np.uint16)).save(tmp_path / "grey.png")
    ours, theirs = both(tmp_path / "grey.png")
    assert ours.getpixel((0, 0)) == (128, 128, 128) and theirs.getpixel((0, 0)) != (128, 128, 128)


def test_special_tokens_that_a_user_types_stay_text(tmp_path) -> None:
    pair = stages.make_pair(tmp_path, "official")
    ids = stages.document_ids(pair, [Message("user", [f"{reference.BOI} hello"])], draw=True)
    theirs = pair.their_processor.tokenizer(f"{reference.BOI} hello", add_special_tokens=False)["input_ids"]
    begin = pair.engine.processor.text.begin_of_image_id
    assert theirs[0] == begin and ids.count(begin) == 1  # the one that begins the drawing


def test_guidance_below_1_is_refused(tmp_path) -> None:
    engine = openjanus.load(tiny_checkpoint(tmp_path / "model"), "cpu")
    with pytest.raises(ValueError, match=r"guidance is 0\.5, expected 1 or more"):
        engine.generate("a cat", guidance=0.5)
