"""Edits with exact results: a scene, what to change, and the scene after the change.

    sample_edit("train", seed, index) -> Edit(before, words, after, kind)
    judge_edit(edit, picture)         -> whether the change was made, and everything else stayed

Items that do not change stay where they are, so a picture before and the one after differ in the change only, pixel by
pixel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from openjanus.emoji import world
from openjanus.emoji.scene_reader import MAX_CLUTTER_PX, FoundItem, read_scene
from openjanus.emoji.splits import HELDOUT_COLOR_PAIRS, is_train_pair, scene_colors, stream
from openjanus.emoji.sprites import BACKGROUNDS, NOUNS, OBJECTS
from openjanus.emoji.words import NUMBER_WORDS, coin, noun_phrase, pick, with_article
from openjanus.emoji.world import MULTI_PX, SIZES_PX, SLOTS_PX, Item, Named, Scene

KINDS = ("recolour", "remove", "add", "count", "background", "resize", "replace")
SPLITS = ("train", "seen", "heldout_color", "heldout_pair")
# How far a kept item may move, and how much its side may change, in px.
MOVE_PX, GROW_PX = 6, 7

RECOLOUR = (
    "make the {n} {c}", "paint the {n} {c}", "change the {n} to {c}", "the {n} should be {c}", "colour the {n} {c}",
    "turn the {n} {c}", "color the {n} {c}", "i want the {n} to be {c}", "make it {c}",
)  # fmt: skip
REMOVE = ("remove the {n}", "delete the {n}", "take the {n} away", "erase the {n}", "without the {n}", "no {n}")
REMOVE_ONE = ("remove one {n}", "take one {n} away", "delete one of the {ns}", "one {n} less")
ADD = ("add {a} {rel} the {n}", "put {a} {rel} the {n}", "draw {a} {rel} the {n}", "place {a} {rel} the {n}")
COUNT = ("make it {k} {ns}", "{k} {ns} instead of {old}", "change it to {k} {ns}", "there should be {k} {ns}")
GROUND = (
    "on a {g} background", "change the background to {g}", "make the background {g}", "use a {g} background",
    "with a {g} background", "put it on a {g} background",
)  # fmt: skip
BIGGER = ("make the {n} bigger", "make the {n} big", "enlarge the {n}", "make the {n} larger", "a bigger {n}")
SMALLER = ("make the {n} smaller", "make the {n} small", "shrink the {n}", "a smaller {n}")
REPLACE = (
    "replace the {n} with {a}", "turn the {n} into {a}", "change the {n} to {a}", "{a} instead of the {n}",
    "swap the {n} for {a}",
)  # fmt: skip
SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
RELATION = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


@dataclass(frozen=True)
class Edit:
    """`free`: places of `after.items` that may lie anywhere, because the words do not say where."""

    before: Scene
    words: str
    after: Scene
    kind: str
    free: tuple[int, ...] = ()


def sample_edit(split: str, seed: int, index: int, kind: str | None = None) -> Edit:
    """The edit number `index` of a split's stream. Of `heldout_color` the scene after has a held-out colour, of
    `heldout_pair` it has a held-out pair of objects; before, there is none.

    kind: one of KINDS; None: any that the split has.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of edits; expected one of {', '.join(SPLITS)}")
    rng = stream(split, seed, index, 8)
    kinds = {"heldout_color": ("recolour",), "heldout_pair": ("add", "replace")}.get(split, KINDS)
    if kind is not None and kind not in kinds:
        raise ValueError(f"no edit of kind {kind!r} in {split}; expected one of {', '.join(kinds)}")
    kind = kind or pick(rng, kinds)
    while True:  # at most some dozens of times
        number = int(rng.integers(2**31))
        scene = replace(world.sample_scene("train" if split == "train" else "seen", seed, number), named=Named())
        edit = _EDITS[kind](scene, rng, split)
        if edit is not None:
            return edit


def _is_legal(scene: Scene, split: str) -> bool:
    """Whether the scene may be shown: held-out combinations in their own split only."""
    pairs = [(item.color, item.object) for item in scene.items]
    nouns = {item.object for item in scene.items}
    has_color = any(pair in HELDOUT_COLOR_PAIRS for pair in pairs)
    has_pair = any(not is_train_pair(a, b) for a in nouns for b in nouns if a != b)
    return has_color == (split == "heldout_color") and has_pair == (split == "heldout_pair")


