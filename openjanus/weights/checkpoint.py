"""Our own checkpoint folder: config.json, model.safetensors, tokenizer.json.

    config.json        {"model": JanusConfig, "processor": ProcessorConfig, "sampling": default sampling settings}
    model.safetensors  all parameters by our own names; a tied text head is stored once
    tokenizer.json     the text tokenizer (Hugging Face `tokenizers`)

Loading is strict: a tensor that is missing, extra or of another shape is an error that names it.
"""

import os
import shutil
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openjanus import config as configs
from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Processor, ProcessorConfig
from openjanus.processing.text import TextTokenizer

FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json holds. `sampling`: this model's own default settings, such as guidance and temperature."""

    model: JanusConfig
    processor: ProcessorConfig
    sampling: dict[str, float] = field(default_factory=dict)


@dataclass
class Checkpoint:
    """A model with all that belongs to it."""

    model: Janus
    processor: Processor
    sampling: dict[str, float]


def save(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes a checkpoint folder, whole or not at all; floating tensors are stored as `dtype` (None: as they are)."""
    config = CheckpointConfig(checkpoint.model.config, checkpoint.processor.config, checkpoint.sampling)
    tensors = {
        name: (t.to(dtype) if dtype is not None and t.is_floating_point() else t).detach().cpu().clone().contiguous()
        for name, t in _stored(checkpoint.model).items()
    }
    draft = folder.with_name(f".{folder.name}.draft-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        configs.save(config, draft / "config.json")
        save_file(tensors, draft / "model.safetensors", {"format": "openjanus"})
        (draft / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
        checkpoint.processor.text.save(draft / "tokenizer.json")
        if folder.is_dir():  # keep what others put beside the checkpoint, such as a model card
            for name in FILES:
                os.replace(draft / name, folder / name)
        else:
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Reads a checkpoint folder. Raises ValueError naming what is wrong: file, config key or tensor."""
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {', no '.join(missing)}; expected an openjanus checkpoint folder")
    config = configs.load(CheckpointConfig, folder / "config.json")
    with torch.device("meta"):
        model = Janus(config.model)
    tensors = read_tensors(folder / "model.safetensors")
    check_tensors(tensors, _stored(model), str(folder / "model.safetensors"))
    tensors = {name: t.to(device, dtype) if t.is_floating_point() else t.to(device) for name, t in tensors.items()}
    model.load_state_dict(tensors, strict=False, assign=True)
    if config.model.language_model.tie_text_head:
        model.language_model.text_head.weight = model.language_model.embedding.weight
    text = TextTokenizer.load(folder / "tokenizer.json")
    vocab_size = config.model.language_model.vocab_size
    if text.vocab_size > vocab_size:
        raise ValueError(f"{folder}: the tokenizer has {text.vocab_size} ids, the model only {vocab_size}")
    return Checkpoint(model.eval().requires_grad_(False), Processor(config.processor, text), config.sampling)


def load_part(part: nn.Module, run: str, prefix: str, dropped: tuple[str, ...] = ()) -> None:
    """Fills `part` with the tensors under `prefix` of a training run's newest checkpoint.

    `dropped` are patterns of tensors that the part has no use for. Raises ValueError if the run is not there or does
    not fit.
    """
    found = sorted(Path(run).glob("checkpoints/*/model.safetensors"))
    if not found:
        raise ValueError(f"{run}: no checkpoint there; train it first")
    tensors = {n.removeprefix(prefix): t for n, t in read_tensors(found[-1]).items() if n.startswith(prefix)}
    tensors = {n: t for n, t in tensors.items() if not any(fnmatchcase(n, pattern) for pattern in dropped)}
    check_tensors(tensors, part.state_dict(), str(found[-1]))
    part.load_state_dict(tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped. Raises ValueError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or not safetensors ({error})") from None


def check_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor], where: str) -> None:
    """Raises ValueError naming the first tensors that are missing, unknown or of another shape."""
    wrong = [f"missing {name}" for name in wanted if name not in found]
    wrong += [f"unknown {name}" for name in found if name not in wanted]
    wrong += [
        f"{name} has shape {list(found[name].shape)}, expected {list(t.shape)}"
        for name, t in wanted.items()
        if name in found and found[name].shape != t.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{where}: {'; '.join(wrong[:3])}{more}")


def _stored(model: Janus) -> dict[str, Tensor]:
    """The tensors that a file holds: all, but a tied text head only once."""
    state = model.state_dict()
    if model.config.language_model.tie_text_head:
        del state["language_model.text_head.weight"]
    return state
