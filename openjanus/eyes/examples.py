"""Examples of the trainings of eyes: pictures of sources, and of a user's own data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.data.sources import Source, find_source, indices_of_step, open_users_data
from openjanus.processing.image import generation_pixels, to_pixels
from openjanus.processing.message import Conversation
from openjanus.training.stage import Stage


@dataclass
class Examples:
    """The examples of each step. config: of the training; it says what they are (`examples`) and where the user's are
    (`data`)."""

    config: Any
    seed: int

    @cached_property
    def users_data(self) -> dict[str, Any]:
        """The user's data by name (readers/dataset.py)."""
        use: Any = "pictures" if self.config.examples == "pictures" else "draw"
        return {name: open_users_data(replace(c, use=use)) for name, c in self.config.data.items() if c.path}

    def source(self, name: str, split: str = "train") -> Source:
        """A source by name. Raises ValueError if a user's data cannot give such examples."""
        if name not in self.config.data:
            return find_source(name, self.config.examples)(split, self.seed)
        if self.config.examples not in OF_CONVERSATION:
            raise ValueError(
                f"data of one's own cannot give {self.config.examples}, only {' or '.join(OF_CONVERSATION)}"
            )
        made, example_of = self.users_data[name].source(split, self.seed), OF_CONVERSATION[self.config.examples]
        return lambda index: example_of(made(index))

    def of_step(self, stage: Stage, step: int) -> Iterator[Any]:
        """Of each source the next ones, as many as the mixture says."""
        for name, count in stage.mixture_at(step).items():
            yield from map(self.source(name), indices_of_step(count, step))


def _picture_of(conversation: Conversation) -> np.ndarray:
    (picture,) = [part for part in conversation[-1].content if isinstance(part, Image.Image)]
    return np.asarray(picture.convert("RGB"))


def _caption_of(conversation: Conversation) -> tuple[np.ndarray, str]:
    return _picture_of(conversation), " ".join(part for part in conversation[0].content if isinstance(part, str))


# An example of a user's data, from a conversation that draws it.
OF_CONVERSATION: dict[str, Callable[[Conversation], Any]] = {
    "pictures": _picture_of,
    "captioned pictures": _caption_of,
}


def stack_pictures(arrays: Sequence[np.ndarray], size_px: int) -> Tensor:
    """uint8 pictures [H, W, 3] -> pixels [M, 3, size_px, size_px]."""
    square = (size_px, size_px, 3)
    return torch.stack(
        [to_pixels(a) if a.shape == square else generation_pixels(Image.fromarray(a), size_px) for a in arrays]
    )
