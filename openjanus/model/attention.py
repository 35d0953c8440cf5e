"""Attention, its mask, rotary positions and the KV cache.

One rule for every task: a position attends to positions of its own document that do not come after it. In training the
documents of a row are packed; in inference each row holds one document and padding. Both are the same comparison of
`document` numbers, so there is one mask.

RoPE pairs dimension i with i + K/2, as Llama in transformers does (arXiv 2104.09864; modeling_llama.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class KVCache:
    """Preallocated keys and values of all layers, [L, B, Hkv, S, K] each, and the document number of each slot [B,
    S]."""

    def __init__(self, num_layers: int, B: int, num_kv_heads: int, S: int, head_width: int, like: Tensor):
        shape = (num_layers, B, num_kv_heads, S, head_width)
        self.keys = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = torch.empty_like(self.keys)
        self.document = torch.full((B, S), -1, dtype=torch.int64, device=like.device)
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.document.shape[1]

    def extend(self, document: Tensor) -> Tensor:
        """Reserves the next T slots for `document` [B, T]; returns the documents of all slots so far [B, S']."""
        T = document.shape[1]
        if self.length + T > self.capacity:
            raise ValueError(f"KV cache is full: {self.length} + {T} positions, {self.capacity} reserved")
        self.document[:, self.length : self.length + T] = document
        self.length += T
        return self.document[:, : self.length]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v [B, Hkv, T, K] in the slots reserved last; returns all keys and values so far [B, Hkv, S', K]."""
        start = self.length - k.shape[2]
        self.keys[layer, :, :, start : self.length] = k
        self.values[layer, :, :, start : self.length] = v
        return self.keys[layer, :, :, : self.length], self.values[layer, :, :, : self.length]


def causal_document_mask(query_document: Tensor, key_document: Tensor) -> Tensor:
    """[B, T], [B, S] -> bool [B, 1, T, S]; the queries are the last T of the S slots. True where attention is allowed.

    Padding (-1) sees padding: a row of the softmax is never empty, and no real position sees it.
    """
    T, S = query_document.shape[1], key_document.shape[1]
    causal = torch.ones(T, S, dtype=torch.bool, device=query_document.device).tril(S - T)
    return (causal & (query_document[:, :, None] == key_document[:, None, :]))[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [B, H, T, K], k and v [B, Hkv, S, K], mask bool [B, 1, T, S] or None (all see all) -> [B, H, T, K]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def attend_slowly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The oracle of `attend`: the textbook formula in float32, with repeated key heads."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ v.float()).to(q.dtype)


def rotary_table(position: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """position [B, T] -> cosine and sine [B, 1, T, K] in float32 (angles in bfloat16 would lose whole positions)."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32, device=position.device) / head_width
    angle = position[:, None, :, None].float() * theta**-exponent
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Applies rotary positions to x [B, H, T, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine.to(x.dtype) + torch.cat((-second, first), dim=-1) * sine.to(x.dtype)
