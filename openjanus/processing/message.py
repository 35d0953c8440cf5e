"""What one side of a conversation says, in any form that a user may have it in.

Message("user", "hello")                                                     text
Message("user", [Path("cat.png"), "what is it?"])                            text and pictures
{"role": "user", "content": [{"type": "text", "text": "what is it?"},        the form of OpenAI's API,
                             {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}]}
                                                                             for `as_conversation`
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from openjanus.processing.image import DATA_URL, PICTURE, as_image, centre_square
from openjanus.sequence import SignalSpan

Role = Literal["system", "user", "assistant", "text"]


@dataclass(frozen=True, eq=False)
class TwoViews:
    """A picture to edit, for both eyes: `image` to understand, `image_ids` int [N] as the generation eye draws it.

    The engine and the trainings make it of a user's picture.
    """

    image: Image.Image
    image_ids: np.ndarray


Part = str | Image.Image | np.ndarray | TwoViews | SignalSpan  # as a message keeps it
# As a user may give it.
Given = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor | TwoViews | SignalSpan | Mapping[str, Any]


@dataclass(frozen=True, init=False)
class Message:
    """What one side says. `system` replaces the checkpoint's own system prompt, `text` is a document without roles.

    content: text (str), a picture, or a list of both. A user's pictures are pathlib paths, PIL images, or arrays and
    tensors (processing/image.py, `as_image`), and are kept as RGB; an assistant's picture is its image ids, int [N].
    A user's signal is a SignalSpan, for a model with a signal eye.
    Parts may also be dicts in OpenAI's form. Raises ValueError for anything else.
    """

    role: Role
    content: list[Part]

    def __init__(self, role: Role, content: Given | Sequence[Given]):
        if role not in get_args(Role):
            raise ValueError(f"role {role!r}: expected {', '.join(get_args(Role)[:-1])} or {get_args(Role)[-1]}")
        parts = content if isinstance(content, (list, tuple)) else [content]
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "content", [_read_part(role, part) for part in parts])


Conversation = Sequence[Message]


def as_conversation(messages: Iterable[Message | Mapping[str, Any]]) -> list[Message]:
    """Messages, some or all of which may be dicts in OpenAI's form. Raises ValueError for anything else."""
    if isinstance(messages, (str, Mapping, Message)) or not isinstance(messages, Iterable):
        raise ValueError(
            f"a conversation is of type {type(messages).__name__}; expected a list of messages, such as "
            "[Message('user', 'hello')]"
        )
    return [message if isinstance(message, Message) else _read_message(message) for message in messages]


def show_both_eyes(conversation: Conversation, encode: Callable[[Image.Image], np.ndarray]) -> list[Message]:
    """The conversation with each picture of the user as `TwoViews`. What is drawn is square, so what is edited becomes
    square first: the middle of the long side. encode: a square picture -> its image ids [N]."""

    def shown(part: Any) -> Any:
        if not isinstance(part, Image.Image):
            return part
        square = centre_square(part)
        return TwoViews(square, encode(square))

    return [Message(m.role, [shown(part) for part in m.content]) for m in conversation]


def _read_message(message: Any) -> Message:
    if hasattr(message, "model_dump"):  # an answer of OpenAI's client
        message = message.model_dump()
    if not isinstance(message, Mapping):
        raise ValueError(
            f"a message is of type {type(message).__name__}; expected Message('user', 'hello') or "
            "{'role': 'user', 'content': 'hello'}"
        )
    unknown = [key for key, value in message.items() if value and key not in ("role", "content", "name")]
    if unknown:
        raise ValueError(f"a message has {unknown[0]!r}; expected role and content")
    role: Any = message.get("role")
    content: Any = message.get("content")
    return Message("system" if role == "developer" else role, content)


def _read_part(role: Role, part: Any) -> Part:
    if isinstance(part, Mapping):
        part = _read_openai_part(part)
    if isinstance(part, str):
        return part
    if role == "assistant" and isinstance(part, (np.ndarray, Tensor)):
        return _image_ids(part)
    if role in ("system", "text"):
        raise ValueError(f"a {role} message holds {type(part).__name__}; expected text only")
    if isinstance(part, (SignalSpan, TwoViews)):
        if role != "user":
            raise ValueError(f"the {role} message holds {type(part).__name__}; expected it in a user's message")
        return part
    if not isinstance(part, (os.PathLike, Image.Image, np.ndarray, Tensor)):
        raise ValueError(
            f"a message holds {type(part).__name__}; expected text (str) or {PICTURE} (a path: pathlib.Path)"
        )
    return as_image(part)


def _read_openai_part(part: Mapping[str, Any]) -> str | Image.Image:
    """`text` and `image_url` as OpenAI has them, `image` as the chat templates of transformers have it."""
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError(f"a text part holds {type(part.get('text')).__name__}; expected text (str)")
        return part["text"]
    if kind in ("image_url", "image"):
        picture: Any = part.get(kind)
        if isinstance(picture, Mapping):
            picture = picture.get("url")
        if isinstance(picture, str) and not DATA_URL.match(picture):  # what was sent must not choose files
            raise ValueError(f"an {kind} part holds {picture[:80]!r}; expected data:image/...;base64,...")
        return as_image(picture)
    raise ValueError(f"a part of type {kind!r}; expected 'text' or 'image_url'")


def _image_ids(ids: np.ndarray | Tensor) -> np.ndarray:
    array = ids.cpu().numpy() if isinstance(ids, Tensor) else ids
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"an assistant's picture is {array.dtype} {list(array.shape)}; expected its image ids, int [N]"
        )
    return array
