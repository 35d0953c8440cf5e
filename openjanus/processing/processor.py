"""Conversations to documents: the only place that knows a chat template.

    user:      [picture] "what is it?"     ->  BOS "User: " <boi> picture to understand <eoi> "\\nwhat is
    it?\\n\\nAssistant:"
    assistant: "a cat"                     ->  " a cat" EOS
    user:      "two red apples"            ->  BOS "User: two red apples\\n\\nAssistant:"
    assistant: image ids                   ->  <boi> ids to generate

The role decides which eye a picture meets: the user's pictures are understood, the assistant's are generated. Source
of the
template: deepseek-ai/Janus, conversation.py (`deepseek_old`; `deepseek` for Janus-Pro).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from openjanus.processing.image import understanding_pixels
from openjanus.processing.text import TextTokenizer
from openjanus.sequence import Document, GenerateSpan, TextSpan, UnderstandSpan

ROLES = {
    "deepseek_old": {"user": "User", "assistant": "Assistant"},
    "deepseek": {"user": "<|User|>", "assistant": "<|Assistant|>"},
}


@dataclass(frozen=True)
class Message:
    """What one side says. `text` is a document without roles. An assistant's picture is given by its image ids, int
    [N]."""

    role: Literal["user", "assistant", "text"]
    content: Sequence[str | Image.Image | np.ndarray]


Conversation = list[Message]


@dataclass(frozen=True)
class ProcessorConfig:
    """`image_size_px` and `num_features` are the understanding eye's."""

    image_size_px: int = 384
    num_features: int = 576
    template: Literal["deepseek_old", "deepseek"] = "deepseek_old"
    system_prompt: str = ""


class Processor:
    """Builds documents: for training with the assistant's answers supervised, for inference ending where it speaks."""

    def __init__(self, config: ProcessorConfig, text: TextTokenizer):
        self.config, self.text = config, text

    def document(self, conversation: Conversation, train: bool = False) -> Document:
        """A conversation as spans. With `train`, text of the assistant and of role `text` and its image ids carry loss.

        Raises ValueError for an empty conversation or an assistant's picture that has not been tokenized.
        """
        if not conversation:
            raise ValueError("empty conversation: expected at least one message")
        document: Document = [TextSpan([self.text.bos_id])]
        has_picture = any(isinstance(part, Image.Image) for m in conversation for part in m.content)
        if self.config.system_prompt and has_picture:
            self._say(document, self.config.system_prompt + "\n\n")
        for message in conversation:
            if message.role == "text":
                for part in message.content:
                    assert isinstance(part, str)
                    self._say(document, part, train, end=True)
            elif message.role == "user":
                self._user(document, message)
            else:
                self._assistant(document, message, train)
        return document

    def prompt(self, conversation: Conversation, draw: bool = False) -> Document:
        """A conversation that the assistant is to continue: by text, or after `<begin_of_image>` by a picture."""
        document = self.document(conversation)
        if draw:
            document.append(TextSpan([self.text.begin_of_image_id]))
        return document

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

    def _say(self, document: Document, text: str, loss: bool = False, end: bool = False) -> None:
        ids = self.text.encode(text)
        document.append(TextSpan(ids + [self.text.eos_id] * end, loss))

    def _user(self, document: Document, message: Message) -> None:
        roles = ROLES[self.config.template]
        text = f"{roles['user']}: "
        for part in message.content:
            if isinstance(part, str):
                text += part
                continue
            assert isinstance(part, Image.Image)
            self._say(document, text)
            document.append(TextSpan([self.text.begin_of_image_id]))
            pixels = understanding_pixels(part, self.config.image_size_px)
            document.append(UnderstandSpan(pixels, self.config.num_features))
            document.append(TextSpan([self.text.end_of_image_id]))
            text = "\n"
        self._say(document, f"{text}\n\n{roles['assistant']}:")

    def _assistant(self, document: Document, message: Message, train: bool) -> None:
        for part in message.content:
            if isinstance(part, str):
                self._say(document, f" {part}", train, end=True)
            elif isinstance(part, np.ndarray):
                document.append(TextSpan([self.text.begin_of_image_id]))
                document.append(GenerateSpan(part.tolist(), train))
                document.append(TextSpan([self.text.end_of_image_id, self.text.eos_id]))
            else:
                raise ValueError("an assistant's picture must be given by its image ids: tokenize it first")
