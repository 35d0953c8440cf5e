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
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

KEEP = 2
PARTS = ("model", "optimizer", "state.json")  # how the names of a checkpoint's files begin
SUMS = "SHA256SUMS"


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: dict[str, Any],
    names: Collection[str] | None = None,
) -> Path:
    """Writes a checkpoint under `folder`, named by `state["step"]`, and keeps only the `KEEP` - 1 before it.

    optimizer: None for weights that are kept, but not trained on; then none before it is kept. names: of the model's
    tensors to write; None: all.

    Raises OSError naming the file that could not be written; earlier checkpoints stay whole.
    """
    draft = folder / f".draft-{os.getpid()}"
    clear_drafts(folder)
    path = draft
    try:
        draft.mkdir(parents=True)
        for kind, tensors in (
            ("model", _unshared(model.state_dict(), names)),
            ("optimizer", optimizer_state(optimizer)),
        ):
            path = folder / f"{state['step']:08d}" / f"{kind}.safetensors"
            save_file(tensors, draft / path.name)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise _no_room(path, error) from error
        raise
    return finish(folder, draft, state, KEEP if optimizer else 1)


def finish(folder: Path, draft: Path, state: dict[str, Any], keep: int = KEEP) -> Path:
    """Makes a checkpoint of a draft folder with tensors: writes its state and its sums, and moves it into place. keep:
    how many checkpoints stay.

    Raises OSError naming the file that could not be written; earlier checkpoints stay whole.
    """
    target, replaced = folder / f"{state['step']:08d}", draft.with_name(f"{draft.name}-replaced")
    names = [*(path.name for path in sorted(draft.glob("*.safetensors"))), "state.json"]
    name = "state.json"
    try:
        (draft / name).write_text(json.dumps(state, indent=1))
        for name in names:
            _to_disk(draft / name)
        name = SUMS
        (draft / SUMS).write_text("".join(f"{_sha256(draft / one)}  {one}\n" for one in names))
        _to_disk(draft / SUMS)
        if target.exists():
            os.replace(target, replaced)
        os.replace(draft, target)
        _to_disk(folder)
    except (OSError, SafetensorError) as error:
        if replaced.exists() and not target.exists():
            os.replace(replaced, target)
        raise _no_room(target / name, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    # Later checkpoints are stale: damaged, or from before the run resumed from an older one.
    kept = [path for path in _all(folder) if path <= target][-keep:]
    for other in set(_all(folder)) - set(kept):
        shutil.rmtree(other)
    return target


def clear_drafts(folder: Path) -> None:
    """Removes what a process left that was killed while it saved."""
    for stale in folder.glob(".draft-*"):
        shutil.rmtree(stale, ignore_errors=True)


def _no_room(path: Path, error: Exception) -> OSError:
    reason = getattr(error, "strerror", None) or error
    return OSError(
        f"{path}: cannot be saved ({reason}); make room, then the same command goes on from the checkpoint before"
    )


def tensor_files(checkpoint: Path, kind: str) -> list[Path]:
    """The files with the tensors of the model or of the optimizer: one, or one of each process that wrote them."""
    single = checkpoint / f"{kind}.safetensors"
    return [single] if single.is_file() else sorted(checkpoint.glob(f"{kind}-*-of-*.safetensors"))


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
    sums = checkpoint / SUMS
    written: dict[str, str] = {}
    if sums.is_file():  # older checkpoints have none
        written = {line[66:]: line[:64] for line in sums.read_text(errors="replace").splitlines()}
        if not all(any(name.startswith(part) for name in written) for part in PARTS):
            raise ValueError(f"{sums}: damaged")
    for name in written or ("model.safetensors", "optimizer.safetensors", "state.json"):
        if not (checkpoint / name).is_file():
            raise ValueError(f"{checkpoint / name}: missing")
    if written:
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
    tensors = _tensors(checkpoint, "model")
    if names is not None and set(names) != tensors.keys():
        odd = sorted(set(names) ^ tensors.keys())
        raise ValueError(f"{checkpoint}: does not hold what this run trains; {odd[0]} is only on one side")
    model.load_state_dict(tensors, strict=names is None)


def restore_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Loads the state of a new optimiser; groups and hyper-parameters are the stage's, not the file's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in _tensors(checkpoint, "optimizer").items():
        number, name = key.split(".")
        p = parameters[int(number)]
        if name == "step":  # a scalar, which AdamW keeps on the CPU unless the parameter is on a GPU
            optimizer.state[p][name] = tensor.to(p.device) if p.is_cuda else tensor
        else:  # in the parameter's memory order, which the fused kernel expects
            optimizer.state[p][name] = torch.empty_like(p).copy_(tensor)


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9]" * 8) if p.is_dir()) if folder.is_dir() else []


def _tensors(checkpoint: Path, kind: str) -> dict[str, Tensor]:
    """All tensors of a kind; of several processes, the rows of each put together (parallel/shards.py)."""
    parts: dict[str, dict[int, Tensor]] = {}
    for path in tensor_files(checkpoint, kind):
        try:
            with safe_open(path, "pt") as file:
                first = json.loads((file.metadata() or {}).get("first_rows", "{}"))
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    parts.setdefault(name, {})[int(first.get(name, 0))] = file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error})") from None
    return {
        name: next(iter(rows.values())) if len(rows) == 1 else torch.cat([rows[row] for row in sorted(rows)])
        for name, rows in parts.items()
    }


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


def optimizer_state(optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    if optimizer is None:
        return {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{number}.{name}": value.detach().clone().contiguous()
        for number, p in enumerate(parameters)
        for name, value in optimizer.state[p].items()
    }
