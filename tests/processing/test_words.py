"""Words that a model was not taught."""

import json

import pytest

from openjanus.emoji import grammar, world
from openjanus.emoji.splits import stream
from openjanus.processing.words import unknown_words
from openjanus.weights.hub import BUNDLED

WORDS = json.loads((BUNDLED / "nano" / "about.json").read_text(encoding="utf-8"))["words"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("two red apples", []),
        ("A photo of 3 big Butterflies, please!", ["big"]),  # whose size the word list does not name
        ("a xylophone and a cat", ["xylophone"]),
        ("ein roter apfel", ["ein", "roter", "apfel"]),
        ("a strawbery", []),  # a slip of the pen
        ("a zebra beside a zebra", ["zebra"]),
        ("two leaves and three cacti on sky", []),
        ("a blue-green car", []),
        ("a catamaran", ["catamaran"]),
        ("", []),
        ("🍎 2", []),
    ],
)
def test_words_are_named_in_order_each_once(text, wanted) -> None:
    assert unknown_words(text, WORDS) == wanted


def test_a_model_without_a_word_list_knows_all() -> None:
    assert unknown_words("a xylophone", {}) == [] == unknown_words("a xylophone", {"things": ()})


def test_captions_of_the_world_have_no_unknown_words() -> None:
    more = WORDS | {"sizes": ["big", "small"], "styles": world.TRAIN_STYLES}
    for index in range(400):
        text = grammar.caption(world.sample_scene("train", 0, index), stream("train", 0, index, 1))
        assert unknown_words(text, more) == [], text
