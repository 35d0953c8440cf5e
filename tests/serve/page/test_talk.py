"""A conversation on the page: what of it the model gets, and that nothing in it stops the next question."""

import pytest

from tests.serve.page.browsing import (
    PICTURE,
    STARS,
    action,
    answer_with,
    ask,
    attached,
    draw,
    expect,
    question_field,
    reload,
    said_in,
    stream_of,
)
from tests.serve.test_faults import slow

TOO_LONG = (400, {"message": "the messages take 200 positions", "code": "context_length_exceeded"})


def test_after_many_pictures_the_next_question_is_answered(page) -> None:
    for number in range(10):
        ask(page, f"what is in picture {number}?", PICTURE)
    expect(page.locator(".problem")).to_have_count(0)
    expect(page.locator(".answer")).to_have_count(10)


def test_a_question_goes_with_what_follows_the_newest_picture(page) -> None:
    bodies = answer_with(page, "yes")
    ask(page, "hello")
    ask(page, "is there a cat?", PICTURE)
    ask(page, "is it big?")
    draw(page, "a blue car")
    ask(page, "are there stars?", STARS, PICTURE)
    ask(page, "how many?")
    assert [said_in(body) for body in bodies] == [
        ["user: hello"],
        ["user: #is there a cat?"],
        ["user: #is there a cat?", "assistant: yes", "user: is it big?"],
        ["user: ##are there stars?"],
        ["user: ##are there stars?", "assistant: yes", "user: how many?"],
    ]
    shown = [scope.is_visible() for scope in page.locator(".scope").all()]
    assert shown == [False, True, False, True, False]


def test_a_text_that_is_too_long_does_not_spoil_the_next_question(page) -> None:
    ask(page, "hello")
    ask(page, "a red cat " * 400)
    expect(page.get_by_role("alert")).to_contain_text("positions")
    ask(page, "hello again")
    expect(page.locator(".turn").last.locator(".problem")).to_have_count(0)
    expect(page.locator(".problem")).to_have_count(1)


@pytest.mark.parametrize("status", [400, 413, 429, 500, 503])
def test_an_error_does_not_spoil_the_next_question(page, status) -> None:
    bodies = answer_with(page, lambda body: "yes" if len(bodies) > 1 else (status, {"message": "it cannot be done"}))
    ask(page, "first", PICTURE)
    expect(page.get_by_role("alert").filter(has_text="It cannot be done.")).to_be_visible()
    ask(page, "second")
    assert said_in(bodies[1]) == ["user: second"]
    expect(page.locator(".turn").last.locator(".said")).to_have_text("yes")


def test_trouble_is_told_and_can_be_tried_again(page) -> None:
    answer_with(page, (429, {"message": "8 requests wait already", "code": "queue_full"}))
    ask(page, "hello")
    expect(page.locator(".problem")).to_contain_text("8 requests wait already. It is busy")
    answer_with(page, "an answer")
    action(page, "Try again").click()
    expect(page.locator(".said")).to_have_text("an answer")
    expect(page.locator(".problem")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(1)


def test_an_answer_that_breaks_off_is_no_answer(page) -> None:
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=stream_of("half an ans", end=""), content_type="text/event-stream"),
    )
    ask(page, "hello")
    expect(page.locator(".said")).to_have_text("half an ans")
    expect(page.locator(".problem")).to_contain_text("The connection broke off.")
    bodies = answer_with(page, "yes")
    ask(page, "and now?")
    assert said_in(bodies[0]) == ["user: and now?"]


def test_what_does_not_fit_is_left_out_but_the_picture_stays(page) -> None:
    answer_with(page, "yes")
    ask(page, "a cat?", PICTURE)
    for number in range(4):
        ask(page, f"question {number}")
    bodies = answer_with(page, lambda body: "yes" if len(body["messages"]) <= 5 else TOO_LONG)
    ask(page, "last")
    assert said_in(bodies[-1]) == [
        "user: #a cat?", "assistant: yes", "user: question 3", "assistant: yes", "user: last",
    ]  # fmt: skip
    expect(page.locator(".turn").last).to_contain_text("earlier turns left out")
    bodies = answer_with(page, lambda body: "yes" if len(body["messages"]) == 1 else TOO_LONG)
    ask(page, "very last")
    assert said_in(bodies[-1]) == ["user: #very last"]


