"""An understanding eye in a few lines: each square of pixels through one linear layer."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import PositiveInt
from openjanus.model.eye import GenerationEyeConfig, UnderstandingEye, UnderstandingEyeConfig


@dataclass(frozen=True)
class PatchEyeConfig(UnderstandingEyeConfig):
    size_px: PositiveInt = 16
    patch_px: PositiveInt = 4

    def num_features(self, generation: GenerationEyeConfig) -> int:
        return (self.size_px // self.patch_px) ** 2

    def image_size_px(self, generation: GenerationEyeConfig) -> int:
        return self.size_px


class PatchEye(UnderstandingEye):
    def __init__(self, c: PatchEyeConfig, width: int):
        super().__init__()
        self.patch_px, self.num_features = c.patch_px, (c.size_px // c.patch_px) ** 2
        self.linear = nn.Linear(3 * c.patch_px**2, width)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(F.pixel_unshuffle(pixels, self.patch_px).flatten(2).transpose(1, 2))
