"""A generation eye with a tokenizer in a few lines: the nearest colour of a palette for each square of pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import PositiveInt
from openjanus.model.eye import GenerationEye, GenerationEyeConfig


@dataclass(frozen=True)
class ColourEyeConfig(GenerationEyeConfig):
    size_px: PositiveInt = 16
    square_px: PositiveInt = 4
    num_colours: PositiveInt = 27

    @property
    def image_size_px(self) -> int:
        return self.size_px

    @property
    def grid_side(self) -> int:
        return self.size_px // self.square_px

    @property
    def num_ids(self) -> int:
        return self.num_colours


class Palette(nn.Module):
    def __init__(self, c: ColourEyeConfig):
        super().__init__()
        self.config = c
        self.colours = nn.Parameter(torch.rand(c.num_colours, 3) * 2 - 1)

    def encode(self, pixels: Tensor) -> Tensor:
        means = F.avg_pool2d(pixels, self.config.square_px).flatten(2).transpose(1, 2)  # [M, N, 3]
        return torch.cdist(means, self.colours.expand(len(means), -1, -1)).argmin(-1)

    def decode(self, image_ids: Tensor) -> Tensor:
        colours = self.colours[image_ids].transpose(1, 2).unflatten(2, (self.config.grid_side,) * 2)
        return F.interpolate(colours, scale_factor=float(self.config.square_px))


class ColourEye(GenerationEye):
    precise = ("tokenizer",)

    def __init__(self, c: ColourEyeConfig, width: int):
        super().__init__()
        self.config = c
        self.tokenizer = Palette(c)
        self.embedding = nn.Embedding(c.num_ids, width)
        self.head = nn.Linear(width, c.num_ids)

    def forward(self, image_ids: Tensor) -> Tensor:
        return self.embedding(image_ids)
