"""Pictures of high resolution as tiles: the grid, the tiles, their documents, and a life with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from openjanus import config as configs
from openjanus.fleet.vocabulary import Vocabulary
from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.image import PixelConfig, understanding_pixels
from openjanus.processing.message import Message
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.text import BEGIN_OF_IMAGE, END_OF_IMAGE
from openjanus.processing.tiles import TileConfig, choose_grid, picture_pixels, single_pixels
from openjanus.runtime import Runtime
from openjanus.sequence import TextSpan, UnderstandSpan, collate, num_tokens
from openjanus.serve.conversation import read_messages
from openjanus.serve.limits import Limits
from openjanus.serve.schemas.chat import ChatMessage
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from tests import tiny
from tests.processing.test_processor import shown
from tests.serve.test_contract import data_url

SIDE = 16
PIXELS = PixelConfig(SIDE)
CPU = Runtime(torch.device("cpu"), "float32", "test")
TILED = ProcessorConfig(PIXELS, tiles=TileConfig(4))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def grid_by_internvl(width: int, height: int, size_px: int, max_tiles: int) -> tuple[int, int]:
    """`dynamic_preprocess` and `find_closest_aspect_ratio` of OpenGVLab/InternVL, line by line, but for the set of
    grids, whose order Python does not promise."""
    ratios = [
        (i, j) for n in range(1, max_tiles + 1) for i in range(1, n + 1) for j in range(1, n + 1) if i * j <= max_tiles
    ]
    best_difference, best = float("inf"), (1, 1)
    for ratio in sorted(sorted(set(ratios)), key=lambda x: x[0] * x[1]):
        difference = abs(width / height - ratio[0] / ratio[1])
        if difference < best_difference:
            best_difference, best = difference, ratio
        elif difference == best_difference and width * height > 0.5 * size_px * size_px * ratio[0] * ratio[1]:
            best = ratio
    return best


@pytest.mark.parametrize("max_tiles", [1, 2, 4, 6, 12, 17])
def test_the_grid_is_internvls(max_tiles) -> None:
    rng = np.random.default_rng(max_tiles)
    sizes = [tuple(map(int, rng.integers(1, 2000, 2))) for _ in range(300)]
    sizes += [(a * 100, b * 100) for a in range(1, 13) for b in range(1, 13)]  # ratios that grids have, and ties
    for width, height in sizes:
        for size_px in (100, 448):
            grid = choose_grid(width, height, size_px, max_tiles)
            assert grid == grid_by_internvl(width, height, size_px, max_tiles), (width, height, size_px)
            assert grid[0] * grid[1] <= max_tiles


@pytest.mark.parametrize("size", [(SIDE, SIDE), (100, 50), (50, 100), (64, 64), (90, 30), (5, 3)])
def test_tiles_are_those_of_transformers(size) -> None:
    """InternVL's own preprocessor; its thumbnail is stretched, as ours with fit=squash."""
    image, settings = picture(*size), {"size": {"height": SIDE, "width": SIDE}}
    theirs = GotOcr2ImageProcessorPil(
        crop_to_patches=True, min_patches=1, max_patches=4, image_mean=[0.5] * 3, image_std=[0.5] * 3, **settings
    )(image)["pixel_values"]
    ours = picture_pixels(image, replace(PIXELS, fit="squash"), TileConfig(4))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, torch.as_tensor(np.asarray(other)), rtol=0, atol=1e-6)


