"""Writes an adapter in PEFT's files; weights/adapters.py says what is in them, and reads them."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from openjanus.model.janus import Janus
from openjanus.model.lora import LoRA
from openjanus.weights.adapters import CONFIG, OURS, PREFIX, TENSORS, is_lora, their_name
from openjanus.weights.config import Task
from openjanus.weights.tensors import check_finite


def save_adapter(
    model: Janus, folder: Path, base: str, tasks: Sequence[Task] = (), trained: Collection[str] = ()
) -> None:
    """Writes the LoRA matrices of a model, and the parameters that were trained whole.

    base: folder or hub id of the model that was adapted. trained: names of trained parameters.
    Raises ValueError for a model without LoRA.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoRA)}
    if not layers:
        raise ValueError("the model has no LoRA layers: there is no adapter to write")
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        theirs = their_name(f"{name}.weight").removesuffix(".weight")
        tensors[f"{PREFIX}{theirs}.lora_A.weight"] = layer.lora_a
        tensors[f"{PREFIX}{theirs}.lora_B.weight"] = layer.lora_b
    whole = {name: p for name, p in model.named_parameters() if name in trained and not is_lora(name)}
    tensors |= {f"{PREFIX}{their_name(model.stored_name(name))}": p for name, p in whole.items()}
    for name, tensor in tensors.items():
        check_finite(tensor, name, "the adapter")
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": first.lora_a.shape[0],
        "lora_alpha": first.scale * first.lora_a.shape[0],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [their_name(f"{name}.weight").removesuffix(".weight") for name in layers],
        "modules_to_save": sorted({their_name(model.stored_name(name)).rpartition(".")[0] for name in whole}) or None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # without it the folder is no adapter while it is written
    draft = folder / f".{TENSORS}.draft"
    save_file({name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}, draft)
    draft.replace(folder / TENSORS)
    (folder / OURS).write_text(json.dumps({"tasks": list(tasks)}) + "\n", "utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
