"""Several models in one process: adapters of one base differ in few tensors, and the others need not be there twice."""

from typing import TYPE_CHECKING

import torch

from openjanus.model.janus import Janus

if TYPE_CHECKING:
    from openjanus.inference.engine import Engine


def share_equal_tensors(model: Janus, beside: "Engine | None") -> None:
    """Lets a model use the tensors of another engine's, if there is one, where both have equal values."""
    if beside is None:
        return
    theirs = {**dict(beside.model.named_parameters()), **dict(beside.model.named_buffers())}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        like = theirs.get(name)
        if like is not None and like.dtype == tensor.dtype and torch.equal(like, tensor):
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, like)
