"""The page for everybody: axe-core finds nothing, keys alone are enough, forced colours keep what colours say."""

from collections.abc import Iterator

import pytest

from tests.serve.page.browsing import PICTURE, SIZES, Page, action, answer_with, ask, attached, draw, expect, opened

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


def complaints(page: Page) -> list[str]:
    found = axe.Axe().run(page).response
    assert found["passes"]
    return [
        f"{rule['impact']} {rule['id']}: {node['html'][:200]}" for rule in found["violations"] for node in rule["nodes"]
    ]


def states(page: Page) -> Iterator[str]:
    """Brings the page into one state after the other."""
    yield "welcome"
    answer_with(page, "# head\n\n- one\n- two\n\n[link](https://example.org) and `code`")
    ask(page, "what is it?", PICTURE)
    draw(page, "a blue car", 2)
    yield "a question, a drawing and settings"
    answer_with(page, (500, {"message": "it failed"}))
    ask(page, "again?", PICTURE)
    page.set_input_files("#file", PICTURE)
    expect(attached(page)).to_have_count(1)
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"none"})
    expect(page.get_by_role("alert").filter(has_text="notes.txt")).to_be_visible()
    page.locator("#words").fill("draw a cat")
    yield "an error, a notice, a hint and a picture to send"
    action(page, "Edit question", turn=0).click()
    expect(attached(page)).to_have_count(1)
    yield "editing"
    page.get_by_role("button", name="Menu").click()
    yield "the menu"
    page.get_by_role("button", name="API key").click()
    yield "the key dialog"
    page.keyboard.press("Escape")
    page.locator(".frame .picture").first.evaluate("it => it.click()")
    yield "an enlarged picture"


@pytest.mark.parametrize(("size", "scheme"), [*((name, "light") for name in SIZES), ("desktop", "dark")])
def test_axe_finds_nothing_in_any_state(browser, server, size, scheme) -> None:
    with opened(browser, server, SIZES[size]) as page:
        page.emulate_media(color_scheme=scheme)
        found = {state: said for state in states(page) if (said := complaints(page))}
        assert not found


def test_axe_finds_nothing_while_pictures_grow(page) -> None:
    page.route("**/v1/images/generations", lambda route: None)  # never answered
    draw(page, "a blue car", 4, is_awaited=False)
    assert complaints(page) == []


@pytest.mark.parametrize("size", SIZES)
def test_keys_alone_lead_through_every_corner(browser, server, size) -> None:
    with opened(browser, server, SIZES[size]) as page:
        answer_with(page, "an answer")
        expect(page.get_by_label("Question", exact=True)).to_be_focused()
        ask_by_keys(page)
        meet_trouble_by_keys(page)
        start_anew_by_keys(page)
        draw_by_keys(page, is_low=SIZES[size][1] < 500)
        change_by_keys(page)


def ask_by_keys(page: Page) -> None:
    with page.expect_file_chooser() as choosing:
        press(page, "Add picture")
    choosing.value.set_files(PICTURE)
    expect(attached(page)).to_have_count(1)
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".mine p")).to_have_text("one\ntwo")
    expect(page.locator(".said")).to_have_text("an answer")


def meet_trouble_by_keys(page: Page) -> None:
    answer_with(page, (400, {"message": "the messages take 812 positions", "code": "context_length_exceeded"}))
    page.keyboard.insert_text("a red cat " * 400)
    page.keyboard.press("Enter")
    expect(page.locator(".problem")).to_be_visible()
    answer_with(page, "an answer")
    page.keyboard.type("three")
    page.keyboard.press("Enter")
    expect(page.locator(".said").last).to_have_text("an answer")
    back_to(page, "Try again")
    press(page, "Delete")  # of the turn before
    expect(page.locator(".problem")).to_have_count(1)
    expect(page.locator(".turn")).to_have_count(2)


def start_anew_by_keys(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.keyboard.type("four")
    page.keyboard.press("Enter")
    expect(page.locator("[aria-busy=true]")).to_have_count(1)
    press(page, "New")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    press(page, "Undo")
    expect(page.locator(".turn")).to_have_count(3)
    press(page, "New")
    expect(page.locator(".turn")).to_have_count(0)


def draw_by_keys(page: Page, is_low: bool) -> None:
    back_to(page, "Ask", "radio")
    page.keyboard.press("ArrowRight")
    if is_low:
        press(page, "Settings")
    back_to(page, "Pictures")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    back_to(page, "What to draw")
    page.keyboard.type("a blue car")
    page.keyboard.press("Enter")
    expect(page.locator(".frame .picture")).to_have_count(2)
    press(page, "a blue car, picture 2")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="a blue car, picture 2")).to_be_focused()
    press(page, "a blue car, picture 2")
    press(page, "Ask about it")
    answer_with(page, "an answer")
    page.keyboard.type("is it blue?")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("an answer")


def change_by_keys(page: Page) -> None:
    answer_with(page, "another answer")
    press(page, "Retry")
    expect(page.locator(".said")).to_have_text("another answer")
    press(page, "Edit question")
    question = page.get_by_label("Question", exact=True)
    expect(question).to_be_focused()
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    expect(page.locator(".mine.ask p")).to_have_text("is it blue?!")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    press(page, "Delete")
    expect(page.locator(".turn")).to_have_count(1)
    expect(question).to_be_focused()
    press(page, "Menu")
    press(page, "API key")
    page.keyboard.type("a key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.wait_for_function("sessionStorage.getItem('openjanus-key') === 'a key'")  # a dialog tells after it has closed
    press(page, "Menu")
    press(page, "Delete conversation")
    expect(page.locator(".turn")).to_have_count(0)


def press(page: Page, name: str) -> None:
    back_to(page, name)
    page.keyboard.press("Enter")


def back_to(page: Page, name: str, kind: str = "") -> None:
    """Shift+Tab until the thing of this name, and of this type, has the focus."""
    named = """(kind) => {
        const it = document.activeElement;
        const names = [it.getAttribute("aria-label"), it.labels?.[0]?.textContent, it.querySelector("img")?.alt];
        return kind && it.type !== kind ? "" : (names.find(Boolean) ?? it.textContent).trim();
    }"""
    for _ in range(80):
        page.keyboard.press("Shift+Tab")
        if page.evaluate(named, kind).startswith(name):
            return
    raise AssertionError(f"{name} cannot be reached by Shift+Tab")


def test_the_focus_is_never_lost(page) -> None:
    answer_with(page, "an answer")
    ask(page, "one")
    action(page, "Retry").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "go"
    action(page, "Delete").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "words"


def test_forced_colours_keep_what_colours_say(page) -> None:
    def style(name: str, property: str) -> str:
        return page.locator(name).first.evaluate(f"it => getComputedStyle(it).{property}")

    page.emulate_media(forced_colors="active")
    page.get_by_role("radio", name="Draw").check(force=True)
    checked, other = (f".modes input[value={mode}] + span" for mode in ("draw", "ask"))
    assert style(checked, "backgroundColor") != style(other, "backgroundColor")
    draw(page, "a blue car", 2)
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"none"})
    for name in (".mine", ".frame", "#notice", ".modes", "#go"):
        assert style(name, "borderTopStyle") == "solid", name
    assert complaints(page) == []
