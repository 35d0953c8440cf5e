"""The conversation in the browser: it outlives a refresh, has a bound that is told, and can be deleted and saved."""

import io
import zipfile

import pytest
from PIL import Image

from openjanus.serve.page import FILES
from tests.serve.page.browsing import (
    PICTURE,
    Page,
    action,
    answer_with,
    ask,
    draw,
    expect,
    menu,
    opened,
    question_field,
    reload,
    said_in,
    settle,
)
from tests.serve.test_faults import slow


def test_a_refresh_brings_the_conversation_back(page) -> None:
    answer_with(page, "yes")
    ask(page, "is there a cat?", PICTURE)
    draw(page, "a blue car", 2)
    drawn = [img.get_attribute("src") for img in page.locator(".frame img").all()]
    reload(page)
    expect(page.locator(".mine p")).to_have_text(["is there a cat?", "a blue car"])
    assert [img.get_attribute("src") for img in page.locator(".frame img").all()] == drawn
    expect(page.locator("#welcome")).to_be_hidden()
    assert page.locator("#scroll").evaluate("it => it.scrollHeight - it.scrollTop - it.clientHeight") < 5
    bodies = answer_with(page, "no")
    ask(page, "is it big?")
    assert said_in(bodies[0]) == ["user: #is there a cat?", "assistant: yes", "user: is it big?"]
    action(page, "Same seed again", turn=1).click()
    expect(page.locator(".drawing[aria-busy=false]")).to_have_count(2)
    assert [img.get_attribute("src") for img in page.locator(".frame img").all()] == drawn * 2


def test_a_deleted_conversation_is_gone(page) -> None:
    answer_with(page, "yes")
    ask(page, "one", PICTURE)
    ask(page, "two")
    menu(page, "Delete conversation")
    expect(page.locator("#status")).to_have_text("Deleted: this browser keeps nothing of the conversation.")
    expect(page.locator(".turn")).to_have_count(0)
    assert stored(page) == []
    reload(page)
    expect(page.locator("#welcome")).to_be_visible()
    ask(page, "three")
    action(page, "Delete").click()
    expect(page.locator("#welcome")).to_be_visible()
    assert stored(page) == []


def stored(page: Page) -> list[str]:
    """The words of the turns that the browser keeps, when all is written."""
    settle(page)
    return page.evaluate("""() => new Promise((resolve) => {
        const opening = indexedDB.open("openjanus", 1);
        opening.onsuccess = () => {
            const all = opening.result.transaction("turns").objectStore("turns").getAll();
            all.onsuccess = () => { opening.result.close(); resolve(all.result.map((turn) => turn.words)); };
        };
    })""")


def test_a_turn_that_ran_when_the_page_was_closed_can_be_tried_again(page, server) -> None:
    with slow(server, 0.3):
        ask(page, "hello", is_awaited=False)
        draw_later = page.locator("[aria-busy=true]")
        expect(draw_later).to_have_count(1)
        reload(page)
    expect(page.locator(".problem")).to_contain_text("The page was closed before this was done.")
    answer_with(page, "an answer")
    action(page, "Try again").click()
    expect(page.locator(".said")).to_have_text("an answer")


def test_a_turn_that_cannot_be_read_does_not_stop_the_page(page) -> None:
    answer_with(page, "yes")
    ask(page, "one")
    page.evaluate("""async () => {
        const store = await import("/page/store.js");
        await store.keep([{ id: 1, kind: "song", words: "la" }]);
    }""")
    reload(page)
    expect(page.locator("#notice")).to_contain_text("1 turn of the kept conversation could not be read")
    expect(page.locator(".mine p")).to_have_text(["one"])
    assert stored(page) == ["one"]
    ask(page, "two")
    expect(page.locator(".said")).to_have_count(2)


def test_turns_are_kept_together_or_not_at_all(page) -> None:
    assert (
        page.evaluate("""async () => {
        const store = await import("/page/store.js");
        return store.keep([{ id: 1, words: "one" }, { words: "it has no id" }]).then(() => "kept", () => "refused");
    }""")
        == "refused"
    )
    assert stored(page) == []


