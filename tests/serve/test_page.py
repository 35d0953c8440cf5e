"""The page in a real browser (chromium), with the bundled model behind it, or a tiny one where that is enough."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

import openjanus
from openjanus.inference.engine import Engine
from openjanus.inference.picture_files import file_name
from openjanus.processing.image import open_image
from openjanus.processing.processor import Message
from openjanus.weights.hub import BUNDLED
from tests.serve.conftest import Running, run_server
from tests.serve.test_faults import slow

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium found: apt-get install chromium", allow_module_level=True)
PICTURE = BUNDLED / "pictures" / "cat-and-balloon.png"
expect.set_options(timeout=40_000)


@pytest.fixture(scope="module")
def nano() -> Engine:
    return openjanus.load("nano", device="cpu")


@pytest.fixture(scope="module")
def server(engine) -> Iterator[Running]:
    with run_server(engine) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as it:
        found = it.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    with opened(browser, server) as it:
        yield it


@contextmanager
def opened(browser: Browser, server: Running) -> Iterator[Page]:
    """A fresh page; afterwards nothing has been complained about, and nothing outside has been asked for."""
    context = browser.new_context(viewport={"width": 1000, "height": 800}, reduced_motion="reduce")
    it, troubles, asked = context.new_page(), [], []
    it.set_default_timeout(40_000)
    it.on("console", lambda m: troubles.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    it.on("pageerror", lambda error: troubles.append(str(error)))
    it.on("request", lambda request: asked.append(request.url))
    it.goto(server.url)
    expect(it.locator("#model")).to_have_text("tiny")
    yield it
    context.close()
    server.settles()
    assert not troubles
    assert asked and all(url.startswith((server.url, "data:")) for url in asked)


def pixels_of(src: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).convert("RGB"))


def draw(page: Page, words: str, n: int, seed: int | None) -> None:
    page.get_by_role("radio", name="Draw").check()
    page.locator("#n").fill(str(n))
    page.locator("#seed").fill("" if seed is None else str(seed))
    page.get_by_label("What to draw").fill(words)
    page.keyboard.press("Enter")


def attached(page: Page):
    return page.locator("#attached li")


def answers_with(page: Page, text: str) -> None:
    """The server's next answer is this text."""
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in re.findall(r".{1,7}", text, flags=re.DOTALL)]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def test_a_drawing_grows_is_saved_drawn_again_and_asked_about(browser, nano) -> None:
    with run_server(nano) as running, opened(browser, running) as page:
        a_whole_visit(page, nano)


def a_whole_visit(page: Page, nano: Engine) -> None:
    draw(page, "two red apples", 2, 5)
    expect(page.get_by_alt_text("unfinished").first).to_be_attached()
    expect(page.locator(".drawing[aria-busy=false] .picture")).to_have_count(2)
    sources = [img.get_attribute("src") for img in page.locator(".picture img").all()]
    ids = nano.generate_ids("two red apples", n=2, seed=5)
    for source, row in zip(sources, ids, strict=True):
        assert np.array_equal(pixels_of(source), np.asarray(nano.decode_images(row[None])[0]))
    assert page.locator(".picture img").first.evaluate("it => getComputedStyle(it).imageRendering") == "pixelated"

    page.locator(".frame").first.hover()
    with page.expect_download() as saving:
        page.get_by_label("Download picture 1").click()
    assert saving.value.suggested_filename == "two-red-apples-seed5-0.png"
    with Image.open(saving.value.path()) as saved:
        assert saved.text["prompt"] == "two red apples" and saved.text["seed"] == "5"

    page.get_by_role("button", name="Same seed again").click()
    expect(page.locator(".drawing[aria-busy=false]")).to_have_count(2)
    assert [img.get_attribute("src") for img in page.locator(".picture img").all()] == sources * 2

    page.locator(".picture").first.click()
    expect(attached(page)).to_have_count(1)
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.keyboard.type("how many apples are there?")
    page.keyboard.press("Enter")
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    picture = Image.fromarray(pixels_of(sources[0]))
    wanted = "".join(nano.chat([Message("user", [picture, "how many apples are there?"])])).strip()
    assert page.locator(".said").inner_text().strip() in (wanted, "(no words)")


@pytest.mark.parametrize("prompt", ["Two red apples!", "红苹果", "красное яблоко", "लाल सेब", "🍎", "𐍈" * 45])
def test_a_drawing_is_saved_under_the_words_of_its_prompt_in_any_script(page, prompt) -> None:
    name = page.evaluate("async (prompt) => (await import('/page/pictures.js')).fileName(prompt, 5, 0)", prompt)
    assert name == f"{file_name(prompt)}-seed5-0.png"


