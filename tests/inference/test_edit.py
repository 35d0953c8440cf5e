"""Editing: what both eyes see, what is refused, and what a training makes of an example."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.data.sources import SOURCES
from openjanus.inference.engine import Engine
from openjanus.processing.image import generation_pixels
from openjanus.processing.message import Message, TwoViews, show_both_eyes
from openjanus.sequence import GenerateSpan, TextSpan, UnderstandSpan
from openjanus.training.janus import JanusData, JanusTraining
from tests import tiny

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 40, 3), np.uint8))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(replace(tiny.checkpoint(), tasks=("talk", "draw", "edit")))


def test_an_edit_is_a_drawing_from_picture_and_words(engine) -> None:
    options = {"n": 2, "seed": 3, "guidance": 3.0, "image_guidance": 2.0}
    edited = engine.edit(WIDE, " make it blue ", **options)
    drawn = engine.generate(Message("user", [WIDE, "make it blue"]), **options)
    assert [image.tobytes() for image in edited] == [image.tobytes() for image in drawn]
    assert [image.size for image in edited] == [(16, 16)] * 2
    other = engine.edit(WIDE.rotate(180), "make it blue", **options)
    assert other[0].tobytes() != edited[0].tobytes()


def test_both_eyes_see_the_middle_of_a_long_picture(engine) -> None:
    middle = WIDE.crop((12, 0, 28, 16))
    (message,) = show_both_eyes([Message("user", [WIDE, "make it blue"])], engine._image_ids)
    view = message.content[0]
    assert isinstance(view, TwoViews) and view.image.tobytes() == middle.tobytes()
    ids = engine.model.generation.tokenizer.encode(generation_pixels(middle, 16)[None])[0]
    assert view.image_ids.tolist() == ids.tolist()
    request = engine.drawing(Message("user", [WIDE, "make it blue"]), engine.options(guidance=3.0))
    assert [type(span) for span in request.documents[0]] == [
        TextSpan, UnderstandSpan, TextSpan, GenerateSpan, TextSpan
    ]  # fmt: skip
    assert all(isinstance(span, TextSpan) for span in request.documents[1])


def test_a_follow_up_edits_what_was_drawn(engine) -> None:
    ids = engine.generate_ids("a red apple", seed=1, guidance=1.0)[0]
    talk = [Message("user", "a red apple"), Message("assistant", ids), Message("user", "make it blue")]
    assert engine.generate([talk], seed=1)[0].size == (16, 16)


@pytest.mark.parametrize("words", ["", "  ", 3])
def test_an_edit_without_words_is_refused(engine, words) -> None:
    with pytest.raises(ValueError, match="empty instruction: say what to change, such as 'make the apple blue'"):
        engine.edit(WIDE, words)


def test_a_model_that_was_not_trained_to_edit_says_so() -> None:
    with pytest.raises(ValueError, match="this model was trained to talk and draw, not to edit"):
        Engine(tiny.checkpoint()).edit(WIDE, "make it blue")


def edits(split: str, seed: int):
    """A picture that shall become black."""

    def at(index: int):
        picture = Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8))
        answer = Message("assistant", [Image.new("RGB", (16, 16))])
        return [Message("user", [picture, "make it black"]), answer]

    return at


@pytest.fixture
def documents(monkeypatch):
    """The first 400 documents of a training on edits, with these settings."""
    monkeypatch.setitem(SOURCES, "edits", (edits, "conversations"))

    def made(**settings):
        start = tiny.checkpoint()
        data = JanusData(JanusTraining("", "", **settings), 0, start.processor, start.model.generation.tokenizer)
        with torch.no_grad():
            return [data.document("edits", edits("train", 0), index) for index in range(400)], start

    return made


def test_a_training_shows_both_eyes_the_picture_and_supervises_the_answer(documents) -> None:
    made, start = documents(drop_caption=0.0, drop_view=0.0)
    tokenizer = start.model.generation.tokenizer
    for index in (0, 7):
        before, after = (message.content[0] for message in edits("train", 0)(index))
        given, drawn = (span for span in made[index] if isinstance(span, GenerateSpan))
        with torch.no_grad():
            assert list(given.image_ids) == tokenizer.encode(generation_pixels(before, 16)[None])[0].tolist()
            assert list(drawn.image_ids) == tokenizer.encode(generation_pixels(after, 16)[None])[0].tolist()
        assert drawn.loss and not given.loss
        assert sum(isinstance(span, UnderstandSpan) for span in made[index]) == 1


def test_a_training_drops_a_view_words_and_pictures_at_random(documents) -> None:
    made, start = documents(drop_caption=0.3, drop_view=0.25)
    text = start.processor.text

    def has(document, kind) -> bool:
        return any(isinstance(span, kind) for span in document)

    def says(document) -> bool:
        return "black" in "".join(text.decode(list(s.ids)) for s in document if isinstance(s, TextSpan) and not s.loss)

    kept = [document for document in made if says(document)]
    share = len(kept) / len(made)
    assert abs(share - 0.7) < 0.07  # three standard errors
    views = np.mean([sum(isinstance(s, GenerateSpan) for s in document) == 2 for document in kept])
    assert abs(views - 0.75) < 0.08
    wordless = [document for document in made if not says(document)]
    with_picture = np.mean([has(document, UnderstandSpan) for document in wordless])
    assert abs(with_picture - 0.5) < 0.14
