"""Texts for scenes of the emoji world: captions, questions with exact answers, and descriptions.

All texts are true of the scene by construction; a caption states exactly what `scene.named` lists. Negative questions
use only combinations of the training split (splits.py), so that no text leaks a held-out pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openjanus.emoji import templates as T
from openjanus.emoji.splits import allowed_colors, allowed_partners
from openjanus.emoji.sprites import BACKGROUNDS, OBJECTS
from openjanus.emoji.texts import text_document
from openjanus.emoji.words import NUMBER_WORDS, capitalised, coin, noun_phrase, pick, with_article
from openjanus.emoji.world import MAX_COUNT, SIZES_PX, Item, Scene, place_of, relation_of

__all__ = ["QUESTION_KINDS", "Question", "caption", "description", "question", "question_kinds", "text_document"]

QUESTION_KINDS = ("what", "how_many", "color", "where", "yes_no")


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str


def _fields(item: Item, scene: Scene, suffix: str) -> dict[str, str]:
    """Template fields of one item of a pair."""
    color = item.color if scene.named.color else None
    bare = noun_phrase(item.object, color)
    return {
        suffix: with_article(bare),
        f"bare_{suffix}": bare,
        f"{suffix}_thing": with_article(item.object),
        f"thing_{suffix}": item.object,
        f"color_{suffix}": color or "",
    }


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that states exactly what scene.named lists, in one of many wordings."""
    named, item = scene.named, scene.items[0]
    phrases, sentences = T.CAPTION_TEMPLATES[scene.task]
    if named.count == 1:
        phrases, sentences = T.COUNT_ONE_PHRASES, T.COUNT_ONE_SENTENCES
    is_phrase = coin(rng, 0.8)
    template = pick(rng, phrases if is_phrase else sentences)
    if len(scene.items) == 1 or named.count:
        color, count = item.color if named.color else None, named.count or 1
        bare = noun_phrase(item.object, color, named.size, count)
        thing = noun_phrase(item.object, None, named.size)
        number = str(count) if coin(rng, 0.35) else NUMBER_WORDS[count]
        text = template.format(
            a=with_article(bare), bare=bare, thing=thing, a_thing=with_article(thing), color=color, n=number
        )
    else:
        first, second = scene.items
        relation = named.relation
        if coin(rng, 0.5):
            first, second, relation = second, first, relation and T.INVERSE[relation]
        fields = _fields(first, scene, "a") | _fields(second, scene, "b")
        if relation:
            fields |= {
                "rel": pick(rng, T.RELATION_WORDS[relation]),
                "side_a": T.SIDE_WORDS[relation],
                "side_b": T.SIDE_WORDS[T.INVERSE[relation]],
            }
        text = template.format(**fields)
    if named.place:
        text += " " + pick(rng, T.PLACE_WORDS[named.place]).format(named.place)
    tails = []
    if named.background:
        tails.append(pick(rng, T.BACKGROUND_WORDS).format(scene.background))
    if named.style:
        tails.append(pick(rng, T.STYLE_WORDS).format(scene.style))
    if len(tails) == 2 and coin(rng, 0.5):
        tails.reverse()
    for tail in tails:
        text += tail if tail[0] == "," else " " + tail
    if is_phrase and coin(rng, 0.45):
        text = f"{pick(rng, T.PREFIXES)} {text}"
    if coin(rng, 0.25):
        text = capitalised(text)
    return text + "." if coin(rng, 0.15) else text


def _nouns(scene: Scene) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.object for item in scene.items))


def _colors_tell_apart(scene: Scene) -> bool:
    """Two recolourable objects of different colours: only then does a colour name exactly one of them."""
    colors = {item.color for item in scene.items}
    return len(scene.items) == len(_nouns(scene)) == 2 and None not in colors and len(colors) == 2


def _axes(scene: Scene) -> tuple[str, ...]:
    """Axes along which two different objects are clearly apart."""
    if len(_nouns(scene)) != 2:
        return ()
    first, second = scene.items
    return tuple(axis for axis in ("x", "y") if abs(getattr(first, axis) - getattr(second, axis)) >= first.size)


