"""Checkpoints of several processes: each writes the rows that it holds, and any number of processes can read them.

    RUN/checkpoints/00001200/model-0-of-2.safetensors       rows of every parameter, with their first row
                             optimizer-0-of-2.safetensors
                             state.json, SHA256SUMS         as in training/checkpoint.py

No process gathers the model. torch.distributed.checkpoint is not used, because its metadata is a pickle.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from openjanus.training import checkpoint

if TYPE_CHECKING:
    from openjanus.parallel.several import Several


def local_part(tensor: Tensor) -> tuple[Tensor, int, bool]:
    """The rows of a tensor here, the number of the first one, and whether this process is the one that writes them."""
    if not isinstance(tensor, DTensor):
        return tensor, 0, dist.get_rank() == 0
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    place = tensor.device_mesh.get_coordinate()
    assert place is not None, "every process is in the mesh"
    writes = all(at == 0 for at, how in zip(place, tensor.placements, strict=True) if isinstance(how, Replicate))
    return tensor.to_local(), offset[0] if offset else 0, writes


def _written(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What this process writes, and the first row of each part."""
    parts, first = {}, {}
    for name, tensor in tensors.items():
        local, row, writes = local_part(tensor.detach())
        if writes and (local.numel() or not isinstance(tensor, DTensor)):
            parts[name], first[name] = local.cpu().clone().contiguous(), str(row)
    return parts, first


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: dict[str, Any],
    names: Collection[str] | None,
    processes: "Several",
) -> None:
    """As `checkpoint.save`, by all processes together."""
    all_tensors = model.state_dict()
    kept = all_tensors if names is None else {name: all_tensors[name] for name in sorted(names)}
    draft = folder / ".draft-shared"
    if processes.rank == 0:
        checkpoint.clear_drafts(folder)
        draft.mkdir(parents=True)
    processes.wait()
    for kind, tensors in (("model", kept), ("optimizer", checkpoint.optimizer_state(optimizer))):
        parts, first = _written(tensors)
        path = draft / f"{kind}-{processes.rank}-of-{processes.size}.safetensors"
        save_file(parts, path, {"first_rows": json.dumps(first)})
    processes.wait()
    if processes.rank == 0:
        checkpoint.finish(folder, draft, state, checkpoint.KEEP if optimizer else 1)
    processes.wait()


class Shards:
    """All files of one kind in a checkpoint: `rows(name, start, stop)` reads some rows of a tensor."""

    def __init__(self, newest: Path, kind: str, stack: ExitStack):
        self.parts: dict[str, list[tuple[int, Any]]] = {}
        for path in checkpoint.tensor_files(newest, kind):
            file = stack.enter_context(safe_open(path, "pt"))
            first = json.loads((file.metadata() or {}).get("first_rows", "{}"))
            for name in file.keys():  # noqa: SIM118  (not a dict)
                self.parts.setdefault(name, []).append((int(first.get(name, 0)), file))

    def rows(self, name: str, start: int, stop: int | None) -> Tensor:
        """From row `start` up to `stop`; None: the whole tensor."""
        pieces = []
        for first, file in sorted(self.parts[name], key=lambda part: part[0]):
            if stop is None and len(self.parts[name]) == 1:
                return file.get_tensor(name)
            piece = file.get_slice(name)
            length = piece.get_shape()[0]
            low, high = max(start - first, 0), length if stop is None else min(stop - first, length)
            if low < high:
                pieces.append(piece[low:high])
        return torch.cat(pieces)


def _fill(shards: Shards, name: str, target: Tensor) -> None:
    """Copies the rows that this process holds."""
    local, first, _ = local_part(target)
    if not isinstance(target, DTensor):
        target.copy_(shards.rows(name, 0, None))
    elif local.numel():
        local.copy_(shards.rows(name, first, first + local.shape[0]))


@torch.no_grad()
def restore_model(newest: Path, model: nn.Module, names: Collection[str] | None) -> None:
    """Reads the rows that this process holds, written by any number of processes."""
    state = model.state_dict()
    with ExitStack() as stack:
        shards = Shards(newest, "model", stack)
        wanted = set(state) if names is None else set(names)
        if odd := sorted(wanted ^ shards.parts.keys()):
            raise ValueError(f"{newest}: does not hold what this run trains; {odd[0]} is only on one side")
        for name in wanted:
            _fill(shards, name, state[name].detach())


@torch.no_grad()
def restore_optimizer(newest: Path, optimizer: torch.optim.Optimizer) -> None:
    """As `checkpoint.restore_optimizer`, for sharded parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with ExitStack() as stack:
        shards = Shards(newest, "optimizer", stack)
        for key, name, p in _state_keys(shards.parts, parameters):
            if name == "step":
                value = shards.rows(key, 0, None)
                optimizer.state[p][name] = value.to(p.device) if p.is_cuda else value
            else:
                optimizer.state[p][name] = torch.empty_like(p)
                _fill(shards, key, optimizer.state[p][name])


def _state_keys(parts: Collection[str], parameters: list[Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    for key in parts:
        number, name = key.split(".")
        yield key, name, parameters[int(number)]
