"""Text-only documents of the emoji world: short true texts about its objects, colours and numbers.

Source: names and keywords of the Unicode CLDR annotations (sprites.json) and the tables here. Keywords that are colours
or other objects are dropped. Texts name a colour with an object, or two objects together, only if that combination is
in the training split.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from openjanus.emoji.splits import TRAIN_PAIRS, TRAIN_STYLES, allowed_colors, is_train_pair
from openjanus.emoji.sprites import BACKGROUNDS, COLORS, NOUNS, OBJECTS, RECOLOURABLE
from openjanus.emoji.words import NUMBER_WORDS, capitalised, coin, noun_phrase, pick, with_article

Writer = Callable[[np.random.Generator], str]

COLOR_MIXES = (
    ("red", "yellow", "orange"),
    ("yellow", "blue", "green"),
    ("red", "blue", "purple"),
    ("red", "white", "pink"),
    ("green", "blue", "cyan"),
)
COLOR_KINDS = {
    "red": "warm",
    "orange": "warm",
    "yellow": "warm",
    "pink": "warm",
    "green": "cool",
    "cyan": "cool",
    "blue": "cool",
    "purple": "cool",
}
OPPOSITES = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "top": "bottom",
    "bottom": "top",
    "big": "small",
    "small": "big",
    "warm": "cool",
    "cool": "warm",
    "yes": "no",
    "no": "yes",
}
CATEGORY_FACTS = {
    "animal": "an animal is a living thing that moves and eats",
    "plant": "a plant is a living thing that grows",
    "flower": "a flower is the bright part of a plant",
    "fruit": "a fruit grows on a plant and is good to eat",
    "food": "food is what people eat",
    "clothing": "clothing is what people wear",
    "tool": "a tool is a thing to use",
    "toy": "a toy is a thing to play with",
    "instrument": "an instrument makes sound or music",
    "vehicle": "a vehicle carries people from place to place",
    "shape": "a shape is a form that is easy to draw",
    "stone": "a stone is hard and comes from the ground",
}
# Whole words that would put a second object or a colour beside the object a keyword belongs to.
_MENTIONS = {word: noun for noun, info in OBJECTS.items() for word in (noun, info.plural)}
_FORBIDDEN = set(_MENTIONS) | set(COLORS) | set(BACKGROUNDS)
_FORBIDDEN |= {"medium", "major", "break", "adorbs", "strat", "jack"}  # CLDR keywords of another sense of the symbol
KEYWORDS = {
    noun: tuple(k for k in info.keywords if k.isascii() and not set(k.lower().replace("-", " ").split()) & _FORBIDDEN)
    for noun, info in OBJECTS.items()
}


def _number(rng: np.random.Generator, value: int) -> str:
    return NUMBER_WORDS[value] if coin(rng, 0.5) else str(value)


def _keywords(rng: np.random.Generator) -> str:
    noun = pick(rng, [n for n in NOUNS if len(KEYWORDS[n]) >= 2])
    words = [KEYWORDS[noun][i] for i in rng.permutation(len(KEYWORDS[noun]))[:3]]
    return pick(
        rng,
        (
            "words that go with {a}: {words}.",
            "{noun}: {words}.",
            "{a} makes people think of {words}.",
            "which object goes with {words}? {a}.",
        ),
    ).format(a=with_article(noun), noun=noun, words=", ".join(words))


def _category(rng: np.random.Generator) -> str:
    noun = pick(rng, NOUNS)
    category = OBJECTS[noun].category
    if category == "clothing":
        return f"{with_article(noun)} is a piece of clothing. {CATEGORY_FACTS[category]}."
    kind = category if category == "food" else with_article(category)
    return pick(
        rng,
        (
            "{a} is {kind}.",
            "{a} is {kind}. {fact}.",
            "what kind of thing is {a}? it is {kind}.",
            "is {a} {kind}? yes.",
            "{plural} belong to the kind {category}.",
        ),
    ).format(
        a=with_article(noun), kind=kind, category=category, plural=OBJECTS[noun].plural, fact=CATEGORY_FACTS[category]
    )


def _mixing(rng: np.random.Generator) -> str:
    first, second, result = pick(rng, COLOR_MIXES)
    if coin(rng, 0.5):
        first, second = second, first
    return pick(
        rng,
        (
            "{a} and {b} make {c}.",
            "mix {a} with {b} and you get {c}.",
            "{c} is made from {a} and {b}.",
            "what do {a} and {b} make? {c}.",
            "add {b} to {a}: the result is {c}.",
        ),
    ).format(a=first, b=second, c=result)


def _colors(rng: np.random.Generator) -> str:
    names = [list(COLORS)[i] for i in rng.permutation(len(COLORS))[:3]]
    return pick(
        rng,
        (
            "{a}, {b} and {c} are colors.",
            "is {a} a color? yes.",
            "{a} is a {kind} color.",
            "there are eight colors here, and {b} is one of them.",
            "name three colors: {a}, {b}, {c}.",
            "the color word {a} has {n} letters.",
        ),
    ).format(a=names[0], b=names[1], c=names[2], kind=COLOR_KINDS[names[0]], n=_number(rng, len(names[0])))


def _counting(rng: np.random.Generator) -> str:
    info, stop = OBJECTS[pick(rng, NOUNS)], int(rng.integers(2, 6))
    return "; ".join(f"{NUMBER_WORDS[n]} {info.noun if n == 1 else info.plural}" for n in range(1, stop + 1)) + "."


def _sums(rng: np.random.Generator) -> str:
    info = OBJECTS[pick(rng, NOUNS)]
    a, b = (int(v) for v in rng.integers(1, 5, 2))

    def some(n: int) -> str:
        return f"{_number(rng, n)} {info.noun if n == 1 else info.plural}"

    return pick(
        rng,
        (
            f"{some(a)} and {some(b)} are {some(a + b)}.",
            f"{some(a + b)} without {some(a)} are {some(b)}.",
            f"{a} + {b} = {a + b}.",
            f"after {NUMBER_WORDS[a]} comes {NUMBER_WORDS[a + 1]}.",
            f"how many are {some(a)} and {some(b)}? {a + b}.",
            f"{a + b} is more than {a}.",
            f"the number {a} is written {NUMBER_WORDS[a]}.",
        ),
    )


def _spelling(rng: np.random.Generator) -> str:
    word = pick(rng, NOUNS + tuple(COLORS))
    return pick(
        rng,
        (
            "{w} is spelled {letters}.",
            "the word {w} has {n} letters.",
            "{w} begins with {first}.",
            "{w} ends with {last}.",
            "how do you spell {w}? {letters}.",
            "what is the first letter of {w}? {first}.",
        ),
    ).format(w=word, letters="-".join(word), n=_number(rng, len(word)), first=word[0], last=word[-1])


def _plurals(rng: np.random.Generator) -> str:
    info = OBJECTS[pick(rng, NOUNS)]
    n = int(rng.integers(2, 6))
    return pick(
        rng,
        (
            "one {s}, {n} {p}.",
            "the plural of {s} is {p}.",
            "one of the {p} is called {a}.",
            "take one of the {n} {p} away: the rest is {m}.",
        ),
    ).format(s=info.noun, p=info.plural, a=with_article(info.noun), n=NUMBER_WORDS[n], m=NUMBER_WORDS[n - 1])


def _comparison(rng: np.random.Generator) -> str:
    a, b = pick(rng, TRAIN_PAIRS) if coin(rng, 0.5) else pick(rng, TRAIN_PAIRS)[::-1]
    kind_a, kind_b = OBJECTS[a].category, OBJECTS[b].category
    if kind_a == kind_b:
        same = f"both are of the kind {kind_a}" if kind_a in ("food", "clothing") else f"each is {with_article(kind_a)}"
        return f"what do {with_article(a)} and {with_article(b)} have in common? {same}."
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    texts = [
        f"{with_article(a)} is not {with_article(b)}.",
        f"{a} is of the kind {kind_a}, {b} of the kind {kind_b}.",
        f"which one is of the kind {kind_b}: the {a} or the {b}? the {b}.",
    ]
    if len(a) != len(b):
        texts.append(f"the word {longer} is longer than the word {shorter}.")
    return pick(rng, texts)


def _relation(rng: np.random.Generator) -> str:
    a, b = pick(rng, TRAIN_PAIRS) if coin(rng, 0.5) else pick(rng, TRAIN_PAIRS)[::-1]
    word = pick(rng, ("left of", "right of", "above", "below"))
    inverse = OPPOSITES[word.split()[0]] + (" of" if word.endswith("of") else "")
    return pick(
        rng,
        (
            "if the {a} is {r} the {b}, the {b} is {i} the {a}.",
            "the {a} is {r} the {b}. where is the {b}? {i} the {a}.",
            "the {b} is {i} the {a}, so the {a} is {r} the {b}.",
        ),
    ).format(a=a, b=b, r=word, i=inverse)


def _opposites(rng: np.random.Generator) -> str:
    word = pick(rng, tuple(OPPOSITES))
    return pick(rng, ("the opposite of {w} is {o}.", "not {w} but {o}.", "what is the opposite of {w}? {o}.")).format(
        w=word, o=OPPOSITES[word]
    )


def _coloured(rng: np.random.Generator) -> str:
    noun = pick(rng, RECOLOURABLE)
    colors = allowed_colors(noun)
    first, second = (colors[i] for i in rng.permutation(len(colors))[:2])
    n = int(rng.integers(2, 5))
    return pick(
        rng,
        (
            "{a} is {noun_a} whose color is {first}.",
            "{a} and {b} are both {plural}.",
            "the {noun} is {first}. what color is the {noun}? {first}.",
            "{n} {many} are {n} {plural}.",
            "i have {a}. it is not {second}, it is {first}.",
            "{a} became {b} when it was painted {second}.",
        ),
    ).format(
        a=with_article(noun_phrase(noun, first)),
        b=with_article(noun_phrase(noun, second)),
        noun=noun,
        noun_a=with_article(noun),
        first=first,
        second=second,
        plural=OBJECTS[noun].plural,
        n=NUMBER_WORDS[n],
        many=noun_phrase(noun, first, count=n),
    )


def _pictures(rng: np.random.Generator) -> str:
    background, style = pick(rng, tuple(BACKGROUNDS)), pick(rng, TRAIN_STYLES)
    return pick(
        rng,
        (
            f"a picture can have a {background} background.",
            f"{style} is a style of emoji.",
            f"the backgrounds are {', '.join(BACKGROUNDS)}.",
            "an emoji is a small picture.",
            f"the styles are {', '.join(TRAIN_STYLES)}.",
            "the corners of a picture are top left, top right, bottom left and bottom right.",
            "the middle of a picture is between left and right.",
        ),
    )


WRITERS: tuple[Writer, ...] = (
    _keywords,
    _keywords,
    _category,
    _category,
    _mixing,
    _colors,
    _counting,
    _sums,
    _sums,
    _spelling,
    _spelling,
    _plurals,
    _comparison,
    _relation,
    _opposites,
    _coloured,
    _coloured,
    _pictures,
)


def mentioned_objects(text: str) -> set[str]:
    """Objects that a text names, singular or plural."""
    return {_MENTIONS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _MENTIONS}


def text_document(seed: int, index: int) -> str:
    """Text number `index`: one to four independent statements, a pure function of its arguments."""
    rng = np.random.default_rng([1_000, seed, index])  # 1000: apart from the streams of splits.stream
    sentences: list[str] = []
    nouns: set[str] = set()
    for _ in range(int(rng.integers(1, 5))):
        sentence = pick(rng, WRITERS)(rng)
        mentioned = mentioned_objects(sentence)
        # Independent statements share a document: together they must not contain a held-out pair of objects.
        if all(is_train_pair(a, b) for a in mentioned for b in nouns if a != b):
            sentences.append(sentence)
            nouns |= mentioned
    if coin(rng, 0.5):
        # Capitals after every sentence end, not only at the start of each statement.
        sentences = [capitalised(". ".join(capitalised(part) for part in s.split(". "))) for s in sentences]
    return " ".join(sentences)
