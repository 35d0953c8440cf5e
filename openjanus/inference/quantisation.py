"""How the matrices of a model are stored for inference: `--weights float32 | bfloat16 | float16 | int8 | int4`.

A decode step reads every weight once and computes little with it, so its time is the size of the weights over the
memory's bandwidth. On the CPU, activations are float32 whatever the weights are: they are few, and it costs nothing.

    bfloat16   2 bytes a weight, exact for the official checkpoints
    int8       1 byte: a scale for each output channel
    int4       4.5 bits: a bfloat16 scale for each 32 inputs of an output channel, chosen for the least squared error

int8 and int4 hold the body, the adaptors and the heads; embeddings and eyes stay in 16 bits. Their kernels also round
activations to 8 bits, with a scale for each 32 inputs. `dequantised` gives every matrix back: it is the oracle,
and what runs where no kernel does. docs/speed.md measures what each costs in quality.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.inference import kernels
from openjanus.runtime import Runtime
from openjanus.weights.checkpoint import Place, place_as

GROUP = 32  # inputs that share a scale; csrc/kernels.cpp
CHANNELS = 16  # output channels that are stored together
PACK_CHANNELS = 256  # output channels that are packed at a time: what is computed of them stays in the cache
MAX_ROWS_BFLOAT16 = 16  # beyond, one large float32 or bfloat16 product is faster than the kernel


class StoredLinear(nn.Module):
    """A linear layer whose matrix [O, K] is stored in another form. float32 in, float32 out, on the CPU; on other
    devices in the dtype of its input."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:  # [..., K] -> [..., O]
        return self.several((self,), x)[0]

    @classmethod
    def several(cls, linears: "Sequence[StoredLinear]", x: Tensor) -> list[Tensor]:
        """What layers of this class make of one x [..., K]: [..., O] each."""
        rows = x.reshape(-1, linears[0].in_features)
        if rows.device.type == "cpu" and kernels.available():
            products = cls.products(linears, rows.contiguous())
        else:
            products = [linear.plainly(rows) for linear in linears]
        pairs = zip(products, linears, strict=True)
        biased = [y if linear.bias is None else y + linear.bias for y, linear in pairs]
        return [y.view(*x.shape[:-1], y.shape[-1]) for y in biased]

    def plainly(self, rows: Tensor) -> Tensor:
        """rows [M, K] -> [M, O], by the matrix that the stored form stands for."""
        return F.linear(rows, self.dequantised().to(rows.dtype))

    @staticmethod
    def products(linears: "Sequence[StoredLinear]", rows: Tensor) -> list[Tensor]:
        """rows float32 [M, K] -> [M, O] for each layer, by a kernel."""
        raise NotImplementedError

    def dequantised(self) -> Tensor:
        """The matrix [O, K] that the stored form stands for, in float32."""
        raise NotImplementedError


class BFloat16Linear(StoredLinear):
    """weight: bfloat16 [O, K]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__(weight, bias)
        self.register_buffer("weight", weight.to(torch.bfloat16).contiguous())

    @staticmethod
    def products(linears: Sequence[StoredLinear], rows: Tensor) -> list[Tensor]:
        if len(rows) <= MAX_ROWS_BFLOAT16:
            return torch.ops.openjanus.linear_bfloat16(rows, [linear.weight for linear in linears])
        dtype = fast_dtype()
        fast = rows.to(dtype)
        return [F.linear(fast, linear.weight.to(dtype)).float() for linear in linears]

    def dequantised(self) -> Tensor:
        return self.weight.float()


class PackedLinear(StoredLinear):
    """Whole numbers and their scales, in the layout of the kernels."""

    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__(weight, bias)
        stored = [self.pack(part) for part in weight.split(PACK_CHANNELS)]
        self.register_buffer("weight", torch.cat([packed for packed, _ in stored]))
        self.register_buffer("scale", torch.cat([scale for _, scale in stored]))

    @staticmethod
    def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Some output channels of a matrix, [channels, K] -> their part of `weight` and of `scale`."""
        raise NotImplementedError


class Int8Linear(PackedLinear):
    """weight: uint8 [O/16, K/4, 16, 4], weights + 128; scale: float32 [O], the largest weight of a channel over 127."""

    @staticmethod
    def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        whole = ((weight / scale[:, None]).round_() + 128).to(torch.uint8)
        return whole.unflatten(0, (-1, CHANNELS)).unflatten(2, (-1, 4)).transpose(1, 2).contiguous(), scale

    @staticmethod
    def products(linears: Sequence[StoredLinear], rows: Tensor) -> list[Tensor]:
        return torch.ops.openjanus.linear_int8(rows, *_weights_and_scales(linears))

    def dequantised(self) -> Tensor:
        whole = self.weight.permute(0, 2, 1, 3).reshape(self.out_features, self.in_features)
        return (whole.float() - 128) * self.scale[:, None]


