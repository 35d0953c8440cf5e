"""Windows of every size: there is room for the conversation, nothing overflows, growing pictures stay in view."""

from collections.abc import Iterator

import pytest

from tests.serve.conftest import Running, run_server
from tests.serve.page.browsing import (
    LANDSCAPE,
    SIZES,
    ZOOM_400,
    answer_with,
    ask,
    draw,
    expect,
    opened,
)
from tests.serve.test_faults import slow


@pytest.mark.parametrize("size", [LANDSCAPE, ZOOM_400], ids=["landscape", "zoom"])
@pytest.mark.parametrize("mode", ["Ask", "Draw"])
def test_a_low_window_leaves_most_of_itself_to_the_conversation(browser, server, size, mode) -> None:
    with opened(browser, server, size) as page:
        answer_with(page, "yes")
        ask(page, "hello")
        page.get_by_role("radio", name=mode).check(force=True)
        room = page.locator("#scroll").bounding_box()
        assert room["height"] >= 0.6 * size[1]
        header = page.locator("#header")
        assert header.bounding_box()["y"] <= 0 or page.locator(".turn").bounding_box()["y"] < 60
        if mode == "Draw":
            page.get_by_role("button", name="Settings").click()
            page.locator("#seed").scroll_into_view_if_needed()
            expect(page.locator("#seed")).to_be_in_viewport()
            expect(page.locator("#go")).to_be_in_viewport(ratio=1)


@pytest.fixture(scope="module")
def wide(engine) -> Iterator[Running]:
    """A server that can draw sixteen pictures of one prompt."""
    with run_server(engine, slots=32) as running:
        yield running


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_sixteen_growing_pictures_are_all_in_view(browser, wide, size) -> None:
    with opened(browser, wide, size) as page, slow(wide, 1):
        draw(page, "a blue car", 16, is_awaited=False)
        expect(page.locator(".frame img")).to_have_count(16)
        is_busy, room, *frames = page.evaluate("""() => [
            document.querySelector(".drawing").getAttribute("aria-busy"),
            ...[document.querySelector("#scroll"), ...document.querySelectorAll(".frame")]
                .map((it) => it.getBoundingClientRect().toJSON())]""")
        assert is_busy == "true" and len(frames) == 16
        for frame in frames:
            assert frame["width"] >= 24 and frame["top"] >= room["top"] and frame["bottom"] <= room["bottom"]
        page.keyboard.press("Escape")
        expect(page.locator("[aria-busy=true]")).to_have_count(0)


def test_nothing_is_wider_than_the_window(page) -> None:
    answer_with(page, "a" * 300 + " `" + "b" * 300 + "`\n```\n" + "c" * 300 + "\n```")
    ask(page, "word" * 100)
    draw(page, "a blue car", 16)
    for width in (320, 390, 600, 768, 1280):
        for height in (256, 800):
            page.set_viewport_size({"width": width, "height": height})
            for mode in ("Ask", "Draw"):
                page.get_by_role("radio", name=mode).check(force=True)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate("document.getElementById('scroll').scrollWidth") <= width
                for name in ("#go", "#words", ".frame .picture"):
                    box = page.locator(name).first.bounding_box()
                    assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_the_end_stays_in_view_until_the_user_scrolls_away(page) -> None:
    answer_with(page, "yes\n\n" * 30)
    ask(page, "one")
    at_end = "it => it.scrollHeight - it.scrollTop - it.clientHeight < 5"
    assert page.locator("#scroll").evaluate(at_end)
    page.set_viewport_size({"width": 500, "height": 600})
    page.wait_for_timeout(100)
    assert page.locator("#scroll").evaluate(at_end)
    page.keyboard.press("PageUp")
    page.wait_for_timeout(300)
    top = page.locator("#scroll").evaluate("it => it.scrollTop")
    page.set_viewport_size({"width": 500, "height": 500})
    page.wait_for_timeout(100)
    assert page.locator("#scroll").evaluate("it => it.scrollTop") == top
    assert not page.locator("#scroll").evaluate(at_end)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_dialogs_and_the_menu_fit_every_window(browser, server, size) -> None:
    with opened(browser, server, size) as page:
        draw(page, "a blue car", 2)
        page.get_by_role("button", name="Menu").click()
        for item in page.locator("#menu button:visible").all():
            item.scroll_into_view_if_needed()
            expect(item).to_be_in_viewport(ratio=1)
        page.get_by_role("button", name="API key").click()
        for name in ("#key", "#key-cancel", "#key-form .go"):
            page.locator(name).scroll_into_view_if_needed()
            expect(page.locator(name)).to_be_in_viewport(ratio=1)
        page.keyboard.press("Escape")
        page.locator(".frame .picture").first.click()
        for name in ("#viewer-picture", "#viewer-next", "#viewer-ask", "#viewer-save", "#viewer-close"):
            expect(page.locator(name)).to_be_in_viewport(ratio=1)
        assert page.locator("#viewer-picture").bounding_box()["height"] >= 0.5 * size[1]
