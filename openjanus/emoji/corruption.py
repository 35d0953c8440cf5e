"""Corrupted pictures: each contradicts its caption in one known way, so the scorer must reject it.

Each kind is a function (scene, rng) -> picture, or None if it does not apply. Some replace an object by a shape (disc,
square, smudge, silhouette, half, chimera). The others draw a wrong scene (other object, missing, extra, recoloured,
mirrored, resized, moved, background). Only one item is corrupted: this is the harder case, since the rest is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from openjanus.emoji.sprites import BACKGROUNDS, COLORS, NOUNS, OBJECTS, scaled_sprite
from openjanus.emoji.words import coin, pick
from openjanus.emoji.world import CANVAS_PX, GAP_PX, LATTICE_PX, MULTI_PX, SIZES_PX, Item, Scene, place_of, render

Artwork = tuple[np.ndarray, np.ndarray]  # premultiplied colour [s, s, 3], one minus alpha [s, s, 1]
# Artwork with less detail than this (hearts, bells, shirts) counts as a plain silhouette.
FLAT_DETAIL = 0.12


def blurred(image: np.ndarray, sigma_px: float = 1.0) -> np.ndarray:  # uint8 [H, W, 3] -> the same
    """About as blurred as the pictures that come out of a small image tokenizer."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma_px)))


def artwork_of(item: Item, style: str) -> Artwork:
    return scaled_sprite(item.object, item.color, style, item.size)


def lay(canvas: np.ndarray, artwork: Artwork, x: int, y: int) -> np.ndarray:  # uint8 [H, W, 3] -> uint8 [H, W, 3]
    """The picture with one more piece of artwork, its top-left corner at (x, y)."""
    pixels, keep = artwork
    size = len(pixels)
    picture = canvas.astype(np.float32)
    picture[y : y + size, x : x + size] *= keep
    picture[y : y + size, x : x + size] += pixels
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)


def tone_of(item: Item, style: str) -> np.ndarray:  # [3]
    """The colour an observer would give for the whole object: its own, or the mean of its artwork."""
    pixels, keep = artwork_of(item, style)
    mean = pixels.sum((0, 1)) / (1 - keep).sum()
    return np.array(COLORS[item.color], np.float32) if item.color else mean


def filled(mask: np.ndarray, tone: np.ndarray) -> Artwork:  # mask [s, s], tone [3]
    alpha = mask.astype(np.float32)[..., None]
    return alpha * tone.astype(np.float32), 1 - alpha


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:  # x, y of the pixel centres in -1..1, [size, size] each
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _disc(item: Item, style: str, rng: np.random.Generator) -> Artwork:
    x, y = _axes(item.size)
    return filled(np.hypot(x, y) < rng.uniform(0.75, 1.0), tone_of(item, style))


def _square(item: Item, style: str, rng: np.random.Generator) -> Artwork:
    x, y = _axes(item.size)
    wide, high = rng.uniform(0.6, 1.0, 2)
    return filled((abs(x) < wide) & (abs(y) < high), tone_of(item, style))


