"""Splits of the emoji world by concept combination, as fixed tables.

Held out of training: 24 colour-object pairs (each object loses one colour, each colour three objects), 80 unordered
object pairs (each object loses four partners) and one artwork style. Training text, pictures, captions and questions,
their negatives included, are built only from `allowed_colors` and `allowed_partners`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from openjanus.emoji.sprites import COLORS, NOUNS, RECOLOURABLE, STYLES

TASKS = ("one", "color", "counting", "two", "position", "attribute")

SPLIT_TASKS: dict[str, tuple[str, ...]] = {
    "train": TASKS,
    "seen": TASKS,
    "heldout_color": ("color", "counting"),
    "heldout_pair": ("two", "position", "attribute"),
    "heldout_style": TASKS,
}
SPLITS = tuple(SPLIT_TASKS)

HELDOUT_STYLE = "emojione"
TRAIN_STYLES = tuple(style for style in STYLES if style != HELDOUT_STYLE)

# The stride 3 is coprime to the eight colours, so each colour is held out equally often.
HELDOUT_COLOR_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (list(COLORS)[(3 * i + 1) % len(COLORS)], noun) for i, noun in enumerate(RECOLOURABLE)
)
# Partners at these distances around the ring of objects: four held-out partners for each object.
_PAIR_OFFSETS = (7, 19)
HELDOUT_OBJECT_PAIRS: frozenset[frozenset[str]] = frozenset(
    frozenset((noun, NOUNS[(i + offset) % len(NOUNS)])) for i, noun in enumerate(NOUNS) for offset in _PAIR_OFFSETS
)

_TRAIN_COLORS = {
    noun: tuple(color for color in COLORS if (color, noun) not in HELDOUT_COLOR_PAIRS) for noun in RECOLOURABLE
}
_HELDOUT_COLORS = {
    noun: tuple(color for color in COLORS if (color, noun) in HELDOUT_COLOR_PAIRS) for noun in RECOLOURABLE
}
_TRAIN_PARTNERS = {
    noun: tuple(other for other in NOUNS if other != noun and frozenset((noun, other)) not in HELDOUT_OBJECT_PAIRS)
    for noun in NOUNS
}

TRAIN_PAIRS = tuple(pair for pair in combinations(NOUNS, 2) if frozenset(pair) not in HELDOUT_OBJECT_PAIRS)
HELDOUT_PAIRS = tuple(pair for pair in combinations(NOUNS, 2) if frozenset(pair) in HELDOUT_OBJECT_PAIRS)


def check_split(split: str) -> None:
    if split not in SPLIT_TASKS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")


def stream(split: str, seed: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Independent random stream of one example; purpose 0: its scene, other numbers: its texts."""
    check_split(split)
    return np.random.default_rng([SPLITS.index(split), seed, index, purpose])


def scene_colors(noun: str, split: str) -> tuple[str, ...]:
    """Colours a recolourable object may have in a picture of this split."""
    return (_HELDOUT_COLORS if split == "heldout_color" else _TRAIN_COLORS)[noun]


def scene_pairs(split: str, recolourable: bool) -> tuple[tuple[str, str], ...]:
    """Object pairs that may share a picture in this split; only recolourable ones when asked."""
    return _PAIRS[split == "heldout_pair", recolourable]


_PAIRS = {
    (heldout, only): tuple(pair for pair in pairs if not only or set(pair) <= set(RECOLOURABLE))
    for heldout, pairs in ((False, TRAIN_PAIRS), (True, HELDOUT_PAIRS))
    for only in (False, True)
}


def is_train_pair(first: str, second: str) -> bool:
    return frozenset((first, second)) not in HELDOUT_OBJECT_PAIRS


def allowed_colors(noun: str) -> tuple[str, ...]:
    """Colours that a text may name beside this object: those of training, so that no question leaks a held-out pair."""
    return _TRAIN_COLORS[noun]


def allowed_partners(nouns: tuple[str, ...]) -> tuple[str, ...]:
    """Objects that a text may name beside all of these."""
    return tuple(other for other in _TRAIN_PARTNERS[nouns[0]] if all(other in _TRAIN_PARTNERS[n] for n in nouns[1:]))