def test_new_during_an_answer_leaves_no_ghost_turn(page, server) -> None:
    with slow(server, 0.3):
        ask(page, "a long story", is_awaited=False)
        page.get_by_role("button", name="New", exact=True).click()
        expect(page.locator(".turn")).to_have_count(0)
        expect(page.locator("#welcome")).to_be_visible()
        server.settles()
    bodies = answer_with(page, "yes")
    ask(page, "hello")
    assert said_in(bodies[0]) == ["user: hello"]
    expect(page.locator(".turn")).to_have_count(1)
    reload(page)
    expect(page.locator(".mine p")).to_have_text(["hello"])


def test_the_first_question_after_new_needs_no_second_enter(page, server) -> None:
    with slow(server, 0.3):
        ask(page, "a long story", is_awaited=False)
        page.get_by_role("button", name="New", exact=True).click()
        page.keyboard.type("hello")
        page.keyboard.press("Enter")
        expect(page.locator(".mine p")).to_have_text(["hello"])
        expect(page.locator("[aria-busy=true]")).to_have_count(1)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    expect(page.locator(".problem")).to_have_count(0)


def test_new_and_delete_can_be_undone(page) -> None:
    answer_with(page, "yes")
    for words in ("one", "two", "three"):
        ask(page, words)
    action(page, "Delete", turn=1).click()
    expect(page.locator(".mine p")).to_have_text(["one", "three"])
    expect(question_field(page)).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".mine p")).to_have_text(["one", "two", "three"])
    page.get_by_role("button", name="New", exact=True).click()
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".mine p")).to_have_text(["one", "two", "three"])
    reload(page)
    expect(page.locator(".mine p")).to_have_text(["one", "two", "three"])


def test_a_question_is_edited_and_its_later_ones_go(page) -> None:
    bodies = answer_with(page, lambda body: f"answer {len(bodies)}")
    ask(page, "a cat?", PICTURE)
    ask(page, "is it red?")
    draw(page, "a blue car")
    ask(page, "stars?", STARS)
    action(page, "Edit question", turn=0).click()
    expect(question_field(page)).to_have_value("a cat?")
    expect(question_field(page)).to_be_focused()
    expect(attached(page)).to_have_count(1)
    expect(page.locator("#editing")).to_contain_text("1 later question about it will be removed")
    page.get_by_role("button", name="Cancel").click()
    expect(question_field(page)).to_have_value("")
    action(page, "Edit question", turn=0).click()
    page.keyboard.press("End")
    page.keyboard.type(" a dog?")
    page.keyboard.press("Enter")
    expect(page.locator(".mine p")).to_have_text(["a cat? a dog?", "a blue car", "stars?"])
    expect(page.locator(".said")).to_have_text(["answer 4", "answer 3"])
    assert said_in(bodies[-1]) == ["user: #a cat? a dog?"]
    reload(page)
    expect(page.locator(".mine p")).to_have_text(["a cat? a dog?", "a blue car", "stars?"])


def test_a_failed_drawing_is_edited_in_its_place(page) -> None:
    draw(page, "cat " * 5000)
    expect(page.locator(".problem")).to_be_visible()
    action(page, "Edit").click()
    page.get_by_label("What to draw").fill("a cat")
    page.keyboard.press("Enter")
    expect(page.locator(".frame .picture")).to_have_count(1)
    expect(page.locator(".turn")).to_have_count(1)


def test_retry_gives_another_answer_and_keeps_the_old_one_if_that_fails(page) -> None:
    bodies = answer_with(page, lambda body: f"answer {len(bodies)}")
    ask(page, "hello", PICTURE)
    action(page, "Retry").click()
    expect(page.locator(".said")).to_have_text("answer 2")
    assert "temperature" not in bodies[0] and bodies[1]["temperature"] == 0.8
    expect(page.locator(".turn")).to_contain_text("drawn at temperature 0.8")
    answer_with(page, (500, {"message": "it failed"}))
    action(page, "Retry").click()
    expect(page.locator(".problem")).to_contain_text("It failed.")
    expect(page.locator(".said")).to_have_text("answer 2")


def test_an_answer_is_copied(page) -> None:
    answer_with(page, "a **red** cat")
    ask(page, "hello")
    action(page, "Copy").click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "a **red** cat"


def test_an_answer_is_copied_where_there_is_no_clipboard_api(page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    answer_with(page, "a red cat")
    ask(page, "hello")
    action(page, "Copy").click()
    expect(page.locator("#status")).to_have_text("Copied")
    question_field(page).press("Control+V")
    expect(question_field(page)).to_have_value("a red cat")
