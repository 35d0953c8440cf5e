"""The one training loop: Janus in its three stages, the image tokenizer and the contrastive encoder all run through it.

What differs between trainings is an `Objective`: which model, which batches, which loss. The loop knows stages,
optimisers, schedules, clipping, logs, previews and checkpoints. Losses are sums; they are divided by the count of
targets of the whole step, so that cutting a step into micro-batches changes nothing.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from openjanus import config as configs
from openjanus.config import Config, NonNegativeFloat, PositiveInt
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.stage import Stage, choose_trainable, make_optimizer

# name -> (sum, count): logged as sum / count
Measures = dict[str, tuple[Tensor | float, int]]
# (model, step, folder for pictures) -> figures for the log; handed in from above, the loop knows none of them
Evaluator = Callable[[nn.Module, int, Path], Mapping[str, float]]


class Objective(Protocol):
    """What is trained, on what, by which loss."""

    @property
    def model(self) -> nn.Module: ...

    def micro_batches(self, stage: Stage, step: int) -> Sequence[Any]:
        """The batches of one step: a pure function of the seed, the stage and the step."""
        ...

    def count(self, batch: Any) -> int:
        """Targets in a batch: the unit over which the loss is averaged."""
        ...

    def loss(self, batch: Any, stage: Stage, step: int) -> tuple[Tensor, Measures]:
        """The loss summed over the batch's targets, and what to log."""
        ...

    def clip_groups(self, trainable: dict[str, nn.Parameter]) -> list[list[nn.Parameter]]:
        """Parameters whose gradient norms are clipped together (a discriminator is clipped apart)."""
        ...


@dataclass(frozen=True)
class Schedule(Config):
    """How often the loop reports, previews and saves, in steps; `seconds` bounds the time between checkpoints."""

    log_steps: PositiveInt = 10
    evaluate_steps: PositiveInt = 500
    checkpoint_seconds: NonNegativeFloat = 120.0


def fit(
    objective: Objective,
    stages: tuple[Stage, ...],
    folder: Path,
    runtime: Runtime,
    evaluators: Sequence[Evaluator] = (),
    schedule: Schedule = Schedule(),
    stop_after: int | None = None,
) -> None:
    """Trains through all stages, resuming from the newest checkpoint in `folder`; `stop_after` ends early after N
    steps.

    Writes metrics.jsonl, TensorBoard events (where tensorboard is installed), previews/ and checkpoints/. Raises
    ValueError if the folder holds a run of other stages, FloatingPointError if the gradient is not finite (the last
    checkpoint stays).
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_stages(folder, stages)
    model = objective.model.to(runtime.device)
    step = _resume(folder, model)
    total_steps = sum(s.num_steps for s in stages)
    log = _Log(folder, step)
    end = total_steps if stop_after is None else min(total_steps, step + stop_after)
    with _progress() as progress:
        first = 0
        for stage in stages:
            last = first + stage.num_steps
            if step >= last:
                first = last
                continue
            bar = progress.add_task(stage.name, total=stage.num_steps, completed=step - first, note="")
            trainable = choose_trainable(model, stage.trainable)
            optimizer = make_optimizer(stage, trainable)
            newest = checkpoint.latest(folder / "checkpoints")
            if newest is not None and step > first:
                checkpoint.restore_optimizer(newest, optimizer)
            saved_at = time.monotonic()
            while step < min(last, end):
                figures = _train_step(objective, stage, step - first, step, trainable, optimizer, runtime)
                step += 1
                log.add(figures)
                if step % schedule.log_steps == 0 or step in (last, end):
                    line = log.flush(step, stage, stage.lr_at(step - 1 - first))
                    progress.update(bar, note=_note(line))
                    if not progress.console.is_terminal and step % (10 * schedule.log_steps) == 0:
                        progress.console.print(f"{stage.name} {step - first}/{stage.num_steps}  {_note(line)}")
                progress.update(bar, completed=step - first)
                if step % schedule.evaluate_steps == 0 or step == total_steps:
                    log.write(step, stage, _evaluate(evaluators, model, step, folder))
                due = time.monotonic() - saved_at > schedule.checkpoint_seconds
                if due or step in (last, end):
                    state = {"step": step, "stage": stage.name, "stages": configs.to_dict(stages)}
                    checkpoint.save(folder / "checkpoints", model, optimizer, state)
                    saved_at = time.monotonic()
            if step >= end:
                break
            first = last
    log.close()


def _train_step(
    objective: Objective,
    stage: Stage,
    stage_step: int,
    step: int,
    trainable: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
) -> Measures:
    """One optimiser step; returns the step's measures."""
    objective.model.train()
    lr = stage.lr_at(stage_step)
    batches = objective.micro_batches(stage, step)
    total = sum(objective.count(batch) for batch in batches)
    measures: Measures = {}
    for batch in batches:
        with torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32):
            loss, parts = objective.loss(batch, stage, stage_step)
        (loss / total).backward()
        for name, (value, count) in {**parts, "loss": (loss.detach(), objective.count(batch))}.items():
            before = measures.get(name, (0.0, 0))
            measures[name] = (before[0] + value, before[1] + count)
    norms = [nn.utils.clip_grad_norm_(group, stage.clip_norm) for group in objective.clip_groups(trainable)]
    if not math.isfinite(float(norms[0])):
        raise FloatingPointError(
            f"step {step}: the gradient is not finite; lower the learning rate ({lr:g}) and run the same command again"
        )
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    measures["grad_norm"] = (norms[0].detach(), 1)
    return measures


