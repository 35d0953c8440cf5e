"""One eye for both tasks: pictures to understand enter through the generation eye (arXiv 2410.13848, Table 5, Exp-A).

    pixels ─► image tokenizer ─► image ids ─► the generation eye's embedding and adaptor ─► embeddings [M, N, D]

It has no parameters of its own. The ids are a choice of the nearest code, so no gradient reaches the tokenizer's
encoder from here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.model.eye import GenerationEye, GenerationEyeConfig, UnderstandingEye, UnderstandingEyeConfig


@dataclass(frozen=True)
class SharedEyeConfig(UnderstandingEyeConfig):
    def num_features(self, generation: GenerationEyeConfig) -> int:
        return generation.num_image_ids

    def image_size_px(self, generation: GenerationEyeConfig) -> int:
        return generation.image_size_px


class SharedEye(UnderstandingEye):
    def __init__(self, c: SharedEyeConfig, width: int):
        super().__init__()
        self._shared: tuple[GenerationEye, ...] = ()  # in a tuple: its parameters keep the one name that they have

    def connect(self, generation: GenerationEye) -> None:
        self._shared = (generation,)
        self.num_features = generation.config.num_image_ids

    def forward(self, pixels: Tensor) -> Tensor:
        (generation,) = self._shared
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):  # the ids of a stored drawing, too
            image_ids = generation.encode(pixels)
        return generation(image_ids)