def bounded(chars: int):
    """The page with another bound of its store."""
    source = FILES["/page/store.js"][0].decode()
    assert "MAX_CHARS = 50_000_000" in source
    changed = source.replace("MAX_CHARS = 50_000_000", f"MAX_CHARS = {chars}")
    return lambda page: page.route(
        "**/page/store.js", lambda route: route.fulfill(body=changed, content_type="text/javascript")
    )


def test_a_full_store_forgets_the_oldest_turns_and_says_so(browser, server) -> None:
    with opened(browser, server, before=bounded(60_000)) as page:
        answer_with(page, "yes")
        ask(page, "one", PICTURE)
        ask(page, "two", PICTURE)
        expect(page.locator("#notice")).to_be_hidden()
        ask(page, "three", PICTURE)
        expect(page.get_by_role("alert")).to_contain_text("after a reload the oldest turns will be gone")
        expect(page.locator(".mine p")).to_have_text(["one", "two", "three"])
        reload(page)
        expect(page.locator(".mine p")).to_have_text(["two", "three"])


def test_a_turn_larger_than_the_store_is_told(browser, server) -> None:
    with opened(browser, server, before=bounded(10_000)) as page:
        answer_with(page, "yes")
        ask(page, "one", PICTURE)
        expect(page.get_by_role("alert")).to_contain_text("This browser does not keep the conversation")
        expect(page.locator(".said")).to_have_text("yes")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            """const put = IDBObjectStore.prototype.put; let count = 0;
            IDBObjectStore.prototype.put = function (record) {
                if (++count > 4) { count = 0; throw new DOMException("no room", "QuotaExceededError"); }
                return put.call(this, record);
            };""",
            "after a reload the oldest turns will be gone",
        ),
        ("indexedDB.open = () => { throw new DOMException('no', 'SecurityError'); };", "does not keep"),
        ("Object.defineProperty(window, 'indexedDB', { value: undefined });", "does not keep"),
    ],
)
def test_a_browser_without_room_or_storage_is_told_and_the_page_works(browser, server, script, message) -> None:
    with opened(browser, server, before=lambda page: page.add_init_script(script)) as page:
        answer_with(page, "yes")
        for words in ("one", "two", "three"):
            ask(page, words)
        expect(page.get_by_role("alert")).to_contain_text(message)
        expect(page.locator(".said")).to_have_count(3)
        page.get_by_role("button", name="Dismiss").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(question_field(page)).to_be_focused()


def test_the_conversation_is_saved_as_a_zip_of_words_and_pictures(page) -> None:
    answer_with(page, "a **cat**")
    ask(page, "what is there?", PICTURE)
    draw(page, "Ein blaues Auto!", 2, seed=7)
    with page.expect_download() as saving:
        menu(page, "Save conversation")
    assert saving.value.suggested_filename.startswith("openjanus-")
    with zipfile.ZipFile(saving.value.path()) as saved:
        assert saved.testzip() is None
        names = saved.namelist()
        text = saved.read("conversation.md").decode()
        assert names[1:] == [
            "pictures/001-1.png",
            "pictures/002-ein-blaues-auto-seed7-0.png",
            "pictures/002-ein-blaues-auto-seed7-1.png",
        ]
        assert saved.read(names[1]) == PICTURE.read_bytes()
        assert Image.open(io.BytesIO(saved.read(names[2]))).text["prompt"] == "Ein blaues Auto!"
    assert "a **cat**" in text and "what is there?" in text and all(f"<{name}>" in text for name in names[1:])


def test_all_pictures_of_a_drawing_are_saved_at_once(page) -> None:
    draw(page, "a blue car", 3, seed=7)
    with page.expect_download() as saving:
        action(page, "Save all").click()
    assert saving.value.suggested_filename == "a-blue-car-seed7.zip"
    with zipfile.ZipFile(saving.value.path()) as saved:
        assert saved.testzip() is None and saved.namelist() == [f"a-blue-car-seed7-{i}.png" for i in range(3)]
