"""Muon: the update of a matrix is its momentum, made orthogonal (K. Jordan, 2024, kellerjordan.github.io/posts/muon).

    momentum ─► Newton-Schulz ─► U Vᵀ of momentum = U S Vᵀ ─► times the learning rate, subtracted from the matrix

All directions of a matrix learn at the same pace, also those whose gradients are small. It suits the matrices of a
body's layers. Embeddings, heads, norms and biases stay with AdamW.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# Five steps of this polynomial bring every singular value between about 0.7 and 1.2 (the source above).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_STEPS = 5
MOMENTUM = 0.95


def orthogonalise(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Matrices [M, R, C] -> about the nearest ones with orthonormal rows or columns; computed in `dtype`."""
    tall = x.shape[1] > x.shape[2]
    y = (x.mT if tall else x).to(dtype)
    y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_STEPS):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return (y.mT if tall else y).to(x.dtype)


class Muon(torch.optim.AdamW):
    """AdamW in which the groups with `muon=True` are updated by Muon. These hold matrices only.

    dtype: of Newton-Schulz. Matrices of one shape are computed together.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], dtype: torch.dtype = torch.float32, **settings: Any):
        super().__init__([{"muon": False, **group} for group in groups], **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if group["muon"] and p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, matrices in by_shape.items():
                self._update(matrices, group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5, group["weight_decay"])
        super().step()

    def _update(self, matrices: list[Tensor], lr: float, weight_decay: float) -> None:
        wanted = []
        for p in matrices:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            assert p.grad is not None
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            wanted.append(p.grad.lerp(momentum, MOMENTUM))  # Nesterov's
            p.grad = None  # so that AdamW leaves the matrix alone
        for p, update in zip(matrices, orthogonalise(torch.stack(wanted), self.dtype), strict=True):
            p.mul_(1 - lr * weight_decay).sub_(update, alpha=lr)
