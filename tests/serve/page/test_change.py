"""Pictures that are changed: by a model that was trained to edit, and not offered by another."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.weights import checkpoint
from openjanus.weights.hub import BUNDLED
from tests import tiny
from tests.serve.conftest import Running, run_server
from tests.serve.page.browsing import PICTURE, Page, action, attached, draw, expect, opened, pixels_of, reload

ABOUT = checkpoint.load(BUNDLED / "nano").about


@pytest.fixture(scope="module")
def editing() -> Iterator[Running]:
    with run_server(Engine(replace(tiny.checkpoint(), tasks=("talk", "draw", "edit"), about=ABOUT))) as running:
        yield running


@pytest.fixture
def editor(browser, editing) -> Iterator[Page]:
    with opened(browser, editing) as it:
        yield it


def change(page: Page, words: str, num_turns: int) -> None:
    field = page.get_by_label("What to change")
    expect(field).to_be_focused()
    field.fill(words)
    field.press("Enter")
    expect(page.locator(".turn")).to_have_count(num_turns)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def test_a_drawing_is_changed_and_the_change_drawn_again(editor, editing) -> None:
    draw(editor, "a red cat", seed=3)
    before = pixels_of(editor.locator(".frame .picture img").first.get_attribute("src"))
    editor.locator(".frame").first.hover()
    editor.get_by_label("Change picture 1").click()
    expect(attached(editor)).to_have_count(1)
    change(editor, "make it blue", 2)
    expect(attached(editor)).to_have_count(0)
    expect(editor.locator(".turn").last.locator(".seen img")).to_have_count(1)
    drawn = pixels_of(editor.locator(".frame .picture img").last.get_attribute("src"))
    engine = editing.service.engine
    options = {"seed": 3, "guidance": 5.0, "temperature": 1.0}
    (wanted,) = engine.edit(Image.fromarray(before), "make it blue", **options)
    assert np.array_equal(drawn, np.asarray(wanted))
    action(editor, "Same seed again").click()
    expect(editor.locator(".drawing[aria-busy=false]")).to_have_count(3)
    again = editor.locator(".frame .picture img").last.get_attribute("src")
    assert np.array_equal(pixels_of(again), drawn)
    reload(editor)
    expect(editor.locator(".turn").last.locator(".seen img")).to_have_count(1)


def test_a_picture_of_ones_own_is_changed(editor) -> None:
    editor.get_by_role("radio", name="Draw").check(force=True)
    editor.set_input_files("#file", [PICTURE])
    expect(attached(editor)).to_have_count(1)
    change(editor, "remove the balloon", 1)
    expect(editor.locator(".mine.draw .seen img")).to_have_count(1)
    expect(editor.locator(".mine.draw h2")).to_have_text("You asked to change")


def test_a_failed_change_keeps_its_picture_when_it_is_edited(editor) -> None:
    editor.get_by_role("radio", name="Draw").check(force=True)
    editor.set_input_files("#file", [PICTURE])
    expect(attached(editor)).to_have_count(1)
    editor.route("**/v1/images/edits", lambda route: route.fulfill(status=500, json={"error": {"message": "no"}}))
    change(editor, "remove the balloon", 1)
    action(editor, "Edit").click()
    expect(attached(editor)).to_have_count(1)
    expect(editor.get_by_label("What to change")).to_have_value("remove the balloon")


def test_a_model_that_does_not_edit_offers_no_change(page) -> None:
    draw(page, "a red cat")
    expect(page.get_by_label("Ask about picture 1")).to_have_count(1)
    expect(page.get_by_label("Change picture 1")).to_have_count(0)
    expect(page.locator("#choose")).to_be_hidden()


def test_words_that_the_model_does_not_know_are_named_under_the_drawing(editor) -> None:
    draw(editor, "a zebra and a cat")
    expect(editor.locator(".facts").last).to_contain_text("does not know: zebra")
    draw(editor, "a cat")
    expect(editor.locator(".facts").last).not_to_contain_text("does not know")
