"""The second judge: a small convolutional network that classifies object and colour in a box.

It shares only the boxes with the template reader. Its training data are rendered crops of all objects, colours
(held-out pairs included, because it must judge them) and training styles, with blur, noise and shifted boxes, and crops
without an object: ellipses, polygons, blobs, halves of two objects, strong blur, boxes beside the object. It is
measured on the corrupted pictures of corruption.py, which come from other code and are partly of other kinds.

    crop [32, 32] -> five convolutions -> object (40 or none), colour (8 or none)      131 thousand parameters

The shipped weights: `python -m openjanus.emoji.classifier`, minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from openjanus.emoji.corruption import artwork_of, filled, lay, tone_of
from openjanus.emoji.scene_reader import WINDOWS_PX, Reading
from openjanus.emoji.splits import TRAIN_STYLES
from openjanus.emoji.sprites import BACKGROUNDS, COLORS, NOUNS, OBJECTS
from openjanus.emoji.words import coin, pick
from openjanus.emoji.world import GAP_PX, Item

WEIGHTS = Path(__file__).parent / "assets" / "classifier.safetensors"
CROP_PX, MARGIN_PX = 32, 2
NO_OBJECT, NO_COLOR = len(NOUNS), len(COLORS)
MIN_CONFIDENCE = 0.5
GARBAGE_SHARE = 0.25


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(wide_in: int, wide_out: int, kernel: int, stride: int) -> nn.Sequential:
            conv = nn.Conv2d(wide_in, wide_out, kernel, stride, kernel // 2, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(wide_out), nn.SiLU())

        self.stem = nn.Sequential(block(3, 32, 5, 2), block(32, 48, 3, 1), block(48, 64, 3, 2))
        self.middle = block(64, 64, 3, 1)
        self.last = block(64, 80, 3, 2)
        self.object_head = nn.Linear(80, len(NOUNS) + 1)
        self.color_head = nn.Linear(80, len(COLORS) + 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:  # [N, 3, 32, 32] -> [N, 41], [N, 9]
        hidden = self.stem(crops)
        pooled = self.last(hidden + self.middle(hidden)).mean((2, 3))
        return self.object_head(pooled), self.color_head(pooled)


@cache
def shipped_classifier() -> Classifier:
    if not WEIGHTS.exists():
        raise ValueError(f"{WEIGHTS.name} is missing; train it with python -m openjanus.emoji.classifier")
    model = Classifier()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


def crop_of(image: np.ndarray, background: str, x: int, y: int, size: int) -> np.ndarray:  # -> uint8 [32, 32, 3]
    """The box with a margin, padded with background outside the picture, resized for the network."""
    pad = MARGIN_PX + size  # a box may lie completely outside
    height, width, _ = image.shape
    wide = np.empty((height + 2 * pad, width + 2 * pad, 3), np.uint8)
    wide[:] = BACKGROUNDS[background]
    wide[pad:-pad, pad:-pad] = image
    left, top, grown = x + pad - MARGIN_PX, y + pad - MARGIN_PX, size + 2 * MARGIN_PX
    box = (left, top, left + grown, top + grown)
    return np.asarray(Image.fromarray(wide).resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR, box))


def to_input(crops: list[np.ndarray]) -> Tensor:  # uint8 [32, 32, 3] each -> [N, 3, 32, 32] in [-1, 1]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def relabel(image: np.ndarray, reading: Reading, model: Classifier | None = None) -> Reading:
    """The same boxes with the classifier's labels. The style stays the reader's: it does not affect acceptance."""
    if not reading.items:
        return reading
    crops = [crop_of(image, reading.background, item.x, item.y, item.size) for item in reading.items]
    objects, colors = (model or shipped_classifier())(to_input(crops))
    items = []
    for item, chances, tones in zip(reading.items, objects.softmax(-1), colors.softmax(-1), strict=True):
        index = int(chances.argmax())
        noun = NOUNS[index] if index != NO_OBJECT and chances[index] >= MIN_CONFIDENCE else None
        color = None
        if noun and OBJECTS[noun].recolourable and tones.max() >= MIN_CONFIDENCE and int(tones.argmax()) != NO_COLOR:
            color = list(COLORS)[int(tones.argmax())]
        items.append(replace(item, object=noun, color=color))
    return replace(reading, items=tuple(items))


def _plain(size: int, background: str) -> np.ndarray:  # uint8 [size, size, 3]
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = BACKGROUNDS[background]
    return canvas


def _ellipse(item: Item, style: str, rng: np.random.Generator) -> np.ndarray:
    return _drawn(item, style, rng, lambda pen, box: pen.ellipse(box, fill=255))


def _polygon(item: Item, style: str, rng: np.random.Generator) -> np.ndarray:
    turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    radius = rng.uniform(0.6, 1.0, len(turns)) * item.size / 2
    corners = item.size / 2 + radius[:, None] * np.stack([np.cos(turns), np.sin(turns)], -1)
    points = [(x, y) for x, y in corners.tolist()]
    return _drawn(item, style, rng, lambda pen, box: pen.polygon(points, fill=255))


def _drawn(item: Item, style: str, rng: np.random.Generator, draw: Callable) -> np.ndarray:
    mask = Image.new("L", (item.size, item.size))
    a, b, c, d = rng.uniform(0, 0.25, 4) * item.size
    draw(ImageDraw.Draw(mask), (a, b, item.size - c, item.size - d))
    return _laid(*filled(np.asarray(mask) / 255.0, tone_of(item, style)))


def _lump(item: Item, style: str, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise cut at a threshold, in one or two tones."""
    noise = [rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2)]
    smooth = [
        np.asarray(Image.fromarray(plane).resize((item.size, item.size), Image.Resampling.BICUBIC)) for plane in noise
    ]
    axis = np.linspace(-1, 1, item.size)
    mask = np.clip(3 * (1.2 - 1.6 * np.hypot(*np.meshgrid(axis, axis)) + 0.5 * smooth[0]), 0, 1)
    tones = np.stack([tone_of(item, style), rng.uniform(0, 255, 3)])
    second = (smooth[1] > rng.uniform(0, 2)).astype(np.float32)[..., None]
    pixels = mask[..., None] * (tones[0] * (1 - second) + tones[1] * second)
    return _laid(pixels.astype(np.float32), 1 - mask[..., None].astype(np.float32))