def _nouns(scene: Scene) -> list[str]:
    return list(dict.fromkeys(item.object for item in scene.items))


def _done(
    scene: Scene, words: str, items: tuple[Item, ...], kind: str, split: str, free: tuple[int, ...] = ()
) -> Edit | None:
    after = replace(scene, items=items)
    return Edit(scene, words, after, kind, free) if _is_legal(after, split) else None


def _recolour(scene: Scene, rng: np.random.Generator, split: str) -> Edit | None:
    nouns = [item.object for item in scene.items if item.color is not None]
    if not nouns:
        return None
    noun = pick(rng, nouns)
    old = next(item.color for item in scene.items if item.object == noun)
    options = [color for color in scene_colors(noun, split) if color != old]
    color = pick(rng, options)
    count = sum(item.object == noun for item in scene.items)
    templates = RECOLOUR if len(_nouns(scene)) == 1 and count == 1 else RECOLOUR[:-1]
    words = pick(rng, templates).format(n=noun_phrase(noun, count=count), c=color)
    items = tuple(replace(item, color=color) if item.object == noun else item for item in scene.items)
    return _done(scene, words, items, "recolour", split)


def _remove(scene: Scene, rng: np.random.Generator, split: str) -> Edit | None:
    if len(scene.items) < 2:
        return None
    gone = pick(rng, scene.items)
    many = len(_nouns(scene)) == 1
    words = pick(rng, REMOVE_ONE if many else REMOVE).format(n=gone.object, ns=OBJECTS[gone.object].plural)
    if many:
        return _count(scene, rng, split, len(scene.items) - 1, words, "remove")
    return _done(scene, words, tuple(item for item in scene.items if item is not gone), "remove", split)


def _add(scene: Scene, rng: np.random.Generator, split: str) -> Edit | None:
    if len(scene.items) != 1 or scene.items[0].size != MULTI_PX:
        return None
    item = scene.items[0]
    relation = pick(rng, tuple(SIDES))
    dx, dy = SIDES[relation]
    near, far = SLOTS_PX
    x = (near if dx < 0 else far) if dx else item.x
    y = (near if dy < 0 else far) if dy else item.y
    if abs(x - item.x) * abs(dx) + abs(y - item.y) * abs(dy) < far - near:
        return None
    noun = pick(rng, [other for other in NOUNS if other != item.object])
    color = pick(rng, scene_colors(noun, "seen")) if OBJECTS[noun].recolourable else None
    words = pick(rng, ADD).format(
        a=with_article(noun_phrase(noun, color)), rel=pick(rng, RELATION[relation]), n=item.object
    )
    return _done(scene, words, (item, Item(noun, color, x, y, MULTI_PX)), "add", split)


def _count(
    scene: Scene, rng: np.random.Generator, split: str, number: int | None = None, words: str = "", kind: str = "count"
) -> Edit | None:
    """Another number of the same item: those in the corners stay as far as they can."""
    if len(_nouns(scene)) != 1 or any(item.size != MULTI_PX for item in scene.items):
        return None
    corners = [(x, y) for y in SLOTS_PX for x in SLOTS_PX]
    kept = [item for item in scene.items if (item.x, item.y) in corners]
    if len(kept) != len(scene.items):
        return None
    old = len(kept)
    number = number or pick(rng, [n for n in range(1, world.MAX_COUNT + 1) if n != old])
    item = kept[0]
    while len(kept) > number:
        kept.pop(int(rng.integers(len(kept))))
    empty = [corner for corner in corners if corner not in {(i.x, i.y) for i in kept}]
    while len(kept) < number:
        x, y = empty.pop(int(rng.integers(len(empty))))
        kept.append(replace(item, x=x, y=y))
    said = str(number) if coin(rng, 0.4) else NUMBER_WORDS[number]
    nouns = noun_phrase(item.object, count=number)
    words = words or pick(rng, COUNT).format(k=said, ns=nouns, old=NUMBER_WORDS[old])
    return _done(scene, words, tuple(kept), kind, split, tuple(range(len(kept))))