def test_tiles_put_together_are_the_resized_picture() -> None:
    image = picture(95, 61)
    columns, rows = choose_grid(95, 61, SIDE, 6)
    assert (columns, rows) == (3, 2)
    *cut, whole = picture_pixels(image, PIXELS, TileConfig(6))
    lines = [torch.cat(cut[row * columns : (row + 1) * columns], dim=2) for row in range(rows)]
    resized = np.asarray(image.resize((columns * SIDE, rows * SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    torch.testing.assert_close(torch.cat(lines, dim=1), torch.from_numpy(resized / np.float32(255)) * 2 - 1)
    assert torch.equal(whole, understanding_pixels(image, PIXELS))
    assert len(picture_pixels(image, PIXELS, TileConfig(6, thumbnail=False))) == len(cut)


def same(one, other) -> bool:
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if isinstance(a, UnderstandSpan):
            if not (isinstance(b, UnderstandSpan) and torch.equal(a.pixels, b.pixels)):
                return False
        elif a != b:
            return False
    return True


@pytest.mark.parametrize("size", [(SIDE, SIDE), (11, 11), (17, 18)])
def test_a_picture_that_one_tile_holds_is_todays_document(size) -> None:
    plain, tiled = tiny.processor(), tiny.processor(TILED)
    conversation = [Message("user", [picture(*size), "what?"]), Message("assistant", ["a cat"])]
    assert same(plain.document(conversation, train=True), tiled.document(conversation, train=True))


def test_without_the_setting_every_picture_is_one() -> None:
    plain = tiny.processor()
    assert plain.config.tiles is None
    spans = plain.prompt([Message("user", [picture(100, 50), "what?"])])
    assert [type(span) for span in spans] == [TextSpan, UnderstandSpan, TextSpan]
    assert torch.equal(spans[1].pixels, understanding_pixels(picture(100, 50), PIXELS))
    assert single_pixels(picture(100, 50), PIXELS, None).equal(spans[1].pixels)
    data = configs.to_dict(ProcessorConfig(PIXELS))
    del data["tiles"]
    assert configs.from_dict(ProcessorConfig, data) == ProcessorConfig(PIXELS)


@pytest.mark.parametrize("template", ["deepseek_old", "deepseek"])
def test_each_tile_stands_between_marks_of_its_own(template) -> None:
    processor = tiny.processor(replace(TILED, template=template))
    look = f"{BEGIN_OF_IMAGE}[look]{END_OF_IMAGE}"
    conversation = [Message("user", [picture(32, 16), "a small one:", picture(16, 16), "what?"])]
    text = shown(processor, processor.prompt(conversation))
    assert f"{look * 3}\na small one:\n{look}\nwhat?" in text
    document = processor.document([*conversation, Message("assistant", ["a cat"])], train=True)
    assert sum(isinstance(span, UnderstandSpan) for span in document) == 4
    blank = processor.unconditional(document)
    assert num_tokens(blank) == num_tokens(document)


def test_who_has_room_for_one_picture_refuses_several() -> None:
    with pytest.raises(ValueError, match="becomes 3 tiles: send it in messages, or send the pixels of each tile"):
        single_pixels(picture(32, 16), PIXELS, TileConfig(4))


# --- a life with tiles


@pytest.fixture(scope="module")
def engine() -> Engine:
    kept = tiny.checkpoint()
    kept.processor = tiny.processor(TILED)
    return Engine(kept)


@torch.inference_mode()
def test_an_answer_about_tiles_equals_the_oracle(engine) -> None:
    """The whole sequence at every step, without a cache, beside requests with and without tiles in one batch."""
    greedy = SamplingOptions(temperature=0.0, guidance=1.0)
    questions = [[Message("user", [picture(*size), "what is it?"])] for size in ((32, 16), (16, 16), (16, 48))]
    requests = [engine.answer(question, greedy, 5) for question in questions]
    views = [sum(isinstance(span, UnderstandSpan) for span in request.documents[0]) for request in requests]
    assert views == [3, 1, 4]
    scheduler = engine.scheduler(3, 190)
    for request in requests:
        scheduler.submit(request)
    scheduler.run()
    for request in requests:
        said: list[int] = []
        while len(said) < 5 and engine.processor.text.eos_id not in said:
            batch = collate([[*request.documents[0], *([TextSpan(said)] if said else [])]])
            said.append(int(engine._text_logits(engine.model(batch)[:, -1]).argmax()))
        assert request.text_ids == said


def test_vllm_gets_one_look_for_each_tile(engine) -> None:
    vocabulary = Vocabulary.of(engine.model.config, engine.processor.text)
    document = engine.processor.prompt([Message("user", [picture(32, 16), "what?"])])
    assert vocabulary.prompt_ids(document, draw=False).count(vocabulary.look_id) == 3


def test_the_server_sees_the_tiles_that_the_engine_sees(engine) -> None:
    image = picture(60, 30)
    part = {"type": "image_url", "image_url": {"url": data_url(image)}}
    sent = ChatMessage.model_validate({"role": "user", "content": [part, {"type": "text", "text": "what?"}]})
    read = read_messages([sent], Limits(), None, engine.processor.config)
    assert same(engine.processor.prompt(read), engine.processor.prompt([Message("user", [image, "what?"])]))
    plain = read_messages([sent], Limits(), None, tiny.PROCESSOR)
    assert isinstance(plain[0].content[0], Image.Image) and plain[0].content[0].size == (16, 14)


def test_a_training_cuts_tiles_and_its_checkpoint_keeps_the_setting(tmp_path) -> None:
    checkpoint.save(tiny.checkpoint(), tmp_path / "start")
    changes = ('processor.tiles={"max_tiles": 4}',)
    task = JanusTraining(str(tmp_path / "start"), "", changes=changes, row_tokens=190)
    batches = janus_training(task, 0).data(Stage("s", 1, 1e-3, {"emoji.questions": 1}), 0)
    assert sum(len(batch.pixels) for batch in batches) == 5  # a square of 64 px: 2x2 tiles and the whole
    train(Run("tiles", task, (Stage("s", 1, 1e-3, {"emoji.questions": 1}),)), tmp_path / "run", CPU)
    kept = restore(tmp_path / "run")
    checkpoint.save(kept, tmp_path / "model")
    assert checkpoint.load(tmp_path / "model").processor.config.tiles == TileConfig(4)
    with pytest.raises(ValueError, match=r"the transformers format cannot express .*processor\.tiles"):
        checkpoint.save(kept, tmp_path / "theirs", form="transformers")
