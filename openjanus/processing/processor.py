"""Conversations to documents: the only place that knows a chat template.

    user:      [picture] "what is it?"     ->  BOS "User: " <boi> picture <eoi> "\\nwhat is it?\\n\\nAssistant:"
    assistant: "a cat"                     ->  " a cat" EOS
    user:      "two red apples"            ->  BOS "User: two red apples\\n\\nAssistant:"
    assistant: image ids                   ->  <boi> ids to generate
    user:      [two views] "make it blue"  ->  BOS "User: " <boi> picture <eoi> <boi> its ids <eoi> "\\nmake it blue..."

The role decides which eye a picture meets: the user's pictures are understood, the assistant's are generated. Source
of the template: deepseek-ai/Janus, conversation.py and processing_vlm.py (`deepseek_old`; `deepseek` for Janus-Pro).

A user's picture stands on a line of its own, where it is among the parts. So does a signal, without tokens around it.
For another layout, the text holds marks as in the original. If a turn has as many marks as pictures and signals, these
stand there and nothing is added; otherwise a mark is text.

    [picture, "what is it?"]                                   <picture> "\\nwhat is it?"
    [picture, "<image_placeholder> is Figure 1. What is it?"]  <picture> " is Figure 1. What is it?"
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from openjanus.config import Config
from openjanus.processing.image import PixelConfig, fitted
from openjanus.processing.message import Conversation, Message, Part, TwoViews
from openjanus.processing.text import IMAGE_PLACEHOLDER, TextTokenizer
from openjanus.processing.tiles import TileConfig, picture_pixels
from openjanus.sequence import Document, GenerateSpan, SignalSpan, Span, TextSpan, UnderstandSpan, num_tokens

UserPart = str | Image.Image | TwoViews | SignalSpan
ROLES = {
    "deepseek_old": {"user": "User", "assistant": "Assistant"},
    "deepseek": {"user": "<|User|>", "assistant": "<|Assistant|>"},
}


@dataclass(frozen=True)
class ProcessorConfig(Config):
    """`system_prompt`: begins every conversation that does not draw. `pictures_first`: a user's turn is written with
    its pictures before its words, because the model has learned no other order. `tiles`: a picture to understand that
    is larger or longer than the eye's becomes several, one after the other (tiles.py)."""

    pixels: PixelConfig = field(default_factory=PixelConfig)
    template: Literal["deepseek_old", "deepseek"] = "deepseek_old"
    system_prompt: str = ""
    pictures_first: bool = False
    tiles: TileConfig | None = None

    def shrunk(self, image: Image.Image) -> Image.Image:
        """A picture to understand without the pixels that nobody would see of it. Raises ValueError as `fitted`."""
        return fitted(image, self.pixels) if self.tiles is None else image


class _Writer:
    """Collects words until something else comes: the original encodes them in one run, and so do we."""

    def __init__(self, text: TextTokenizer):
        self.text, self.words = text, ""
        self.ids = [] if text.bos_id is None else [text.bos_id]
        self.document: Document = []

    def special(self, *ids: int) -> None:
        self.ids += [*self.text.encode(self.words), *ids] if self.words else ids
        self.words = ""

    def role(self, name: str) -> None:
        id = self.text.special_id(name)  # Janus-Pro has tokens for its roles; a user cannot type them
        if id is None:
            self.words += name
        else:
            self.special(id)

    def span(self, span: Span) -> None:
        self.close()
        self.document.append(span)

    def close(self) -> Document:
        self.special()
        if self.ids:
            self.document.append(TextSpan(self.ids))
            self.ids = []
        return self.document


