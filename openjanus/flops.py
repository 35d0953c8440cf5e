"""The useful work of a training step, and what the machine reaches in plain matrix products (floor 5).

    MFU = useful FLOPs a second / FLOPs a second of products of the model's own shapes

Useful are the additions and multiplications at positions that are no padding, of heads where they are supervised, and
of attention inside of a document. A part counts three times if it is trained: forth, back to its input, and back to
its weights. A frozen part counts once, or twice if gradients go back through it. Recomputed layers count once.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openjanus.model.janus import Janus
from openjanus.model.lora import LoRA
from openjanus.model.vision_encoder import VisionEncoder
from openjanus.runtime import Runtime
from openjanus.sequence import Batch

LARGE = 2048  # side of the matrices of the large product
Shape = tuple[int, int, int]  # of a product [n, i] x [i, o]


def step_flops(model: Janus, batches: Sequence[Batch]) -> int:
    """Of one step, by what of the model is trained now. What eyes besides a `VisionEncoder` spend on attention is
    left out."""
    return sum(_batch_flops(model, batch) for batch in batches)


def _batch_flops(model: Janus, batch: Batch) -> int:
    body, c = model.language_model, model.config.language_model
    real = batch.document >= 0
    seen = int((batch.position + 1)[real].sum())  # pairs of a position and one that it attends to
    total = int(real.sum()) * _products(body.layers, gradient=True)
    total += 3 * c.num_layers * 2 * seen * c.num_heads * c.head_width
    for kind, places in batch.targets.items():
        total += len(places) * _products(model.heads[kind], gradient=True)
    if batch.pixels is not None:
        features = len(batch.pixels) * model.config.num_features
        total += features * _products(model.understanding, gradient=False)
        for encoder in [m for m in model.understanding.modules() if isinstance(m, VisionEncoder)]:
            e, factor = encoder.config, 3 if _is_trained(encoder) else 1
            total += factor * len(batch.pixels) * e.num_layers * 2 * e.num_features**2 * e.width
    return 2 * total


def _products(part: nn.Module, gradient: bool) -> int:
    """Multiplications for each position, forth and back. gradient: whether one goes back through what is frozen."""
    total = 0
    for module in part.modules():
        if isinstance(module, LoRA):
            total += 3 * (module.lora_a.numel() + module.lora_b.numel())
            total += 0 if isinstance(module, nn.Linear) else 2 * module.lora_a.shape[1] * module.lora_b.shape[0]
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight = module.weight
            total += weight.numel() * (3 if weight.requires_grad else 2 if gradient else 1)
    return total


def _is_trained(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())


def product_speeds(model: Janus, num_positions: int, num_features: int, runtime: Runtime) -> tuple[float, float]:
    """FLOPs a second of plain products: of the model's own shapes, and of large square matrices. num_features: of the
    pictures of a step."""
    first = model.language_model.layers[0]
    shapes = _shapes(first, num_positions)
    if num_features:
        for block in [m for m in model.understanding.modules() if isinstance(m, nn.ModuleList)][:1]:
            shapes += _shapes(block[0], num_features)
    return speed(shapes, runtime), speed([(LARGE, LARGE, LARGE)], runtime)


def _shapes(layer: nn.Module, n: int) -> list[Shape]:
    return [(n, m.in_features, m.out_features) for m in layer.modules() if isinstance(m, nn.Linear)]


def speed(shapes: Sequence[Shape], runtime: Runtime) -> float:
    """FLOPs a second of a product forth, and the two back, of each shape; the second try of each counts."""
    dtype, device, flops, seconds = runtime.dtype, runtime.device, 0, 0.0
    for n, i, o in shapes:
        x, w, g = (torch.randn(shape, device=device).to(dtype) for shape in ((n, i), (o, i), (n, o)))
        for counts in (False, True):
            started = time.perf_counter()
            back: tuple[Tensor, ...] = (x @ w.T, g @ w, g.T @ x)
            float(back[2][0, 0])  # waits for a GPU
            seconds += (time.perf_counter() - started) * counts
        flops += 3 * 2 * n * i * o
    return flops / seconds
