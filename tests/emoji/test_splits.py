"""Held-out combinations: fixed tables, and training that never shows or names one."""

import re
from collections import Counter

from openjanus.emoji.grammar import caption, description, question, question_kinds
from openjanus.emoji.splits import (
    HELDOUT_COLOR_PAIRS,
    HELDOUT_OBJECT_PAIRS,
    HELDOUT_PAIRS,
    HELDOUT_STYLE,
    SPLITS,
    TRAIN_PAIRS,
    allowed_colors,
    allowed_partners,
    scene_colors,
    scene_pairs,
    stream,
)
from openjanus.emoji.sprites import COLORS, NOUNS, OBJECTS, RECOLOURABLE
from openjanus.emoji.texts import mentioned_objects, text_document
from openjanus.emoji.world import sample_scene

_NAMES = "|".join(word for noun in RECOLOURABLE for word in {noun, OBJECTS[noun].plural})
_SINGULAR = {word: noun for noun in RECOLOURABLE for word in (noun, OBJECTS[noun].plural)}
_COLORS = "|".join(COLORS)
BEFORE = re.compile(rf"\b({_COLORS}) ({_NAMES})\b")
AFTER = re.compile(rf"\b({_NAMES})(?:\?)?,? (?:that |which )?(?:is |are |in )?(?:both )?({_COLORS})\b")


def named_color_pairs(text: str) -> set[tuple[str, str]]:
    text = text.lower()
    pairs = {(color, _SINGULAR[noun]) for color, noun in BEFORE.findall(text)}
    return pairs | {(color, _SINGULAR[noun]) for noun, color in AFTER.findall(text)}


def has_heldout_pair(nouns: set[str]) -> bool:
    return any(pair <= nouns for pair in HELDOUT_OBJECT_PAIRS)


def test_tables():
    assert len(HELDOUT_COLOR_PAIRS) == 24 and len(HELDOUT_OBJECT_PAIRS) == len(HELDOUT_PAIRS) == 80
    assert len(TRAIN_PAIRS) + len(HELDOUT_PAIRS) == 780
    assert Counter(noun for _, noun in HELDOUT_COLOR_PAIRS) == dict.fromkeys(RECOLOURABLE, 1)
    assert Counter(color for color, _ in HELDOUT_COLOR_PAIRS) == dict.fromkeys(COLORS, 3)
    assert Counter(noun for pair in HELDOUT_PAIRS for noun in pair) == dict.fromkeys(NOUNS, 4)
    # Any edit of these tables makes earlier checkpoints incomparable: pin a few entries.
    assert {("orange", "heart"), ("cyan", "star"), ("pink", "car")} < HELDOUT_COLOR_PAIRS
    assert {frozenset(("heart", "key")), frozenset(("heart", "lock"))} < HELDOUT_OBJECT_PAIRS


def test_by_construction():
    for noun in RECOLOURABLE:
        assert not {(color, noun) for color in allowed_colors(noun)} & HELDOUT_COLOR_PAIRS
        for split in SPLITS:
            held = {(color, noun) in HELDOUT_COLOR_PAIRS for color in scene_colors(noun, split)}
            assert held == {split == "heldout_color"}
    for noun in NOUNS:
        assert not any(frozenset((noun, other)) in HELDOUT_OBJECT_PAIRS for other in allowed_partners((noun,)))
    for split in SPLITS:
        for only in (False, True):
            assert {frozenset(p) in HELDOUT_OBJECT_PAIRS for p in scene_pairs(split, only)} == {split == "heldout_pair"}


def test_training_never_shows_or_names_a_heldout_combination():
    for index in range(3000):
        scene = sample_scene("train", 0, index)
        rng = stream("train", 0, index, 1)
        assert scene.style != HELDOUT_STYLE
        assert not {(item.color, item.object) for item in scene.items} & HELDOUT_COLOR_PAIRS
        texts = [caption(scene, rng), description(scene)]
        texts += [question(scene, rng, kind).text for kind in question_kinds(scene)]
        shown = {item.object for item in scene.items}
        for text in texts:
            assert not named_color_pairs(text) & HELDOUT_COLOR_PAIRS, text
            assert not has_heldout_pair(shown | mentioned_objects(text)), text
            assert HELDOUT_STYLE not in text.lower()


def test_text_documents_never_name_a_heldout_combination():
    for index in range(4000):
        text = text_document(0, index)
        assert text and text == text_document(0, index)
        assert not named_color_pairs(text) & HELDOUT_COLOR_PAIRS, text
        assert not has_heldout_pair(mentioned_objects(text)), text
        assert HELDOUT_STYLE not in text.lower()


def test_heldout_splits_show_heldout_combinations():
    for index in range(300):
        scene = sample_scene("heldout_color", 0, index)
        assert all((item.color, item.object) in HELDOUT_COLOR_PAIRS for item in scene.items) and scene.named.color
        assert named_color_pairs(caption(scene, stream("heldout_color", 0, index, 1))) <= HELDOUT_COLOR_PAIRS
        scene = sample_scene("heldout_pair", 0, index)
        assert frozenset(item.object for item in scene.items) in HELDOUT_OBJECT_PAIRS
        assert not {(item.color, item.object) for item in scene.items} & HELDOUT_COLOR_PAIRS


def test_the_detector_detects():
    assert named_color_pairs("A heart that is orange") == {("orange", "heart")}
    assert named_color_pairs("Are the leaves green?") == {("green", "leaf")}
    assert named_color_pairs("what color is the car? pink.") == {("pink", "car")}
