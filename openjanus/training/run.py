"""A run: what is trained (its type selects the objective), in which stages, from which seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from openjanus import config as configs
from openjanus.config import Config, ConfigError, Range
from openjanus.data.sources import find_source
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.contrastive import ContrastiveObjective, ContrastiveTraining
from openjanus.training.janus import JanusObjective, JanusTraining
from openjanus.training.loop import Evaluator, Objective, Schedule, check_stages, fit
from openjanus.training.stage import Stage
from openjanus.training.tokenizer import TokenizerObjective, TokenizerTraining

OBJECTIVES: dict[type, Any] = {
    TokenizerTraining: TokenizerObjective,
    ContrastiveTraining: ContrastiveObjective,
    JanusTraining: JanusObjective,
}


@dataclass(frozen=True)
class Run(Config):
    """A recipe's training as plain data: it can be printed, overridden by `key=value`, and stored beside its
    results."""

    name: str
    task: TokenizerTraining | ContrastiveTraining | JanusTraining
    stages: tuple[Stage, ...]
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    schedule: Schedule = field(default_factory=Schedule)

    def check(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names:
            raise ConfigError("stages is empty, expected one or more")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"stages has two stages called {name!r}, expected a name of its own for each")


def make_objective(run: Run) -> Objective:
    """The objective that the task's type selects, with parameters initialised from the run's seed. Raises ValueError,
    before anything is built, for a source that is unknown or does not suit the task."""
    objective = OBJECTIVES[type(run.task)]
    for stage in run.stages:
        for name in stage.mixture:
            find_source(name, objective.examples)
    torch.manual_seed(run.seed)
    return objective(run.task, run.seed)


def restore(folder: Path) -> Objective:
    """The objective of a run as its newest checkpoint left it. Raises ValueError if there is none."""
    run = configs.load(Run, folder / "run.json")
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise ValueError(f"{folder}: no checkpoint there yet")
    objective = make_objective(run)
    checkpoint.restore_model(newest, objective.model)
    return objective


# What may differ when a run goes on: it changes nothing of what is computed but rounding.
FREE = ("micro_batch_rows", "sampling")


def check_same(run: Run, folder: Path) -> None:
    """Raises ValueError if the folder holds checkpoints of a run with another task, seed or stages."""
    if checkpoint.latest(folder / "checkpoints") is None:
        return
    check_stages(folder, run.stages)
    before = configs.load(Run, folder / "run.json")
    one, other = ({**configs.to_dict(r.task), **dict.fromkeys(FREE)} for r in (before, run))
    changed = [key for key in one if one[key] != other.get(key)] + ["seed"] * (before.seed != run.seed)
    if changed:
        raise ValueError(f"{folder} holds a run with another {changed[0]}: use another folder, or remove it")


def train(
    run: Run,
    folder: Path,
    runtime: Runtime,
    evaluators: Sequence[Evaluator] = (),
    stop_after: int | None = None,
) -> Objective:
    """Trains a run in its folder, or resumes it there; returns the objective with the trained model."""
    check_same(run, folder)
    objective = make_objective(run)
    folder.mkdir(parents=True, exist_ok=True)
    configs.save(run, folder / "run.json")
    fit(objective, run.stages, folder, runtime, evaluators, run.schedule, stop_after)
    return objective
