"""The causal body: a Llama-family transformer, embeddings in, hidden states out.

    x = x + attention(norm(x));  x = x + SwiGLU(norm(x));  hidden = norm(x)

RMSNorm, rotary positions, grouped-query attention, SwiGLU; optionally query/key norm (Qwen3), biases on q, k, v
(Qwen2), scaled rotary positions (Llama 3) and a text head tied to the embedding. Janus-1.3B uses
DeepSeek-LLM-1.3B-base, a plain Llama (arXiv 2410.13848 §3.1; arXiv 2401.02954). Names and order of operations follow
transformers' modeling_llama.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import Config, ConfigError, PositiveFloat, PositiveInt
from openjanus.model.attention import (
    CacheRows,
    KVCache,
    Mask,
    attend,
    causal_document_mask,
    rotary_table,
    rotate,
)
from openjanus.model.rope_scaling import RopeScaling


@dataclass(frozen=True)
class LanguageModelConfig(Config):
    vocab_size: PositiveInt = 102400
    width: PositiveInt = 2048
    num_layers: PositiveInt = 24
    num_heads: PositiveInt = 16
    num_kv_heads: PositiveInt = 16
    head_width: PositiveInt = 128
    ffn_width: PositiveInt = 5632
    rms_eps: PositiveFloat = 1e-6
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: RopeScaling | None = None
    max_positions: PositiveInt = 16384
    qk_norm: bool = False
    qkv_bias: bool = False
    tie_text_head: bool = False

    def check(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads is {self.num_heads}, expected a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_width % 2:
            raise ConfigError(f"head_width is {self.head_width}, expected an even number: rotary positions turn pairs")


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32 whatever the dtype, as Llama does (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return self.weight * F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c: LanguageModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_width = layer, c.head_width
        self.q = nn.Linear(c.width, c.num_heads * c.head_width, bias=c.qkv_bias)
        self.k = nn.Linear(c.width, c.num_kv_heads * c.head_width, bias=c.qkv_bias)
        self.v = nn.Linear(c.width, c.num_kv_heads * c.head_width, bias=c.qkv_bias)
        self.out = nn.Linear(c.num_heads * c.head_width, c.width, bias=False)
        self.q_norm = RMSNorm(c.head_width, c.rms_eps) if c.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(c.head_width, c.rms_eps) if c.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Mask | None, cache: CacheRows | None
    ) -> Tensor:  # [B, T, D]
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, -1, self.head_width).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rotate(self.q_norm(q), cosine, sine), rotate(self.k_norm(k), cosine, sine)
        y = attend(q, k, v, mask) if cache is None else cache.attend(self.layer, q, k, v)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, c: LanguageModelConfig):
        super().__init__()
        self.gate = nn.Linear(c.width, c.ffn_width, bias=False)
        self.up = nn.Linear(c.width, c.ffn_width, bias=False)
        self.down = nn.Linear(c.ffn_width, c.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, c: LanguageModelConfig, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(c.width, c.rms_eps)
        self.attention = Attention(c, layer)
        self.ffn_norm = RMSNorm(c.width, c.rms_eps)
        self.ffn = SwiGLU(c)

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Mask | None, cache: CacheRows | None
    ) -> Tensor:  # [B, T, D]
        x = x + self.attention(_for_products(self.attention_norm(x)), cosine, sine, mask, cache)
        return x + self.ffn(_for_products(self.ffn_norm(x)))


def _for_products(x: Tensor) -> Tensor:
    """Under autocast, x in the dtype of products: else each of the products that take x would convert it."""
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return x.to(torch.get_autocast_dtype(device)) if is_on else x


class LanguageModel(nn.Module):
    """Embeddings [B, T, D] -> hidden states [B, T, D]; `embedding` and `text_head` stand at its two ends.

    mask_of(document [B, T]): what `attend` takes as a mask.
    """

    def __init__(self, c: LanguageModelConfig):
        super().__init__()
        self.config = c
        self.mask_of: Callable[[Tensor], Mask] = causal_document_mask
        self.embedding = nn.Embedding(c.vocab_size, c.width)
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c.num_layers))
        self.norm = RMSNorm(c.width, c.rms_eps)
        self.text_head = nn.Linear(c.width, c.vocab_size, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Normal(0, 0.02); projections into the residual stream divided by sqrt(2 L) (GPT-2), so that depth adds no
        variance."""
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * self.config.num_layers) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        if self.config.tie_text_head:
            self.text_head.weight = self.embedding.weight

    def make_cache(self, R: int, S: int, dtype: torch.dtype | None = None) -> KVCache:
        """A cache for R rows of at most S positions, on the device of the weights; in their dtype if none is given."""
        c, weight = self.config, self.norm.weight
        return KVCache(c.num_layers, R, c.num_kv_heads, S, c.head_width, dtype or weight.dtype, weight.device)

    def forward(
        self, x: Tensor, position: Tensor, document: Tensor | None = None, cache: CacheRows | None = None
    ) -> Tensor:
        """x [B, T, D], position [B, T] -> hidden [B, T, D].

        Without a cache, attention stays inside each `document` [B, T] of the rows; with one, x continues its rows.
        """
        mask: Mask | None = None
        c = self.config
        if cache is None:
            assert document is not None
            mask = self.mask_of(document)
            cosine, sine = rotary_table(position, c.head_width, c.rope_theta, c.rope_scaling)
        else:
            cosine, sine = cache.rotary(c.rope_theta, c.rope_scaling)
        for layer in self.layers:
            x = layer(x, cosine, sine, mask, cache)
        return self.norm(x)
