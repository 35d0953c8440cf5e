"""What a newcomer is told: suggestions with their pictures, what the model knows, and hints on the two modes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from openjanus.emoji import templates
from openjanus.emoji.sprites import BACKGROUNDS, COLORS, NOUNS, OBJECTS, RECOLOURABLE
from openjanus.inference.engine import Engine
from openjanus.weights import checkpoint
from openjanus.weights.config import About
from openjanus.weights.hub import BUNDLED
from tests import tiny
from tests.serve.conftest import Running, run_server
from tests.serve.page.browsing import (
    PICTURE,
    Page,
    action,
    answer_with,
    ask,
    attached,
    draw,
    expect,
    menu,
    opened,
    question_field,
    said_in,
)

ABOUT = checkpoint.load(BUNDLED / "nano").about


@pytest.fixture(scope="module")
def knowing() -> Iterator[Running]:
    """A server of a tiny model that says the same of itself as the bundled one."""
    with run_server(Engine(replace(tiny.checkpoint(), about=ABOUT))) as running:
        yield running


@pytest.fixture
def known(browser, knowing) -> Iterator[Page]:
    with opened(browser, knowing) as it:
        yield it


def test_the_bundled_model_tells_the_words_of_its_world() -> None:
    assert ABOUT is not None and "emoji world" in ABOUT.description
    assert ABOUT.words == {
        "things in any colour": RECOLOURABLE,
        "other things": tuple(noun for noun in NOUNS if noun not in RECOLOURABLE),
        "colours": tuple(COLORS),
        "backgrounds": tuple(BACKGROUNDS),
        "numbers": ("one", "two", "three", "four"),
        "places": tuple(templates.RELATION_WORDS),
    }


def test_what_a_checkpoint_says_of_itself_is_saved_and_checked(tmp_path) -> None:
    about = About("Knows cats.", {"things": ("cat",)})
    checkpoint.save(replace(tiny.checkpoint(), about=about), tmp_path / "model")
    assert checkpoint.load(tmp_path / "model").about == about
    (tmp_path / "model" / "about.json").write_text('{"description": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"about\.json: description is 3, expected str"):
        checkpoint.load(tmp_path / "model")


def test_a_newcomer_sees_what_the_model_knows(known) -> None:
    expect(known.locator("#knows")).to_contain_text("emoji world")
    known.locator("#about-open").click()
    dialog = known.get_by_role("dialog", name="What tiny knows")
    for words in (*NOUNS, *COLORS, *BACKGROUNDS):
        expect(dialog).to_contain_text(words)
    known.keyboard.press("Escape")
    answer_with(known, "yes")
    ask(known, "hello")
    menu(known, "What it knows")
    expect(dialog).to_be_visible()


def test_a_model_that_says_nothing_of_itself_promises_nothing(page) -> None:
    expect(page.locator("#knows")).to_be_hidden()
    expect(page.locator("#about-open")).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("button", name="What it knows")).to_have_count(0)


def test_a_suggested_question_brings_its_picture(page) -> None:
    bodies = answer_with(page, "red")
    page.get_by_role("button", name="what color is the balloon?").click()
    expect(attached(page)).to_have_count(1)
    expect(question_field(page)).to_have_value("what color is the balloon?")
    expect(question_field(page)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("red")
    assert said_in(bodies[0]) == ["user: #what color is the balloon?"]


def test_a_suggested_drawing_is_put_under_draw(page) -> None:
    page.get_by_role("button", name="two red apples").click()
    expect(page.get_by_label("What to draw")).to_have_value("two red apples")
    page.keyboard.press("Enter")
    expect(page.locator(".mine.draw p")).to_have_text("two red apples")


HINTS = [
    ("ask", "draw a red cat", "This reads like words for a drawing."),
    ("ask", "Please paint two apples.", "This reads like words for a drawing."),
    ("ask", "can you draw a fish?", "This reads like words for a drawing."),
    ("ask", "make me a picture of a car", "This reads like words for a drawing."),
    ("ask", "two red apples", "To have this drawn, choose Draw."),
    ("ask", "a cat or a dog?", "there is none yet"),
    ("ask", "how many stars are there?", "there is none yet"),
    ("ask", "hello", ""),
    ("draw", "how many apples are there?", "This reads like a question."),
    ("draw", "What color is it", "This reads like a question."),
    ("draw", "can you draw a fish?", ""),
    ("draw", "a green dragon", "This model does not know such a thing."),
    ("draw", "three pink hearts", ""),
    ("draw", "", ""),
]


@pytest.mark.parametrize(("mode", "words", "hint"), HINTS)
def test_words_under_the_wrong_mode_get_a_hint(known, mode, words, hint) -> None:
    known.get_by_role("radio", name=mode.capitalize()).check(force=True)
    known.locator("#words").fill(words)
    if hint:
        expect(known.locator("#hint")).to_contain_text(hint)
    else:
        known.wait_for_timeout(50)
        assert known.locator("#hint").inner_text() == ""


def test_a_hint_leads_to_the_other_mode(page) -> None:
    page.keyboard.type("draw a cat")
    page.get_by_role("button", name="Switch to Draw").click()
    expect(page.get_by_label("What to draw")).to_have_value("draw a cat")
    expect(page.get_by_label("What to draw")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("is it red?")
    page.get_by_role("button", name="Switch to Ask").click()
    expect(question_field(page)).to_be_focused()


def test_pictures_that_wait_under_draw_are_not_forgotten(page) -> None:
    page.set_input_files("#file", PICTURE)
    expect(attached(page)).to_have_count(1)
    page.get_by_role("radio", name="Draw").check(force=True)
    expect(page.locator("#hint")).to_contain_text("Pictures go with questions only.")
    page.get_by_role("button", name="Switch to Ask").click()
    expect(attached(page)).to_have_count(1)


def test_every_plural_of_the_world_is_known(known) -> None:
    unknown = known.evaluate(
        """async ([about, plurals]) => {
            const { knowsNoneOf } = await import("/page/hints.js");
            return plurals.filter((plural) => knowsNoneOf(`three ${plural}`, about));
        }""",
        [{"words": ABOUT.words}, [thing.plural for thing in OBJECTS.values()]],
    )
    assert unknown == []


def test_words_sent_under_the_wrong_mode_can_be_moved(page) -> None:
    answer_with(page, "no")
    ask(page, "draw a cat")
    action(page, "Draw this").click()
    expect(page.locator(".frame .picture")).not_to_have_count(0)
    expect(page.locator(".mine.draw p")).to_have_text("draw a cat")
    draw(page, "is there a cat?")
    bodies = answer_with(page, "yes")
    action(page, "Ask this").click()
    expect(page.locator(".said").last).to_have_text("yes")
    assert said_in(bodies[0])[-1] == "user: is there a cat?"
