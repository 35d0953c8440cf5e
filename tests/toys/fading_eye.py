"""A generation eye with a memory, as small as can be: an id's embedding holds fading traces of the ids before it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openjanus.model.eye import RememberingEye
from openjanus.model.vq_eye import VQEye, VQEyeConfig

FADING = 0.8


@dataclass(frozen=True)
class FadingEyeConfig(VQEyeConfig):
    pass


class Traces:
    """Of each picture the sum after each of its ids: [pictures, N, C]."""

    def __init__(self, num_pictures: int, num_image_ids: int, width: int):
        self.sums = torch.full((num_pictures, num_image_ids, width), float("nan"))  # nobody reads what nobody wrote

    def copy(self, source: int, target: int, length: int) -> None:
        self.sums[target] = float("nan")
        self.sums[target, :length] = self.sums[source, :length]

    def rows(self, start: int, stop: int, position: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        assert 0 < reach == int(position.max()) + 1 <= self.sums.shape[1]
        return self.sums[start:stop], position


class FadingEye(RememberingEye, VQEye):
    """sum_i = e_i + FADING * sum_(i - 1); the adaptor reads the sums."""

    def make_cache(self, num_pictures: int) -> Traces:
        return Traces(num_pictures, self.config.num_image_ids, self.embedding.embedding_dim)

    def forward(self, image_ids: Tensor, cache: Any = None) -> Tensor:
        M, T = image_ids.shape
        embedded, picture, x = self.embedding(image_ids), torch.arange(M), []
        trace = embedded.new_zeros(M, embedded.shape[-1])
        if cache is not None:
            sums, position = cache
            before = sums[picture, position[:, 0] - 1]
            trace = torch.where(position[:, :1] > 0, before, trace)
        for t in range(T):
            trace = embedded[:, t] + FADING * trace
            x.append(trace)
            if cache is not None:
                sums[picture, position[:, t]] = trace
        return self.adaptor(torch.stack(x, dim=1))
