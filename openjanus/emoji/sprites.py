"""Sprites of the emoji world: 40 objects in four artwork styles, 24 of them recolourable in eight colours.

Source: the atlases in assets/, made by scripts/make_sprites.py (see NOTICE for the artists). Tinting works in OKLab
(Ottosson 2020): shading stays, hue and chroma are replaced, and the mean over the tinted body meets the nominal colour.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

ASSETS = Path(__file__).parent / "assets"

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "orange": (250, 128, 16),
    "yellow": (252, 216, 32),
    "green": (38, 160, 56),
    "cyan": (32, 204, 220),
    "blue": (36, 84, 224),
    "purple": (132, 48, 186),
    "pink": (252, 120, 190),
}
# Colours of the training that no prompt of the evaluation names (wide.py).
MORE_COLORS: dict[str, tuple[int, int, int]] = {
    "brown": (124, 72, 36),
    "maroon": (112, 16, 40),
    "coral": (255, 112, 92),
    "peach": (255, 178, 124),
    "gold": (206, 156, 20),
    "beige": (208, 190, 146),
    "olive": (116, 118, 28),
    "lime": (160, 226, 40),
    "emerald": (0, 100, 64),
    "teal": (16, 126, 142),
    "turquoise": (80, 226, 190),
    "navy": (24, 36, 112),
    "lavender": (186, 164, 244),
    "magenta": (224, 24, 160),
    "black": (36, 36, 40),
    "silver": (176, 180, 186),
}
# Chosen for contrast with each colour and each natural sprite: none is saturated, none is near black.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "mint": (194, 236, 206),
    "grey": (138, 140, 144),
    "sky": (186, 218, 246),
    "night": (34, 40, 84),
}


@dataclass(frozen=True)
class ObjectInfo:
    """One object: `noun` is its key everywhere; `tint` selects the pixels that take the colour (see make_sprites)."""

    codepoint: str
    name: str
    keywords: tuple[str, ...]
    noun: str
    plural: str
    category: str
    recolourable: bool
    tint: str | tuple[float, float] | None


def _load_pack() -> tuple[dict, dict[str, ObjectInfo]]:
    pack = json.loads((ASSETS / "sprites.json").read_text(encoding="utf-8"))
    objects = {}
    for entry in pack["objects"]:
        tint = tuple(entry["tint"]) if isinstance(entry["tint"], list) else entry["tint"]
        objects[entry["noun"]] = ObjectInfo(**{**entry, "keywords": tuple(entry["keywords"]), "tint": tint})
    return pack, objects


_PACK, OBJECTS = _load_pack()
STYLES: tuple[str, ...] = tuple(_PACK["styles"])
NOUNS: tuple[str, ...] = tuple(OBJECTS)
RECOLOURABLE: tuple[str, ...] = tuple(noun for noun, info in OBJECTS.items() if info.recolourable)
SPRITE_PX: int = _PACK["sprite_px"]

_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB)
_LMS_TO_RGB = np.linalg.inv(_RGB_TO_LMS)


def to_oklab(rgb: np.ndarray) -> np.ndarray:  # sRGB in [0, 1], [..., 3] -> OKLab [..., 3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _RGB_TO_LMS.T) @ _LMS_TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:  # OKLab [..., 3] -> sRGB clipped to [0, 1], [..., 3]
    linear = np.clip((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


@cache
def _atlas(style: str) -> np.ndarray:  # [rows * S, columns * S, 4] uint8
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; expected one of {', '.join(STYLES)}")
    with Image.open(ASSETS / f"sprites-{style}.png") as image:
        return np.asarray(image.convert("RGBA"))


def _smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def tint_weight(lab: np.ndarray, alpha: np.ndarray, tint: str | tuple[float, float]) -> np.ndarray:  # [H, W] in [0, 1]
    """Weight of each pixel in the coloured body; greys, white highlights and black outlines get 0."""
    if tint == "whole":
        return np.ones_like(alpha)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1]))
    weight = _smoothstep(chroma, 0.02, 0.06)
    if tint == "all":
        return weight
    if tint == "solid":
        return np.maximum(weight, _smoothstep(lab[..., 0], 0.3, 0.4) * (1 - _smoothstep(lab[..., 0], 0.92, 0.97)))
    if isinstance(tint, str):
        counts, edges = np.histogram(hue, bins=36, range=(-180, 180), weights=chroma * alpha)
        centre, halfwidth = edges[counts.argmax()] + 5.0, 40.0
    else:
        centre, halfwidth = tint
    distance = np.abs((hue - centre + 180) % 360 - 180)
    return weight * (1 - _smoothstep(distance, halfwidth, halfwidth + 15))


@cache
def sprite(noun: str, color: str | None, style: str) -> np.ndarray:  # [S, S, 4] uint8
    """The sprite of an object, tinted when a colour is given."""
    info = OBJECTS.get(noun)
    if info is None:
        raise ValueError(f"unknown object {noun!r}; expected one of {', '.join(NOUNS)}")
    known = COLORS | MORE_COLORS
    if color is not None and (info.tint is None or color not in known):
        raise ValueError(f"cannot tint {noun!r} in {color!r}; expected a recolourable object, one of {list(known)}")
    row, column = divmod(NOUNS.index(noun), _PACK["columns"])
    rgba = _atlas(style)[row * SPRITE_PX : (row + 1) * SPRITE_PX, column * SPRITE_PX : (column + 1) * SPRITE_PX]
    if color is None or info.tint is None:
        return rgba
    return tinted(rgba, known[color], info.tint)


def tinted(rgba: np.ndarray, color: tuple[int, int, int], tint: str | tuple[float, float]) -> np.ndarray:
    """Artwork [H, W, 4] uint8 whose coloured body takes a colour."""
    alpha = rgba[..., 3] / 255.0
    lab = to_oklab(rgba[..., :3] / 255.0)
    weight = tint_weight(lab, alpha, tint)
    share = weight * alpha / max(float((weight * alpha).sum()), 1e-6)
    target = to_oklab(np.array(color) / 255.0)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    # Shading keeps most of its contrast; relative chroma is bounded, so that pale parts stay pale but coloured.
    shade = 0.7 * (lab[..., 0] - (share * lab[..., 0]).sum())
    relative = np.clip(chroma / max(float((share * chroma).sum()), 1e-3), 0.6, 1.2)
    aim = target.copy()
    for _ in range(4):  # clipping to the sRGB gamut moves the mean, so it is corrected again
        tinted = np.concatenate([(aim[0] + shade)[..., None], relative[..., None] * aim[1:]], axis=-1)
        rgb = from_oklab(tinted)
        aim = aim + target - (share[..., None] * to_oklab(rgb)).sum((0, 1))
    mixed = weight[..., None] * rgb + (1 - weight[..., None]) * rgba[..., :3] / 255.0
    return np.concatenate([np.rint(mixed * 255).astype(np.uint8), rgba[..., 3:]], axis=-1)


@cache
def scaled_sprite(noun: str, color: str | None, style: str, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """(premultiplied colour [s, s, 3] in 0..255, one minus alpha [s, s, 1]), float32, ready to draw on a canvas."""
    image = Image.fromarray(sprite(noun, color, style)).convert("RGBa")
    pixels = np.asarray(image.resize((size_px, size_px), Image.Resampling.LANCZOS), dtype=np.float32)
    return pixels[..., :3].copy(), 1.0 - pixels[..., 3:] / 255.0
