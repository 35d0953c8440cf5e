"""Several models in one process: adapters of one base differ in few tensors, and the others need not be there twice."""

import torch

from openjanus.model.janus import Janus


def share_equal_tensors(model: Janus, other: Janus) -> None:
    """Lets a model use the tensors of another one where both have equal values."""
    theirs = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        like = theirs.get(name)
        if like is not None and like.dtype == tensor.dtype and torch.equal(like, tensor):
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, like)
