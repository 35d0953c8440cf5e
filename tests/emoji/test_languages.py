"""The reduced world, in English and in other languages: the same is said in each, and only English is ever drawn."""

import re
from itertools import chain

import numpy as np
import pytest

from openjanus.emoji import languages, mini
from openjanus.emoji.languages import LANGUAGES, LEARNED, LEFT_OUT, SCRIPTS, ask, encipher, mix, say, word
from openjanus.emoji.splits import HELDOUT_COLOR_PAIRS, stream
from openjanus.emoji.sprites import COLORS, RECOLOURABLE
from openjanus.emoji.world import PLACES
from openjanus.recipes import languages as recipe
from openjanus.recipes.languages import CONDITIONS, language_run

SCENES = [mini.mini_scene("train", 3, index) for index in range(300)]


def test_a_scene_of_the_reduced_world_has_one_thing_and_its_caption_names_all_of_it() -> None:
    for scene in SCENES:
        (item,) = scene.items
        assert item.size == 28 and (item.color, item.object) not in HELDOUT_COLOR_PAIRS
        assert scene.named.color and scene.named.background and scene.named.place in PLACES
    assert len({scene.style for scene in SCENES}) == 1
    held_out = [mini.mini_scene("heldout_color", 3, index).items[0] for index in range(50)]
    assert all((item.color, item.object) in HELDOUT_COLOR_PAIRS for item in held_out)
    assert mini.mini_scene("seen", 3, 0) != mini.mini_scene("train", 3, 0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_different_scenes_are_said_differently_and_equal_ones_alike(language) -> None:
    said: dict[str, set[tuple[str | None, ...]]] = {}
    for scene in SCENES:
        item = scene.items[0]
        said.setdefault(say(language, scene), set()).add((item.object, item.color, scene.named.place, scene.background))
    assert all(len(scenes) == 1 for scenes in said.values())
    assert len(said) == len(set(chain(*said.values())))


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_of_a_language_are_all_different(language) -> None:
    english = (*RECOLOURABLE, *COLORS, *PLACES, "yes", "no")
    assert len({word(language, one) for one in english}) == len(english)


@pytest.mark.parametrize("language", SCRIPTS)
def test_a_cipher_has_no_character_of_another_language_and_a_code_for_each_word(language) -> None:
    others = {sign for other in LANGUAGES if other != language for scene in SCENES for sign in say(other, scene)}
    for scene in SCENES:
        code, english = say(language, scene), say("en", scene)
        assert not set(code) & (others - {" "}) and len(code.split()) == len(english.split())
    words = {one for scene in SCENES for one in say("en", scene).split()}
    assert len({encipher(language, one) for one in words}) == len(words)


def test_no_token_of_a_ciphers_words_is_one_of_english() -> None:
    text = languages.languages_text_tokenizer()
    ids = {
        code: {id for scene in SCENES for id in text.encode(say(code, scene)) if text.decode([id]).strip()}
        for code in ("en", "cipher", "unseen")
    }
    assert not ids["en"] & ids["cipher"] and not ids["en"] & ids["unseen"] and not ids["cipher"] & ids["unseen"]


def test_german_agrees_in_gender() -> None:
    said = {scene.items[0].object: say("de", scene) for scene in SCENES}
    assert re.match(r"ein \w+er Apfel ", said["apple"])
    assert re.match(r"eine \w+e Tulpe ", said["tulip"])
    assert re.match(r"ein \w+es Auto ", said["car"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_ask_the_same_in_every_language_and_name_no_held_out_pair(language) -> None:
    for index, scene in enumerate(SCENES[:80]):
        for kind in mini.KINDS:
            question, answer = ask(language, scene, np.random.default_rng(index), kind)
            in_english = ask("en", scene, np.random.default_rng(index), kind)
            assert word(language, in_english[1]) == answer and question
            colors = [color for color in COLORS if color in in_english[0].split()]
            assert not any((color, scene.items[0].object) in HELDOUT_COLOR_PAIRS for color in colors)


@pytest.mark.parametrize("language", LEARNED)
def test_a_mixed_line_has_words_of_both(language) -> None:
    for index, scene in enumerate(SCENES[:60]):
        line = mix(language, scene, np.random.default_rng(index))
        item = scene.items[0]
        assert item.color is not None and scene.named.place is not None
        named = (item.object, item.color, scene.named.place)
        foreign = [word(language, one) in line for one in named]
        assert 1 <= sum(foreign) <= 2 or any(word(language, one) == one for one in named)


# --- what enters a training


def texts_of(name: str, condition: str) -> list[str]:
    """All texts of 60 examples of a source."""
    source = getattr(languages, name)("train", 0)
    return [part for i in range(60) for m in source(i) for part in m.content if isinstance(part, str)]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_whatever_is_drawn_is_asked_for_in_english(condition) -> None:
    run = language_run(condition, "eyes", "ids", 0)
    sources = {name for stage in run.stages for name in stage.sources}
    english = {say("en", mini.mini_scene("train", 0, index)) for index in range(60)}
    drawing = set()
    for name in sources:
        source = getattr(languages, name.removeprefix(recipe.SOURCE))("train", 0)
        for index in range(60):
            messages = source(index)
            if any(m.role == "assistant" and not isinstance(part, str) for m in messages for part in m.content):
                drawing.add(name)
                assert set(messages[0].content) <= english
    assert drawing == {"emoji.languages.drawings"}


def test_a_condition_has_its_signals_only() -> None:
    foreign = {"emoji.languages." + name for name in ("parallel", "monolingual", "mixed", "questions")}
    for condition, signals in CONDITIONS.items():
        run = language_run(condition, "eyes", "ids", 0)
        found = {name for stage in run.stages for name in stage.sources} & foreign
        assert found == {f"emoji.languages.{signal}" for signal in signals}
    assert {"emoji.languages.english", "emoji.languages.drawings"} <= set(run.stages[-1].mixture)


def test_left_out_objects_are_in_no_parallel_and_in_no_mixed_line() -> None:
    for name in ("parallel", "mixed"):
        lines = texts_of(name, "all")
        for noun in LEFT_OUT:
            assert not any(re.search(rf"\b{noun}\b", line) for line in lines)
            assert not any(word(language, noun) in line.split() for language in LEARNED for line in lines)
    assert any(word("de", noun) in line.split() for noun in LEFT_OUT for line in texts_of("monolingual", "all"))


def test_the_unseen_cipher_is_in_no_training_text() -> None:
    letters = set(SCRIPTS["unseen"])
    for name in (*recipe.SIGNALS, "english", "english_questions", "drawings"):
        assert not any(letters & set(text) for text in texts_of(name, "all"))


def test_every_language_says_and_asks_what_a_row_can_hold() -> None:
    text = languages.languages_text_tokenizer()
    for language in LANGUAGES:
        lengths = [len(text.encode(say(language, scene))) for scene in SCENES]
        assert max(lengths) < 24, language
    rng = stream("train", 0, 0, 17)
    assert text.decode(text.encode(ask("zh", SCENES[0], rng, "color")[0])) == ask("zh", SCENES[0], rng, "color")[0]