def _side_by_side(item: Item, style: str, rng: np.random.Generator) -> np.ndarray:
    other = replace(item, object=pick(rng, [n for n in NOUNS if n != item.object]))
    other = replace(other, color=pick(rng, tuple(COLORS)) if OBJECTS[other.object].recolourable else None)
    cut = int(rng.uniform(0.35, 0.65) * item.size)
    left, right = artwork_of(item, style), artwork_of(other, pick(rng, TRAIN_STYLES))
    return _laid(*(np.concatenate([a[:, :cut], b[:, cut:]], 1) for a, b in zip(left, right, strict=True)))


def _laid(pixels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, keep], -1)


GARBAGE = (_ellipse, _polygon, _lump, _side_by_side)


def training_crop(rng: np.random.Generator) -> tuple[np.ndarray, int, int]:  # uint8 [32, 32, 3], object, colour
    """One augmented crop with its labels."""
    noun, style, background = pick(rng, NOUNS), pick(rng, TRAIN_STYLES), pick(rng, tuple(BACKGROUNDS))
    color = pick(rng, tuple(COLORS)) if OBJECTS[noun].recolourable else None
    size = pick(rng, (28, *WINDOWS_PX))
    room = 20
    item = Item(noun, color, room, room, size)
    canvas = _plain(size + 2 * room, background)
    label, tone = NOUNS.index(noun), NO_COLOR if color is None else list(COLORS).index(color)
    artwork = artwork_of(item, style)
    garbage = rng.random() < GARBAGE_SHARE
    fault = int(rng.integers(len(GARBAGE) + 2)) if garbage else -1
    if 0 <= fault < len(GARBAGE):
        mixed = GARBAGE[fault](item, style, rng)
        artwork = (mixed[..., :3], mixed[..., 3:])
    canvas = lay(canvas, artwork, room, room)
    if coin(rng, 0.3):  # a neighbour: its edge may show in the margin
        near = Item(pick(rng, NOUNS), None, 0, 0, 28)
        x, y = pick(rng, ((room + size + GAP_PX, room), (room, room + size + GAP_PX)))
        patch = artwork_of(near, style)
        cut = len(canvas) - max(x, y)
        patch = (patch[0][:cut, :cut], patch[1][:cut, :cut])
        canvas = lay(canvas, patch, x, y)
    sigma = rng.uniform(0, 1.6) if coin(rng, 0.7) else 0.0
    if fault == len(GARBAGE):
        sigma = rng.uniform(0.14, 0.25) * size
    if sigma:
        canvas = np.asarray(Image.fromarray(canvas).filter(ImageFilter.GaussianBlur(sigma)))
    if coin(rng, 0.2):  # blocky, like a coarse grid of codes
        small = Image.fromarray(canvas).resize((len(canvas) // 2,) * 2, Image.Resampling.BOX)
        canvas = np.asarray(small.resize((len(canvas),) * 2, Image.Resampling.BICUBIC))
    grow = int(rng.integers(-2, 3))
    shift = rng.integers(-2, 3, 2).astype(np.float64)
    if fault == len(GARBAGE) + 1:  # a box beside the object
        shift = np.array(pick(rng, ((1, 0), (-1, 0), (0, 1), (0, -1)))) * rng.uniform(0.4, 0.6) * size
    crop = crop_of(canvas, background, int(room + shift[0] - grow // 2), int(room + shift[1] - grow // 2), size + grow)
    noisy = crop + rng.normal(0, rng.uniform(0, 8), crop.shape) + rng.uniform(-6, 6, 3)
    return np.clip(noisy, 0, 255).astype(np.uint8), NO_OBJECT if garbage else label, tone


def train_classifier(
    seed: int = 0, steps: int = 2500, batch_size: int = 64, weights: Path = WEIGHTS, log: Callable[[str], None] = print
) -> Classifier:
    """Train from random weights and save the weights in half precision."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    for step in range(1, steps + 1):
        crops, objects, colors = zip(*(training_crop(rng) for _ in range(batch_size)), strict=True)
        object_logits, color_logits = model(to_input(list(crops)))
        label, tone = torch.tensor(objects), torch.tensor(colors)
        tone[label == NO_OBJECT] = -100  # no colour loss without an object
        object_loss = F.cross_entropy(object_logits, label, label_smoothing=0.05)
        color_loss = F.cross_entropy(color_logits, tone, label_smoothing=0.05)
        optimizer.zero_grad()
        (object_loss + 0.5 * color_loss).backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            right = (object_logits.argmax(-1) == label).float().mean()
            log(f"step {step:5}  object loss {object_loss:.3f}  colour loss {color_loss:.3f}  right {right:.2f}")
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, weights)
    return model.eval()


@torch.inference_mode()
def classifier_accuracy(n: int, seed: int, model: Classifier | None = None) -> dict[str, float]:
    """Accuracy on fresh augmented crops: objects, colours, and rejected garbage."""
    rng = np.random.default_rng([seed, 2])
    crops, objects, colors = zip(*(training_crop(rng) for _ in range(n)), strict=True)
    object_logits, color_logits = (model or shipped_classifier())(to_input(list(crops)))
    label, tone = torch.tensor(objects), torch.tensor(colors)
    chance, guess = object_logits.softmax(-1).max(-1)
    accepted = (guess != NO_OBJECT) & (chance >= MIN_CONFIDENCE)
    real = label != NO_OBJECT
    colored = real & (tone != NO_COLOR)
    return {
        "object": float(((guess == label) & accepted)[real].float().mean()),
        "color": float((color_logits.argmax(-1) == tone)[colored].float().mean()),
        "garbage refused": float((~accepted)[~real].float().mean()),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(classifier_accuracy(4000, 1, train_classifier()))
