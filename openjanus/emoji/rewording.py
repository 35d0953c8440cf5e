"""Wordings as people type them: synonyms, British spelling, capitals, free word order, a please.

    reworded("two big red cars", rng) -> "2 large red automobiles, please"

A rewording states what the text states: it changes words one by one, or adds words that say nothing about a picture.
`loose_caption` writes the few facts of a simple caption in free order.
"""

from __future__ import annotations

import re

import numpy as np

from openjanus.emoji.sprites import OBJECTS
from openjanus.emoji.words import NUMBER_WORDS, coin, noun_phrase, pick
from openjanus.emoji.world import Scene

# A word of the world, and other words for it. Nouns: singular and plural.
NOUN_SYNONYMS: dict[str, tuple[tuple[str, str], ...]] = {
    "car": (("automobile", "automobiles"),),
    "shirt": (("t-shirt", "t-shirts"), ("tee", "tees")),
    "gem": (("diamond", "diamonds"), ("jewel", "jewels"), ("gemstone", "gemstones")),
    "hat": (("top hat", "top hats"),),
    "lock": (("padlock", "padlocks"),),
    "shoe": (("high heel", "high heels"), ("heel", "heels")),
    "moon": (("crescent moon", "crescent moons"), ("crescent", "crescents")),
    "cat": (("kitty", "kitties"), ("kitten", "kittens")),
    "dog": (("puppy", "puppies"), ("doggy", "doggies")),
    "pig": (("piggy", "piggies"),),
    "ball": (("football", "footballs"), ("soccer ball", "soccer balls")),
    "burger": (("hamburger", "hamburgers"),),
    "donut": (("doughnut", "doughnuts"),),
    "leaf": (("maple leaf", "maple leaves"),),
    "mushroom": (("toadstool", "toadstools"),),
    "pizza": (("slice of pizza", "slices of pizza"), ("pizza slice", "pizza slices")),
    "cactus": (("cactus", "cactuses"),),
    "pumpkin": (("jack-o'-lantern", "jack-o'-lanterns"),),
}
WORD_SYNONYMS: dict[str, tuple[str, ...]] = {
    "big": ("large", "huge", "giant"),
    "small": ("little", "tiny"),
    "grey": ("gray",),
    "color": ("colour",),
    "colored": ("coloured",),
    "center": ("centre", "middle"),
    "middle": ("center", "centre"),
    "purple": ("violet",),
    "cyan": ("light blue",),
    "picture": ("image", "photo"),
    "beneath": ("under",),
}
BEFORE = ("please", "hi,", "hello,", "hey,", "ok,", "now")
AFTER = ("please", "thanks", "thank you", "now", "for me")
ASKING = (
    "could you draw {}", "can you make {}", "i would like {}", "i'd like {}", "i want {}", "give me {}", "draw me {}",
    "make me {}", "let me see {}", "paint me {}", "a photo of {}", "a painting of {}", "an icon of {}", "{} emoji",
    "an emoji of {}", "could you show me {}", "would you draw {}", "i need {}", "sketch {}", "a nice picture of {}",
)  # fmt: skip
_NOUNS = {word: noun for noun, info in OBJECTS.items() for word in (noun, info.plural)}
_FIRST_WORDS = {"a", "an", *NUMBER_WORDS, *map(str, range(11))}
_PLURAL = {info.plural: noun for noun, info in OBJECTS.items() if info.plural != noun}


def reworded(text: str, rng: np.random.Generator, rate: float = 0.25) -> str:
    """The text with each word that has synonyms replaced with probability `rate`, and sometimes other capitals."""
    words = re.split(r"([A-Za-z'-]+)", text)
    out = "".join(_synonym(word, rng) if i % 2 and coin(rng, rate) else word for i, word in enumerate(words))
    out = re.sub(r"\b([Aa])n? (?=([a-z]))", lambda m: m[1] + ("n " if m[2] in "aeio" else " "), out)
    kind = rng.random()
    if kind < 0.03:
        return out.upper()
    return out.title() if kind < 0.05 else out[:1].upper() + out[1:] if kind < 0.2 else out


def _synonym(word: str, rng: np.random.Generator) -> str:
    """Another word for it, or the word itself; a capital at its beginning stays."""
    plain = word.lower()
    if plain in WORD_SYNONYMS:
        other = pick(rng, WORD_SYNONYMS[plain])
    elif plain in _NOUNS and _NOUNS[plain] in NOUN_SYNONYMS:
        other = pick(rng, NOUN_SYNONYMS[_NOUNS[plain]])[plain in _PLURAL]
    else:
        return word
    return other.capitalize() if word[0].isupper() else other


def polite(text: str, rng: np.random.Generator) -> str:
    """A caption within a request, as people write to a machine. A caption that is a sentence stays one."""
    if text.split()[0].lower() in _FIRST_WORDS and coin(rng, 0.35):
        text = pick(rng, ASKING).format(text[:1].lower() + text[1:])
    if coin(rng, 0.08):
        text = f"{pick(rng, BEFORE)} {text}"
    if coin(rng, 0.08):
        text = f"{text}{pick(rng, (' ', ', '))}{pick(rng, AFTER)}"
    return text + ("?" if text.startswith(("could", "can", "would")) and coin(rng, 0.6) else "")


def loose_caption(scene: Scene, rng: np.random.Generator) -> str:
    """What `scene.named` lists, as words in free order: "car, red, big", "apples x3". Of scenes whose caption states no
    relation of two objects.

    Raises ValueError for others.
    """
    named, item = scene.named, scene.items[0]
    if named.relation or (len(scene.items) > 1 and named.count is None):
        raise ValueError(f"a caption of {scene.task} needs its order")
    count = named.count or 1
    noun = noun_phrase(item.object, count=count)
    facts = [word for word in (named.size, item.color if named.color else None) if word]
    if named.count is not None:
        number = str(count) if coin(rng, 0.6) else NUMBER_WORDS[count]
        facts.append(pick(rng, (f"x{count}", f"{count}x", number)))
    facts = [facts[i] for i in rng.permutation(len(facts))]
    if named.place:
        facts.append(named.place)
    if named.background:
        facts.append(f"{scene.background} background")
    if named.style:
        facts.append(f"{scene.style} style")
    joint = pick(rng, (", ", " "))
    place = int(rng.integers(0, len(facts) + 1)) if joint == ", " else 0
    return joint.join([*facts[:place], noun, *facts[place:]])
