"""All layers of the body at once, for the few new positions of a decode step (csrc/body.h).

Python and small operations between the products, which read the weights at the speed of memory, took a fifth of a
step in 4 bits at the shape of Janus-1.3B (LOG.md). The oracle is the loop over layers in model/language_model.py.
"""

import torch
from torch import Tensor, nn

from openjanus.inference import kernels
from openjanus.inference.graphs import CudaRecorder, GraphedLayers
from openjanus.inference.quantisation import LINEAR, BFloat16Linear, Int4Linear, Int8Linear, PackedLinear, StoredLinear
from openjanus.model.attention import CacheRows
from openjanus.model.janus import Janus
from openjanus.model.language_model import Decode, LanguageModel, Layer, RMSNorm
from openjanus.runtime import Runtime

FORMS: dict[type[nn.Module], str] = {BFloat16Linear: "bfloat16", Int8Linear: "int8", Int4Linear: "int4"}
NOTHING = torch.empty(0)


def decode_at_once(model: LanguageModel) -> Decode | None:
    """What a decode step of these weights runs instead of its layers; None where the kernel does not fit them: then the
    layers run."""
    c = model.config
    linears = [linear for layer in model.layers for linear in _linears(layer)]
    forms = set(map(type, linears))
    group = c.num_heads // c.num_kv_heads * c.head_width
    if len(forms) != 1 or not forms <= set(FORMS) or c.head_width % 16 or group % 32 or not kernels.available():
        return None
    stored = [linear for linear in linears if isinstance(linear, StoredLinear)]
    operation = getattr(torch.ops.openjanus, f"decode_{FORMS[forms.pop()]}").default
    norms = [weight for layer in model.layers for weight in _norms(layer)]
    matrices = [linear.weight for linear in stored]
    scales = [linear.scale for linear in stored if isinstance(linear, PackedLinear)]
    biases = [NOTHING if linear.bias is None else linear.bias for linear in stored]

    def decode(x: Tensor, cosine: Tensor, sine: Tensor, rows: CacheRows) -> Tensor:
        weights = (norms, matrices, scales, biases)
        return operation(x, cosine, sine, rows.position.contiguous(), rows.keys, rows.values, *weights, c.rms_eps)

    return decode


def prepare(model: Janus, runtime: Runtime) -> Janus:
    """Chooses how a loaded model decodes. On CUDA: by graphs (graphs.py). On the CPU, where its weights are stored in a
    form of ours: with caches in bfloat16, and all layers at once."""
    if runtime.device.type == "cuda":
        model.language_model.decode = GraphedLayers(model.language_model, CudaRecorder)
    elif runtime.device.type == "cpu" and runtime.weights in LINEAR:
        model.language_model.cache_dtype = torch.bfloat16
        model.language_model.decode = decode_at_once(model.language_model)
    return model


def _linears(layer: nn.Module) -> list[nn.Module]:
    assert isinstance(layer, Layer)
    a, f = layer.attention, layer.ffn
    return [a.q, a.k, a.v, a.out, f.gate, f.up, f.down]


def _norms(layer: nn.Module) -> list[Tensor]:
    assert isinstance(layer, Layer)
    norms = (layer.attention_norm, layer.ffn_norm, layer.attention.q_norm, layer.attention.k_norm)
    return [norm.weight if isinstance(norm, RMSNorm) else NOTHING for norm in norms]
