"""Words: captions say all and only what is promised; answers are exact, checked against the geometry again."""

import re
from collections import Counter
from statistics import median

import pytest

from openjanus.emoji.grammar import QUESTION_KINDS, caption, description, names, question, question_kinds
from openjanus.emoji.splits import SPLITS, TASKS, stream
from openjanus.emoji.sprites import COLORS, OBJECTS
from openjanus.emoji.texts import KEYWORDS, mentioned_objects, text_document
from openjanus.emoji.words import NUMBER_WORDS
from openjanus.emoji.world import sample_scene

SAMPLES = [(sample_scene(split, 9, index), stream(split, 9, index, 1)) for split in SPLITS for index in range(800)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\d", text.lower()))


def test_captions_state_what_is_promised_and_no_more():
    lengths = []
    for scene, rng in SAMPLES:
        text = caption(scene, rng)
        said, named = words(text), scene.named
        lengths.append(len(text.split()))
        assert mentioned_objects(text) == {item.object for item in scene.items}, text
        assert said & set(COLORS) == ({i.color for i in scene.items if i.color} if named.color else set()), text
        assert (scene.background in said) == named.background, text
        assert (scene.style in said) == named.style, text
        assert said & {"small", "big"} == ({named.size} if named.size else set()), text
        if named.count:
            assert {str(named.count), NUMBER_WORDS[named.count]} & said or (named.count == 1 and "single" in said), text
        if named.place:
            assert set(named.place.split()) <= said or "center" in said, text
    assert median(lengths) <= 11


def test_position_captions_agree_with_the_picture():
    # The relation as said, read back by a small independent parser of the plain template.
    relation = "(?:to the |on the )?(left of|right of|above|below|over|under)"
    pattern = re.compile(rf"(\w+) (?:is )?{relation} (?:an? |the )?(?:\w+ )?(\w+)$")
    checked = 0
    for index in range(3000):
        scene = sample_scene("train", 11, index, ["position"])
        match = pattern.search(caption(scene, stream("train", 11, index, 1)).lower().rstrip("."))
        first, second = scene.items
        if not match or {match[1], match[3]} != {first.object, second.object}:
            continue
        checked += 1
        a, b = (first, second) if match[1] == first.object else (second, first)
        dx, dy = b.x - a.x, b.y - a.y
        assert {"left of": dx, "right of": -dx, "above": dy, "over": dy, "below": -dy, "under": -dy}[match[2]] >= 32
    assert checked > 400


@pytest.mark.parametrize("task", TASKS)
def test_many_wordings(task):
    scene = next(s for s in (sample_scene("train", 0, i, [task]) for i in range(99)) if not s.named.place)
    assert len({caption(scene, stream("train", 0, i, 1)).lower().rstrip(".") for i in range(600)}) >= 40
    assert len({question(scene, stream("train", 0, i, 1)).text.lower() for i in range(600)}) >= 30


def test_answers():
    truth = Counter()
    for scene, rng in SAMPLES:
        objects = Counter(item.object for item in scene.items)
        for kind in question_kinds(scene):
            q = question(scene, rng, kind)
            text = q.text.lower()
            assert q.kind == kind and q.answer == q.answer.lower() and q.answer
            if kind == "how_many":
                asked = mentioned_objects(text)
                assert int(q.answer) == (objects[next(iter(asked))] if asked else len(scene.items)), (q, scene)
            elif kind == "color":
                (noun,) = mentioned_objects(text)
                assert {q.answer} == {item.color for item in scene.items if item.object == noun}
            elif kind == "what":
                assert "background" in text or set(q.answer.split(" and ")) <= set(objects)
            elif kind == "where" and len(scene.items) == 2:
                # The object asked about comes first, but for "on which side of the B is the A".
                rest = re.findall(r"[a-z]+", re.sub(r"side of the \w+", "", text))
                first = min((i for i in scene.items if i.object in rest), key=lambda item: rest.index(item.object))
                second = next(i for i in scene.items if i != first)
                if q.answer in ("left", "right"):
                    assert (second.x - first.x) * (1 if q.answer == "left" else -1) >= 32, (q, scene)
                else:
                    assert (second.y - first.y) * (1 if q.answer in ("top", "above") else -1) >= 32, (q, scene)
            else:
                truth[q.answer] += kind == "yes_no"
    assert set(truth) >= {"yes", "no"} and 0.45 < truth["yes"] / (truth["yes"] + truth["no"]) < 0.55


def test_yes_no_is_true():
    """A second reading of colour, presence, count and relation questions from their text alone."""
    for scene, rng in SAMPLES:
        q = question(scene, rng, "yes_no")
        text = q.text.lower()
        said, asked = words(text), mentioned_objects(text)
        shown = {item.object: item for item in scene.items}
        relation = re.search(r"left of|right of|above|over|below|under", text)
        if relation:
            order = re.findall(r"[a-z]+", text)
            a, b = sorted((shown[noun] for noun in asked), key=lambda item: order.index(item.object))
            dx, dy = b.x - a.x, b.y - a.y
            right = {"l": dx, "r": -dx, "a": dy, "o": dy, "b": -dy, "u": -dy}[relation[0][0]] >= 32
        elif "exactly" in said or "number" in said:
            right = bool({str(len(scene.items)), NUMBER_WORDS[len(scene.items)]} & said)
        elif said & set(COLORS):
            (noun,) = asked
            right = {shown[noun].color} == said & set(COLORS)
        else:
            right = asked <= set(shown)
        assert q.answer == ("yes" if right else "no"), (q, scene)


def test_question_kinds_are_guarded():
    scene = next(s for s, _ in SAMPLES if s.items[0].color is None and len(s.items) == 1)
    with pytest.raises(ValueError, match="color"):
        question(scene, stream("train", 0, 0, 1), "color")
    assert {kind for s, _ in SAMPLES for kind in question_kinds(s)} == set(QUESTION_KINDS)


def test_description_names_everything():
    for scene, _ in SAMPLES:
        text = description(scene)
        assert mentioned_objects(text) == {item.object for item in scene.items}
        assert {item.color for item in scene.items if item.color} == words(text) & set(COLORS)
        assert scene.background in text and text.endswith(".")


def test_names_name_the_objects_and_nothing_else():
    for scene, _ in SAMPLES:
        text = names(scene)
        assert mentioned_objects(text) == {item.object for item in scene.items}
        assert {item.color for item in scene.items if item.color} == words(text) & set(COLORS)
        assert scene.background not in text


def test_texts_have_content():
    texts = [text_document(1, i) for i in range(1000)]
    assert len(set(texts)) > 900
    assert {noun for text in texts for noun in mentioned_objects(text)} == set(OBJECTS)
    assert all(KEYWORDS[noun] for noun in OBJECTS)
