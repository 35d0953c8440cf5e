"""Conversations to documents: the only place that knows a chat template.

    user:      [picture] "what is it?"     ->  BOS "User: " <boi> picture <eoi> "\\nwhat is it?\\n\\nAssistant:"
    assistant: "a cat"                     ->  " a cat" EOS
    user:      "two red apples"            ->  BOS "User: two red apples\\n\\nAssistant:"
    assistant: image ids                   ->  <boi> ids to generate

The role decides which eye a picture meets: the user's pictures are understood, the assistant's are generated. Source
of the template: deepseek-ai/Janus, conversation.py and processing_vlm.py (`deepseek_old`; `deepseek` for Janus-Pro).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from openjanus.processing.image import PixelConfig, understanding_pixels
from openjanus.processing.text import TextTokenizer
from openjanus.sequence import Document, GenerateSpan, TextSpan, UnderstandSpan

ROLES = {
    "deepseek_old": {"user": "User", "assistant": "Assistant"},
    "deepseek": {"user": "<|User|>", "assistant": "<|Assistant|>"},
}


@dataclass(frozen=True)
class Message:
    """What one side says. `system` replaces the checkpoint's own system prompt, `text` is a document without roles.

    The user's pictures are PIL images, anywhere among the words; an assistant's picture is its image ids, int [N].
    """

    role: Literal["system", "user", "assistant", "text"]
    content: Sequence[str | Image.Image | np.ndarray]


Conversation = Sequence[Message]


@dataclass(frozen=True)
class ProcessorConfig:
    """`num_features`: positions that a picture to understand takes. `system_prompt`: begins every conversation that
    does not draw."""

    num_features: int = 576
    pixels: PixelConfig = field(default_factory=PixelConfig)
    template: Literal["deepseek_old", "deepseek"] = "deepseek_old"
    system_prompt: str = ""


class _Writer:
    """Collects words until something else comes: the original encodes them in one run, and so do we."""

    def __init__(self, text: TextTokenizer):
        self.text, self.words = text, ""
        self.ids = [text.bos_id]
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

    def span(self, span: TextSpan | UnderstandSpan | GenerateSpan) -> None:
        self.close()
        self.document.append(span)

    def close(self) -> Document:
        self.special()
        if self.ids:
            self.document.append(TextSpan(self.ids))
            self.ids = []
        return self.document


class Processor:
    """Builds documents: for training with the assistant's answers supervised, for inference ending where it speaks."""

    def __init__(self, config: ProcessorConfig, text: TextTokenizer):
        self.config, self.text = config, text

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
        """What guidance compares with: every text id but BOS and `<begin_of_image>` becomes pad; lengths stay.

        Supervised spans stay as they are: they are answers, not conditions.
        """
        kept = (self.text.bos_id, self.text.begin_of_image_id)
        return [
            TextSpan([i if i in kept else self.text.pad_id for i in span.ids])
            if isinstance(span, TextSpan) and not span.loss
            else span
            for span in document
        ]

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
        parts = [part for part in message.content if not isinstance(part, str) or part.strip()]
        for i, part in enumerate(parts):
            if isinstance(part, str):
                text = part if i else part.lstrip()
                text = text if i < len(parts) - 1 else text.rstrip()
                gap = "\n" if i and isinstance(parts[i - 1], Image.Image) else " "
                writer.words += text if i == 0 or text.startswith("\n") else gap + text
            elif isinstance(part, Image.Image):
                if i and not writer.words.endswith("\n"):
                    writer.words += "\n"  # a picture stands on a line of its own
                writer.special(self.text.begin_of_image_id)
                pixels = understanding_pixels(part, self.config.pixels)
                writer.span(UnderstandSpan(pixels, self.config.num_features))
                writer.special(self.text.end_of_image_id)
            else:
                raise ValueError("a user's picture must be a PIL image: the user's pictures are looked at")
        writer.words += "\n\n"
        writer.role(roles["assistant"])
        writer.words += ":"

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


def _words(message: Message) -> str:
    """The text of a message that can hold nothing else."""
    if not all(isinstance(part, str) for part in message.content):
        raise ValueError(f"a {message.role} message holds text alone")
    return "".join(part for part in message.content if isinstance(part, str))
