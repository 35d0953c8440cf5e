"""A run: what is trained (its type selects the objective), in which stages, from which seed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from openjanus import config as configs
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
class Run:
    """A recipe's training as plain data: it can be printed, overridden by `key=value`, and stored beside its
    results."""

    name: str
    task: TokenizerTraining | ContrastiveTraining | JanusTraining
    stages: tuple[Stage, ...]
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)


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


def keep_inputs(objective: Objective, runtime: Runtime, folder: Path) -> None:
    """Keeps beside a new run what it computes with besides its config: the dtype, and the image ids that it reads.

    Raises ValueError if the folder's run began with others. A run from before this file was kept takes what it finds.
    """
    inputs: dict[str, Any] = {"dtype": str(runtime.dtype).removeprefix("torch.")}
    if isinstance(objective, JanusObjective):
        inputs |= objective.inputs()
    kept = folder / "inputs.json"
    if checkpoint.latest(folder / "checkpoints") is not None and kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        for name in sorted(before.keys() | inputs.keys()):
            if before.get(name) != inputs.get(name):
                raise ValueError(
                    f"{folder} holds a run that began with {name} {before.get(name)}, now it is {inputs.get(name)}: "
                    "use what it began with, or another folder"
                )
    configs.save(inputs, kept)


def train(
    run: Run,
    folder: Path,
    runtime: Runtime,
    evaluators_of: Callable[[Objective], Sequence[Evaluator]] = lambda objective: (),
    stop_after: int | None = None,
) -> Objective:
    """Trains a run in its folder, or resumes it there; returns the objective with the trained model."""
    check_same(run, folder)
    objective = make_objective(run)
    folder.mkdir(parents=True, exist_ok=True)
    keep_inputs(objective, runtime, folder)
    configs.save(run, folder / "run.json")
    fit(objective, run.stages, folder, runtime, evaluators_of(objective), run.schedule, stop_after)
    return objective
