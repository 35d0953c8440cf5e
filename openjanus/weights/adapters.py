"""Adapters in PEFT's files: LoRA matrices, and parts that were trained whole.

    adapter_config.json         base model, rank, alpha, adapted layers, parts that were trained whole
    adapter_model.safetensors   base_model.model.<layer>.lora_A.weight [rank, in], .lora_B.weight [out, rank], and
                                base_model.model.<part>.weight
    openjanus.json              the tasks of the adapted model; PEFT does not know this file

Names are those of transformers' JanusForConditionalGeneration, so that `peft.PeftModel` loads the files. An adapter is
merged when a checkpoint is loaded, before its matrices are quantised. Source: huggingface/peft, utils/save_and_load.py.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from openjanus.model.janus import Janus
from openjanus.model.lora import LoRALinear, LoRAStored, merge
from openjanus.weights.config import Task
from openjanus.weights.names import transformers_names
from openjanus.weights.tensors import TensorFiles, check_finite

CONFIG, TENSORS, OURS = "adapter_config.json", "adapter_model.safetensors", "openjanus.json"
PREFIX = "base_model.model."
# Options of PEFT that change what an adapter computes, and their neutral values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None,),
    "lora_bias": (None, False),
    "trainable_token_indices": (None,),
}


@dataclass(frozen=True)
class Adapter:
    """`scale`: alpha / rank. `tasks`: those of the adapted model, or empty for those of its base. `lora`: a layer's
    weight -> A and B. `whole`: a parameter -> its new values."""

    scale: float
    tasks: tuple[Task, ...]
    lora: Mapping[str, tuple[Tensor, Tensor]]
    whole: Mapping[str, Tensor]

    def applied(self, name: str, tensor: Tensor) -> Tensor:
        """What becomes of a parameter of the base. Raises ValueError if the shapes do not fit."""
        if name in self.whole:
            _check_shape(name, self.whole[name], tuple(tensor.shape))
            return self.whole[name].to(tensor.dtype)
        if name not in self.lora:
            return tensor
        a, b = self.lora[name]
        _check_shape(f"{name}, lora_A", a, (a.shape[0], tensor.shape[1]))
        _check_shape(f"{name}, lora_B", b, (tensor.shape[0], a.shape[0]))
        return merge(tensor, a, b, self.scale)


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"the adapter's {name} is {list(tensor.shape)}, expected {list(expected)}: is it of another model?"
        )


def read_adapter(folder: Path, names: Iterable[str]) -> Adapter:
    """An adapter for a model whose stored parameters have these names.

    Raises ValueError for a missing or damaged file, an option that is not supported, and tensors that the model lacks.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: no {CONFIG}; expected the folder of an adapter, such as runs/mine/adapter")
    try:
        config = json.loads(path.read_text("utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged or incomplete ({type(error).__name__}: {error})") from None
    if config.get("peft_type") != "LORA" or rank < 1:
        raise ValueError(
            f"{path}: peft_type {config.get('peft_type')!r} of rank {rank} is not supported, expected LORA"
        )
    for key, neutral in NEUTRAL.items():
        if config.get(key) not in neutral:
            raise ValueError(f"{path}: {key} {config[key]!r} is not supported, expected {neutral[-1]!r}")
    files = TensorFiles(folder / TENSORS)
    found = dict(files.read(files.shapes))
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    lora: dict[str, tuple[Tensor, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name in names:
        theirs = f"{PREFIX}{their_name(name, required=False)}"
        stem = theirs.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in found and f"{stem}.lora_B.weight" in found:
            lora[name] = found.pop(f"{stem}.lora_A.weight"), found.pop(f"{stem}.lora_B.weight")
        elif theirs in found:
            whole[name] = found.pop(theirs)
    if found:
        raise ValueError(
            f"{folder / TENSORS}: {len(found)} tensors belong to no part of this model, such as {next(iter(found))}"
        )
    for name, tensor in (*whole.items(), *((name, t) for name, pair in lora.items() for t in pair)):
        check_finite(tensor, name, str(folder))
    return Adapter(scale, _tasks(folder / OURS), lora, whole)


def _tasks(path: Path) -> tuple[Task, ...]:
    """The tasks in our file, which an adapter of PEFT does not have."""
    try:
        tasks = json.loads(path.read_text("utf-8"))["tasks"] if path.is_file() else []
        if unknown := set(tasks) - set(get_args(Task)):
            raise ValueError(f"unknown task {unknown.pop()!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    return tuple(tasks)


def is_lora(name: str) -> bool:
    return name.endswith((".lora_a", ".lora_b"))


def their_name(name: str, required: bool = True) -> str:
    """The name in transformers, or our own for a part that transformers lacks. Raises ValueError if a parameter is
    several there, and one is `required`."""
    try:
        theirs = transformers_names(name)
    except ValueError:  # a part that transformers does not have
        return name
    if len(theirs) > 1:
        if required:
            raise ValueError(f"{name} is {len(theirs)} matrices in transformers: an adapter cannot be stored")
        return name
    return theirs[0]


def merged_state(model: Janus) -> dict[str, Tensor]:
    """The model's state with its LoRA matrices merged, under the names of a model without them."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not is_lora(name)}
    for name, module in model.named_modules():
        assert not isinstance(module, LoRAStored), "restore the run: the matrices here have few bits"
        if isinstance(module, LoRALinear):
            state[f"{name}.weight"] = module.merged()
    return state