def check_stages(folder: Path, stages: tuple[Stage, ...]) -> None:
    """Raises ValueError if the folder holds a run of other stages."""
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is not None and checkpoint.read_state(newest)["stages"] != configs.to_dict(stages):
        raise ValueError(f"{folder} holds a run with other stages: use another folder, or remove it to start again")


def _resume(folder: Path, model: nn.Module) -> int:
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        return 0
    checkpoint.restore_model(newest, model)
    return checkpoint.read_state(newest)["step"]


def _evaluate(evaluators: Sequence[Evaluator], model: nn.Module, step: int, folder: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    previews = folder / "previews"
    previews.mkdir(exist_ok=True)
    model.eval()
    with torch.no_grad():
        for evaluator in evaluators:
            figures.update(evaluator(model, step, previews))
    return figures


class _Log:
    """metrics.jsonl and TensorBoard. Lines past the resumed step are cut, so that a resumed log reads as one run."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]  # whole lines only
        self.path.write_text("".join(line + "\n" for line in kept))
        self.sums: Measures = {}
        self.since = time.monotonic()
        self.num_steps = 0
        self.board = _tensorboard(folder / "tensorboard", step)

    def add(self, measures: Measures) -> None:
        for name, (value, count) in measures.items():
            before = self.sums.get(name, (0.0, 0))
            self.sums[name] = (before[0] + value, before[1] + count)
        self.num_steps += 1

    def flush(self, step: int, stage: Stage, lr: float) -> dict[str, Any]:
        figures = {name: float(value) / max(count, 1) for name, (value, count) in self.sums.items()}
        seconds = (time.monotonic() - self.since) / max(self.num_steps, 1)
        line = self.write(step, stage, {**figures, "lr": lr, "seconds_per_step": seconds})
        self.sums, self.num_steps, self.since = {}, 0, time.monotonic()
        return line

    def write(self, step: int, stage: Stage, figures: Mapping[str, float]) -> dict[str, Any]:
        line = {"step": step, "stage": stage.name, **{name: round(float(v), 6) for name, v in figures.items()}}
        if figures:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            for name, value in figures.items():
                if self.board is not None:
                    self.board.add_scalar(name, value, step)
        return line

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra; metrics.jsonl holds the same figures
        return None
    return SummaryWriter(str(folder), purge_step=step)


def _note(line: dict[str, Any]) -> str:
    shown = {k: v for k, v in line.items() if k not in ("step", "stage", "lr", "seconds_per_step", "grad_norm")}
    rate = f"{1 / line['seconds_per_step']:.2f} steps/s"
    return rate + "".join(f"  {name} {value:.4g}" for name, value in shown.items())


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
