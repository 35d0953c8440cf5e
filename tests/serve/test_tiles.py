"""A server whose model sees through a tower, and large pictures as tiles: the engine's own answers."""

from dataclasses import replace

import pytest
from openai import BadRequestError
from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.model.tower_eye import TowerEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.message import Message
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.tiles import TileConfig
from openjanus.weights.config import Checkpoint
from tests import tiny
from tests.serve.conftest import run_server
from tests.serve.test_contract import alone, ask, picture_part
from tests.towers import SHAPE

CLIP = SHAPE | {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 4}
CONFIG = replace(tiny.CONFIG, understanding=TowerEyeConfig(CLIP, layer=-2, pixel_shuffle=2))
PROCESSOR = ProcessorConfig(PixelConfig(16, fit="crop"), tiles=TileConfig(4))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Checkpoint(tiny.janus(CONFIG), tiny.processor(PROCESSOR, CONFIG.num_features), {}))


def test_answers_about_large_and_small_pictures_are_the_engines_own(engine) -> None:
    pictures = [Image.linear_gradient("L").resize(size) for size in ((90, 45), (16, 16), (20, 61))]
    with run_server(engine) as running:
        for picture in pictures:
            content = [picture_part(picture), {"type": "text", "text": "what is it?"}]
            answer = ask(running.client(), content)
            assert answer.choices[0].message.content == alone(engine, content)
    counts = [len(engine.processor.prompt([Message("user", [picture, "what is it?"])])) for picture in pictures]
    assert counts == [7, 3, 9]  # spans: texts, and between them 3, 1 and 4 pictures


def test_tiles_count_as_positions(engine) -> None:
    content = [*[picture_part(Image.new("RGB", (64, 64)))] * 8, {"type": "text", "text": "what is it?"}]
    with run_server(engine) as running, pytest.raises(BadRequestError, match=r"the messages take .* positions"):
        ask(running.client(), content)


def test_a_picture_that_is_too_narrow_to_be_cropped_is_refused(engine, monkeypatch) -> None:
    plain = Engine(Checkpoint(engine.model, tiny.processor(replace(PROCESSOR, tiles=None), CONFIG.num_features), {}))
    monkeypatch.setattr("openjanus.processing.image.MAX_PIXELS", 16 * 1000)
    with run_server(plain) as running, pytest.raises(BadRequestError, match="2 x 3000 pixels are too narrow") as error:
        ask(running.client(), [picture_part(Image.new("RGB", (2, 3000)))])
    assert error.value.code == "invalid_image"
