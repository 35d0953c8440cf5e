"""How the matrices of a model are stored for inference: `--weights float32 | bfloat16 | float16 | int8 | int4`.

A decode step reads every weight once and computes little with it, so its time is the size of the weights over the
memory's bandwidth. On the CPU, activations are float32 whatever the weights are: they are few, and it costs nothing.

    float32    4 bytes a weight
    float16    2 bytes
    bfloat16   2 bytes, exact for the official checkpoints
    int8       1 byte: a scale for each output channel
    int4       4.5 bits: a bfloat16 scale for each 32 inputs of an output channel, chosen for the least squared error

int8 and int4 hold the body, the adaptors and the heads; embeddings and eyes stay in 16 bits. Their kernels also round
activations to 8 bits, with a scale for each 32 inputs. `dequantised` gives every matrix back: it is the oracle,
and what runs where no kernel does. docs/speed.md measures what each costs in quality.

With the kernels, what a row gets does not depend on the rows beside it, to the last bit: libraries choose the order of
a sum by the number of rows, so their products serve only rows of one sequence, whose number the sequence decides.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.inference import kernels
from openjanus.model.janus import Janus
from openjanus.runtime import Runtime
from openjanus.weights.checkpoint import Place, place_as
from openjanus.weights.tensors import to_dtype

GROUP = 32  # inputs that share a scale; csrc/kernels.cpp
CHANNELS = 16  # output channels that are stored together
PACK_CHANNELS = 256  # output channels that are packed at a time: what is computed of them stays in the cache
# New positions of each row that a decode step computes at most. With more, a library's large products are faster. The
# number of rows never decides: a row would then depend on its company.
MAX_DECODE = 32


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
        """Computes layers of this class that share an input in one call: x [..., T, K] -> [..., T, O] for each; x [K]
        and [R, K] stand for T = 1."""
        rows = x.reshape(-1, linears[0].in_features)
        if rows.device.type == "cpu" and kernels.available():
            is_long = x.dim() > 2 and x.shape[-2] > MAX_DECODE
            products = cls.products(linears, rows.contiguous(), is_long)
        else:
            products = [linear.plainly(rows) for linear in linears]
        pairs = zip(products, linears, strict=True)
        biased = [y if linear.bias is None else y + linear.bias for y, linear in pairs]
        return [y.reshape(*x.shape[:-1], y.shape[-1]) for y in biased]

    def plainly(self, rows: Tensor) -> Tensor:
        """rows [M, K] -> [M, O], by the matrix that the stored form stands for."""
        return F.linear(rows, self.dequantised().to(rows.dtype))

    @classmethod
    def products(cls, linears: "Sequence[StoredLinear]", rows: Tensor, is_long: bool) -> list[Tensor]:
        """rows float32 [M, K] -> [M, O] for each layer, by a kernel. is_long: whether they belong to sequences of more
        than `MAX_DECODE` positions: then another way may be faster."""
        raise NotImplementedError

    def dequantised(self) -> Tensor:
        """The matrix [O, K] that the stored form stands for, in float32."""
        raise NotImplementedError


class FloatLinear(StoredLinear):
    """weight: [O, K] of `dtype`, filled up with zeros to whole blocks and groups."""

    form: str
    dtype: torch.dtype

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__(weight, bias)
        stored = weight.detach().to(self.dtype)
        missing = (0, -self.in_features % GROUP, 0, -self.out_features % CHANNELS)
        self.register_buffer("weight", (F.pad(stored, missing) if any(missing) else stored).contiguous())

    @classmethod
    def products(cls, linears: Sequence[StoredLinear], rows: Tensor, is_long: bool) -> list[Tensor]:
        if is_long:
            dtype = cls.long_dtype()
            fast = rows.to(dtype)
            return [F.linear(fast, linear.matrix().to(dtype)).float() for linear in linears]  # type: ignore[operator]
        if missing := -linears[0].in_features % GROUP:
            rows = F.pad(rows, (0, missing))
        product = getattr(torch.ops.openjanus, f"linear_{cls.form}")
        outputs = product(rows, [linear.weight for linear in linears])
        return [y[:, : linear.out_features] for y, linear in zip(outputs, linears, strict=True)]

    @classmethod
    def long_dtype(cls) -> torch.dtype:
        """In which long sequences are computed."""
        return torch.float32

    def matrix(self) -> Tensor:
        """[O, K] as it is stored."""
        return self.weight[: self.out_features, : self.in_features]

    def dequantised(self) -> Tensor:
        return self.matrix().float()


class Float32Linear(FloatLinear):
    form, dtype = "float32", torch.float32


class Float16Linear(FloatLinear):
    form, dtype = "float16", torch.float16


class BFloat16Linear(FloatLinear):
    form, dtype = "bfloat16", torch.bfloat16

    @classmethod
    def long_dtype(cls) -> torch.dtype:
        return fast_dtype()


class PackedLinear(StoredLinear):
    """Whole numbers and their scales, in the layout of the kernels."""

    form: str
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__(weight, bias)
        stored = [self.pack(part) for part in weight.split(PACK_CHANNELS)]
        self.register_buffer("weight", torch.cat([packed for packed, _ in stored]))
        self.register_buffer("scale", torch.cat([scale for _, scale in stored]))

    @classmethod
    def products(cls, linears: Sequence[StoredLinear], rows: Tensor, is_long: bool) -> list[Tensor]:
        weights, scales = [linear.weight for linear in linears], [linear.get_buffer("scale") for linear in linears]
        return getattr(torch.ops.openjanus, f"linear_{cls.form}")(rows, weights, scales)

    @staticmethod
    def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Some output channels of a matrix, [channels, K] -> their part of `weight` and of `scale`."""
        raise NotImplementedError


