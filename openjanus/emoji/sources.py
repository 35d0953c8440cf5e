"""The emoji world's sources of training examples, and its text tokenizer."""

from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from openjanus.data.sources import Source
from openjanus.emoji import grammar, world
from openjanus.emoji.splits import stream
from openjanus.emoji.texts import text_document
from openjanus.processing.processor import Conversation, Message
from openjanus.processing.text import TextTokenizer

QUESTIONS_PER_PICTURE = 3


def pictures(split: str, seed: int) -> Source:
    """Pictures only: index -> uint8 [64, 64, 3]."""
    return lambda index: world.render(world.sample_scene(split, seed, index))


def captions(split: str, seed: int) -> Source:
    """Pictures and one caption each, for contrastive training: index -> (uint8 [64, 64, 3], str).

    Backgrounds and places distinguish most captions of a batch. So many captions name only the objects, for which an
    encoder must learn more than places.
    """

    def at(index: int) -> tuple[np.ndarray, str]:
        scene = world.sample_scene(split, seed, index)
        rng = stream(split, seed, index, 1)
        kind = rng.random()
        if kind < 0.4:
            words = grammar.names(scene)
        else:
            words = grammar.description(scene) if kind < 0.7 else grammar.caption(scene, rng)
        return world.render(scene), words

    return at


def drawings(split: str, seed: int) -> Source:
    """A caption to draw: index -> a user's turn with the caption, an assistant's turn with the picture."""

    def at(index: int) -> Conversation:
        scene = world.sample_scene(split, seed, index)
        words = grammar.caption(scene, stream(split, seed, index, 1))
        return [Message("user", [words]), Message("assistant", [Image.fromarray(world.render(scene))])]

    return at


def questions(split: str, seed: int) -> Source:
    """A picture with some questions and their answers, or a description: index -> conversation."""

    def at(index: int) -> Conversation:
        scene = world.sample_scene(split, seed, index)
        rng = stream(split, seed, index, 2)
        picture = Image.fromarray(world.render(scene))
        if rng.random() < 0.25:  # a question for all objects
            asked = [("Describe the picture.", grammar.description(scene))]
        else:
            questions = [grammar.question(scene, rng) for _ in range(QUESTIONS_PER_PICTURE)]
            asked = [(q.text, q.answer) for q in questions]
        messages = []
        for turn, (question, answer) in enumerate(asked):
            messages.append(Message("user", [picture, question] if turn == 0 else [question]))
            messages.append(Message("assistant", [answer]))
        return messages

    return at


def texts(split: str, seed: int) -> Source:
    """Text-only documents: index -> conversation of one part without a role."""
    return lambda index: [Message("text", [text_document(seed, index)])]


@lru_cache(maxsize=1)
def world_text_tokenizer() -> TextTokenizer:
    """The emoji world's own tokenizer (scripts/make_tokenizer.py)."""
    return TextTokenizer.load(str(files("openjanus.emoji") / "assets" / "tokenizer.json"))
