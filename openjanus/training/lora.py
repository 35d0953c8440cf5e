"""LoRA in a training: which layers get an adapter. The layer is model/lora.py, the files are weights/adapters.py."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from openjanus.config import Config, ConfigError, PositiveFloat, PositiveInt
from openjanus.inference.quantisation import LINEAR, fits
from openjanus.model.lora import LoRALinear, LoRAStored


@dataclass(frozen=True)
class LoRAConfig(Config):
    """`layers`: patterns over the names of linear layers. The default is every matrix of the body's layers; `q` alone
    would also match SigLIP's. `base`: how their frozen matrices are stored; a training in int8 or int4 computes the
    same products as inference does."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    layers: tuple[str, ...] = ("language_model.layers.*",)
    base: Literal["float32", "int8", "int4"] = "float32"

    def check(self) -> None:
        if not self.layers:
            raise ConfigError("layers is empty, expected a pattern such as 'language_model.layers.*.attention.*'")


def add_lora(model: nn.Module, c: LoRAConfig) -> list[str]:
    """Gives the matching linear layers adapters; returns their names.

    Raises ValueError for a pattern that matches no linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    for pattern in c.layers:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ValueError(
                f"lora.layers pattern {pattern!r} matches no linear layer; names look like {next(iter(linear), '')!r}"
            )
    chosen = [name for name in linear if any(fnmatchcase(name, pattern) for pattern in c.layers)]
    for name in chosen:
        model.set_submodule(name, _adapted(name, linear[name], c))
    return chosen


def _adapted(name: str, linear: nn.Linear, c: LoRAConfig) -> nn.Module:
    if c.base == "float32":
        return LoRALinear(linear, c.rank, c.alpha)
    if not fits(linear):
        raise ValueError(
            f"{name} is {list(linear.weight.shape)}, which {c.base} cannot store: leave it out of lora.layers"
        )
    bias = None if linear.bias is None else linear.bias.detach()
    return LoRAStored(LINEAR[c.base](linear.weight.detach(), bias), c.rank, c.alpha)
