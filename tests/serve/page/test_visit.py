"""The page's straight paths in a real browser, with the bundled model behind it, or a tiny one where that is enough."""

import numpy as np
import pytest
from PIL import Image

import openjanus
from openjanus.inference.engine import Engine
from openjanus.processing.image import open_image
from openjanus.processing.processor import Message
from tests.serve.conftest import run_server
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
    pixels_of,
    question_field,
    reload,
    words_of,
)
from tests.serve.test_faults import slow


@pytest.fixture(scope="module")
def nano() -> Engine:
    return openjanus.load("nano", device="cpu")


def test_a_drawing_grows_is_saved_drawn_again_and_asked_about(browser, nano) -> None:
    with run_server(nano) as running, opened(browser, running) as page:
        a_whole_visit(page, nano)


def a_whole_visit(page: Page, nano: Engine) -> None:
    draw(page, "two red apples", 2, 5, is_awaited=False)
    expect(page.get_by_label("Picture 1, unfinished")).to_be_attached()
    expect(page.locator(".drawing[aria-busy=false] .picture")).to_have_count(2)
    sources = [img.get_attribute("src") for img in page.locator(".frame .picture img").all()]
    ids = nano.generate_ids("two red apples", n=2, seed=5)
    for source, row in zip(sources, ids, strict=True):
        assert np.array_equal(pixels_of(source), np.asarray(nano.decode_images(row[None])[0]))
    assert page.locator(".frame img").first.evaluate("it => getComputedStyle(it).imageRendering") == "pixelated"

    page.locator(".frame").first.hover()
    with page.expect_download() as saving:
        page.get_by_label("Download picture 1").click()
    assert saving.value.suggested_filename == "two-red-apples-seed5-0.png"
    with Image.open(saving.value.path()) as saved:
        assert saved.text["prompt"] == "two red apples" and saved.text["seed"] == "5"

    action(page, "Same seed again").click()
    expect(page.locator(".drawing[aria-busy=false]")).to_have_count(2)
    assert [img.get_attribute("src") for img in page.locator(".frame .picture img").all()] == sources * 2

    page.locator(".frame").first.hover()
    page.get_by_role("button", name="Ask about picture 1").first.click()
    expect(attached(page)).to_have_count(1)
    expect(question_field(page)).to_be_focused()
    page.keyboard.type("how many apples are there?")
    page.keyboard.press("Enter")
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    picture = Image.fromarray(pixels_of(sources[0]))
    wanted = "".join(nano.chat([Message("user", [picture, "how many apples are there?"])])).strip()
    assert page.locator(".said").inner_text().strip() in (wanted, "(no words)")


def test_an_answer_is_the_models_own(page, engine) -> None:
    ask(page, "what color is the balloon?", PICTURE)
    wanted = "".join(engine.chat([Message("user", [open_image(PICTURE), "what color is the balloon?"])]))
    assert words_of(page.locator(".said").inner_text()) == words_of(wanted)
    expect(page.locator(".mine img")).to_have_count(1)


def test_stop_leaves_the_batch_and_the_page_usable(page, server) -> None:
    with slow(server, 0.3):
        draw(page, "a blue car", 4, None, is_awaited=False)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.get_by_label("Picture 1, unfinished")).to_be_attached()
        page.keyboard.press("Escape")
        expect(page.locator(".drawing[aria-busy=false]")).to_contain_text("stopped")
        server.settles()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()


def test_a_models_words_are_text_whatever_they_hold(page) -> None:
    answer_with(
        page,
        "<img src=x onerror=alert(1)> **bold** and `code`\n\n- one\n- *two*\n\n[bad](javascript:alert(1)) "
        "[good](https://example.org/a) ![picture](https://example.org/b.png)\n\n```\n<script>alert(2)</script>\n```\n"
        "# head\n<b>no</b>",
    )
    ask(page, "hello")
    said = page.locator(".answer[aria-busy=false] .said")
    expect(said.locator("strong")).to_have_text("bold")
    assert said.locator("img, script, b").count() == 0
    assert "<img src=x onerror=alert(1)>" in said.inner_text() and "<script>alert(2)" in said.inner_text()
    assert said.locator("li").all_inner_texts() == ["one", "two"] and said.locator("em").inner_text() == "two"
    assert said.locator("p code").inner_text() == "code" and said.locator("h3").inner_text() == "head"
    links = [(link.inner_text(), link.get_attribute("href")) for link in said.locator("a").all()]
    assert links == [("good", "https://example.org/a"), ("picture", "https://example.org/b.png")]
    assert "noopener" in said.locator("a").first.get_attribute("rel")


def test_colours_are_chosen_and_kept(page) -> None:
    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = paper()
    page.emulate_media(color_scheme="dark")
    assert (dark := paper()) != light
    menu(page, "Colours")
    assert paper() == light
    reload(page)
    assert paper() == light
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("button", name="Colours: light").click()
    assert paper() == dark


def test_enter_in_the_key_dialog_gives_the_key_and_the_question_is_asked(browser, engine) -> None:
    with run_server(engine, keys=("the-key",)) as running:
        context = browser.new_context()
        page = context.new_page()
        page.goto(running.url)
        key = page.get_by_label("Key", exact=True)
        key.fill("another")
        key.press("Enter")
        expect(page.get_by_text("The server does not take this key.")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#notice")).to_contain_text("This server asks for a key.")
        ask(page, "hello", is_awaited=False)
        expect(key).to_be_visible()
        key.fill("the-key")
        key.press("Enter")
        expect(page.locator("#model")).to_have_text("tiny")
        expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
        expect(page.locator(".problem")).to_have_count(0)
        context.close()
