"""Sources of training examples: functions from an index to an example.

A source is made by `find_source(name, ...)(split, seed)` and then called with an index; the same (split, seed, index)
always gives the same example, so a training resumes without saving where it was. A new source is one function and one
line in `SOURCES`.
"""

import difflib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.data import grammar, texts, world
from openjanus.data.splits import stream
from openjanus.processing.image import generation_pixels, to_pixels
from openjanus.processing.processor import Conversation, Message
from openjanus.processing.text import TextTokenizer

Source = Callable[[int], Any]
Gives = Literal["pictures", "captioned pictures", "conversations"]  # what a source's examples are
QUESTIONS_PER_PICTURE = 3


def emoji_pictures(split: str, seed: int) -> Source:
    """Pictures alone: index -> uint8 [64, 64, 3]."""
    return lambda index: world.render(world.sample_scene(split, seed, index))


def emoji_captions(split: str, seed: int) -> Source:
    """Pictures and one caption each, for contrastive training: index -> (uint8 [64, 64, 3], str).

    Backgrounds and places tell most captions of a batch apart. So many captions name the objects alone: an encoder that
    only knows where something stands would miss them.
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


def emoji_drawings(split: str, seed: int) -> Source:
    """A caption to draw: index -> user says the caption, assistant answers with the picture."""

    def at(index: int) -> Conversation:
        scene = world.sample_scene(split, seed, index)
        words = grammar.caption(scene, stream(split, seed, index, 1))
        return [Message("user", [words]), Message("assistant", [Image.fromarray(world.render(scene))])]

    return at


def emoji_questions(split: str, seed: int) -> Source:
    """A picture with some questions and their answers, or a description: index -> conversation."""

    def at(index: int) -> Conversation:
        scene = world.sample_scene(split, seed, index)
        rng = stream(split, seed, index, 2)
        picture = Image.fromarray(world.render(scene))
        if rng.random() < 0.25:  # names everything at once
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


def emoji_texts(split: str, seed: int) -> Source:
    """Text-only documents: index -> conversation of one part without a role."""
    return lambda index: [Message("text", [texts.text_document(seed, index)])]


SOURCES: dict[str, tuple[Callable[[str, int], Source], Gives]] = {
    "emoji.pictures": (emoji_pictures, "pictures"),
    "emoji.captions": (emoji_captions, "captioned pictures"),
    "emoji.drawings": (emoji_drawings, "conversations"),
    "emoji.questions": (emoji_questions, "conversations"),
    "emoji.texts": (emoji_texts, "conversations"),
}


def find_source(name: str, wanted: Gives) -> Callable[[str, int], Source]:
    """A source by name. Raises ValueError for an unknown one, and for one whose examples are of another kind."""
    fitting = [other for other, (_, gives) in SOURCES.items() if gives == wanted]
    if name not in SOURCES:
        near = difflib.get_close_matches(name, fitting, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fitting)}"
        raise ValueError(f"unknown source {name!r}; {hint}")
    make, gives = SOURCES[name]
    if gives != wanted:
        raise ValueError(f"source {name!r} gives {gives}, but this needs {wanted}: use {' or '.join(fitting)}")
    return make


def stack_pictures(arrays: Sequence[np.ndarray], size_px: int) -> Tensor:
    """uint8 pictures [H, W, 3] -> pixels [M, 3, size_px, size_px]."""
    square = (size_px, size_px, 3)
    return torch.stack(
        [to_pixels(a) if a.shape == square else generation_pixels(Image.fromarray(a), size_px) for a in arrays]
    )


def text_tokenizer(path: str = "") -> TextTokenizer:
    """The text tokenizer of a file or a checkpoint folder; of the emoji world if there is none given.

    Raises ValueError if the file is missing or not a tokenizer.
    """
    if not path:
        return world_text_tokenizer()
    return TextTokenizer.load(Path(path) / "tokenizer.json" if Path(path).is_dir() else path)


@lru_cache(maxsize=1)
def world_text_tokenizer() -> TextTokenizer:
    """The emoji world's own tokenizer (scripts/make_tokenizer.py)."""
    return TextTokenizer.load(str(files("openjanus.data") / "assets" / "tokenizer.json"))
