"""One vocabulary for text and image ids, as an engine for text needs it.

    [0, V)             text, as the tokenizer numbers it
    [V, V + N)         image ids: code i is V + i
    V + N    draw      begins a drawing; embedded as <begin_of_image>
    V + N+1  look      one position of a picture to understand
    [V + N+2, ...)     N columns of logits that are not ids: differences for guidance.py

The last id determines the kind of the next: an image id after `draw` or an image id, else text. No text is encoded as
`draw`, so a user's text cannot begin a drawing. `<begin_of_image>` itself only begins pictures to understand.

The ids also determine the unconditional row of guidance: text ids except BOS and <begin_of_image> become pad. That is
`Processor.unconditional` for prompts without pictures. A drawing from a prompt with pictures is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.model.eye import RememberingEye
from openjanus.model.janus import GENERATION, JanusConfig
from openjanus.processing.text import TextTokenizer
from openjanus.sequence import Document, GenerateSpan, TextSpan, UnderstandSpan


@dataclass(frozen=True)
class Vocabulary:
    """num_text: rows of the text head (V); the first `num_known` are in the text tokenizer. num_image_ids: N."""

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
        """The vocabulary of a model. Raises ValueError for a stateful generation eye."""
        if issubclass(GENERATION[type(c.generation)], RememberingEye):
            raise ValueError(
                f"the plugin for vLLM embeds image ids independently, but a {type(c.generation).__name__} "
                "depends on earlier ids: use `openjanus serve`"
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
        """The first column that is not an id."""
        return self.look_id + 1

    @property
    def size(self) -> int:
        """Columns of the logits."""
        return self.changes + self.num_image_ids

    def prompt_ids(self, document: Document, draw: bool) -> list[int]:
        """A document of the processor as ids; a picture to understand is one `look`, which vLLM repeats for each
        position.

        With `draw`, the final <begin_of_image> becomes `draw`. Raises ValueError if the document then holds pictures:
        the unconditional row is made from the ids alone, which cannot drop pictures.
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
                assert isinstance(span, GenerateSpan), "FleetConfig.read refuses models with a signal eye"
                ids += [self.num_text + i for i in span.image_ids]
        if draw:
            assert ids[-1] == self.begin_of_image_id, "a prompt to draw ends with <begin_of_image>"
            ids[-1] = self.draw_id
        return ids

    def image_ids(self, ids: Sequence[int]) -> list[int]:
        """Generated ids as image ids."""
        codes = [id - self.num_text for id in ids]
        assert all(0 <= code < self.num_image_ids for code in codes), "a drawing contains image ids only"
        return codes

    # Without branches: these run inside CUDA graphs of vLLM, where padding may have any id.

    def draws(self, ids: Tensor) -> Tensor:
        """ids [T] -> bool [T]: whether the next id is an image id."""
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
        """ids [T] -> bool [T]: the ids that the unconditional row keeps; all others become pad."""
        kept = (ids == self.begin_of_image_id) | (ids >= self.num_text)
        return kept if self.bos_id is None else kept | (ids == self.bos_id)

    def unsayable(self, device: torch.device | str = "cpu") -> Tensor:
        """bool [V]: text ids that an answer must not contain (as in inference/engine.py)."""
        mask = torch.arange(self.num_text, device=device) >= self.num_known
        special = (self.pad_id, self.bos_id, self.begin_of_image_id, self.end_of_image_id)
        mask[[id for id in special if id is not None]] = True
        return mask
