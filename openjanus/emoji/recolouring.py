"""Pictures of the emoji world in two colourings, for an image tokenizer whose ids are products of shape and colour.

    scene ─► the true picture: natural artwork and wide colours, as the decoder must give it
          └► the same items at the same places in other colours, on another background: what is left is shape

In SAME of the examples both are the true picture, because that is what the finished tokenizer reads. A coloured object
never wears its held-out colour, nor one that is near to it, in either picture (`allowed_colors`).
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from openjanus.data.sources import Source
from openjanus.emoji import world
from openjanus.emoji.splits import HELDOUT_COLOR_PAIRS, TRAIN_STYLES, allowed_partners, scene_colors, stream
from openjanus.emoji.sprites import (
    BACKGROUNDS,
    COLORS,
    NOUNS,
    OBJECTS,
    from_oklab,
    scaled_sprite,
    sprite,
    tinted,
    to_oklab,
)
from openjanus.emoji.words import coin, pick
from openjanus.emoji.world import CANVAS_PX, MULTI_PX, SIZES_PX, SLOTS_PX, Item, Scene

RGB = tuple[int, int, int]
NEAR = 0.12  # distance in OKLab below which two colours are near
# Share of pictures with four items, with one large item, and of the world's own scenes.
DENSE, LARGE = 0.45, 0.35
WIDE = 0.4  # share of coloured objects in a colour of PALETTE instead of a named one
SAME = 0.15
TURNS = 12  # hues into which artwork that has no colour of its own is turned


def _palette() -> tuple[RGB, ...]:
    """36 hues, light and dark by turns, and four greys."""
    colors: list[RGB] = []
    for i in range(36):
        hue = 2 * np.pi * i / 36
        lightness, chroma = ((0.78, 0.12), (0.6, 0.17), (0.42, 0.12))[i % 3]
        lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
        red, green, blue = (int(x) for x in np.rint(from_oklab(lab) * 255))
        colors.append((red, green, blue))
    return (*colors, *((level, level, level) for level in (40, 110, 180, 240)))


PALETTE = _palette()


def lab_of(color: RGB) -> np.ndarray:
    """OKLab [3] of an sRGB colour in 0..255."""
    return to_oklab(np.array(color) / 255)


def _allowed(noun: str) -> tuple[RGB, ...]:
    heldout = {color for color, other in HELDOUT_COLOR_PAIRS if other == noun}
    kept = []
    for color in PALETTE:
        distance = {name: float(np.linalg.norm(lab_of(color) - lab_of(COLORS[name]))) for name in COLORS}
        if not any(distance[name] < NEAR or distance[name] == min(distance.values()) for name in heldout):
            kept.append(color)
    return tuple(kept)


_LAB = {color: lab_of(color) for color in PALETTE}
_ALLOWED = {noun: _allowed(noun) for noun, info in OBJECTS.items() if info.recolourable}


def allowed_colors(noun: str) -> tuple[RGB, ...]:
    """The colours of PALETTE that an object may wear in training: those whose nearest named colour is not held out for
    this object, and which are at least NEAR from its held-out colour in OKLab."""
    return _ALLOWED[noun]


@lru_cache(maxsize=8192)
def coloured(noun: str, color: RGB, style: str, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """As `scaled_sprite`, of a recolourable object in any colour."""
    tint = OBJECTS[noun].tint
    assert tint is not None
    return _premultiplied(tinted(_small(noun, style, size_px), color, tint))


@lru_cache(maxsize=8192)
def turned(noun: str, turn: int, shift: float, style: str, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """As `scaled_sprite`, of any object with all hues turned, by `turn` of TURNS, and all lightnesses shifted."""
    rgba = _small(noun, style, size_px)
    lab = to_oklab(rgba[..., :3] / 255)
    angle = 2 * np.pi * turn / TURNS
    turning = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    lightness = 0.5 + 0.7 * (lab[..., :1] - 0.5) + shift
    rgb = from_oklab(np.concatenate([lightness, lab[..., 1:] @ turning], axis=-1))
    return _premultiplied(np.concatenate([np.rint(rgb * 255).astype(np.uint8), rgba[..., 3:]], axis=-1))


def _small(noun: str, style: str, size_px: int) -> np.ndarray:
    """Natural artwork at this size: uint8 [size, size, 4]."""
    image = Image.fromarray(sprite(noun, None, style)).convert("RGBa")
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.LANCZOS).convert("RGBA"))


def _premultiplied(rgba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return rgba[..., :3] * alpha, 1 - alpha


def dense_scene(split: str, seed: int, index: int) -> Scene:
    """A scene with few plain patches: four items, one large item, or a scene of the world."""
    rng = stream(split, seed, index, 4)
    kind = rng.random()
    if kind >= DENSE + LARGE:
        return world.sample_scene(split, seed, index)
    if kind < DENSE:
        nouns = [pick(rng, NOUNS)]
        while len(nouns) < 4:
            nouns.append(pick(rng, allowed_partners(tuple(nouns)) or NOUNS[:1]))
        boxes = [(x, y, MULTI_PX) for y in SLOTS_PX for x in SLOTS_PX]
    else:
        nouns, size = [pick(rng, NOUNS)], pick(rng, (SIZES_PX["medium"], SIZES_PX["big"]))
        free = (CANVAS_PX - size) // world.LATTICE_PX + 1
        boxes = [(*(int(v) * world.LATTICE_PX for v in rng.integers(0, free, 2)), size)]  # type: ignore[list-item]
    colors = [pick(rng, scene_colors(n, split)) if OBJECTS[n].recolourable else None for n in nouns]
    items = tuple(Item(n, c, *box) for n, c, box in zip(nouns, colors, boxes, strict=True))
    return Scene(items, pick(rng, tuple(BACKGROUNDS)), pick(rng, TRAIN_STYLES), "one", world.Named())


def recoloured(split: str, seed: int) -> Source:
    """A scene in two colourings: index -> (true picture, other colours), both uint8 [64, 64, 3]."""

    def at(index: int) -> tuple[np.ndarray, np.ndarray]:
        scene, rng = dense_scene(split, seed, index), stream(split, seed, index, 5)
        grounds = (BACKGROUNDS[scene.background], pick(rng, _GROUNDS))
        true, other = map(_canvas, grounds)
        for item in scene.items:
            true_sprite, other_sprite = _two_colourings(item, scene.style, grounds, rng)
            for canvas, (color, keep) in ((true, true_sprite), (other, other_sprite)):
                patch = canvas[item.y : item.y + item.size, item.x : item.x + item.size]
                patch *= keep
                patch += color
        return _to_bytes(true), _to_bytes(true if coin(rng, SAME) else other)

    return at


_GROUNDS: tuple[RGB, ...] = (*BACKGROUNDS.values(), *PALETTE)
Sprite = tuple[np.ndarray, np.ndarray]


def _two_colourings(
    item: Item, style: str, grounds: tuple[RGB, RGB], rng: np.random.Generator
) -> tuple[Sprite, Sprite]:
    """The item as the true picture shows it, and in another colour, each unlike its background."""
    true = scaled_sprite(item.object, item.color, style, item.size)
    if item.color is None:
        turn, shift = int(rng.integers(TURNS)), pick(rng, (-0.2, 0.0, 0.2))
        return true, turned(item.object, turn, shift, style, item.size)
    if coin(rng, WIDE):
        true = coloured(item.object, _unlike(grounds[0], item.object, rng), style, item.size)
    return true, coloured(item.object, _unlike(grounds[1], item.object, rng), style, item.size)


def _unlike(ground: RGB, noun: str, rng: np.random.Generator) -> RGB:
    """A colour of the object that is not near to its background."""
    lab = lab_of(ground)
    return pick(rng, [color for color in allowed_colors(noun) if np.linalg.norm(_LAB[color] - lab) > NEAR])


def _canvas(color: RGB) -> np.ndarray:
    canvas = np.empty((CANVAS_PX, CANVAS_PX, 3), np.float32)
    canvas[:] = color
    return canvas


def _to_bytes(canvas: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)
