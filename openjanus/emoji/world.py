"""The emoji world: seeded scenes of real emoji artwork, and their pictures.

A scene is plain data: its items, and what its caption states. `sample_scene` is a pure function of its arguments;
`render` draws the scene at any size; grammar.py writes the texts. The six tasks are those of GenEval
(arXiv 2310.11513, section 3): one object, colour, counting, two objects, position, attribute binding.

    sample_scene("train", seed, index) -> Scene -> render(scene, 64) -> uint8 [64, 64, 3]
                                             \\-> grammar.caption(scene, rng) -> str
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from openjanus.emoji.splits import (
    HELDOUT_STYLE,
    SPLIT_TASKS,
    TASKS,
    TRAIN_STYLES,
    check_split,
    scene_colors,
    scene_pairs,
    stream,
)
from openjanus.emoji.sprites import BACKGROUNDS, NOUNS, OBJECTS, RECOLOURABLE, scaled_sprite
from openjanus.emoji.words import coin, pick

# Layout, in pixels of a 64-px canvas. A tiny model over 8x8-px patches must learn it, so there are few places, on a
# lattice as wide as a patch, and boxes of different items are >= GAP_PX apart.
CANVAS_PX = 64
LATTICE_PX = 8
GAP_PX = 4
EDGE_PX = 4  # a box so near to an edge is at the edge, and so near to the centre in the middle
SIZES_PX = {"small": 28, "medium": 40, "big": 52}
MULTI_PX = 28  # side of every item in a scene of two or more
MAX_SHIFT_PX = 8  # stated relations: the other axis differs at most this much
# The two slots of a row or column of MULTI_PX items that keep the gap, and the one between them.
SLOTS_PX = (0, 32)
MIDDLE_PX = 16

TASK_WEIGHTS = {"one": 0.12, "color": 0.2, "counting": 0.25, "two": 0.13, "position": 0.15, "attribute": 0.15}
RELATIONS = ("left of", "right of", "above", "below")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
MAX_COUNT = 4


@dataclass(frozen=True)
class Item:
    """One object; (x, y) is the top-left corner and size the side of its box, in px of the 64-px canvas."""

    object: str
    color: str | None
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Named:
    """What the caption states besides the objects; the scorer checks exactly this."""

    color: bool = False  # the colour of every recolourable item
    count: int | None = None  # counting: this many items
    relation: str | None = None  # position: items[0] is <relation> items[1]
    size: str | None = None  # "small" | "big"
    place: str | None = None  # one of PLACES
    background: bool = False
    style: bool = False


@dataclass(frozen=True)
class Scene:
    items: tuple[Item, ...]
    background: str
    style: str
    task: str
    named: Named


def place_of(x: int, y: int, size: int) -> str | None:
    """The place word of a box if it is unambiguous, else None. A big box can only be in the middle."""
    free = CANVAS_PX - size
    rows = []
    for offset in (y, x):
        if abs(offset - free / 2) <= EDGE_PX:
            rows.append(1)
        elif size < SIZES_PX["big"] and min(offset, free - offset) <= EDGE_PX:
            rows.append(0 if offset < free / 2 else 2)
        else:
            return None
    return PLACES[3 * rows[0] + rows[1]]


def relation_of(first: Item, second: Item) -> str | None:
    """The relation of the first item to the second if exactly one axis separates them, else None."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= MULTI_PX + GAP_PX and abs(dy) <= MAX_SHIFT_PX:
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= MULTI_PX + GAP_PX and abs(dx) <= MAX_SHIFT_PX:
        return "above" if dy < 0 else "below"
    return None


PLACED = {
    (name, place): tuple(
        (x, y)
        for x in range(0, CANVAS_PX - size + 1, LATTICE_PX)
        for y in range(0, CANVAS_PX - size + 1, LATTICE_PX)
        if place_of(x, y, size) == place
    )
    for name, size in SIZES_PX.items()
    for place in PLACES
}


def _one_box(rng: np.random.Generator) -> tuple[int, int, int, str | None, str | None]:
    """(x, y, size, named size, named place) of a lone object."""
    return box_of_size(rng, pick(rng, tuple(SIZES_PX)))


def box_of_size(rng: np.random.Generator, name: str) -> tuple[int, int, int, str | None, str | None]:
    """As `_one_box`, for a given size."""
    size = SIZES_PX[name]
    named_size = name if name != "medium" and coin(rng, 0.4) else None
    steps = (CANVAS_PX - size) // LATTICE_PX + 1
    x, y = (int(v) * LATTICE_PX for v in rng.integers(0, steps, 2))
    if not coin(rng, 0.25):
        return x, y, size, named_size, None
    place = pick(rng, PLACES) if name != "big" else "middle"
    x, y = pick(rng, PLACED[name, place])
    return x, y, size, named_size, place