def _smudge(item: Item, style: str, rng: np.random.Generator) -> Artwork:
    """Blurred beyond recognition, like early drawings."""
    pixels, keep = artwork_of(item, style)
    planes = []
    for plane in (*pixels.transpose(2, 0, 1), keep[..., 0] - 1):
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        padded = Image.new("F", (2 * item.size, 2 * item.size))
        padded.paste(image, (item.size // 2, item.size // 2))
        wide = np.asarray(padded)
        for axis in (0, 1):
            wide = _gauss(wide, item.size / 7, axis)
        planes.append(wide[item.size // 2 : -item.size // 2, item.size // 2 : -item.size // 2])
    return np.stack(planes[:3], -1).astype(np.float32), (planes[3][..., None] + 1).astype(np.float32)


def _gauss(plane: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    reach = np.arange(-int(3 * sigma), int(3 * sigma) + 1)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    return np.apply_along_axis(np.convolve, axis, plane, kernel / kernel.sum(), "same")


def _silhouette(item: Item, style: str, rng: np.random.Generator) -> Artwork | None:
    """The right outline in one tone; None for artwork that is almost a plain silhouette."""
    pixels, keep = artwork_of(item, style)
    alpha = 1 - keep
    mean = pixels.sum((0, 1)) / alpha.sum()
    detail = (((pixels - alpha * mean) / 255) ** 2).sum() / alpha.sum()
    return None if detail < FLAT_DETAIL else filled(alpha[..., 0], mean)


def _half(item: Item, style: str, rng: np.random.Generator) -> Artwork:
    pixels, keep = artwork_of(item, style)
    middle = item.size // 2
    start = pick(rng, (0, middle))
    gone = np.zeros((item.size, item.size, 1), bool)
    gone[start : start + middle] = True
    if coin(rng, 0.5):
        gone = gone.transpose(1, 0, 2)
    return np.where(gone, 0, pixels), np.where(gone, 1, keep)


def _chimera(item: Item, style: str, rng: np.random.Generator) -> Artwork:
    """The upper half of the object, and the lower half of another."""
    top, bottom = artwork_of(item, style), artwork_of(_another(item, (item.object,), rng), style)
    middle = item.size // 2
    pixels, keep = (np.concatenate([a[:middle], b[middle:]]) for a, b in zip(top, bottom, strict=True))
    return pixels, keep


def _another(item: Item, but: tuple[str, ...], rng: np.random.Generator) -> Item:
    """Another object with the same place, size and colour (if it has one)."""
    colored = item.color is not None
    noun = pick(rng, [n for n in NOUNS if n not in but and OBJECTS[n].recolourable == colored])
    return replace(item, object=noun)


NO_OBJECT: dict[str, Callable[[Item, str, np.random.Generator], Artwork | None]] = {
    "disc": _disc,
    "square": _square,
    "smudge": _smudge,
    "silhouette": _silhouette,
    "half": _half,
    "chimera": _chimera,
}


def _spoil(kind: str, scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    index = int(rng.integers(len(scene.items)))
    item = scene.items[index]
    artwork = NO_OBJECT[kind](item, scene.style, rng)
    if artwork is None:
        return None
    rest = replace(scene, items=scene.items[:index] + scene.items[index + 1 :])
    return lay(render(rest), artwork, item.x, item.y)


def _swap(scene: Scene, index: int, item: Item) -> Scene:
    return replace(scene, items=(*scene.items[:index], item, *scene.items[index + 1 :]))


def _other_object(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.items)))
    but = tuple(item.object for item in scene.items)
    return _swap(scene, index, _another(scene.items[index], but, rng))


def _missing(scene: Scene, rng: np.random.Generator) -> Scene | None:
    index = int(rng.integers(len(scene.items)))
    return replace(scene, items=scene.items[:index] + scene.items[index + 1 :]) if len(scene.items) > 1 else None


def _extra(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """One more object of the same kind, if there is room."""
    steps = range(0, CANVAS_PX - MULTI_PX + 1, LATTICE_PX)
    room = [(x, y) for x in steps for y in steps if all(_apart(x, y, MULTI_PX, item) for item in scene.items)]
    if not room:
        return None
    x, y = pick(rng, room)
    return replace(scene, items=(*scene.items, replace(scene.items[0], x=x, y=y, size=MULTI_PX)))


def _apart(x: int, y: int, size: int, item: Item) -> bool:
    gaps = (x - item.x - item.size, item.x - x - size, y - item.y - item.size, item.y - y - size)
    return max(gaps) >= GAP_PX


def _recolored(scene: Scene, rng: np.random.Generator) -> Scene | None:
    colored = [i for i, item in enumerate(scene.items) if item.color]
    if not scene.named.color or not colored:
        return None
    index = pick(rng, colored)
    item = scene.items[index]
    return _swap(scene, index, replace(item, color=pick(rng, [c for c in COLORS if c != item.color])))


def _mirrored(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if not scene.named.relation:
        return None
    first, second = scene.items
    return replace(scene, items=(replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)))


def _resized(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if not scene.named.size:
        return None
    size = pick(rng, [side for name, side in SIZES_PX.items() if name != scene.named.size])
    item = scene.items[0]
    x, y = (min(corner, CANVAS_PX - size) for corner in (item.x, item.y))
    return _swap(scene, 0, replace(item, x=x, y=y, size=size))


def _moved(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """The object moved to another named place."""
    item, steps = scene.items[0], range(0, CANVAS_PX - scene.items[0].size + 1, LATTICE_PX)
    away = [(x, y) for x in steps for y in steps if place_of(x, y, item.size) not in (None, scene.named.place)]
    if not scene.named.place or not away:
        return None
    x, y = pick(rng, away)
    return _swap(scene, 0, replace(item, x=x, y=y))


def _background(scene: Scene, rng: np.random.Generator) -> Scene | None:
    others = [name for name in BACKGROUNDS if name != scene.background]
    return replace(scene, background=pick(rng, others)) if scene.named.background else None


WRONG_SCENE: dict[str, Callable[[Scene, np.random.Generator], Scene | None]] = {
    "other object": _other_object,
    "missing": _missing,
    "extra": _extra,
    "recolored": _recolored,
    "mirrored": _mirrored,
    "resized": _resized,
    "moved": _moved,
    "background": _background,
}
CORRUPTIONS = (*NO_OBJECT, *WRONG_SCENE)


def corrupted(scene: Scene, kind: str, rng: np.random.Generator) -> np.ndarray | None:  # uint8 [64, 64, 3]
    """The picture of the scene, corrupted in one way; None if this kind does not apply to the scene."""
    if kind in NO_OBJECT:
        return _spoil(kind, scene, rng)
    if kind not in WRONG_SCENE:
        raise ValueError(f"unknown corruption {kind!r}; expected one of {', '.join(CORRUPTIONS)}")
    wrong = WRONG_SCENE[kind](scene, rng)
    return None if wrong is None else render(wrong)
