"""Rotary positions of a body whose context was extended after its first training.

A scaling lowers the frequencies of the rotary positions, so that a long context stays within the angles that the body
has learned. Source: transformers, modeling_rope_utils.py (`linear`, `llama3`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.config import Config, ConfigError, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class LinearRope(Config):
    """All frequencies are divided by `factor` (arXiv 2306.15595)."""

    factor: PositiveFloat = 1.0

    def __call__(self, frequency: Tensor) -> Tensor:  # [K / 2], in radians a position
        return frequency / self.factor


@dataclass(frozen=True)
class Llama3Rope(Config):
    """Long waves are stretched by `factor`, short ones stay, and those between are blended (Llama 3.1).

    A wave counts by how often it turns within `original_positions`, the context of the first training: up to
    `low_frequency_factor` times is long, from `high_frequency_factor` times on is short.
    """

    factor: PositiveFloat = 8.0
    low_frequency_factor: PositiveFloat = 1.0
    high_frequency_factor: PositiveFloat = 4.0
    original_positions: PositiveInt = 8192

    def check(self) -> None:
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ConfigError(
                f"high_frequency_factor is {self.high_frequency_factor}, expected more than low_frequency_factor "
                f"{self.low_frequency_factor}"
            )

    def __call__(self, frequency: Tensor) -> Tensor:  # [K / 2], in radians a position
        turns = self.original_positions * frequency / (2 * math.pi)
        kept = (turns - self.low_frequency_factor) / (self.high_frequency_factor - self.low_frequency_factor)
        return torch.lerp(frequency / self.factor, frequency, kept.clamp(0, 1))


RopeScaling = LinearRope | Llama3Rope
