"""Small English: articles, plurals, counts and noun phrases of the emoji world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from openjanus.emoji.sprites import OBJECTS

T = TypeVar("T")

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Uniform choice; several times faster than rng.choice, and keeps Python types."""
    return options[int(rng.random() * len(options))]


def coin(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def noun_phrase(noun: str, color: str | None = None, size: str | None = None, count: int = 1) -> str:
    """For instance "small red car", or "red cars" for a count other than one; no article, no number."""
    return " ".join(word for word in (size, color, noun if count == 1 else OBJECTS[noun].plural) if word)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