def question_kinds(scene: Scene) -> tuple[str, ...]:
    """The kinds of question that have an unambiguous answer for this scene."""
    item = scene.items[0]
    where = bool(_axes(scene)) or (len(scene.items) == 1 and place_of(item.x, item.y, item.size) is not None)
    color = any(entry.color is not None for entry in scene.items)
    return tuple(kind for kind in QUESTION_KINDS if {"color": color, "where": where}.get(kind, True))


def question(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
    """A question about the picture with its exact short answer. kind: None for a random one of
    question_kinds(scene)."""
    kinds = question_kinds(scene)
    if kind is None:
        # Outside counting scenes the answer to "how many" is nearly always 1: ask it less there.
        kind = pick(rng, kinds)
        if kind == "how_many" and scene.task != "counting" and coin(rng, 0.6):
            kind = pick(rng, [other for other in kinds if other != "how_many"])
    if kind not in kinds:
        raise ValueError(f"question kind {kind!r} has no clear answer here; expected one of {', '.join(kinds)}")
    text, answer = _ASK[kind](scene, rng)
    return Question(kind, capitalised(text) if coin(rng, 0.75) else text, answer)


def _ask_what(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if coin(rng, 0.1):
        return pick(rng, T.ASK_BACKGROUND), scene.background
    if len(scene.items) == 1:
        return pick(rng, T.ASK_WHAT_ONE), scene.items[0].object
    if len(_nouns(scene)) == 1:
        return pick(rng, T.ASK_WHAT_MANY), scene.items[0].object
    if coin(rng, 0.25):
        names = " and ".join(sorted(_nouns(scene)))
        return pick(rng, T.ASK_WHAT_BOTH), names
    first, second = scene.items if coin(rng, 0.5) else scene.items[::-1]
    if _colors_tell_apart(scene) and coin(rng, 0.5):
        return pick(rng, T.ASK_WHAT_COLOR).format(first.color), first.object
    relation = relation_of(first, second)
    if relation and coin(rng, 0.5):
        return pick(rng, T.ASK_WHAT_RELATION).format(
            rel=pick(rng, T.RELATION_WORDS[relation]), b=second.object
        ), first.object
    axis = pick(rng, _axes(scene))
    sides = ("left of", "right of") if axis == "x" else ("above", "below")
    side = sides[getattr(first, axis) > getattr(second, axis)]
    return pick(rng, T.ASK_WHAT_SIDE).format(T.SIDE_WORDS[side]), first.object


def _ask_how_many(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    nouns = _nouns(scene)
    if coin(rng, 0.2):
        return pick(rng, T.ASK_HOW_MANY_ALL), str(len(scene.items))
    noun = pick(rng, allowed_partners(nouns)) if coin(rng, 0.12) else pick(rng, nouns)
    count = sum(item.object == noun for item in scene.items)
    return pick(rng, T.ASK_HOW_MANY).format(OBJECTS[noun].plural), str(count)


def _ask_color(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    item = pick(rng, [item for item in scene.items if item.color is not None])
    assert item.color is not None
    count = sum(other.object == item.object for other in scene.items)
    template = pick(rng, T.ASK_COLOR_ONE if count == 1 else T.ASK_COLOR_MANY)
    return template.format(noun_phrase(item.object, count=count)), item.color


def _ask_where(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if len(scene.items) == 1:
        item = scene.items[0]
        place = place_of(item.x, item.y, item.size)
        assert place is not None
        return pick(rng, T.ASK_PLACE).format(item.object), place
    first, second = scene.items if coin(rng, 0.5) else scene.items[::-1]
    relation = relation_of(first, second)
    if relation and coin(rng, 0.6):
        options = (
            ("left or right of", "right or left of")
            if relation in ("left of", "right of")
            else ("above or below", "below or above")
        )
        template = pick(rng, T.ASK_RELATION)
        return template.format(a=first.object, b=second.object, options=pick(rng, options)), T.SHORT[relation]
    axis = pick(rng, _axes(scene))
    words = ("left", "right") if axis == "x" else ("top", "bottom")
    preposition = "on" if axis == "x" else "at"
    low, high = words if coin(rng, 0.5) else words[::-1]
    template = pick(rng, T.ASK_SIDE)
    return (
        template.format(a=first.object, p=preposition, low=low, high=high),
        words[getattr(first, axis) > getattr(second, axis)],
    )


def _ask_yes_no(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Chooses the answer first, to balance yes and no, and then a form with this answer."""
    truth = coin(rng, 0.5)
    nouns, item = _nouns(scene), pick(rng, scene.items)
    forms = ["presence"]
    if item.color is not None:
        forms += ["color", "color"]
    if len(nouns) == 1:
        forms += ["count", "count"] if len(scene.items) > 1 else ["count"]
    elif relation_of(*scene.items):
        forms += ["relation", "relation"]
    form = pick(rng, forms)
    if form == "presence":
        noun = item.object if truth else _absent(nouns, rng)
        text = pick(rng, T.IS_PRESENT).format(a=with_article(noun))
    elif form == "color":
        color, count = item.color, len(scene.items) if len(nouns) == 1 else 1
        if not truth:
            others = [c for c in allowed_colors(item.object) if c != item.color]
            # Hard negative: the colour of the other object, half of the time.
            swapped = [other.color for other in scene.items if other.color in others]
            color = pick(rng, swapped) if swapped and coin(rng, 0.5) else pick(rng, others)
        text = pick(rng, T.IS_COLOR_ONE if count == 1 else T.IS_COLOR_MANY).format(
            noun=item.object,
            nouns=OBJECTS[item.object].plural,
            color=color,
            a=with_article(noun_phrase(item.object, color)),
        )
    elif form == "count":
        number = len(scene.items)
        if not truth:
            number = pick(rng, [n for n in range(1, MAX_COUNT + 1) if 0 < abs(n - number) <= 2])
        said = str(number) if coin(rng, 0.5) else NUMBER_WORDS[number]
        text = pick(rng, T.IS_COUNT).format(
            n=said,
            are="is" if number == 1 else "are",
            nouns=noun_phrase(item.object, count=number),
            plural=OBJECTS[item.object].plural,
        )
    else:
        first, second = scene.items if coin(rng, 0.5) else scene.items[::-1]
        relation = relation_of(first, second)
        assert relation is not None
        if not truth:
            relation = T.INVERSE[relation] if coin(rng, 0.7) else pick(rng, [r for r in T.INVERSE if r != relation])
        text = pick(rng, T.IS_RELATED).format(
            a=first.object,
            b=second.object,
            rel=pick(rng, T.RELATION_WORDS[relation]),
            one_a=with_article(first.object),
            one_b=with_article(second.object),
        )
    return text, "yes" if truth else "no"


def _absent(nouns: tuple[str, ...], rng: np.random.Generator) -> str:
    """An absent object; half of the time one of the same category as a present one."""
    partners = allowed_partners(nouns)
    if coin(rng, 0.5):
        categories = {OBJECTS[noun].category for noun in nouns}
        partners = tuple(noun for noun in partners if OBJECTS[noun].category in categories) or partners
    return pick(rng, partners)


_ASK = {"what": _ask_what, "how_many": _ask_how_many, "color": _ask_color, "where": _ask_where, "yes_no": _ask_yes_no}


def names(scene: Scene) -> str:
    """Objects and colours, without places, number or background; it depends only on the picture."""
    return " and ".join(sorted({noun_phrase(item.object, item.color) for item in scene.items}))


def description(scene: Scene) -> str:
    """The answer to "Describe the picture.", one full sentence; it depends only on the picture."""
    ground = f"on a {scene.background} background"
    item = scene.items[0]
    if len(scene.items) == 1:
        size = {side: name for name, side in SIZES_PX.items() if name != "medium"}.get(item.size)
        place = place_of(item.x, item.y, item.size)
        where = f"{T.PLACE_WORDS[place][0].format(place)} " if place and size != "big" else ""
        return f"There is {with_article(noun_phrase(item.object, item.color, size))} {where}{ground}."
    if len(_nouns(scene)) == 1:
        count = len(scene.items)
        return f"There are {NUMBER_WORDS[count]} {noun_phrase(item.object, item.color, count=count)} {ground}."
    # Left before right, top before bottom: the sentence must not depend on the order of generation.
    first, second = scene.items
    relation = relation_of(first, second)
    if relation in ("right of", "below") or (relation is None and first.x > second.x):
        first, second = second, first
    a, b = (with_article(noun_phrase(entry.object, entry.color)) for entry in (first, second))
    link = {"left of": "to the left of", "above": "above", None: "and"}[relation_of(first, second)]
    return f"There is {a} {link} {b} {ground}."


assert set(BACKGROUNDS).isdisjoint(OBJECTS), "a background name must not be an object"
