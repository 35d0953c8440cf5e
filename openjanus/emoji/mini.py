"""A reduced emoji world, for controlled experiments that must be short: one thing a picture.

    mini_scene("train", seed, index) -> Scene, as world.sample_scene gives it and world.render draws it

24 objects of one size and one style, in seven colours each, at one of nine places on one of five backgrounds. A caption
names all of it. Held out is a colour for each object, as in the whole world (splits.py).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from openjanus.data.sources import Source
from openjanus.emoji import grammar, world
from openjanus.emoji.grammar import Question
from openjanus.emoji.splits import TRAIN_STYLES, scene_colors, stream
from openjanus.emoji.sprites import BACKGROUNDS, RECOLOURABLE
from openjanus.emoji.words import pick
from openjanus.emoji.world import PLACED, PLACES, Item, Named, Scene
from openjanus.processing.message import Conversation, Message

SPLITS = ("seen", "heldout_color")
KINDS = ("what", "color", "where", "yes_no")
SIZE = "small"
QUESTIONS_PER_PICTURE = 3


def mini_scene(split: str, seed: int, index: int) -> Scene:
    """The scene number `index` of a split's stream: train, seen, or heldout_color."""
    rng = stream(split, seed, index, 8)
    noun = pick(rng, RECOLOURABLE)
    color = pick(rng, scene_colors(noun, split))
    place = pick(rng, PLACES)
    x, y = pick(rng, PLACED[SIZE, place])
    item = Item(noun, color, x, y, world.SIZES_PX[SIZE])
    named = Named(color=True, place=place, background=True)
    return Scene((item,), pick(rng, tuple(BACKGROUNDS)), TRAIN_STYLES[0], "color", named)


def mini_caption(split: str, seed: int, index: int) -> str:
    """The caption of scene number `index`: text that states all of it."""
    return grammar.caption(mini_scene(split, seed, index), stream(split, seed, index, 9))


def mini_question(split: str, seed: int, index: int, kind: str) -> Question:
    """A question of one of `KINDS` about scene number `index`, with its answer."""
    return grammar.question(mini_scene(split, seed, index), stream(split, seed, index, 10), kind)


def pictures(split: str, seed: int) -> Source:
    """index -> uint8 [64, 64, 3]."""
    return lambda index: world.render(mini_scene(split, seed, index))


def captions(split: str, seed: int) -> Source:
    """index -> (uint8 [64, 64, 3], str). Half of the captions name only the object and its colour: backgrounds and
    places alone would tell most pictures of a batch apart."""

    def at(index: int) -> tuple[np.ndarray, str]:
        scene = mini_scene(split, seed, index)
        words = grammar.names(scene) if index % 2 else mini_caption(split, seed, index)
        return world.render(scene), words

    return at


def drawings(split: str, seed: int) -> Source:
    """A caption to draw: index -> conversation."""

    def at(index: int) -> Conversation:
        picture = Image.fromarray(world.render(mini_scene(split, seed, index)))
        return [Message("user", [mini_caption(split, seed, index)]), Message("assistant", [picture])]

    return at


def questions(split: str, seed: int) -> Source:
    """A picture with questions of different kinds and their answers: index -> conversation."""

    def at(index: int) -> Conversation:
        scene, rng = mini_scene(split, seed, index), stream(split, seed, index, 11)
        picture, messages = Image.fromarray(world.render(scene)), []
        for turn, kind in enumerate(rng.permutation(len(KINDS))[:QUESTIONS_PER_PICTURE]):
            asked = grammar.question(scene, rng, KINDS[kind])
            messages.append(Message("user", [picture, asked.text] if turn == 0 else [asked.text]))
            messages.append(Message("assistant", [asked.answer]))
        return messages

    return at