def _background(scene: Scene, rng: np.random.Generator, split: str) -> Edit | None:
    ground = pick(rng, [name for name in BACKGROUNDS if name != scene.background])
    edit = _done(scene, pick(rng, GROUND).format(g=ground), scene.items, "background", split)
    return edit and replace(edit, after=replace(edit.after, background=ground))


def _resize(scene: Scene, rng: np.random.Generator, split: str) -> Edit | None:
    if len(scene.items) != 1:
        return None
    item = scene.items[0]
    sizes = list(SIZES_PX.values())
    place = sizes.index(item.size)
    bigger = place == 0 or (place < len(sizes) - 1 and coin(rng, 0.5))
    size = pick(rng, sizes[place + 1 :]) if bigger else pick(rng, sizes[:place])
    words = pick(rng, BIGGER if bigger else SMALLER).format(n=item.object)
    size = SIZES_PX["big"] if words.startswith("make") and words.endswith("big") else size
    size = SIZES_PX["small"] if words.startswith("make") and words.endswith("small") else size
    # About the same centre, on the lattice.
    step, free = world.LATTICE_PX, world.CANVAS_PX - size
    x, y = (
        min(max(round((corner + (item.size - size) / 2) / step) * step, 0), free // step * step)
        for corner in (item.x, item.y)
    )
    return _done(scene, words, (replace(item, x=x, y=y, size=size),), "resize", split, (0,))


def _replace(scene: Scene, rng: np.random.Generator, split: str) -> Edit | None:
    if len(_nouns(scene)) != len(scene.items):
        return None
    old = pick(rng, scene.items)
    noun = pick(rng, [other for other in NOUNS if other not in _nouns(scene)])
    color = pick(rng, scene_colors(noun, "seen")) if OBJECTS[noun].recolourable else None
    words = pick(rng, REPLACE).format(n=old.object, a=with_article(noun_phrase(noun, color)))
    items = tuple(replace(item, object=noun, color=color) if item is old else item for item in scene.items)
    return _done(scene, words, items, "replace", split)


_EDITS: dict[str, Callable[[Scene, np.random.Generator, str], Edit | None]] = {
    "recolour": _recolour, "remove": _remove, "add": _add, "count": _count, "background": _background,
    "resize": _resize, "replace": _replace,
}  # fmt: skip


def judge_edit(edit: Edit, image: np.ndarray) -> tuple[str, ...]:
    """Reasons why a picture, uint8 [64, 64, 3], is not the scene after the edit; none if it is.

    Objects, colours, numbers and background must be right, and each item must be where it was and as large; those in
    `edit.free` may lie anywhere.
    """
    reading, reasons = read_scene(image), []
    wanted, found = edit.after.items, list(reading.items)
    if Counter((i.object, i.color) for i in wanted) != Counter((i.object, i.color) for i in found):
        reasons.append(f"objects: wanted {_named(wanted)}, found {_named(found)}")
    if reading.clutter_px > MAX_CLUTTER_PX:
        reasons.append(f"clutter: {reading.clutter_px} px belong to no object")
    if reading.background != edit.after.background:
        reasons.append(f"background: wanted {edit.after.background}, found {reading.background}")
    if reasons:
        return tuple(reasons)
    for number, item in enumerate(wanted):
        same = [other for other in found if (other.object, other.color) == (item.object, item.color)]
        nearest = min(same, key=lambda other: abs(other.x - item.x) + abs(other.y - item.y))
        moved = max(abs(nearest.x - item.x), abs(nearest.y - item.y))
        if abs(nearest.size - item.size) > GROW_PX:
            reasons.append(f"size: the {item.object} has {nearest.size} px, wanted {item.size}")
        elif number not in edit.free and moved > MOVE_PX:
            reasons.append(f"place: the {item.object} moved by {moved} px")
    return tuple(reasons)


def _named(items: tuple[Item, ...] | list[FoundItem]) -> str:
    return ", ".join(f"{item.color or ''} {item.object}".strip() for item in items) or "nothing"