def _related_boxes(rng: np.random.Generator, relation: str) -> list[tuple[int, int]]:
    """Corners of two items of which the first is `relation` the second."""
    near, far = SLOTS_PX
    reach = (CANVAS_PX - MULTI_PX) // LATTICE_PX * LATTICE_PX
    across = int(rng.integers(0, reach // LATTICE_PX + 1)) * LATTICE_PX
    shift = int(rng.integers(-MAX_SHIFT_PX // LATTICE_PX, MAX_SHIFT_PX // LATTICE_PX + 1)) * LATTICE_PX
    other = min(max(across + shift, 0), reach)
    boxes = [(near, across), (far, other)] if relation in ("left of", "right of") else [(across, near), (other, far)]
    return boxes if relation in ("left of", "above") else boxes[::-1]


def _grid_boxes(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Corners of `count` items (2 to 4) in the quadrants, or a triangle of two and a centred third."""
    columns = rows = SLOTS_PX
    cells = [(x, y) for y in rows for x in columns]
    if count == 4:
        return cells
    if count == 3:
        if coin(rng, 0.5):
            keep = int(rng.integers(0, 4))
            return [cell for i, cell in enumerate(cells) if i != keep]
        pair, lone = rows if coin(rng, 0.5) else rows[::-1]
        return [(columns[0], pair), (columns[1], pair), (MIDDLE_PX, lone)]
    if coin(rng, 0.4):
        return [cells[0], cells[3]] if coin(rng, 0.5) else [cells[1], cells[2]]
    return _related_boxes(rng, pick(rng, ("left of", "above")))


def _pick_task(rng: np.random.Generator, split: str, tasks: Mapping[str, float] | Sequence[str] | None) -> str:
    weights = TASK_WEIGHTS if tasks is None else tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks, 1.0)
    unknown = set(weights) - set(TASKS)
    if unknown:
        raise ValueError(f"unknown tasks {sorted(unknown)}; expected some of {', '.join(TASKS)}")
    legal = {task: weight for task, weight in weights.items() if task in SPLIT_TASKS[split] and weight > 0}
    if not legal:
        raise ValueError(f"split {split!r} has none of the tasks {sorted(weights)}; it has {list(SPLIT_TASKS[split])}")
    draw = rng.random() * sum(legal.values())
    return list(legal)[bisect(list(accumulate(legal.values())), draw, hi=len(legal) - 1)]


def sample_scene(split: str, seed: int, index: int, tasks: Mapping[str, float] | Sequence[str] | None = None) -> Scene:
    """The scene number `index` of a split's stream; `tasks` restricts (names) or weighs (mapping) the tasks."""
    check_split(split)
    rng = stream(split, seed, index)
    task = _pick_task(rng, split, tasks)
    style = HELDOUT_STYLE if split == "heldout_style" else pick(rng, TRAIN_STYLES)
    background = pick(rng, tuple(BACKGROUNDS))
    named_background = coin(rng, 0.5)
    # Training texts never name the held-out style, so no caption may ask for it.
    named_style = coin(rng, 0.2) and style != HELDOUT_STYLE
    color_matters = task in ("color", "attribute") or split == "heldout_color"
    named_color = task != "one" and (coin(rng, 0.7) or color_matters)
    count = size = place = relation = None
    if task in ("one", "color", "counting"):
        noun = pick(rng, RECOLOURABLE if task == "color" or split == "heldout_color" else NOUNS)
        color = pick(rng, scene_colors(noun, split)) if OBJECTS[noun].recolourable else None
        if task == "counting":
            count = int(rng.integers(1, MAX_COUNT + 1))
        if count is None or count == 1:
            x, y, side, size, place = _one_box(rng)
            items = [Item(noun, color, x, y, side)]
        else:
            items = [Item(noun, color, x, y, MULTI_PX) for x, y in _grid_boxes(rng, count)]
    else:
        pair = pick(rng, scene_pairs(split, recolourable=task == "attribute"))
        pair = pair if coin(rng, 0.5) else pair[::-1]
        colors = [pick(rng, scene_colors(n, split)) if OBJECTS[n].recolourable else None for n in pair]
        while task == "attribute" and colors[0] == colors[1]:
            colors[1] = pick(rng, scene_colors(pair[1], split))
        if task == "position":
            relation = pick(rng, RELATIONS)
            boxes = _related_boxes(rng, relation)
        else:
            boxes = _grid_boxes(rng, 2)
            boxes = boxes if coin(rng, 0.5) else boxes[::-1]
        items = [Item(n, c, x, y, MULTI_PX) for n, c, (x, y) in zip(pair, colors, boxes, strict=True)]
    named_color = named_color and any(item.color is not None for item in items)
    named = Named(named_color, count, relation, size, place, named_background, named_style)
    return Scene(tuple(items), background, style, task, named)


def render(scene: Scene, size_px: int = CANVAS_PX) -> np.ndarray:  # uint8 [size_px, size_px, 3]
    """Draw the scene. Raises ValueError for a size that puts boxes on half pixels, such as 72: not a multiple of 16."""
    step = CANVAS_PX // math.gcd(LATTICE_PX, *SIZES_PX.values(), MULTI_PX, *SLOTS_PX, MIDDLE_PX)
    if size_px <= 0 or size_px % step:
        raise ValueError(f"size_px is {size_px}; expected a positive multiple of {step}")
    canvas = np.empty((size_px, size_px, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for item in scene.items:
        x, y, side = (value * size_px // CANVAS_PX for value in (item.x, item.y, item.size))
        color, keep = scaled_sprite(item.object, item.color, scene.style, side)
        patch = canvas[y : y + side, x : x + side]
        patch *= keep
        patch += color
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
