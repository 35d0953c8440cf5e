"""A conversation in the terminal: pictures by path, history, drawings, and mistakes that end nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from openjanus.inference.engine import Engine
from openjanus.inference.sampling import SamplingOptions
from openjanus.processing.message import Message
from openjanus.sequence import TextSpan
from openjanus.terminal import Chat, with_pictures
from tests import tiny

OPTIONS = SamplingOptions(temperature=0.0)


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "a cat.png"
    Image.new("RGB", (16, 16), "red").save(path)
    return path


def converse(*lines: str, out: Path = Path("."), images=()) -> Chat:
    chat = Chat(Engine(tiny.checkpoint()), OPTIONS, out, max_new_tokens=3)
    said = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    chat.run(images, read)
    return chat


def test_both_sides_are_kept_and_pictures_stand_where_they_were_named(picture, capsys) -> None:
    chat = converse(f'look: @"{picture}" what is it?', "why?")
    roles = [m.role for m in chat.messages]
    assert roles == ["user", "assistant", "user", "assistant"]
    first = chat.messages[0].content
    assert first[0] == "look:" and isinstance(first[1], Image.Image) and first[2] == "what is it?"
    told = capsys.readouterr().out
    assert told.count("janus> ") == 2 and str(chat.messages[1].content[0]) in told


def test_pictures_given_at_the_start_go_before_the_first_words(picture) -> None:
    chat = converse("what is it?", "why?", images=[Image.open(picture)])
    assert isinstance(chat.messages[0].content[0], Image.Image)
    assert all(isinstance(part, str) for part in chat.messages[2].content)


def test_new_forgets_and_quit_ends() -> None:
    chat = converse("hello", "/new", "again", "/quit", "never")
    assert [m.content for m in chat.messages if m.role == "user"] == [["again"]]


def test_drawing_writes_a_picture_with_its_settings(tmp_path, capsys) -> None:
    converse("/seed 5", "/draw two red apples", out=tmp_path / "new")
    path = tmp_path / "new" / "two-red-apples-seed5.png"
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as image:
        assert image.text["seed"] == "5" and image.text["prompt"] == "two red apples"


def test_mistakes_are_told_and_leave_no_trace(tmp_path, capsys) -> None:
    chat = converse("@none.png what?", "/dance", "/draw", "/seed x", "cat " * 300, "hello")
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5 and all(line.startswith("error: ") for line in errors)
    assert "none.png" in errors[0] and "'/dance'" in errors[1] and "/new begins" in errors[4]
    assert [m.content for m in chat.messages if m.role == "user"] == [["hello"]]


def test_an_at_sign_inside_a_word_is_no_picture() -> None:
    assert with_pictures("write to me@example.org") == ["write to me@example.org"]


def test_drawings_of_the_same_name_get_files_of_their_own(tmp_path, capsys) -> None:
    prompts = ["红苹果", "蓝色", "two red apples", "two red apples", "Two red apples!"]
    for _ in range(2):
        converse(*(f"/draw {prompt}" for prompt in prompts), out=tmp_path)
    paths = [Path(line) for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    assert len(set(paths)) == 10
    told = []
    for path in paths:
        with Image.open(path) as image:
            told.append(image.text["prompt"])
    assert told == prompts * 2


def test_a_mark_puts_a_picture_among_the_words(picture) -> None:
    chat = converse(f'@"{picture}" <image_placeholder> is Figure 1. What is it?')
    document = chat.engine.processor.prompt(chat.messages[:1])
    assert chat.engine.processor.text.decode(document[2].ids).startswith(" is Figure 1. What is it?")


def test_a_question_before_its_picture_is_written_as_one_behind_it(picture) -> None:
    processor = tiny.processor(replace(tiny.PROCESSOR, pictures_first=True))
    turns = [
        Message("user", with_pictures(line)) for line in (f'what is it? @"{picture}"', f'@"{picture}" what is it?')
    ]
    prompts = [[span.ids for span in processor.prompt([turn]) if isinstance(span, TextSpan)] for turn in turns]
    assert prompts[0] == prompts[1]
