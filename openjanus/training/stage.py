"""Stages of a training: length, learning rate, trainable parameters and mixture of examples (arXiv 2410.13848, Table
1).
"""

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from typing import Annotated, Any, Literal

import torch
from torch import nn

from openjanus.config import Config, ConfigError, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range
from openjanus.training.muon import Muon

Beta = Annotated[float, Range(0, below=1)]


@dataclass(frozen=True)
class Switch(Config):
    """From `step` of the run on, a stage has another mixture."""

    step: PositiveInt
    mixture: dict[str, NonNegativeFloat]


@dataclass(frozen=True)
class Stage(Config):
    """One stage of a training. `mixture`: examples of each source per step. A fraction is carried over: with 0.5 every
    second step has one. `switches`: other mixtures from later steps on, in their order.

    `trainable` are patterns over parameter names (`fnmatch`); a pattern that matches nothing is an error. A pattern
    that starts with `!` excludes parameters of earlier patterns. `muon`: patterns over the names of trainable matrices
    that Muon updates, with `muon_lr` and the same schedule; all else is updated by AdamW. `lr_scales`: patterns over
    the names of trainable parameters whose rate is that many times the stage's; the last pattern that matches counts.
    """

    name: str
    num_steps: PositiveInt
    lr: PositiveFloat
    mixture: dict[str, NonNegativeFloat]
    trainable: tuple[str, ...] = ("*",)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip_norm: PositiveFloat = 1.0
    switches: tuple[Switch, ...] = ()
    muon: tuple[str, ...] = ()
    muon_lr: PositiveFloat = 0.02
    lr_scales: dict[str, PositiveFloat] = field(default_factory=dict)

    def check(self) -> None:
        if not any(self.mixture.values()):
            raise ConfigError(f"mixture is {self.mixture}, expected a source with 1 or more examples per step")
        if not self.trainable:
            raise ConfigError("trainable is empty, expected a pattern over parameter names, such as '*'")

    @property
    def sources(self) -> list[str]:
        """The names of all its mixtures."""
        mixtures = (self.mixture, *(switch.mixture for switch in self.switches))
        return list(dict.fromkeys(name for mixture in mixtures for name in mixture))

    def mixture_at(self, step: int) -> dict[str, float]:
        """The examples of each source at this step of the run."""
        begun = [switch.mixture for switch in self.switches if switch.step <= step]
        return begun[-1] if begun else self.mixture

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: linear warm-up, then constant or a cosine to zero at the stage's end."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


def choose_trainable(model: nn.Module, patterns: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Sets `requires_grad` by the patterns, in order; returns the trainable parameters by name."""
    parameters = dict(model.named_parameters())
    chosen = _matching(parameters, patterns, "trainable")
    for name, p in parameters.items():
        p.requires_grad_(name in chosen)
    return chosen


def _matching(parameters: dict[str, nn.Parameter], patterns: tuple[str, ...], field: str) -> dict[str, nn.Parameter]:
    """Those whose names match the patterns. Raises ValueError for a pattern that matches nothing."""
    chosen: dict[str, bool] = dict.fromkeys(parameters, False)
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern.removeprefix("!"))]
        if not matched:
            raise ValueError(
                f"{field} pattern {pattern!r} matches no parameter; names look like {next(iter(parameters))!r}"
            )
        chosen.update(dict.fromkeys(matched, not pattern.startswith("!")))
    return {name: p for name, p in parameters.items() if chosen[name]}


def make_optimizer(
    stage: Stage, parameters: dict[str, nn.Parameter], dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """AdamW with weight decay of matrices only, as is common; the paper does not say. With `stage.muon`, those matrices
    are updated by Muon; `dtype` is that of the training. A group's `lr_scale` is its share of `stage.lr`.
    """
    by_muon = {n for n, p in _matching(parameters, stage.muon, "muon").items() if p.dim() == 2}
    scales = dict.fromkeys(parameters, 1.0)
    for pattern, scale in stage.lr_scales.items():
        scales.update(dict.fromkeys(_matching(parameters, (pattern,), "lr_scales"), scale))
    groups: list[dict[str, Any]] = []
    for muon, scale, is_matrix in product((False, True), dict.fromkeys(scales.values()), (True, False)):
        chosen = [
            p
            for name, p in parameters.items()
            if (name in by_muon, scales[name], p.dim() > 1) == (muon, scale, is_matrix)
        ]
        share = scale * (stage.muon_lr / stage.lr if muon else 1.0)
        decay = stage.weight_decay if is_matrix else 0.0
        groups.append(
            {"params": chosen, "muon": muon, "lr": stage.lr * share, "lr_scale": share, "weight_decay": decay}
        )
    return Muon(
        [group for group in groups if group["params"]],
        torch.bfloat16 if dtype == torch.bfloat16 else torch.float32,
        lr=stage.lr,
        betas=stage.betas,
        fused=True,
    )
