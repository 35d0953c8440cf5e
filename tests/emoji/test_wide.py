"""The wider world: colours that leak nothing, balanced sizes, wordings that state what was stated, exact edits."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from openjanus.data.sources import find_source, find_text_tokenizer
from openjanus.emoji import world
from openjanus.emoji.edits import KINDS, judge_edit, sample_edit
from openjanus.emoji.rewording import loose_caption, polite, reworded
from openjanus.emoji.splits import HELDOUT_COLOR_PAIRS, is_train_pair, stream
from openjanus.emoji.sprites import COLORS, MORE_COLORS, NOUNS, OBJECTS, RECOLOURABLE, to_oklab
from openjanus.emoji.talks import ABOUT, MAX_PICTURES, about_pictures, plain_answer, small_talk
from openjanus.emoji.wide import LEAST_DISTANCE, more_colors, wide_scene
from openjanus.processing.processor import Processor
from openjanus.recipes import RECIPES
from openjanus.sequence import num_tokens


def distance(one: str, other: str) -> float:
    known = COLORS | MORE_COLORS
    return float(np.linalg.norm(np.diff([to_oklab(np.array(known[name]) / 255) for name in (one, other)], axis=0)))


# --- scenes


@pytest.mark.parametrize("noun", RECOLOURABLE)
def test_a_new_colour_stays_away_from_the_held_out_colour_of_its_object(noun) -> None:
    (heldout,) = (color for color, other in HELDOUT_COLOR_PAIRS if other == noun)
    assert len(MORE_COLORS) == 16 and len(more_colors(noun)) >= 12
    for color in more_colors(noun):
        assert distance(color, heldout) >= LEAST_DISTANCE
        assert min(COLORS, key=lambda name: distance(color, name)) != heldout


def test_colours_are_told_apart() -> None:
    names = [*COLORS, *MORE_COLORS]
    assert min(distance(a, b) for a in names for b in names if a < b) > 0.07


def test_half_of_the_scenes_are_single_objects_and_large_ones_are_frequent() -> None:
    scenes = [wide_scene("train", 0, index) for index in range(3000)]
    sizes = Counter(scene.items[0].size for scene in scenes if len(scene.items) == 1 and scene.named.count is None)
    single = sizes.total()
    assert abs(single / len(scenes) - 0.5) < 0.04
    assert [round(6 * sizes[size] / single) for size in (28, 40, 52)] == [1, 2, 3]
    worn = Counter(item.color in MORE_COLORS for scene in scenes for item in scene.items if item.color)
    assert abs(worn[True] / worn.total() - 1 / 3) < 0.04
    for scene in scenes:
        nouns = {item.object for item in scene.items}
        assert all(is_train_pair(a, b) for a in nouns for b in nouns if a != b)
        for item in scene.items:
            if item.color is not None:
                assert (item.color, item.object) not in HELDOUT_COLOR_PAIRS
                assert item.color in COLORS or item.color in more_colors(item.object)


def test_held_out_splits_have_no_new_colours() -> None:
    for split in ("seen", "heldout_color"):
        for index in range(200):
            assert all(item.color in (None, *COLORS) for item in wide_scene(split, 1, index).items)


# --- wordings


@pytest.mark.parametrize("noun", NOUNS)
def test_a_synonym_has_the_number_of_its_word(noun) -> None:
    rng = np.random.default_rng(0)
    for text in (f"a {noun} alone", f"three {OBJECTS[noun].plural}"):
        for _ in range(20):
            other = reworded(text, rng, rate=1.0).lower()
            ending = other.removesuffix(" alone").split()[-1]
            if OBJECTS[noun].plural != noun:
                assert ending.endswith(("s", "i", "leaves")) or (" of pizza" in other and "slices" in other) or (
                    text.startswith("a ")
                ), other  # fmt: skip
            assert not re.search(r"\ba [aeio]|\ban [^aeioh]", other), other


def test_rewording_keeps_what_is_stated() -> None:
    rng = np.random.default_rng(0)
    text = "two big grey cars and a purple hat"
    assert reworded(text, rng, rate=0.0).lower() == text
    found = {reworded(text, rng, rate=1.0).lower() for _ in range(50)}
    assert len(found) == 3
    pattern = r"two (large|huge|giant) gray automobiles and a violet top hat"
    assert all(re.fullmatch(pattern, other) for other in found)


def test_a_sentence_is_not_put_into_a_request() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert not re.search(r"(draw|make|give me) (there|draw|this)", polite("there is a cat", rng))
    assert {polite("a cat", rng) for _ in range(200)} > {"a cat", "draw me a cat", "could you draw a cat?"}


def test_free_order_states_all_facts() -> None:
    seen = Counter()
    for index in range(600):
        scene, rng = wide_scene("train", 0, index), stream("train", 0, index, 7)
        named, item = scene.named, scene.items[0]
        if named.relation or (len(scene.items) > 1 and named.count is None):
            with pytest.raises(ValueError, match="needs its order"):
                loose_caption(scene, rng)
            continue
        text = loose_caption(scene, rng)
        assert OBJECTS[item.object].plural in text or item.object in text
        for fact in (named.size, item.color if named.color else None, named.place):
            assert fact is None or fact in text
            seen[fact is not None] += 1
        assert not named.background or f"{scene.background} background" in text
    assert seen[True] > 200


# --- talks


def test_a_talk_has_pictures_questions_and_right_answers() -> None:
    for index in range(300):
        talk = about_pictures("seen", 0, index)
        said = [message for message in talk if message.role != "system"]
        assert [message.role for message in said] == ["user", "assistant"] * (len(said) // 2)
        pictures = sum(isinstance(part, Image.Image) for message in said for part in message.content)
        assert 1 <= pictures <= MAX_PICTURES
        assert any(isinstance(part, Image.Image) for part in said[0].content)


@pytest.mark.parametrize(("order", "first"), [("picture", True), ("words", False)])
def test_the_order_of_picture_and_words_can_be_chosen(order, first) -> None:
    for index in range(50):
        content = next(m for m in about_pictures("seen", 0, index, order, 1) if m.role == "user").content
        place = [isinstance(part, Image.Image) for part in content].index(True)
        assert (place < len(content) - 1) == first


def test_the_longest_talks_fit_the_long_rows_of_the_recipe() -> None:
    task = RECIPES["wide.janus"]().task
    processor = Processor(task.processor, find_text_tokenizer("emoji.wide"), 64)
    talks = [about_pictures("train", 0, index, pictures=MAX_PICTURES) for index in range(150)]
    longest = max(num_tokens(processor.document(talk, train=True)) for talk in talks)
    assert 650 < longest < 0.9 * task.long_row_tokens < task.model.language_model.max_positions


def test_plain_answers_of_a_scene_by_hand() -> None:
    item = world.Item("apple", "red", 0, 0, 28)
    scene = world.Scene((item,), "night", "noto", "one", world.Named())
    answers = {kind: plain_answer(scene, kind) for kind in ("what", "how_many", "color", "background", "where")}
    assert answers == {
        "what": "apple", "how_many": "1", "color": "red", "background": "night", "where": "top left"
    }  # fmt: skip
    two = world.Scene((item, world.Item("cat", None, 32, 32, 28)), "night", "noto", "two", world.Named())
    assert plain_answer(two, "what") is None and plain_answer(two, "background") == "night"


def test_small_talk_says_who_the_model_is_and_what_it_does_not_know() -> None:
    answers = Counter(m.content[0] for i in range(300) for m in small_talk("train", 0, i) if m.role == "assistant")
    assert answers[ABOUT] > 10 and any("do not know" in answer for answer in answers)


# --- edits


@pytest.mark.parametrize("kind", KINDS)
def test_true_edits_are_accepted_and_others_refused(kind) -> None:
    for index in range(12):
        edit = sample_edit("seen", 5, index, kind)
        assert edit.kind == kind and judge_edit(edit, world.render(edit.after)) == ()
        assert judge_edit(edit, world.render(edit.before)) != ()
        other = next(
            other
            for number in range(index + 1, index + 50)
            if (other := sample_edit("seen", 5, number)).after.items != edit.after.items
        )
        assert judge_edit(edit, world.render(other.after)) != ()


def test_what_does_not_change_is_equal_pixel_by_pixel() -> None:
    for index in range(100):
        edit = sample_edit("train", 0, index)
        if edit.kind in ("background", "resize"):
            continue
        before, after = world.render(edit.before), world.render(edit.after)
        changed = {*edit.before.items} ^ {*edit.after.items}
        touched = np.zeros((64, 64), bool)
        for item in changed:
            touched[item.y : item.y + item.size, item.x : item.x + item.size] = True
        assert changed and np.array_equal(before[~touched], after[~touched]) and not np.array_equal(before, after)


def test_edits_show_held_out_combinations_in_their_own_split_only() -> None:
    for split in ("train", "seen", "heldout_color", "heldout_pair"):
        for index in range(60):
            edit = sample_edit(split, 2, index)
            for scene, is_after in ((edit.before, False), (edit.after, True)):
                has_color = any((item.color, item.object) in HELDOUT_COLOR_PAIRS for item in scene.items)
                nouns = {item.object for item in scene.items}
                has_pair = any(not is_train_pair(a, b) for a in nouns for b in nouns if a != b)
                assert has_color == (is_after and split == "heldout_color")
                assert has_pair == (is_after and split == "heldout_pair")


def test_splits_and_kinds_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match="unknown split 'heldout_style' of edits"):
        sample_edit("heldout_style", 0, 0)
    with pytest.raises(ValueError, match="no edit of kind 'add' in heldout_color; expected one of recolour"):
        sample_edit("heldout_color", 0, 0, "add")


# --- sources


@pytest.mark.parametrize("name", ["emoji.wide.drawings", "emoji.wide.talks", "emoji.wide.edits"])
def test_examples_are_pure_functions_of_their_index(name) -> None:
    def shown(talk) -> list:
        return [part.tobytes() if isinstance(part, Image.Image) else part for m in talk for part in m.content]

    source = find_source(name, "conversations")("train", 3)
    first = shown(source(5))
    source(6)
    assert shown(find_source(name, "conversations")("train", 3)(5)) == first


def test_the_wide_text_tokenizer_knows_the_words_of_the_wider_world() -> None:
    text = find_text_tokenizer("emoji.wide")
    assert text.vocab_size == 1536
    for word in (*NOUNS, *COLORS, *MORE_COLORS):
        assert len(text.encode(f" {word}")) <= 2, word