class Int4Linear(PackedLinear):
    """weight: uint8 [O/16, K/32, 4, 16, 4], two weights + 8 a byte; scale: bfloat16 [O/16, K/32, 16]."""

    @staticmethod
    def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
        groups = weight.float().unflatten(1, (-1, GROUP)).unflatten(0, (-1, CHANNELS))  # [O/16, 16, K/32, 32]
        whole, scale = _nearest_int4(groups)
        low, high = (whole + 8).to(torch.uint8).unflatten(3, (2, 4, 4)).unbind(3)
        return (low | high << 4).permute(0, 2, 3, 1, 4).contiguous(), scale[..., 0].transpose(1, 2).contiguous()

    @staticmethod
    def products(linears: Sequence[StoredLinear], rows: Tensor) -> list[Tensor]:
        return torch.ops.openjanus.linear_int4(rows, *_weights_and_scales(linears))

    def dequantised(self) -> Tensor:
        packed = self.weight.permute(0, 3, 1, 2, 4)  # [O/16, 16, K/32, 4, 4]
        whole = torch.stack((packed & 15, packed >> 4), dim=3).float() - 8
        scale = self.scale.float().transpose(1, 2)[..., None, None, None]
        return (whole * scale).reshape(self.out_features, self.in_features)


def _weights_and_scales(linears: Sequence[StoredLinear]) -> tuple[list[Tensor], list[Tensor]]:
    return [linear.weight for linear in linears], [linear.get_buffer("scale") for linear in linears]


def _nearest_int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """[..., GROUP] -> whole numbers -8..7 and bfloat16 scales [..., 1] of the least squared error.

    The weight of largest size becomes -8 or, with a smaller scale, is cut off a little: several are tried.
    """
    largest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    best_error = torch.full_like(largest, float("inf"))
    best_scale = torch.ones_like(largest)
    for bound in (-8.0, -8.7, -9.5, -7.3):
        scale = (largest / bound).to(torch.bfloat16).float()
        scale = torch.where(scale == 0, 1.0, scale)
        error = ((groups / scale).round_().clamp_(-8, 7) * scale - groups).square_().sum(dim=-1, keepdim=True)
        better = error < best_error
        best_error, best_scale = torch.where(better, error, best_error), torch.where(better, scale, best_scale)
    return (groups / best_scale).round_().clamp_(-8, 7), best_scale.to(torch.bfloat16)


class BFloat16Embedding(nn.Module):
    """A table of embeddings in bfloat16, looked up in float32."""

    weight: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.to(torch.bfloat16))

    def forward(self, ids: Tensor) -> Tensor:  # [...] -> [..., D]
        return F.embedding(ids, self.weight).float()


def fast_dtype() -> torch.dtype:
    """In which large products are fast on this CPU: bfloat16 where it has instructions for it."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(check() for check in checks if check is not None) else torch.float32


LINEAR = {"bfloat16": BFloat16Linear, "int8": Int8Linear, "int4": Int4Linear}


def placer(runtime: Runtime) -> Place:
    """How the weights of a checkpoint are stored as `runtime.weights` says."""
    if runtime.device.type == "cpu" and runtime.weights in LINEAR:
        return _place_on_cpu(LINEAR[runtime.weights])
    plain = place_as(runtime.device, runtime.dtype)
    if runtime.weights not in LINEAR or runtime.weights == "bfloat16":
        return plain
    linear = LINEAR[runtime.weights]

    def place(model: nn.Module, name: str, tensor: Tensor) -> None:
        if not _store_linear(model, name, tensor.to(runtime.device), linear, runtime.dtype):
            plain(model, name, tensor)

    return place


def _place_on_cpu(linear: type[StoredLinear]) -> Place:
    """Matrices in a form of ours, tables in bfloat16, everything else in float32. What computes much with its weights,
    the eyes, takes the dtype in which large products are fast here."""
    full = place_as(torch.device("cpu"), torch.float32)
    fast = place_as(torch.device("cpu"), fast_dtype())

    def place(model: nn.Module, name: str, tensor: Tensor) -> None:
        if name == "language_model.embedding.weight":
            model.set_submodule("language_model.embedding", BFloat16Embedding(tensor))
        elif name.startswith("generation.tokenizer."):
            fast(model, name, tensor)
        elif not _store_linear(model, name, tensor, linear, torch.float32):
            full(model, name, tensor)

    return place


def _store_linear(model: nn.Module, name: str, tensor: Tensor, linear: type[StoredLinear], dtype: torch.dtype) -> bool:
    """Puts a stored linear layer into the place of a plain one, if the tensor is its matrix and has a fitting shape.
    dtype: of its bias, which is added to products in the dtype of its input."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf == "bias" and isinstance(module, StoredLinear):
        module.bias = tensor.to(dtype)
        return True
    if path.startswith("understanding.encoder."):
        linear = BFloat16Linear
    if not isinstance(module, nn.Linear) or leaf != "weight" or tensor.shape[0] % CHANNELS or tensor.shape[1] % GROUP:
        return False
    bias = None if module.bias is None or module.bias.is_meta else module.bias
    model.set_submodule(path, linear(tensor, bias))
    return True
