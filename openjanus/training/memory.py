"""Less memory for the same result: logits in chunks, and layers that are computed again on the way back."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 1 << 26  # that exist at a time: 256 MB in float32


def cross_entropy(head: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:
    """hidden [n, D], ids [n] -> the summed cross-entropy of head(hidden).

    Many logits are made in chunks, and again on the way back, so that they never exist together.
    """
    chunk = max(1, MAX_LOGITS // num_outputs(head))
    if len(ids) <= chunk:
        return _summed(head, hidden, ids)
    parts = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    return sum((checkpoint(_summed, head, h, i, use_reentrant=False) for h, i in parts), start=hidden.sum() * 0)


def num_outputs(head: nn.Module) -> int:
    """Ids that a head predicts: the outputs of its last linear layer; 1 if it has none."""
    return [1, *(m.out_features for m in head.modules() if isinstance(m, nn.Linear))][-1]


def _summed(head: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), ids, reduction="sum")


def recompute_layers(model: nn.Module) -> None:
    """Every layer of the body and of an encoder keeps only its input for the way back."""
    for layers in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
        for layer in layers:
            if layer is not None and not isinstance(layer, nn.ModuleList):
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
