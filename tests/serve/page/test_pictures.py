"""Pictures on the page: given by file, paste and drop; refused by name; enlarged, saved, copied and asked about."""

import base64
import io

import pytest
from PIL import Image

from openjanus.picture_files import file_name
from tests.serve.page.browsing import (
    PICTURE,
    Page,
    action,
    answer_with,
    ask,
    attached,
    draw,
    expect,
    question_field,
    said_in,
)

GIVE = """([kind, files, text]) => {
    const transfer = new DataTransfer();
    for (const [name, type, data] of files) {
        transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
    }
    if (text) transfer.setData("text/plain", text);
    document.activeElement.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
        : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def give(page: Page, kind: str, *files: tuple[str, str, bytes], text: str = "") -> None:
    page.evaluate(GIVE, [kind, [(name, type, base64.b64encode(data).decode()) for name, type, data in files], text])


def test_pictures_come_by_file_paste_and_drop(page) -> None:
    page.set_input_files("#file", PICTURE)
    expect(attached(page)).to_have_count(1)
    for number, kind in ((2, "paste"), (3, "drop")):
        give(page, kind, ("given.png", "image/png", PICTURE.read_bytes()))
        expect(attached(page)).to_have_count(number)
    for number in (2, 1):
        page.get_by_role("button", name="Take").first.click()
        expect(attached(page)).to_have_count(number)


@pytest.mark.parametrize("kind", ["drop", "paste", "file"])
def test_files_that_are_no_pictures_are_named(page, kind) -> None:
    files = [
        ("notes.txt", "text/plain", b"words"),
        ("broken.png", "image/png", b"none"),
        ("cat.png", "image/png", PICTURE.read_bytes()),
        ("paper.pdf", "application/pdf", b"%PDF-1.7"),
    ]
    if kind == "file":
        page.set_input_files("#file", [{"name": n, "mimeType": t, "buffer": data} for n, t, data in files])
    else:
        give(page, kind, *files)
    notice = page.get_by_role("alert").filter(has_text="Not added")
    expect(notice).to_contain_text("Not added: notes.txt, broken.png and paper.pdf.")
    expect(notice).to_be_in_viewport()
    expect(attached(page)).to_have_count(1)


def test_a_question_waits_for_the_pictures_that_are_still_read(page) -> None:
    bodies = answer_with(page, "yes")
    page.evaluate("""() => {
        const decode = window.createImageBitmap;
        window.createImageBitmap = async (file) => {
            await new Promise((done) => setTimeout(done, 500));
            return decode(file);
        };
    }""")
    question_field(page).fill("what are these?")
    page.set_input_files("#file", [PICTURE, PICTURE])
    question_field(page).press("Enter")
    question_field(page).press("Enter")
    expect(page.locator(".said")).to_have_text("yes")
    assert [said_in(body) for body in bodies] == [["user: ##what are these?"]]


def test_text_that_brings_a_picture_of_itself_is_pasted_as_text(page) -> None:
    give(page, "paste", ("cells.png", "image/png", PICTURE.read_bytes()), text="two red apples")
    page.wait_for_timeout(300)
    expect(attached(page)).to_have_count(0)


def test_more_pictures_than_the_server_reads_can_be_taken_back(page) -> None:
    ask(page, "what are these?", *[PICTURE] * 9)
    expect(page.locator(".problem")).to_contain_text("at most 8 are read")
    action(page, "Edit").click()
    expect(attached(page)).to_have_count(9)
    page.get_by_role("button", name="Take").first.click()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    expect(page.locator(".problem")).to_have_count(0)
    ask(page, "and now?")
    expect(page.locator(".problem")).to_have_count(0)


def test_a_picture_is_enlarged_saved_copied_and_asked_about(page) -> None:
    draw(page, "a blue car", 3, seed=7)
    page.locator(".frame .picture").nth(2).click()
    viewer = page.get_by_role("dialog")
    expect(viewer).to_contain_text("a blue car (3 of 3)")
    box = page.locator("#viewer-picture").bounding_box()
    assert min(box["width"], box["height"]) > 400
    page.keyboard.press("ArrowRight")
    expect(viewer).to_contain_text("1 of 3")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(viewer).to_contain_text("2 of 3")
    with page.expect_download() as saving:
        viewer.get_by_role("button", name="Save").click()
    assert saving.value.suggested_filename == "a-blue-car-seed7-1.png"
    viewer.get_by_role("button", name="Copy").click()
    expect(viewer).to_contain_text("Copied")
    copied = page.evaluate("navigator.clipboard.read().then(([item]) => item.types)")
    assert "image/png" in copied
    viewer.get_by_role("button", name="Ask about it").click()
    expect(viewer).to_be_hidden()
    bodies = answer_with(page, "yes")
    page.keyboard.type("is it a car?")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("yes")
    assert said_in(bodies[0]) == ["user: #is it a car?"]
    sent = bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert sent == page.locator(".frame img").nth(1).get_attribute("src")


def test_escape_closes_an_enlarged_picture_and_stops_nothing(page) -> None:
    ask(page, "what is it?", PICTURE)
    page.get_by_role("button", name="Enlarge cat-and-balloon.png").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.evaluate("document.querySelector('#words').value = 'and now?'")
    page.evaluate("document.querySelector('#composer').requestSubmit()")
    expect(page.locator("[aria-busy=true]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("[aria-busy=true]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".turn").last).to_contain_text("stopped")


def test_a_large_picture_is_sent_small_enough(page) -> None:
    file = io.BytesIO()
    Image.effect_noise((2400, 1200), 90).save(file, "PNG")
    bodies = answer_with(page, "yes")
    ask(page, "what is it?", {"name": "large.png", "mimeType": "image/png", "buffer": file.getvalue()})
    url = bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sent.format == "JPEG" and sent.size == (1024, 512)
    question_field(page).press("Escape")


@pytest.mark.parametrize("prompt", ["Two red apples!", "红苹果", "красное яблоко", "लाल सेब", "🍎", "𐍈" * 45])
def test_a_drawing_is_saved_under_the_words_of_its_prompt_in_any_script(page, prompt) -> None:
    script = "async (prompt) => (await import('/page/pictures.js')).drawingName({ prompt, seed: 5 }, 0)"
    assert page.evaluate(script, prompt) == f"{file_name(prompt)}-seed5-0"