def test_pictures_come_by_file_paste_and_drop(page, engine) -> None:
    page.set_input_files("#file", PICTURE)
    expect(attached(page)).to_have_count(1)
    give = """([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
        document.dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", { clipboardData: transfer })
                                                : new DragEvent("drop", { dataTransfer: transfer }));
    }"""
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    for number, kind in ((2, "paste"), (3, "drop")):
        page.evaluate(give, [kind, data])
        expect(attached(page)).to_have_count(number)
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"none"})
    expect(page.locator("#status")).to_have_text("One file is no picture")
    for number in (2, 1):
        page.get_by_role("button", name="Take").first.click()
        expect(attached(page)).to_have_count(number)
    page.get_by_label("Question", exact=True).fill("what color is the balloon?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    wanted = "".join(engine.chat([Message("user", [open_image(PICTURE), "what color is the balloon?"])]))
    assert words_of(page.locator(".said").inner_text()) == words_of(wanted)
    expect(page.locator(".mine img")).to_have_count(1)


def words_of(text: str) -> list[str]:
    """What Markdown leaves of a text."""
    return re.findall(r"[^\W_]+", text)


def test_stop_leaves_the_batch_and_the_page_usable(page, server) -> None:
    with slow(server, 0.3):
        draw(page, "a blue car", 4, None)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.get_by_alt_text("unfinished").first).to_be_attached()
        page.keyboard.press("Escape")
        expect(page.locator(".drawing[aria-busy=false]")).to_contain_text("stopped")
        server.settles()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()


def test_a_models_words_are_text_whatever_they_hold(page) -> None:
    answers_with(
        page,
        "<img src=x onerror=alert(1)> **bold** and `code`\n\n- one\n- *two*\n\n[bad](javascript:alert(1)) "
        "[good](https://example.org/a) ![picture](https://example.org/b.png)\n\n```\n<script>alert(2)</script>\n```\n"
        "# head\n<b>no</b>",
    )
    page.get_by_label("Question", exact=True).fill("hello")
    page.keyboard.press("Enter")
    said = page.locator(".answer[aria-busy=false] .said")
    expect(said.locator("strong")).to_have_text("bold")
    assert said.locator("img, script, b").count() == 0
    assert "<img src=x onerror=alert(1)>" in said.inner_text() and "<script>alert(2)" in said.inner_text()
    assert said.locator("li").all_inner_texts() == ["one", "two"] and said.locator("em").inner_text() == "two"
    assert said.locator("p code").inner_text() == "code" and said.locator("h3").inner_text() == "head"
    links = [(link.inner_text(), link.get_attribute("href")) for link in said.locator("a").all()]
    assert links == [("good", "https://example.org/a"), ("picture", "https://example.org/b.png")]
    assert "noopener" in said.locator("a").first.get_attribute("rel")


def test_keys_alone_are_enough(page) -> None:
    answers_with(page, "an answer")
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".mine p")).to_have_text("one\ntwo")
    expect(page.locator(".answer[aria-busy=false]")).to_be_attached()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#settings")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#seed")).to_be_focused()


def test_everything_has_a_name_and_enough_contrast(page) -> None:
    draw(page, "a blue car", 1, 1)
    expect(page.locator(".drawing[aria-busy=false]")).to_be_attached()
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, textarea, a, img, dialog, [role]")]
        .filter((it) => !(it.textContent.trim() || it.ariaLabel || it.labels?.length || it.getAttribute("alt") !== null
                          || it.getAttribute("aria-labelledby") || it.role === "status" || it.tagName === "PROGRESS"))
        .map((it) => it.outerHTML)""")
    assert not nameless
    contrast = """() => {
        const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const under = (it) => { for (; it; it = it.parentElement) { const c = getComputedStyle(it).backgroundColor;
            if (!/, 0\\)$/.test(c)) return c; } };
        const words = "h1, .model, .quiet:not(:disabled), .note, .mine p, .go, .modes span, label";
        return [...document.querySelectorAll(words)].filter((it) => it.offsetParent).map((it) => {
            const [a, b] = [light(getComputedStyle(it).color), light(under(it))].sort((x, y) => y - x);
            return [it.className || it.tagName, (a + 0.05) / (b + 0.05)]; });
    }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ratios = page.evaluate(contrast)
        assert len(ratios) > 8 and min(ratio for _, ratio in ratios) >= 4.5, ratios


def test_light_dark_and_every_width(page) -> None:
    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    draw(page, "a blue car", 2, 1)
    expect(page.locator(".drawing[aria-busy=false]")).to_be_attached()
    page.emulate_media(color_scheme="light")
    light = paper()
    page.emulate_media(color_scheme="dark")
    assert (dark := paper()) != light
    page.get_by_label("Colours").click()
    assert paper() == light
    page.reload()
    assert paper() == light and page.get_by_label("Colours: light").is_visible()
    page.get_by_label("Colours").click()
    assert paper() == dark
    draw(page, "a blue car", 2, 1)
    expect(page.locator(".drawing[aria-busy=false]")).to_be_attached()
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.getElementById('scroll').scrollWidth") <= width
        for name in ("#go", "#words", ".picture"):
            box = page.locator(name).first.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_trouble_is_told_and_can_be_tried_again(page) -> None:
    error = {"error": {"message": "8 requests wait already", "type": "rate_limit_error", "code": "queue_full"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, json=error))
    page.get_by_label("Question", exact=True).fill("hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("8 requests wait already. It is busy")
    page.unroute("**/v1/chat/completions")
    answers_with(page, "an answer")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".said")).to_have_text("an answer")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="New", exact=True).click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()


def test_a_server_that_wants_a_key_is_given_one(browser, engine) -> None:
    with run_server(engine, keys=("the-key",)) as running:
        context = browser.new_context()
        page = context.new_page()
        page.goto(running.url)
        page.get_by_label("Key", exact=True).fill("the-key")
        page.get_by_role("button", name="Keep").click()
        expect(page.locator("#model")).to_have_text("tiny")
        context.close()
