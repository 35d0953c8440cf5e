"""Records of users' files as rows. The keys say what a record is:

    messages | conversations            a chat: role and content, or from and value; pictures as <image> or typed parts
    input_image, output_image, prompt   an edit; without input_image a caption to draw
    image, question, answer             a question about a picture; without image one about nothing
    file_name | image, text | caption   a picture and its caption
    text                                a text without roles

A picture in the assistant's turn is drawn; one in the user's turn is looked at.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openjanus.processing.message import Role
from openjanus.readers.pictures import Stored

Kind = Literal["chat", "edit", "drawing", "question", "caption", "text", "picture"]
Part = str | Stored
Turn = tuple[Role, list[Part]]
Find = Callable[[Any], Stored]  # the picture that a value names

MARK = re.compile(r"<image>|<image_placeholder>")
ROLES: dict[str, Role] = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant",
    "bot": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
WORDS_OF_EDIT = ("input_prompt", "prompt", "instruction", "edit_prompt", "text")
CAPTIONS = ("text", "caption", "captions", "txt")
QUESTIONS, ANSWERS = ("question", "prompt", "instruction", "query"), ("answer", "response", "output")
PICTURES = ("file_name", "file_names", "image", "images", "picture")


@dataclass(frozen=True)
class Row:
    """One example. `where`: file and line. `turns`: what each side says; a caption has one turn of the assistant, the
    picture and its words, and a picture without words has it, too. `unknown`: keys of the record that were not used."""

    where: str
    kind: Kind
    turns: Sequence[Turn]
    unknown: tuple[str, ...] = ()

    @property
    def pictures(self) -> list[Stored]:
        return [part for _, parts in self.turns for part in parts if not isinstance(part, str)]

    @property
    def draws(self) -> bool:
        """Whether the assistant draws; a caption may be drawn or described."""
        return any(role == "assistant" and not isinstance(part, str) for role, parts in self.turns for part in parts)

    @property
    def edits(self) -> bool:
        """Whether the assistant draws by a picture of the user."""
        return self.draws and any(
            role == "user" and not isinstance(part, str) for role, ps in self.turns for part in ps
        )

    @property
    def words(self) -> str:
        return "\n".join(part for _, parts in self.turns for part in parts if isinstance(part, str))


@dataclass(frozen=True)
class Fault:
    """A record that cannot be used: file and line, and why. picture: what it has, if only the caption is missing."""

    where: str
    what: str
    picture: Stored | None = None


class NoCaption(ValueError):
    """A picture without words."""

    def __init__(self, reason: str, picture: Stored):
        super().__init__(reason)
        self.picture = picture


def read_record(record: Any, where: str, find: Find) -> Row | Fault:
    """A record of a file as a row, or what is wrong with it."""
    if not isinstance(record, Mapping):
        return Fault(where, f"a record is {type(record).__name__}, expected an object with keys")
    given = {key: value for key, value in record.items() if key is not None and value not in (None, "", [])}
    try:
        kind, turns, used = _read(given, find)
        _check(kind, turns)
    except NoCaption as error:
        return Fault(where, str(error), error.picture)
    except ValueError as error:
        return Fault(where, str(error))
    return Row(where, kind, turns, tuple(sorted(str(key) for key in given if key not in used)))


def _read(given: Mapping[str, Any], find: Find) -> tuple[Kind, list[Turn], set[str]]:
    picture_key = next((key for key in PICTURES if key in given), None)
    chat = next((key for key in ("messages", "conversations", "conversation") if key in given), None)
    used = {chat or ""} | ({picture_key} if picture_key else set())
    pictures = _listed(given[picture_key]) if picture_key else []
    if chat:
        return "chat", _chat(given[chat], [find(picture) for picture in pictures], find), used
    if "output_image" in given:
        key = _one_of(given, WORDS_OF_EDIT, "an edit has no words")
        shown = next((name for name in ("input_image", "input_images") if name in given), None)
        before: list[Part] = [find(picture) for picture in _listed(given[shown])] if shown else []
        turns: list[Turn] = [("user", [*before, _text(given[key], key)]), ("assistant", [find(given["output_image"])])]
        return ("edit" if shown else "drawing"), turns, {key, shown or "", "output_image"}
    asked, answered = (next((key for key in keys if key in given), None) for keys in (QUESTIONS, ANSWERS))
    if asked and answered:
        words = _text(given[asked], asked)
        parts = _with_marks(words, [find(picture) for picture in pictures])
        turns = [("user", parts), ("assistant", [_text(given[answered], answered)])]
        return ("question" if pictures else "chat"), turns, {*used, asked, answered}
    if pictures:
        try:
            key = _one_of(given, CAPTIONS, "a picture has no caption")
        except ValueError as error:
            raise NoCaption(str(error), find(pictures[0])) from None
        if len(pictures) > 1:
            raise ValueError(f"{len(pictures)} pictures have one caption; write them as messages")
        return "caption", [("assistant", [find(pictures[0]), _text(given[key], key)])], {*used, key}
    if "text" in given:
        return "text", [("text", [_text(given["text"], "text")])], {"text"}
    keys = ", ".join(map(repr, given)) or "no value"
    raise ValueError(f"has {keys}; expected messages, conversations, file_name and text, or question and answer")


def _one_of(given: Mapping[str, Any], names: Sequence[str], lack: str) -> str:
    key = next((name for name in names if name in given), None)
    if key is None:
        raise ValueError(f"{lack}: it has {', '.join(map(repr, given))}; expected {' or '.join(names[:3])}")
    return key


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(value: Any, key: str) -> str:
    if isinstance(value, (list, tuple)) and value:
        value = value[0]  # several captions of one picture: the first
    if not isinstance(value, str):
        raise ValueError(f"{key} is {type(value).__name__}, expected text")
    if not value.strip():
        raise ValueError(f"{key} is empty")
    return value.strip()


def _chat(messages: Any, pictures: Sequence[Stored], find: Find) -> list[Turn]:
    """A chat's turns. Pictures that the record lists stand where the marks are, or before the first words."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError(f"messages is {type(messages).__name__}, expected a list of messages")
    roles, contents = [], []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} is {type(message).__name__}, expected role and content")
        role = message.get("role", message.get("from"))
        if role not in ROLES:
            raise ValueError(f"message {number} has role {role!r}, expected user, assistant or system")
        roles.append(ROLES[role])
        contents.append(message.get("content", message.get("value")))
    waiting = list(pictures)
    num_marks = sum(_num_marks(content) for content in contents)
    if pictures and num_marks == 0 and "user" in roles:
        first = roles.index("user")
        contents[first] = "<image>" * len(pictures) + _text(contents[first], "content")
        num_marks = len(pictures)
    if num_marks != len(pictures):
        raise ValueError(f"{num_marks} marks <image> for {len(pictures)} pictures")
    return [(role, _parts(content, waiting, find)) for role, content in zip(roles, contents, strict=True)]