class Int8Linear(PackedLinear):
    """weight: uint8 [O/16, K/4, 16, 4], weights + 128; scale: float32 [O], the largest weight of a channel over 127."""

    form = "int8"

    @staticmethod
    def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
        weight = weight.float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        whole = ((weight / scale[:, None]).round_() + 128).to(torch.uint8)
        return whole.unflatten(0, (-1, CHANNELS)).unflatten(2, (-1, 4)).transpose(1, 2).contiguous(), scale

    def dequantised(self) -> Tensor:
        whole = self.weight.permute(0, 2, 1, 3).reshape(self.out_features, self.in_features)
        return (whole.float() - 128) * self.scale[:, None]


class Int4Linear(PackedLinear):
    """weight: uint8 [O/16, K/32, 4, 16, 4], two weights + 8 a byte; scale: bfloat16 [O/16, K/32, 16]."""

    form = "int4"

    @staticmethod
    def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
        groups = weight.float().unflatten(1, (-1, GROUP)).unflatten(0, (-1, CHANNELS))  # [O/16, 16, K/32, 32]
        whole, scale = _nearest_int4(groups)
        low, high = (whole + 8).to(torch.uint8).unflatten(3, (2, 4, 4)).unbind(3)
        return (low | high << 4).permute(0, 2, 3, 1, 4).contiguous(), scale[..., 0].transpose(1, 2).contiguous()

    def dequantised(self) -> Tensor:
        packed = self.weight.permute(0, 3, 1, 2, 4)  # [O/16, 16, K/32, 4, 4]
        whole = torch.stack((packed & 15, packed >> 4), dim=3).float() - 8
        scale = self.scale.float().transpose(1, 2)[..., None, None, None]
        return (whole * scale).reshape(self.out_features, self.in_features)


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


class StoredEmbedding(nn.Module):
    """A table of embeddings in 16 bits, looked up in float32."""

    weight: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor) -> Tensor:  # [...] -> [..., D]
        return F.embedding(ids, self.weight).float()


def fast_dtype() -> torch.dtype:
    """In which large products are fast on this CPU: bfloat16 where it has instructions for it."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(check() for check in checks if check is not None) else torch.float32


FORMS = (Float32Linear, Float16Linear, BFloat16Linear, Int8Linear, Int4Linear)
LINEAR: dict[str, type[FloatLinear] | type[PackedLinear]] = {linear.form: linear for linear in FORMS}


def placer(runtime: Runtime) -> Place:
    """How the weights of a checkpoint are stored as `runtime.weights` says."""
    linear = LINEAR[runtime.weights]
    if runtime.device.type == "cpu":
        return _place_on_cpu(linear)
    plain = place_as(runtime.device, runtime.dtype)
    if issubclass(linear, FloatLinear):
        return plain

    def place(model: Janus, name: str, tensor: Tensor) -> None:
        if not _store_linear(model, name, tensor.to(runtime.device), linear, runtime.dtype):
            plain(model, name, tensor)

    return place


def _place_on_cpu(linear: type[StoredLinear]) -> Place:
    """Matrices in a form of ours, those that do not fit it in float32; everything else in float32. In a shorter form
    tables take 16 bits, and the precise parts of the eyes (model/eye.py) the dtype in which large products are fast
    here."""
    full = place_as(torch.device("cpu"), torch.float32)
    fast = full if linear is Float32Linear else place_as(torch.device("cpu"), fast_dtype())
    table_dtype = torch.float16 if linear is Float16Linear else torch.bfloat16

    def place(model: Janus, name: str, tensor: Tensor) -> None:
        if name == "language_model.embedding.weight" and linear is not Float32Linear:
            model.set_submodule("language_model.embedding", StoredEmbedding(to_dtype(tensor, table_dtype, name)))
        elif name.startswith(model.prefixes("precise")):
            fast(model, name, tensor)
        elif not any(_store_linear(model, name, tensor, form, torch.float32) for form in (linear, Float32Linear)):
            full(model, name, tensor)

    return place


def _store_linear(model: Janus, name: str, tensor: Tensor, linear: type[StoredLinear], dtype: torch.dtype) -> bool:
    """Puts a stored linear layer into the place of a plain one, if the tensor is its matrix and has a fitting shape.
    dtype: of its bias, which is added to products in the dtype of its input."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf == "bias" and isinstance(module, StoredLinear):
        module.bias = tensor.to(dtype)
        return True
    if not isinstance(module, nn.Linear) or leaf != "weight" or name.startswith(model.prefixes("precise")):
        return False
    if name.startswith(model.prefixes("heavy")) and issubclass(linear, PackedLinear):
        linear = BFloat16Linear
    if linear is not Float32Linear and not fits(module):
        return False
    if issubclass(linear, FloatLinear):
        tensor = to_dtype(tensor, linear.dtype, name)
    bias = None if module.bias is None or module.bias.is_meta else module.bias
    model.set_submodule(path, linear(tensor, bias))
    return True


def fits(linear: nn.Linear | StoredLinear) -> bool:
    """Whether a matrix has whole blocks and groups."""
    return linear.out_features % CHANNELS == 0 and linear.in_features % GROUP == 0
