"""Attention, its mask, rotary positions and the KV cache.

One rule for every task: a position attends to positions of its own document that do not come after it. In training the
documents of a row are packed, and the mask compares `document` numbers. Each row of a cache remembers one document from
its beginning, and the mask compares positions.

RoPE pairs dimension i with i + K/2, as Llama in transformers does (arXiv 2104.09864; modeling_llama.py).
"""

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from openjanus.model.rope_scaling import RopeScaling

QUERY_BLOCK = 128  # queries whose scores are computed together, see _attend_in_products
Mask = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor]  # bool, see `attend`; or an attention that knows its mask
ROTARY_BLOCK = 64  # positions whose rotary values are computed together: in tensors of one size, see KVCache.rotary


class KVCache:
    """Preallocated keys and values of all layers, [L, R, Hkv, S, K] each: R rows, a document of up to S positions each.

    It does not know how much of a row is filled: who writes position p has written all before it.
    """

    def __init__(
        self,
        num_layers: int,
        R: int,
        num_kv_heads: int,
        S: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        shape = (num_layers, R, num_kv_heads, S, head_width)
        # zeros: what is masked is multiplied by zero, and must be finite for that
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self._rotary: tuple[Tensor, Tensor] | None = None

    @property
    def num_rows(self) -> int:
        return self.keys.shape[1]

    @property
    def num_positions(self) -> int:
        return self.keys.shape[3]

    @property
    def num_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes row `target` remember the first `length` positions of row `source`."""
        for part in (self.keys, self.values):
            part[:, target, :, :length] = part[:, source, :, :length]

    def rows(self, start: int, stop: int, position: Tensor, reach: int) -> "CacheRows":
        """The rows from `start` to `stop`, about to be continued at `position` [B, T].

        `reach` is 1 + the largest position: the caller knows it without asking the device.
        """
        if reach > self.num_positions:
            raise ValueError(f"KV cache is full: {reach} positions wanted, {self.num_positions} reserved")
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"KV cache has {self.num_rows} rows: it has none from {start} to {stop}")
        return CacheRows(self, start, stop, position, reach)

    def rotary(self, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, Tensor]:
        """Cosine and sine [S, K] of all positions, computed once. A position's values do not depend on S."""
        if self._rotary is None:
            S, K, device = self.num_positions, self.keys.shape[-1], self.keys.device
            position = torch.arange(-(-S // ROTARY_BLOCK) * ROTARY_BLOCK, device=device).view(-1, 1, ROTARY_BLOCK)
            blocks = [rotary_table(block, K, theta, scaling) for block in position]
            cosine, sine = (torch.cat(parts, dim=2)[0, 0, :S] for parts in zip(*blocks, strict=True))
            self._rotary = cosine, sine
        return self._rotary


class CacheRows:
    """Some neighbouring rows of a cache during one forward pass."""

    def __init__(self, cache: KVCache, start: int, stop: int, position: Tensor, reach: int):
        self.cache, self.start = cache, start
        self.keys, self.values = cache.keys[:, start:stop], cache.values[:, start:stop]
        self.row = torch.arange(stop - start, device=position.device)[:, None]
        self.position, self.reach = position, reach

    @cached_property
    def mask(self) -> Tensor:  # bool [B, 1, T, S]
        slot = torch.arange(self.reach, device=self.position.device)
        return (slot <= self.position[:, :, None])[:, None]

    def rotary(self, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B, 1, T, K] of the new positions."""
        cosine, sine = self.cache.rotary(theta, scaling)
        return cosine[self.position][:, None], sine[self.position][:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Remembers k and v [B, Hkv, T, K], and lets q [B, H, T, K] see all up to its own position. -> [B, H, T, K]"""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.row, :, self.position] = k.transpose(1, 2).to(keys.dtype)
        values[self.row, :, self.position] = v.transpose(1, 2).to(values.dtype)
        keys, values = (part[:, :, : self.reach].to(q.dtype) for part in (keys, values))
        if q.device.type == "cpu":  # libraries may compute otherwise by how a tensor lies in memory
            keys, values = keys.contiguous(), values.contiguous()
        return attend(q, keys, values, self.mask)


def causal_document_mask(document: Tensor) -> Tensor:
    """[B, T] -> bool [B, 1, T, T]: True if a query (third dimension) may attend to a key (last dimension).

    Padding (-1) sees padding: a row of the softmax is never empty, and no real position sees it.
    """
    T = document.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=document.device).tril()
    return (causal & (document[:, :, None] == document[:, None, :]))[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """q [B, H, T, K], k and v [B, Hkv, S, K], mask bool [B, 1, T, S] or None (all see all) -> [B, H, T, K]."""
    if not isinstance(mask, Tensor | None):
        return mask(q, k, v)
    if torch.is_autocast_enabled("cpu") and q.device.type == "cpu" and q.shape[1] == k.shape[1]:
        return _attend_in_products(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _attend_in_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` for training in bfloat16 on a CPU, where torch's fused kernel goes back three times slower than this.

    A mask of as many keys as queries is causal, so a block of queries needs no keys after its own.
    """
    dtype, T = torch.get_autocast_dtype("cpu"), q.shape[2]
    q, k, v = (q * q.shape[-1] ** -0.5).to(dtype), k.to(dtype), v.to(dtype)
    bias = None if mask is None else torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
    is_causal = mask is not None and k.shape[2] == T
    block = QUERY_BLOCK if is_causal else T
    blocks = []
    with torch.autocast("cpu", enabled=False):
        for start in range(0, T, block):
            stop = min(start + block, T)
            seen = stop if is_causal else k.shape[2]
            scores = q[:, :, start:stop] @ k[:, :, :seen].transpose(-1, -2)
            if bias is not None:
                scores += bias[:, :, start:stop, :seen]
            blocks.append(torch.softmax(scores, dim=-1) @ v[:, :, :seen])
    return torch.cat(blocks, dim=2)


def attend_slowly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The oracle of `attend`: the textbook formula in float32, with repeated key heads."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ v.float()).to(q.dtype)


def rotary_table(
    position: Tensor, head_width: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """position [B, T] -> cosine and sine [B, 1, T, K] in float32 (angles in bfloat16 would lose whole positions)."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32, device=position.device) / head_width
    frequency = theta**-exponent
    angle = position[:, None, :, None].float() * (frequency if scaling is None else scaling(frequency))
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Applies rotary positions to x [B, H, T, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine.to(x.dtype) + torch.cat((-second, first), dim=-1) * sine.to(x.dtype)