def _num_marks(content: Any) -> int:
    """Places of a message for pictures that the record lists."""
    if isinstance(content, str):
        return len(MARK.findall(content))
    return sum(1 for part in _listed(content) if isinstance(part, Mapping) and _is_open_place(part))


def _is_open_place(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image" and not any(part.get(key) for key in ("image", "path", "url", "image_url"))


def _parts(content: Any, waiting: list[Stored], find: Find) -> list[Part]:
    if isinstance(content, str):
        return _marked(content, waiting)
    parts: list[Part] = []
    for part in _listed(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            parts.append(part)
        elif kind == "text":
            parts.append(_text(part.get("text"), "a text part"))
        elif isinstance(part, Mapping) and _is_open_place(part):
            parts.append(waiting.pop(0))
        elif kind in ("image", "image_url"):
            named = part.get("image_url") or part.get("image") or part.get("path") or part.get("url")
            parts.append(find(named.get("url") if isinstance(named, Mapping) and "url" in named else named))
        else:
            raise ValueError(f"a part is {str(part)[:60]!r}; expected type text or image")
    return parts


def _with_marks(words: str, pictures: list[Stored]) -> list[Part]:
    """Words with their pictures: at the marks, or before the words if there are no marks."""
    if not pictures:
        return [words]
    num_marks = len(MARK.findall(words))
    if num_marks not in (0, len(pictures)):
        raise ValueError(f"{num_marks} marks <image> for {len(pictures)} pictures")
    return _marked(words, pictures) if num_marks else [*pictures, words]


def _marked(words: str, waiting: list[Stored]) -> list[Part]:
    """Words whose marks become the next of the waiting pictures."""
    first, *others = MARK.split(words)
    parts: list[Part] = [first]
    for after in others:
        parts += [waiting.pop(0), after]
    return [part.strip() if isinstance(part, str) else part for part in parts if not _is_blank(part)]


def _is_blank(part: Part) -> bool:
    return isinstance(part, str) and not part.strip()


def _check(kind: Kind, turns: Iterable[Turn]) -> None:
    """Raises ValueError for turns that nothing can be learned from."""
    turns = list(turns)
    for number, (role, parts) in enumerate(turns, start=1):
        if not parts or all(_is_blank(part) for part in parts):
            raise ValueError(f"turn {number}, of the {role}, is empty")
        if role == "system" and number > 1:
            raise ValueError(f"turn {number} is of the system, expected it first")
    if kind in ("chat", "edit", "drawing", "question"):
        if not any(role == "assistant" for role, _ in turns):
            raise ValueError("the assistant says nothing: there is nothing to learn")
        if all(role != "user" for role, _ in turns):
            raise ValueError("the user says nothing; for texts without roles, use the key text")
