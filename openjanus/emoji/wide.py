"""A wider emoji world to learn from: sixteen more colours, and large single objects as often as small ones.

    wide_scene("train", seed, index) -> Scene, as world.sample_scene gives it and world.render draws it

A large object takes 49 of the 64 image ids, a small one 16, so each of its ids is seen less often. Therefore half of
the scenes are single objects, and their sizes are drawn 1 : 2 : 3. The new colours exist in training only; today's
prompts, splits and held-out pairs (splits.py) are as they were.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from openjanus.emoji import world
from openjanus.emoji.splits import HELDOUT_COLOR_PAIRS, TRAIN_STYLES, scene_colors, stream
from openjanus.emoji.sprites import BACKGROUNDS, COLORS, MORE_COLORS, NOUNS, OBJECTS, RECOLOURABLE, to_oklab
from openjanus.emoji.words import coin, pick
from openjanus.emoji.world import Item, Named, Scene

SINGLE = 0.5
SIZE_WEIGHTS = {"small": 1, "medium": 2, "big": 3}
OTHER_TASKS = {"counting": 0.4, "two": 0.2, "position": 0.2, "attribute": 0.2}
MORE = 1 / 3  # share of coloured scenes that wear the new colours
LEAST_DISTANCE = 0.1  # in OKLab, of a new colour from the held-out colour of the object that wears it
LEAST_CONTRAST = 0.12  # of a new colour from the background


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """In OKLab, where black and white are 1 apart."""
    return float(np.linalg.norm(to_oklab(np.array(one) / 255) - to_oklab(np.array(other) / 255)))


def _allowed(noun: str) -> tuple[str, ...]:
    heldout = [name for name, other in HELDOUT_COLOR_PAIRS if other == noun]
    kept = []
    for name, color in MORE_COLORS.items():
        distances = {other: _distance(color, COLORS[other]) for other in COLORS}
        nearest = min(distances, key=lambda other: distances[other])
        if all(distances[other] >= LEAST_DISTANCE and nearest != other for other in heldout):
            kept.append(name)
    return tuple(kept)


_ALLOWED = {noun: _allowed(noun) for noun in RECOLOURABLE}
_SEEN_ON = {
    ground: tuple(name for name, color in MORE_COLORS.items() if _distance(color, rgb) >= LEAST_CONTRAST)
    for ground, rgb in BACKGROUNDS.items()
}


def more_colors(noun: str) -> tuple[str, ...]:
    """The new colours that an object may wear: those at least LEAST_DISTANCE from its held-out colour in OKLab, and
    nearer to another of the eight named colours than to that one."""
    return _ALLOWED[noun]


def wide_scene(split: str, seed: int, index: int) -> Scene:
    """The scene number `index` of a split's stream."""
    rng = stream(split, seed, index, 6)
    if coin(rng, SINGLE):
        scene = _single(split, rng)
    else:
        scene = world.sample_scene(split, seed, index, OTHER_TASKS)
    return _in_more_colors(scene, rng) if split == "train" and coin(rng, MORE) else scene


def _single(split: str, rng: np.random.Generator) -> Scene:
    coloured = coin(rng, 0.65) or split == "heldout_color"
    noun = pick(rng, RECOLOURABLE if coloured else NOUNS)
    color = pick(rng, scene_colors(noun, split)) if OBJECTS[noun].recolourable else None
    name = pick(rng, [size for size, weight in SIZE_WEIGHTS.items() for _ in range(weight)])
    x, y, side, size, place = world.box_of_size(rng, name)
    named = Named(
        color=color is not None and coin(rng, 0.75),
        size=size,
        place=place,
        background=coin(rng, 0.4),
        style=coin(rng, 0.15),
    )
    task = "color" if named.color else "one"
    item = Item(noun, color, x, y, side)
    return Scene((item,), pick(rng, tuple(BACKGROUNDS)), pick(rng, TRAIN_STYLES), task, named)


def _in_more_colors(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with all coloured objects in new colours; equal objects stay equal, different ones differ."""
    chosen: dict[str, str] = {}
    for item in scene.items:
        if item.color is not None and item.object not in chosen:
            options = [c for c in more_colors(item.object) if c in _SEEN_ON[scene.background]]
            chosen[item.object] = pick(rng, [c for c in options if c not in chosen.values()] or options)
    items = tuple(replace(item, color=chosen.get(item.object, item.color)) for item in scene.items)
    return replace(scene, items=items)
