"""Reads a small picture of the emoji world back into a list of items, without its caption and without learning.

The reader must accept a slightly blurred true scene, and reject a disc of the right colour. It works on OKLab
differences from the background:

    image -> background, one of five -> D = OKLab(image) - OKLab(background)
          -> D under every square window (five sizes, every second pixel) x every template T at 8 x 8
          -> the window and template that explain most, refined at 16 x 16; then again on the residual

"Explains" is ||D||^2 - ||D - T||^2, as in matching pursuit. It prefers a window with a whole object to one with a part,
so no connected components are needed, and a sprite of several pieces stays one object. There are also templates of
plain shapes (discs, squares, blobs ...): a window that they explain best has no object.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from openjanus.emoji.splits import TRAIN_STYLES
from openjanus.emoji.sprites import (
    BACKGROUNDS,
    COLORS,
    NOUNS,
    OBJECTS,
    SPRITE_PX,
    scaled_sprite,
    sprite,
    tint_weight,
    to_oklab,
)
from openjanus.emoji.world import CANVAS_PX

# Also sizes between those of the world, to recognise drawings of a wrong size.
WINDOWS_PX = (28, 34, 40, 46, 52)
STRIDE_PX = 2
COARSE, FINE = 8, 16  # finer templates were not stricter, and rejected more blurred pictures
LAB_SCALE = np.array([1.0, 2.0, 2.0], np.float32)  # hue is more reliable than lightness
RENDER_PX = 32

# Thresholds, calibrated with scorer_error: see drawing_score.
# The margin to the best other object matters more than the fit: decoded pictures often have a wrong tone but the right
# shape, while halves and mixtures fit well with a small margin.
MIN_FIT = 0.65  # share of the template's energy that the picture explains
MIN_HALF = 0.50  # the same for the worst of the upper, lower, left and right half
MAX_RIVAL = 0.70  # error of the best template over that of the best template of another object
MAX_SHAPE = 0.90  # and over that of the best plain shape
MIN_DETAIL = 0.2  # correlation of what the silhouette does not explain
FLAT_SHARE = 0.03  # artwork with a smaller share of detail is a plain silhouette
MIN_CONTRAST = 0.1  # and its strength, as a share of the artwork's
MAX_COLOR_DISTANCE = 0.2  # scaled OKLab distance of the body to the nearest nominal colour; red to orange is 0.25
MAX_COLOR_RATIO = 0.75  # and that over the distance to the second nearest
FOREGROUND = 0.02  # squared difference from the background that counts as foreground
MAX_CLUTTER_PX = 24  # foreground pixels that belong to no item


@dataclass(frozen=True)
class FoundItem:
    """One item in the picture. object: None if it is no object of the world. color: None if none fits or applies."""

    object: str | None
    color: str | None
    style: str | None
    x: int
    y: int
    size: int
    fit: float  # share of the template that the picture explains, 1 is perfect
    rival: float  # error over that of the best other object: small is unambiguous
    shape: float  # the same for the best plain shape
    detail: float  # correlation of what the silhouette does not explain
    guess: str = ""  # best template, accepted or not
    worst_half: float = 1.0  # fit of the half that fits least


@dataclass(frozen=True)
class Reading:
    background: str
    items: tuple[FoundItem, ...]
    clutter_px: int  # foreground pixels outside all items


@dataclass(frozen=True)
class Bank:
    """All K templates on one background, as differences from it, and the P plain shapes in Q tones."""

    coarse: np.ndarray  # [K, COARSE * COARSE * 3]
    fine: np.ndarray  # [K, FINE * FINE * 3]
    coarse_energy: np.ndarray  # [K]
    fine_energy: np.ndarray  # [K]
    label: np.ndarray  # [K] index into NOUNS
    keys: tuple[tuple[str, str | None, str], ...]  # object, colour, style
    body: np.ndarray  # [K, FINE * FINE] weight of the pixels that take the colour
    alpha: np.ndarray  # [K, FINE * FINE]
    tones: np.ndarray  # [Q, 3]


def _shrink(images: np.ndarray, side: int) -> np.ndarray:  # [K, S, S, C] -> [K, side, side, C], by averages
    k, s, _, c = images.shape
    return images.reshape(k, side, s // side, side, s // side, c).mean((2, 4))


@cache
def _plain_shapes() -> np.ndarray:  # [P, FINE * FINE]
    """Silhouettes as in unfinished drawings; they stand for 'no object'."""
    axis = (np.arange(RENDER_PX) + 0.5) / RENDER_PX * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    shapes = [np.hypot(x / a, y / b) < 1 for a, b in ((1, 1), (0.8, 0.8), (1, 0.7), (0.7, 1), (1, 0.45), (0.45, 1))]
    boxes = ((0.97, 0.97), (0.75, 0.75), (0.97, 0.65), (0.65, 0.97), (0.97, 0.4), (0.4, 0.97))
    shapes += [(abs(x) < a) & (abs(y) < b) for a, b in boxes]
    shapes += [x**4 + y**4 < 0.8, x**4 + y**4 < 0.3, abs(x) + abs(y) < 1]
    shapes += [abs(x) < (1 + y) / 2, abs(x) < (1 - y) / 2]
    shapes += [np.exp(-2 * (x**2 + y**2) / width**2) for width in (0.6, 0.9)]
    return _shrink(np.stack(shapes).astype(np.float32)[..., None], FINE).reshape(len(shapes), -1)


@cache
def _artwork(styles: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple, np.ndarray]:
    """Premultiplied colour [K, S, S, 3], one minus alpha [K, S, S, 1], body [K, FINE * FINE], keys, label [K]."""
    colors, keeps, bodies, keys, labels = [], [], [], [], []
    for index, noun in enumerate(NOUNS):
        info = OBJECTS[noun]
        for style in styles:
            weight = np.zeros((SPRITE_PX, SPRITE_PX))
            if info.recolourable and info.tint is not None:
                rgba = sprite(noun, None, style) / 255.0
                weight = tint_weight(to_oklab(rgba[..., :3]), rgba[..., 3], info.tint) * rgba[..., 3]
            body = _shrink(weight[None, ..., None], FINE).reshape(-1)
            for color in COLORS if info.recolourable else (None,):
                pixels, keep = scaled_sprite(noun, color, style, RENDER_PX)
                colors.append(pixels)
                keeps.append(keep)
                bodies.append(body)
                keys.append((noun, color, style))
                labels.append(index)
    return np.stack(colors), np.stack(keeps), np.stack(bodies).astype(np.float32), tuple(keys), np.array(labels)


@cache
def template_bank(background: str, styles: tuple[str, ...] = TRAIN_STYLES) -> Bank:
    colors, keeps, body, keys, label = _artwork(styles)
    laid = np.clip(colors + keeps * np.array(BACKGROUNDS[background], np.float32), 0, 255)
    difference = _difference(laid, background)
    fine, coarse = (_shrink(difference, side).reshape(len(keys), -1) for side in (FINE, COARSE))
    alpha = _shrink(1 - keeps, FINE).reshape(len(keys), -1)
    means = colors.sum((1, 2)) / (1 - keeps).sum((1, 2))
    natural = means[[color is None for _, color, _ in keys]]
    tones = _difference(np.concatenate([np.array(list(COLORS.values())), natural]), background)
    return Bank(coarse, fine, (coarse**2).sum(1), (fine**2).sum(1), label, keys, body, alpha, tones)


def _difference(rgb: np.ndarray, background: str) -> np.ndarray:  # [..., 3] in 0..255 -> scaled OKLab difference
    plain = to_oklab(np.array(BACKGROUNDS[background]) / 255.0)
    return ((to_oklab(rgb / 255.0) - plain) * LAB_SCALE).astype(np.float32)


def find_background(image: np.ndarray) -> str:  # uint8 [H, W, 3]
    """The plain colour that is near to most pixels; the border counts double, because objects seldom cover it."""
    lab = to_oklab(image / 255.0) * LAB_SCALE
    plain = to_oklab(np.array(list(BACKGROUNDS.values())) / 255.0) * LAB_SCALE
    distance = ((lab[:, :, None] - plain) ** 2).sum(-1)
    nearest = distance.argmin(-1)
    weight = (distance.min(-1) < FOREGROUND).astype(np.float64)
    if not weight.any():
        weight[:] = 1.0  # no pixel is near any: all is foreground, but a background is needed
    weight[3:-3, 3:-3] *= 0.5
    return list(BACKGROUNDS)[int(np.bincount(nearest.ravel(), weight.ravel()).argmax())]


@cache
def _sampling(size: int, side: int) -> np.ndarray:  # [positions, side, CANVAS_PX]
    """Averaging matrices that shrink the window [x, x + size) to `side`, for every x in [0, CANVAS_PX - size]."""
    edges = np.arange(side + 1) * size / side
    pixel = np.arange(CANVAS_PX)
    rows = []
    for x in range(CANVAS_PX - size + 1):
        low, high = edges[:-1, None] + x, edges[1:, None] + x
        rows.append(np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None) * side / size)
    return np.stack(rows).astype(np.float32)


def _windows(
    picture: np.ndarray, size: int, side: int, xs: np.ndarray, ys: np.ndarray
) -> np.ndarray:  # [H, W, C], -> [ys, xs, side, side, C]
    """All windows of one size at the given corners, downsampled."""
    down, across = _sampling(size, side)[ys], _sampling(size, side)[xs]
    h, w, c = picture.shape
    rows = (down.reshape(-1, h) @ picture.reshape(h, w * c)).reshape(len(ys), side, w, c)
    flat = rows.transpose(0, 1, 3, 2).reshape(-1, w) @ across.reshape(-1, w).T  # [ys * side * C, xs * side]
    return flat.reshape(len(ys), side, c, len(xs), side).transpose(0, 3, 1, 4, 2)


def _box_sum(total: np.ndarray, x, y, size, grow: int) -> np.ndarray:
    """Sums of boxes grown by `grow` px, from the integral image total [H + 1, W + 1]."""
    x0, y0 = np.maximum(x - grow, 0), np.maximum(y - grow, 0)
    x1, y1 = np.minimum(x + size + grow, CANVAS_PX), np.minimum(y + size + grow, CANVAS_PX)
    return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]


@cache
def _grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # x, y, size of all coarse windows
    corners = []
    for size in WINDOWS_PX:
        steps = range(0, CANVAS_PX - size + 1, STRIDE_PX)
        corners += [(x, y, size) for y in steps for x in steps]
    x, y, size = np.array(corners).T
    return x, y, size


def read_scene(image: np.ndarray, styles: tuple[str, ...] = TRAIN_STYLES) -> Reading:  # uint8 [64, 64, 3]
    """Reads the items of a picture, without its caption."""
    if image.shape != (CANVAS_PX, CANVAS_PX, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"the picture is {image.dtype} {list(image.shape)}; expected uint8 [{CANVAS_PX}, {CANVAS_PX}, 3]: "
            "resize it with PIL first"
        )
    background = find_background(image)
    bank = template_bank(background, styles)
    picture = _difference(image, background)
    energy = (picture**2).sum(-1)
    x, y, size = _grid()
    total = np.pad(np.cumsum(np.cumsum(energy, 0), 1), ((1, 0), (1, 0)))
    inside = _box_sum(total, x, y, size, 0)
    # Items keep a gap: a window with much foreground just outside cuts an object.
    outside = _box_sum(total, x, y, size, 3) - _box_sum(total, x, y, size, 1)
    keep = (inside > 1.0) & (outside < 0.05 * inside + 0.5)
    gain = np.full(len(x), -np.inf)
    for side in WINDOWS_PX:
        chosen = np.flatnonzero(keep & (size == side))
        if not len(chosen):
            continue
        steps = np.arange(0, CANVAS_PX - side + 1, STRIDE_PX)
        crops = _windows(picture, side, COARSE, steps, steps).reshape(len(steps) ** 2, -1)
        crops = crops[chosen - np.flatnonzero(size == side)[0]]
        explained = (2 * crops @ bank.coarse.T - bank.coarse_energy).max(1)
        # A window over two objects can explain more than one over either, but never well.
        fit = np.clip(explained / np.maximum((crops**2).sum(1), 1e-6), 0, 1)
        gain[chosen] = explained * fit**2 * (side / COARSE) ** 2
    items: list[FoundItem] = []
    free = np.ones(len(x), bool)
    while len(items) < 8:
        best = int(np.where(free, gain, -np.inf).argmax())
        if not free[best] or gain[best] < 2.0:
            break
        item = _recognise(picture, total, bank, int(x[best]), int(y[best]), int(size[best]))
        items.append(item)
        apart = (x >= item.x + item.size - 2) | (item.x >= x + size - 2)
        apart |= (y >= item.y + item.size - 2) | (item.y >= y + size - 2)
        free &= apart
    foreground = energy > FOREGROUND
    for item in items:
        foreground[max(item.y - 2, 0) : item.y + item.size + 2, max(item.x - 2, 0) : item.x + item.size + 2] = False
    return Reading(background, tuple(items), int(foreground.sum()))


def _recognise(picture: np.ndarray, total: np.ndarray, bank: Bank, x: int, y: int, size: int) -> FoundItem:
    """Refines one window at full template resolution and classifies it; `total` is the integral of the energy.

    Every template and plain shape gets its own best window near this one. Foreground outside that window counts as its
    error, so errors are comparable, in pixels of the picture.
    """
    shapes = _plain_shapes()
    shape_energy = np.outer((shapes**2).sum(1), (bank.tones**2).sum(1))
    around = _box_sum(total, x, y, size, 4)
    errors, shape_error, crops, boxes = [], np.inf, [], []
    for side in (size - 2, size, size + 2):
        shift = (size - side) // 2 + np.arange(-2, 3)
        xs, ys = (np.unique(np.clip(corner + shift, 0, CANVAS_PX - side)) for corner in (x, y))
        crop = _windows(picture, side, FINE, xs, ys).reshape(len(ys) * len(xs), -1)
        corners = [(int(left), int(top), side) for top in ys for left in xs]
        lefts, tops, sides = np.array(corners).T
        missed = around - _box_sum(total, lefts, tops, sides, grow=0)
        own = (crop**2).sum(1)
        area = (side / FINE) ** 2
        errors.append(missed[:, None] + (own[:, None] - 2 * crop @ bank.fine.T + bank.fine_energy) * area)
        plain = shape_energy - 2 * (shapes @ crop.reshape(len(crop), -1, 3)) @ bank.tones.T
        shape_error = min(shape_error, float((missed + (own + plain.min((1, 2))) * area).min()))
        crops.append(crop)
        boxes += corners
    error = np.concatenate(errors)
    row, winner = (int(v) for v in np.unravel_index(error.argmin(), error.shape))
    (left, top, side), crop = boxes[row], np.concatenate(crops)[row].reshape(-1, 3)
    least = float(error[row, winner])
    fit = 1 - least / (float(bank.fine_energy[winner]) * (side / FINE) ** 2)
    rival = least / max(float(error[:, bank.label != bank.label[winner]].min()), 1e-9)
    shape = least / max(shape_error, 1e-9)
    noun, color, style = bank.keys[winner]
    detail = _detail(crop, bank, winner)
    half = _worst_half(crop, bank.fine[winner])
    accepted = fit >= MIN_FIT and half >= MIN_HALF and detail >= MIN_DETAIL
    accepted &= rival <= MAX_RIVAL and shape <= MAX_SHAPE
    if color is not None:
        color = _body_color(crop, bank, winner)
    return FoundItem(noun if accepted else None, color, style, left, top, side, fit, rival, shape, detail, noun, half)


def _worst_half(crop: np.ndarray, template: np.ndarray) -> float:  # [FINE * FINE, 3], [FINE * FINE * 3]
    """The least fit of the upper, lower, left and right half; halves of little energy count as a quarter."""
    wanted = template.reshape(FINE, FINE, 3)
    missed, energy = ((crop.reshape(wanted.shape) - wanted) ** 2).sum(-1), (wanted**2).sum(-1)
    middle, least = FINE // 2, energy.sum() / 4
    halves = (np.s_[:middle], np.s_[middle:], np.s_[:, :middle], np.s_[:, middle:])
    return min(float(1 - missed[half].sum() / max(energy[half].sum(), least)) for half in halves)


def _detail(crop: np.ndarray, bank: Bank, winner: int) -> float:  # crop [FINE * FINE, 3]
    """Correlation of the residuals of the silhouette, in 0..1; 1 for artwork that is a plain silhouette."""
    inside = bank.alpha[winner]
    left_over = []
    for picture in (bank.fine[winner].reshape(-1, 3), crop):
        tone = inside @ picture / (inside**2).sum()
        left_over.append(inside[:, None] * (picture - inside[:, None] * tone))
    wanted, found = left_over
    energy = (wanted**2).sum()
    if energy < FLAT_SHARE * bank.fine_energy[winner]:
        return 1.0
    product = float((wanted * found).sum())
    if product < MIN_CONTRAST * energy:
        return 0.0
    return product / float(np.sqrt(energy * (found**2).sum()))


@cache
def _nominal() -> np.ndarray:  # [8, 3]
    return (to_oklab(np.array(list(COLORS.values())) / 255.0) * LAB_SCALE).astype(np.float32)


def _body_color(crop: np.ndarray, bank: Bank, winner: int) -> str | None:  # crop [FINE * FINE, 3]
    """Nearest nominal colour of the mean over the body, which is nominal in every true sprite; None between colours."""
    weight = np.where(bank.body[winner] > 0.9, 1.0, 0.0)
    if weight.sum() < 4:
        weight = bank.body[winner] ** 2
    # Relative to the template: its own mean differs a little from the nominal colour, because the weights differ.
    off = weight @ (crop - bank.fine[winner].reshape(-1, 3)) / weight.sum()
    distance = np.linalg.norm(off + _nominal()[list(COLORS).index(bank.keys[winner][1] or "")] - _nominal(), axis=1)
    nearest, second = np.argsort(distance)[:2]
    clear = distance[nearest] < min(MAX_COLOR_DISTANCE, MAX_COLOR_RATIO * distance[second])
    return list(COLORS)[nearest] if clear else None
