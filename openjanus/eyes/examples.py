"""Pictures of sources as batches for the eyes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.data.sources import Gives, find_source, indices_of_step
from openjanus.processing.image import generation_pixels, to_pixels


def examples_of_step(mixture: Mapping[str, float], gives: Gives, seed: int, step: int) -> Iterator[Any]:
    """The training examples of a step: of each source the next ones, as many as the mixture says."""
    for name, count in mixture.items():
        source = find_source(name, gives)("train", seed)
        yield from map(source, indices_of_step(count, step))


def stack_pictures(arrays: Sequence[np.ndarray], size_px: int) -> Tensor:
    """uint8 pictures [H, W, 3] -> pixels [M, 3, size_px, size_px]."""
    square = (size_px, size_px, 3)
    return torch.stack(
        [to_pixels(a) if a.shape == square else generation_pixels(Image.fromarray(a), size_px) for a in arrays]
    )
