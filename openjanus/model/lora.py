"""LoRA: a linear layer learns a small difference, and its matrix stays as it is (arXiv 2106.09685).

y = x Wᵀ + (alpha / rank) (x Aᵀ) Bᵀ        A [rank, in], B [out, rank]; B begins with zeros
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer with an adapter. Names and values of its own parameters stay those of `base`."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        with torch.device("meta"):
            super().__init__(base.in_features, base.out_features, base.bias is not None)
        self.weight, self.scale = base.weight, alpha / rank
        if base.bias is not None:
            self.bias = base.bias
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as PEFT does

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale

    def merged(self) -> Tensor:
        """The matrix with its difference."""
        return merge(self.weight.detach(), self.lora_a.detach(), self.lora_b.detach(), self.scale)


def merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """weight [out, in], a [rank, in], b [out, rank] -> weight + scale * b a, computed in float32."""
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
