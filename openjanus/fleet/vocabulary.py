"""One row of ids for both directions, as an engine for text wants it.

    [0, V)             text, as the tokenizer numbers it
    [V, V + N)         image ids: code i is V + i
    V + N    draw      where a drawing begins; embedded as <begin_of_image>
    V + N+1  look      one position of a picture to understand
    [V + N+2, ...)     N columns of logits that are no ids: guided by how much more (guidance.py)

An id says by itself what comes next: after `draw` or an image id another image id, after all others text. No text is
ever encoded as `draw`, so that nobody can type his way into a drawing; `<begin_of_image>` itself opens pictures to look
at and switches nothing.

Guidance needs a second row, and that, too, follows from the ids alone: text but BOS and <begin_of_image> becomes pad,
everything else stays. That is `Processor.unconditional` for prompts without pictures, and others are not drawn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.model.eye import RememberingEye
from openjanus.model.janus import GENERATION, JanusConfig
from openjanus.processing.text import TextTokenizer
from openjanus.sequence import Document, TextSpan, UnderstandSpan


@dataclass(frozen=True)
class Vocabulary:
    """num_text: rows of the text head (V), of which the first `num_known` stand for text; num_image_ids: N."""

    num_text: int
    num_known: int
    num_image_ids: int
    pad_id: int
    bos_id: int | None
    eos_id: int
    begin_of_image_id: int
    end_of_image_id: int

    @classmethod
    def of(cls, c: JanusConfig, text: TextTokenizer) -> "Vocabulary":
        """Raises ValueError for a model that cannot embed each id by itself."""
        if issubclass(GENERATION[type(c.generation)], RememberingEye):
            raise ValueError(
                f"the plugin for vLLM embeds each image id by itself, but a model with a {type(c.generation).__name__} "
                "remembers the ids before it: use `openjanus serve`"
            )
        return cls(
            c.language_model.vocab_size, text.vocab_size, c.generation.num_ids,
            text.pad_id, text.bos_id, text.eos_id, text.begin_of_image_id, text.end_of_image_id,
        )  # fmt: skip

    @property
    def draw_id(self) -> int:
        return self.num_text + self.num_image_ids

    @property
    def look_id(self) -> int:
        return self.draw_id + 1

    @property
    def changes(self) -> int:
        """The first of the columns that are no ids."""
        return self.look_id + 1

    @property
    def size(self) -> int:
        """Columns of the logits."""
        return self.changes + self.num_image_ids

    def prompt_ids(self, document: Document, draw: bool) -> list[int]:
        """A prompt of the processor's as ids; a picture to look at is one `look`, which vLLM repeats for each position.

        With `draw` the prompt ends with <begin_of_image>, and it becomes `draw`. Raises ValueError if it
        holds pictures: the second row follows from the ids alone and cannot drop them.
        """
        if draw and not all(isinstance(span, TextSpan) for span in document):
            raise ValueError(
                "the plugin for vLLM guides a drawing by two rows, with and without its words, so its prompt cannot "
                "hold pictures: use `openjanus generate`"
            )
        ids: list[int] = []
        for span in document:
            if isinstance(span, TextSpan):
                ids += span.ids
            elif isinstance(span, UnderstandSpan):
                ids.append(self.look_id)
            else:
                ids += [self.num_text + i for i in span.image_ids]
        if draw:
            assert ids[-1] == self.begin_of_image_id, "a prompt to draw ends with <begin_of_image>"
            ids[-1] = self.draw_id
        return ids

    def image_ids(self, ids: Sequence[int]) -> list[int]:
        """What a drawing gave, as image ids."""
        codes = [id - self.num_text for id in ids]
        assert all(0 <= code < self.num_image_ids for code in codes), "a drawing holds image ids alone"
        return codes

    # On tensors, without a branch: these run inside vLLM's graphs, where padding may hold any id.

    def draws(self, ids: Tensor) -> Tensor:
        """ids [T] -> bool [T]: what follows is an image id."""
        return (ids >= self.num_text) & (ids <= self.draw_id)

    def is_code(self, ids: Tensor) -> Tensor:
        return (ids >= self.num_text) & (ids < self.draw_id)

    def codes(self, ids: Tensor) -> Tensor:
        """ids [T] -> image ids [T]; 0 where there is none."""
        return torch.where(self.is_code(ids), ids - self.num_text, 0)

    def text(self, ids: Tensor) -> Tensor:
        """ids [T] -> ids of the text embedding [T]: <begin_of_image> for `draw`, 0 where there is no text."""
        ids = torch.where(ids == self.draw_id, self.begin_of_image_id, ids)
        return torch.where((ids >= 0) & (ids < self.num_text), ids, 0)

    def stays(self, ids: Tensor) -> Tensor:
        """ids [T] -> bool [T]: what the unconditional row embeds as the conditional one does; the rest is pad there."""
        kept = (ids == self.begin_of_image_id) | (ids >= self.num_text)
        return kept if self.bos_id is None else kept | (ids == self.bos_id)

    def unsayable(self, device: torch.device | str = "cpu") -> Tensor:
        """bool [V]: text ids that an answer must not hold (inference/engine.py, `_text_logits`)."""
        mask = torch.arange(self.num_text, device=device) >= self.num_known
        special = (self.pad_id, self.bos_id, self.begin_of_image_id, self.end_of_image_id)
        mask[[id for id in special if id is not None]] = True
        return mask
