"""Messages in all the forms that users have them in become the same message, or one clear error."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from openjanus.processing.message import Message, as_conversation
from tests import tiny

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def data_url() -> str:
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def image_url(url: object) -> dict:
    return {"type": "image_url", "image_url": url}


@pytest.mark.parametrize("content", ["hello", ["hello"], ("hello",), {"type": "text", "text": "hello"}])
def test_text_may_stand_alone_or_in_a_list(content) -> None:
    assert Message("user", content) == Message("user", ["hello"])
    assert Message("user", content).content == ["hello"]


@pytest.mark.parametrize(
    "form",
    [
        lambda path: PICTURE,
        lambda path: path,
        lambda path: np.asarray(PICTURE),
        lambda path: torch.from_numpy(np.array(PICTURE)),
        lambda path: PICTURE.convert("RGBA"),
        lambda path: image_url({"url": data_url(), "detail": "auto"}),
        lambda path: image_url(data_url()),
        lambda path: {"type": "image", "image": PICTURE},
    ],
)
@pytest.mark.parametrize("in_list", [False, True])
def test_a_picture_may_have_any_form_and_stand_alone(form, in_list, tmp_path) -> None:
    PICTURE.save(tmp_path / "a.png")
    part = form(tmp_path / "a.png")
    (kept,) = Message("user", [part] if in_list else part).content
    assert isinstance(kept, Image.Image) and kept.mode == "RGB" and kept.tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("ids", [np.arange(4), np.arange(4, dtype=np.uint16), torch.arange(4)])
def test_an_assistants_picture_is_its_image_ids(ids) -> None:
    (kept,) = Message("assistant", ids).content
    assert isinstance(kept, np.ndarray) and kept.tolist() == [0, 1, 2, 3]


def test_dicts_in_openais_form_are_messages() -> None:
    conversation = as_conversation(
        [
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "what?"}, image_url({"url": data_url()})],
                "name": "x",
            },
            {"role": "assistant", "content": "a cat", "refusal": None, "tool_calls": None, "annotations": []},
            Message("user", "why?"),
        ]
    )
    assert [m.role for m in conversation] == ["system", "user", "assistant", "user"]
    assert conversation[1].content[0] == "what?" and conversation[1].content[1].tobytes() == PICTURE.tobytes()
    processor = tiny.processor()
    assert processor.prompt(conversation)


def test_an_answer_of_openais_client_is_a_message() -> None:
    chat = pytest.importorskip("openai.types.chat")
    answer = chat.ChatCompletionMessage(role="assistant", content="a cat")
    assert as_conversation([answer]) == [Message("assistant", "a cat")]


@pytest.mark.parametrize(
    ("role", "content", "words"),
    [
        ("usr", "hello", "role 'usr': expected system, user, assistant or text"),
        (None, "hello", "role None"),
        ("user", None, "a message holds NoneType"),
        ("user", 7, "a message holds int"),
        ("user", b"hello", "a message holds bytes"),
        ("user", [["hello"]], "a message holds list"),
        ("user", np.arange(4), r"int64 array \[4\]"),
        ("assistant", np.zeros((4, 4), np.int64), r"int64 \[4, 4\]; expected its image ids"),
        ("assistant", np.zeros(4), r"float64 \[4\]; expected its image ids"),
        ("system", PICTURE, "a system message holds Image; expected text only"),
        ("text", ["a", np.arange(4)], "a text message holds ndarray; expected text only"),
        ("user", {"type": "audio"}, "a part of type 'audio'"),
        ("user", {"type": "text"}, "a text part holds NoneType"),
        ("user", image_url({"url": "/etc/passwd"}), "an image_url part holds '/etc/passwd'; expected data:"),
        ("user", image_url({"url": "https://example.org/a.png"}), "expected data:"),
        ("user", {"type": "image", "image": "/etc/passwd"}, "expected data:"),
        ("user", image_url({}), "got NoneType"),
    ],
)
def test_what_is_no_message_is_told_with_what_is_expected(role, content, words) -> None:
    with pytest.raises(ValueError, match=words):
        Message(role, content)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "a conversation is of type str"),
        (Message("user", "hello"), "a conversation is of type Message"),
        ({"role": "user", "content": "hello"}, "a conversation is of type dict"),
        (None, "a conversation is of type NoneType"),
        (["hello"], "a message is of type str"),
        ([{"role": "tool", "content": "7"}], "role 'tool'"),
        ([{"role": "user"}], "a message holds NoneType"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "a message has 'tool_calls'"),
    ],
)
def test_what_is_no_conversation_is_told_with_what_is_expected(messages, words) -> None:
    with pytest.raises(ValueError, match=words):
        as_conversation(messages)
