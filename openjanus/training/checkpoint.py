"""Training checkpoints: everything that the next step depends on, in safetensors and JSON, written atomically.

    RUN/checkpoints/00001200/model.safetensors       all parameters and buffers of the objective's model
                             optimizer.safetensors   every tensor of the optimiser's state
                             state.json              step, stage, the run's config

Batches are functions of (seed, step), so no data-loader position and no random state needs saving, and a resumed run
computes what an uninterrupted one would have, bit for bit on the CPU.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KEEP = 2


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Writes a checkpoint under `folder`, named by `state["step"]`; older ones beyond `KEEP` go."""
    target = folder / f"{state['step']:08d}"
    for stale in folder.glob(".draft-*"):  # of a process that was killed while it saved
        shutil.rmtree(stale, ignore_errors=True)
    draft = folder / f".draft-{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        save_file(_unshared(model.state_dict()), draft / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), draft / "optimizer.safetensors")
        (draft / "state.json").write_text(json.dumps(state, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in _all(folder)[:-KEEP]:
        shutil.rmtree(old)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = _all(folder)
    return found[-1] if found else None


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "state.json").read_text())


def restore_model(checkpoint: Path, model: nn.Module) -> None:
    model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=True)


def restore_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Fills a freshly made optimiser; its groups and hyper-parameters come from the stage, not from the file."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in load_file(checkpoint / "optimizer.safetensors").items():
        number, name = key.split(".")
        p = parameters[int(number)]
        if name == "step":  # a scalar, which AdamW keeps on the CPU unless the parameter is on a GPU
            optimizer.state[p][name] = tensor.to(p.device) if p.is_cuda else tensor
        else:  # in the parameter's own memory order: the fused kernel walks both side by side
            optimizer.state[p][name] = torch.empty_like(p).copy_(tensor)


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9]" * 8) if p.is_dir()) if folder.is_dir() else []


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory (a tied head); each name gets its own copy."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{number}.{name}": value.detach().clone().contiguous()
        for number, p in enumerate(parameters)
        for name, value in optimizer.state[p].items()
    }
