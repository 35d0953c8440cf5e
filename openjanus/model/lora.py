"""LoRA: a linear layer learns a small difference, and its matrix stays as it is (arXiv 2106.09685).

    y = x Wᵀ + (alpha / rank) (x Aᵀ) Bᵀ        A [rank, in], B [out, rank]; B begins with zeros

The matrix may also be a stored one, of fewer bits (QLoRA, arXiv 2305.14314).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRA(nn.Module):
    """What both kinds of adapted layers have."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scale: float

    def add_adapter(self, num_inputs: int, num_outputs: int, rank: int, alpha: float, device: torch.device) -> None:
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, num_inputs, device=device))
        self.lora_b = nn.Parameter(torch.zeros(num_outputs, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as PEFT does

    def difference(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale


class LoRALinear(LoRA, nn.Linear):
    """A linear layer with an adapter. Names and values of its own parameters stay those of `base`."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        with torch.device("meta"):
            nn.Linear.__init__(self, base.in_features, base.out_features, base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        self.add_adapter(base.in_features, base.out_features, rank, alpha, base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return nn.Linear.forward(self, x) + self.difference(x)

    def merged(self) -> Tensor:
        """The matrix with its difference."""
        return merge(self.weight.detach(), self.lora_a.detach(), self.lora_b.detach(), self.scale)


class LoRAStored(LoRA):
    """An adapter beside a frozen layer that is stored in another form. `base.dequantised()`: its matrix [out, in]."""

    def __init__(self, base: Any, rank: int, alpha: float):
        super().__init__()
        self.base = base
        self.add_adapter(base.in_features, base.out_features, rank, alpha, base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return _Frozen.apply(x, self.base) + self.difference(x)


class _Frozen(torch.autograd.Function):
    """A stored layer, which computes as it does elsewhere; on the way back its matrix is made for a moment."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Any) -> Tensor:
        ctx.base = base
        return base(x.float() if x.device.type == "cpu" else x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.base.dequantised().to(gradient.dtype), None


def merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """weight [out, in], a [rank, in], b [out, rank] -> weight + scale * b a, computed in float32."""
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