class Processor:
    """Builds documents: for training with the assistant's answers supervised, for inference ending where it speaks.

    num_features: positions that a picture to understand takes, or each of its tiles; the understanding eye says how
    many.
    """

    def __init__(self, config: ProcessorConfig, text: TextTokenizer, num_features: int):
        self.config, self.text, self.num_features = config, text, num_features

    def document(self, conversation: Conversation, train: bool = False) -> Document:
        """A conversation as spans. With `train`, text of the assistant and of role `text` and its image ids carry loss.

        Raises ValueError for an empty conversation or an assistant's picture that has not been tokenized.
        """
        draws = any(isinstance(part, np.ndarray) for m in conversation for part in m.content)
        return self._write(conversation, train, draws).close()

    def prompt(self, conversation: Conversation, draw: bool = False) -> Document:
        """A conversation that the assistant is to continue: by text, or after `<begin_of_image>` by a picture."""
        writer = self._write(conversation, False, draw)
        if draw:
            writer.special(self.text.begin_of_image_id)
        return writer.close()

    def unconditional(self, document: Document) -> Document:
        """What guidance compares with: the document without its words and its pictures."""
        return self.drop(document, words=True, pictures=True)

    def drop(self, document: Document, words: bool = False, pictures: bool = False) -> Document:
        """The document without its words, its pictures, or both. Pads take their places, so that all lengths stay.

        words: every text id but BOS becomes pad. pictures: every position of a picture becomes pad, and the marks
        before and behind it, too; a signal counts as a picture. What is supervised is an answer, not a condition: it
        stays, and so does the `<begin_of_image>` of the picture to draw.
        """
        pad, begin, end = self.text.pad_id, self.text.begin_of_image_id, self.text.end_of_image_id
        is_given = [False, *map(_is_given_picture, document), False]
        kept: Document = []
        for i, span in enumerate(document, start=1):
            if is_given[i]:
                kept.append(TextSpan([pad] * num_tokens([span])) if pictures else span)
            elif isinstance(span, TextSpan) and not span.loss:
                ids = [pad if words and id != self.text.bos_id else id for id in span.ids]
                if span.ids[-1] == begin:
                    ids[-1] = pad if pictures and is_given[i + 1] else begin
                if span.ids[0] == end and is_given[i - 1]:
                    ids[0] = pad if pictures else end
                kept.append(TextSpan(ids))
            else:
                kept.append(span)
        return kept

    def _write(self, conversation: Conversation, train: bool, draws: bool) -> _Writer:
        if not conversation:
            raise ValueError("empty conversation: expected at least one message")
        writer = _Writer(self.text)
        system = self.config.system_prompt
        if conversation[0].role == "system":
            system, conversation = _words(conversation[0]), conversation[1:]
        talks = any(m.role == "user" for m in conversation)
        if system and talks and not draws:  # the original draws without a system prompt
            writer.words += f"{system}\n\n"
        for message in conversation:
            if message.role == "system":
                raise ValueError("a system message must come first, and only once")
            if message.role == "text":
                self._answer(writer, _words(message), train)
            elif message.role == "user":
                self._user(writer, message)
            else:
                self._assistant(writer, message, train)
        return writer

    def _user(self, writer: _Writer, message: Message) -> None:
        roles = ROLES[self.config.template]
        writer.role(roles["user"])
        writer.words += ": "
        for part in _lay_out(message.content, self.config.pictures_first):
            if isinstance(part, str):
                writer.words += part
                continue
            if isinstance(part, SignalSpan):
                writer.span(part)
                continue
            image = part.image if isinstance(part, TwoViews) else part
            for pixels in picture_pixels(image, self.config.pixels, self.config.tiles):
                self._picture(writer, UnderstandSpan(pixels, self.num_features))
            if isinstance(part, TwoViews):
                self._picture(writer, GenerateSpan(part.image_ids.tolist()))
        writer.words += "\n\n"
        writer.role(roles["assistant"])
        writer.words += ":"

    def _picture(self, writer: _Writer, span: Span) -> None:
        writer.special(self.text.begin_of_image_id)
        writer.span(span)
        writer.special(self.text.end_of_image_id)

    def _assistant(self, writer: _Writer, message: Message, train: bool) -> None:
        for part in message.content:
            if isinstance(part, str):
                self._answer(writer, f" {part.strip()}", train)
            elif isinstance(part, np.ndarray):
                writer.special(self.text.begin_of_image_id)
                writer.span(GenerateSpan(part.tolist(), train))
                writer.special(self.text.end_of_image_id, self.text.eos_id)
            else:
                raise ValueError("an assistant's picture must be given by its image ids: tokenize it first")

    def _answer(self, writer: _Writer, words: str, train: bool) -> None:
        if train:
            writer.span(TextSpan([*self.text.encode(words), self.text.eos_id], loss=True))
        else:
            writer.words += words
            writer.special(self.text.eos_id)


def _is_given_picture(span: Span) -> bool:
    """Whether a span is a picture or a signal of the prompt, not a picture to draw."""
    return isinstance(span, (UnderstandSpan, SignalSpan)) or (isinstance(span, GenerateSpan) and not span.loss)


def _lay_out(content: Sequence[Part], pictures_first: bool) -> list[UserPart]:
    """A user's turn in the order and with the white space that the template wants. Blank parts are left out."""
    parts = [part for part in content if not isinstance(part, np.ndarray) and not _is_blank(part)]
    pictures = [part for part in parts if not isinstance(part, str)]
    texts = [part for part in parts if isinstance(part, str)]
    if pictures and sum(text.count(IMAGE_PLACEHOLDER) for text in texts) == len(pictures):
        first, *others = "".join(map(str, _spaced(texts))).split(IMAGE_PLACEHOLDER)
        return [first, *(part for pair in zip(pictures, others, strict=True) for part in pair)]
    if pictures and pictures_first:
        parts = [*pictures, *(text.strip() for text in texts)]
    return _spaced(parts)


def _is_blank(part: UserPart) -> bool:
    return isinstance(part, str) and not part.strip()


def _spaced(parts: Sequence[UserPart]) -> list[UserPart]:
    """Parts with what stands between them: a picture has a line of its own, texts are joined by a space."""
    spaced: list[UserPart] = []
    for i, part in enumerate(parts):
        before = parts[i - 1] if i else None
        if isinstance(part, str):
            text = part if i else part.lstrip()
            text = text if i < len(parts) - 1 else text.rstrip()
            gap = " " if isinstance(before, str) else "\n"
            spaced.append(text if i == 0 or text.startswith("\n") else gap + text)
        else:
            if i and not (isinstance(before, str) and before.endswith("\n")):
                spaced.append("\n")
            spaced.append(part)
    return spaced


def _words(message: Message) -> str:
    """The text of a message that holds nothing else."""
    return "".join(part for part in message.content if isinstance(part, str))
