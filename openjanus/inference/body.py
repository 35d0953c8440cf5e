"""`prepare` puts modules of inference around those of a loaded model, which know nothing of it (model/):

    DecodingModel                    runs `decode` instead of the loop over layers for the few new positions of a step,
                                     and chooses the dtype of caches
    JoinedAttention, JoinedSwiGLU    compute the linear layers that share an input in one call
    GELU                             computes each number by itself

They hold the same tensors under the same names. The plain modules are their oracle.

On a CPU `decode` is one call for all layers (csrc/body.h): Python and small operations between the products, which read
the weights at the speed of memory, took a fifth of a step in 4 bits at the shape of Janus-1.3B (LOG.md). With the
kernels, a row's hidden states and logits do not depend on the rows beside it, to the last bit.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.inference import kernels
from openjanus.inference.graphs import CudaRecorder, GraphedLayers, run_layers
from openjanus.inference.quantisation import GROUP, MAX_DECODE, FloatLinear, PackedLinear, StoredLinear, fits
from openjanus.model.attention import CacheRows, KVCache
from openjanus.model.janus import Janus
from openjanus.model.language_model import Attention, LanguageModel, Layer, RMSNorm, SwiGLU
from openjanus.runtime import Runtime

# x [B, T, D], cosine and sine [B, 1, T, K], the rows continued -> hidden [B, T, D]; the rows remember the new positions
Decode = Callable[[Tensor, Tensor, Tensor, CacheRows], Tensor]
NOTHING = torch.empty(0)


class DecodingModel(LanguageModel):
    """A language model that continues the rows of a cache by `decode`, if they get at most `MAX_DECODE` positions each.

    decode: None runs the layers as they are. cache_dtype: None is the dtype of the weights.
    """

    def __init__(self, plain: LanguageModel, decode: Decode | None, cache_dtype: torch.dtype | None = None):
        vars(self).update(vars(plain))  # the same parameters under the same names
        self.decode, self.cache_dtype = decode, cache_dtype

    def make_cache(self, R: int, S: int, dtype: torch.dtype | None = None) -> KVCache:
        return super().make_cache(R, S, dtype or self.cache_dtype)

    def forward(
        self, x: Tensor, position: Tensor, document: Tensor | None = None, cache: CacheRows | None = None
    ) -> Tensor:
        if self.decode is None or cache is None or x.shape[1] > MAX_DECODE:
            return super().forward(x, position, document, cache)
        c = self.config
        return self.decode(x, *cache.rotary(c.rope_theta, c.rope_scaling), cache)


class JoinedAttention(Attention):
    """Attention whose q, k and v are stored in one form: one call computes them all."""

    def __init__(self, plain: Attention):
        vars(self).update(vars(plain))

    def project(self, x: Tensor) -> Sequence[Tensor]:
        return _join((self.q, self.k, self.v), x)


class JoinedSwiGLU(SwiGLU):
    """A feed-forward layer whose gate and up are stored in one form: one call computes both."""

    def __init__(self, plain: SwiGLU):
        vars(self).update(vars(plain))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = _join((self.gate, self.up), x)
        return self.down(F.silu(gate) * up)


class GELU(nn.Module):
    """GELU of each number by itself: torch's depends on where in its tensor a number stands, in the last bits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.openjanus.gelu(x)


def prepare(model: Janus, runtime: Runtime) -> None:
    """Chooses how a loaded model decodes. On CUDA: by graphs (graphs.py). On the CPU: by the kernels, if they can be
    built, and with caches in bfloat16 unless the weights are float32."""
    plain = model.language_model
    decode: Decode | None = None
    cache_dtype: torch.dtype | None = None
    if runtime.device.type == "cuda":
        decode = GraphedLayers(plain, CudaRecorder)
    elif runtime.device.type == "cpu":
        if runtime.weights != "float32":
            cache_dtype = torch.bfloat16
        if kernels.available():
            join_linears(plain)
            decode = decode_at_once(plain) or decode_one_by_one(plain)
            precise = model.prefixes("precise")
            for name, module in list(model.named_modules()):
                drawing = name.startswith("generation.") and not name.startswith(precise)
                if drawing and isinstance(module, nn.GELU) and module.approximate == "none":
                    model.set_submodule(name, GELU())
    model.language_model = DecodingModel(plain, decode, cache_dtype)


def join_linears(model: LanguageModel) -> None:
    """Joins the linear layers that share an input, if they are stored in one form."""
    for layer in cast("Sequence[Layer]", model.layers):
        attention, ffn = layer.attention, layer.ffn
        if _joinable(attention.q, attention.k, attention.v):
            layer.attention = JoinedAttention(attention)
        if _joinable(ffn.gate, ffn.up):
            layer.ffn = JoinedSwiGLU(ffn)


def decode_at_once(model: LanguageModel) -> Decode | None:
    """What a decode step of these weights runs instead of its layers; None if the kernel does not fit them."""
    c = model.config
    linears = [linear for layer in model.layers for linear in _linears(layer)]
    stored = [linear for linear in linears if isinstance(linear, (FloatLinear, PackedLinear)) and fits(linear)]
    forms = {linear.form for linear in stored}
    if len(stored) < len(linears) or len(forms) != 1 or c.head_width % 16 or not kernels.available():
        return None
    scales = [linear.scale for linear in stored if isinstance(linear, PackedLinear)]
    if scales and c.num_heads // c.num_kv_heads * c.head_width % GROUP:
        return None
    operation = getattr(torch.ops.openjanus, f"decode_{forms.pop()}").default
    norms = [weight for layer in model.layers for weight in _norms(layer)] + [model.norm.weight]
    matrices = [linear.weight for linear in stored]
    biases = [NOTHING if linear.bias is None else linear.bias for linear in stored]

    def decode(x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
        weights = (norms, matrices, scales, biases)
        return operation(x, cosine, sine, rows.position.contiguous(), rows.keys, rows.values, *weights, c.rms_eps)

    return decode


def decode_one_by_one(model: LanguageModel) -> Decode:
    """The layers for one position of one row after the other, each in a call of the same shape: for bodies that the
    kernel does not fit. Slow with many rows, but no row depends on another."""

    def decode(x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
        hidden = torch.empty_like(x)
        B, T, _ = x.shape
        for b in range(B):
            for t in range(T):
                here, position = (slice(b, b + 1), slice(t, t + 1)), rows.position[b : b + 1, t : t + 1]
                row = rows.cache.rows(rows.start + b, rows.start + b + 1, position, int(position) + 1)
                table = cosine[b : b + 1, :, t : t + 1], sine[b : b + 1, :, t : t + 1]
                hidden[here] = run_layers(model, x[here], *table, row)
        return hidden

    return decode


def _joinable(*linears: nn.Module) -> bool:
    return isinstance(linears[0], StoredLinear) and len(set(map(type, linears))) == 1


def _join(linears: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    stored = cast("Sequence[StoredLinear]", linears)
    return stored[0].several(stored, x)


def _linears(layer: nn.Module) -> list[nn.Module]:
    assert isinstance(layer, Layer)
    a, f = layer.attention, layer.ffn
    return [a.q, a.k, a.v, a.out, f.gate, f.up, f.down]


def _norms(layer: nn.Module) -> list[Tensor]:
    assert isinstance(layer, Layer)
    norms = (layer.attention_norm, layer.ffn_norm, layer.attention.q_norm, layer.attention.k_norm)
    return [norm.weight if isinstance(norm, RMSNorm) else NOTHING for norm in norms]
