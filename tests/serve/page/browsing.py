"""How the tests use the page: open it, ask, draw, and answer in the model's place."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openjanus.weights.hub import BUNDLED
from tests.serve.conftest import Running

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium found: apt-get install chromium", allow_module_level=True)
PICTURE = BUNDLED / "pictures" / "cat-and-balloon.png"
STARS = BUNDLED / "pictures" / "three-stars.png"
DESKTOP, PHONE, LANDSCAPE, ZOOM_400 = (1280, 800), (390, 844), (844, 340), (320, 256)  # 1280 x 1024 at 400%
SIZES = {"desktop": DESKTOP, "phone": PHONE, "landscape": LANDSCAPE, "zoom": ZOOM_400}
expect.set_options(timeout=40_000)
Reply = str | tuple[int, dict[str, Any]]  # the model's words, or a status and an error


@contextmanager
def start_browser() -> Iterator[Browser]:
    with sync_playwright() as it:
        found = it.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(
    browser: Browser, server: Running, size: tuple[int, int] = (1000, 800), before: Callable[[Page], Any] | None = None
) -> Iterator[Page]:
    """A fresh page; afterwards nothing has been complained about, and nothing outside has been asked for.

    before: what is done to the page before it loads.
    """
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    it, troubles, asked = context.new_page(), [], []
    it.set_default_timeout(40_000)
    it.on("console", lambda m: troubles.append(m.text) if m.type == "error" and "status of" not in m.text else None)
    it.on("pageerror", lambda error: troubles.append(str(error)))
    it.on("request", lambda request: asked.append(request.url))
    if before:
        before(it)
    it.goto(server.url)
    expect(it.locator("#model")).to_have_text("tiny")
    yield it
    context.close()
    server.settles()
    assert not troubles
    assert asked and all(url.startswith((server.url, "data:", "blob:")) for url in asked)


def settle(page: Page) -> None:
    """Waits until the page has written what it keeps: a browser drops what is still to be written when a page ends."""
    page.evaluate("async () => (await import('/page/store.js')).settled()")


def reload(page: Page) -> None:
    settle(page)
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")


def question_field(page: Page) -> Locator:
    return page.get_by_label("Question", exact=True)


def ask(page: Page, words: str, *pictures: Any, is_awaited: bool = True) -> None:
    """Asks by keys, with files as pictures, and waits for the answer, or for what is told instead of it."""
    page.get_by_role("radio", name="Ask").check(force=True)
    if pictures:
        page.set_input_files("#file", list(pictures))
        expect(page.locator("#attached li")).to_have_count(len(pictures))
    count = page.locator(".turn").count()
    question_field(page).fill(words)
    question_field(page).press("Enter")
    expect(page.locator(".turn")).to_have_count(count + 1)
    if is_awaited:
        expect(page.locator("[aria-busy=true]")).to_have_count(0)


def draw(page: Page, words: str, n: int = 1, seed: int | None = 1, is_awaited: bool = True) -> None:
    page.get_by_role("radio", name="Draw").check(force=True)
    for name, value in (("n", str(n)), ("seed", "" if seed is None else str(seed))):
        page.locator(f"#{name}").evaluate("(it, value) => { it.value = value; }", value)
    count = page.locator(".turn").count()
    page.get_by_label("What to draw").fill(words)
    page.get_by_label("What to draw").press("Enter")
    expect(page.locator(".turn")).to_have_count(count + 1)
    if is_awaited:
        expect(page.locator("[aria-busy=true]")).to_have_count(0)


def answer_with(page: Page, reply: Reply | Callable[[dict[str, Any]], Reply]) -> list[dict[str, Any]]:
    """From now on every question is answered by `reply`, or by what it gives for the request's body. Returns the list
    of the bodies as they come."""
    bodies: list[dict[str, Any]] = []

    def handle(route: Route) -> None:
        body = route.request.post_data_json
        bodies.append(body)
        said = reply(body) if callable(reply) else reply
        if isinstance(said, str):
            route.fulfill(body=stream_of(said), content_type="text/event-stream")
        else:
            route.fulfill(status=said[0], json={"error": {"type": "server_error", **said[1]}})

    page.route("**/v1/chat/completions", handle)  # the newest route counts
    return bodies


def stream_of(text: str, end: str = "data: [DONE]\n\n") -> str:
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in re.findall(r".{1,7}", text, flags=re.DOTALL)]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def said_in(body: dict[str, Any]) -> list[str]:
    """What a request's messages hold, in short: words, and how many pictures stand before them."""
    said = []
    for message in body["messages"]:
        parts = message["content"]
        if isinstance(parts, str):
            said.append(f"{message['role']}: {parts}")
        else:
            words = " ".join(part["text"] for part in parts if part["type"] == "text")
            said.append(f"{message['role']}: {'#' * sum(p['type'] == 'image_url' for p in parts)}{words}")
    return said


def attached(page: Page) -> Locator:
    return page.locator("#attached li")


def action(page: Page, name: str, turn: int = -1) -> Locator:
    """A button under a turn; by default under the last one."""
    return page.locator(".turn").nth(turn).get_by_role("button", name=name, exact=True)


def menu(page: Page, name: str) -> None:
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("button", name=name).click()


def pixels_of(src: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).convert("RGB"))


def words_of(text: str) -> list[str]:
    """What Markdown leaves of a text."""
    return re.findall(r"[^\W_]+", text)
