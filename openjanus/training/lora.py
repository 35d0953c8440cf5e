"""LoRA in a training: which layers get an adapter. The layer is model/lora.py, the files are weights/adapters.py."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from openjanus.config import Config, ConfigError, PositiveFloat, PositiveInt
from openjanus.model.lora import LoRALinear


@dataclass(frozen=True)
class LoRAConfig(Config):
    """`layers`: patterns over the names of linear layers. The default is every matrix of the body's layers; `q` alone
    would also match SigLIP's."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    layers: tuple[str, ...] = ("language_model.layers.*",)

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
        model.set_submodule(name, LoRALinear(linear[name], c.rank, c.alpha))
    return chosen
