"""Training checkpoints: the whole state of a training, in safetensors and JSON, written atomically.

    RUN/checkpoints/00001200/model.safetensors       all parameters and buffers of the training's model
                             optimizer.safetensors   every tensor of the optimiser's state
                             state.json              step, stages, measures that are not logged yet
                             SHA256SUMS              of the three, as `sha256sum -c` reads it

Batches are functions of (seed, step), so there is no data-loader position and no random state to save. On the CPU a
resumed run is bit-identical to an uninterrupted one.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KEEP = 2
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
SUMS = "SHA256SUMS"


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    names: Collection[str] | None = None,
) -> Path:
    """Writes a checkpoint under `folder`, named by `state["step"]`, and keeps only the `KEEP` - 1 before it.

    names: of the model's tensors to write; None: all.

    Raises OSError naming the file that could not be written; earlier checkpoints stay whole.
    """
    target = folder / f"{state['step']:08d}"
    for stale in folder.glob(".draft-*"):  # of a process that was killed while it saved
        shutil.rmtree(stale, ignore_errors=True)
    draft, replaced = folder / f".draft-{os.getpid()}", folder / f".draft-{os.getpid()}-replaced"
    write: dict[str, Callable[[Path], object]] = {
        "model.safetensors": lambda path: save_file(_unshared(model.state_dict(), names), path),
        "optimizer.safetensors": lambda path: save_file(_optimizer_tensors(optimizer), path),
        "state.json": lambda path: path.write_text(json.dumps(state, indent=1)),
        SUMS: lambda path: path.write_text("".join(f"{_sha256(draft / name)}  {name}\n" for name in FILES)),
    }
    name = ""
    try:
        draft.mkdir(parents=True)
        for name, write_file in write.items():
            write_file(draft / name)
            _to_disk(draft / name)
        if target.exists():
            os.replace(target, replaced)
        os.replace(draft, target)
        _to_disk(folder)
    except (OSError, SafetensorError) as error:
        if replaced.exists() and not target.exists():
            os.replace(replaced, target)
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{target / name}: cannot be saved ({reason}); make room, then the same command goes on from the "
            "checkpoint before"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    # Later checkpoints are stale: damaged, or from before the run resumed from an older one.
    kept = [path for path in _all(folder) if path <= target][-KEEP:]
    for other in set(_all(folder)) - set(kept):
        shutil.rmtree(other)
    return target


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, with a warning if newer ones are damaged; None if there is none at all.

    Raises ValueError, naming the files, if all are damaged.
    """
    damaged: list[str] = []
    for checkpoint in reversed(_all(folder)):
        try:
            check(checkpoint)
        except ValueError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(f"{'; '.join(damaged)}; taking the checkpoint before, {checkpoint}", stacklevel=1)
        return checkpoint
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}; no checkpoint is whole: remove {folder} to start again")
    return None


def check(checkpoint: Path) -> None:
    """Raises ValueError naming a file that is missing or has changed."""
    for name in FILES:
        if not (checkpoint / name).is_file():
            raise ValueError(f"{checkpoint / name}: missing")
    sums = checkpoint / SUMS
    if sums.is_file():  # older checkpoints have none
        written = {line[66:]: line[:64] for line in sums.read_text(errors="replace").splitlines()}
        if set(written) != set(FILES):
            raise ValueError(f"{sums}: damaged")
        for name, digest in written.items():
            if _sha256(checkpoint / name) != digest:
                raise ValueError(f"{checkpoint / name}: damaged, not what {SUMS} says")
    read_state(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Raises ValueError if the file is damaged."""
    path = checkpoint / "state.json"
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, not JSON ({error})") from None


def restore_model(checkpoint: Path, model: nn.Module, names: Collection[str] | None = None) -> None:
    """Loads what `save` wrote with the same `names`; the model's other tensors stay."""
    tensors = _tensors(checkpoint / "model.safetensors")
    if names is not None and set(names) != tensors.keys():
        odd = sorted(set(names) ^ tensors.keys())
        raise ValueError(f"{checkpoint}: does not hold what this run trains; {odd[0]} is only on one side")
    model.load_state_dict(tensors, strict=names is None)


def restore_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Loads the state of a new optimiser; groups and hyper-parameters are the stage's, not the file's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in _tensors(checkpoint / "optimizer.safetensors").items():
        number, name = key.split(".")
        p = parameters[int(number)]
        if name == "step":  # a scalar, which AdamW keeps on the CPU unless the parameter is on a GPU
            optimizer.state[p][name] = tensor.to(p.device) if p.is_cuda else tensor
        else:  # in the parameter's memory order, which the fused kernel expects
            optimizer.state[p][name] = torch.empty_like(p).copy_(tensor)


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9]" * 8) if p.is_dir()) if folder.is_dir() else []


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    """Cached by the file's state, so that a large checkpoint is read only once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Flushes a file's bytes or a folder's entries to the disk, before it replaces another one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unshared(state: dict[str, Tensor], names: Collection[str] | None) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory (a tied head); each name gets its own copy."""
    kept = state if names is None else {name: state[name] for name in sorted(names)}
    return {name: tensor.detach().clone().contiguous() for name, tensor in kept.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{number}.{name}": value.detach().clone().contiguous()
        for number, p in enumerate(parameters)
        for name, value in optimizer.state[p].items()
    }
