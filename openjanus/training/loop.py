"""The one training loop: Janus in its three stages, the image tokenizer and the contrastive encoder all run through it.

A `Training` has the parts that differ: a model, the data of each step, and a loss. The loop has stages, optimisers,
schedules, clipping, logs, previews and checkpoints. Losses are sums, divided by the number of targets of the whole
step, so that the division into micro-batches has no effect.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from openjanus import config as configs
from openjanus.ahead import made_ahead
from openjanus.config import Config, NonNegativeFloat, NonNegativeInt, PositiveInt
from openjanus.interruption import Interruption
from openjanus.machine import keep_freed_memory
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.metrics import PER_STEP, Measures, MetricsLog, add_measures
from openjanus.training.processes import ONE, OneProcess
from openjanus.training.stage import Stage, choose_trainable, make_optimizer
from openjanus.weights.config import Checkpoint

# (model, step, folder for pictures) -> figures for the log; given by the caller
Evaluator = Callable[[nn.Module, int, Path], Mapping[str, float]]
MANY_PARAMETERS = 50_000_000  # so many that taking memory anew in each step takes more time than it saves memory
BEST = "best"  # folder of the best weights, in that of the run
HELD_OUT_LOSS = "held_out_loss"  # the figure of an evaluator that tells which weights are the best so far
# (stage, step) -> the micro-batches of a step, on the CPU; each has `.to(device)`
Data = Callable[[Stage, int], Sequence[Any]]
# (model, batch, step) -> the loss summed over the batch's targets, and figures for the log
Loss = Callable[[Any, Any, int], tuple[Tensor, Measures]]


@dataclass
class Training:
    """A model, its data and its loss. Every `step` counts from the beginning of the run.

    data: a pure function of the seed, the stage, the step, and the parameters that begin with one of `data_reads`; a
    step is made ahead while none of these is trained. num_targets: targets of a batch; the loss is
    averaged over them. clipped_apart: prefixes of parameter names; gradient norms are clipped for each prefix
    separately (a discriminator, for instance). before_step(model, stage, step, batches): changes of the model outside
    the gradient. checkpoint: the exported checkpoint of a Janus. inputs(): further inputs of the batches, which a
    resumed run must find unchanged. keeps_base: whether the run's checkpoints hold the whole model, or only what is
    trained, because the rest is that of the model that the run started from. sizes: what a batch has, such as tokens
    and pictures; the log shows how many of each a second. blank(): a batch without targets that uses every part of the
    model, for a process that has fewer batches than others; None: it is trained in one process only.
    """

    model: nn.Module
    data: Data
    loss: Loss
    num_targets: Callable[[Any], int] = len
    clipped_apart: tuple[str, ...] = ("",)
    before_step: Callable[[Any, Stage, int, Sequence[Any]], None] = lambda model, stage, step, batches: None
    checkpoint: Checkpoint | None = None
    inputs: Callable[[], dict[str, Any]] = dict
    data_reads: tuple[str, ...] = ()
    keeps_base: bool = True
    sizes: Callable[[Any], Mapping[str, float]] = lambda batch: {}
    blank: Callable[[], Any] | None = None

    def kept_names(self, stages: Sequence[Stage]) -> set[str] | None:
        """The tensors that a checkpoint holds: None for all, or those that some stage trains."""
        if self.keeps_base:
            return None
        return set().union(*(choose_trainable(self.model, stage.trainable) for stage in stages))


@dataclass(frozen=True)
class Schedule(Config):
    """Intervals of logs, previews and checkpoints in steps; `seconds`: the longest time between checkpoints.
    `evaluate_first`: previews also before the first step. `workers`: processes that make the data of later steps; 0: a
    thread does."""

    log_steps: PositiveInt = 10
    evaluate_steps: PositiveInt = 500
    evaluate_first: bool = False
    workers: NonNegativeInt = 0
    checkpoint_seconds: NonNegativeFloat = 120.0


def fit(
    training: Training,
    stages: tuple[Stage, ...],
    folder: Path,
    runtime: Runtime,
    evaluators: Sequence[Evaluator] = (),
    schedule: Schedule = Schedule(),
    stop_after: int | None = None,
    processes: OneProcess = ONE,
) -> None:
    """Trains all stages, resuming from the newest whole checkpoint in `folder`; `stop_after`: number of steps after
    which to stop. `train` in run.py checks first that it is a checkpoint of this run.

    Writes metrics.jsonl, TensorBoard events (if tensorboard is installed), previews/ and checkpoints/; and best/, the
    weights of the least `held_out_loss` that the evaluators found. Ctrl-C and SIGTERM save a checkpoint and end the
    program. Raises FloatingPointError if a gradient is not finite (the last checkpoint stays), OSError if a file cannot
    be written.
    """
    if stop_after is not None and stop_after < 1:
        raise ValueError(f"stop_after is {stop_after}, expected 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    newest = checkpoint.latest(folder / "checkpoints")
    state: dict[str, Any] = {}
    training = processes.join(training, runtime)
    model, kept_names = training.model, training.kept_names(stages)
    if sum(p.numel() for p in model.parameters()) > MANY_PARAMETERS:
        keep_freed_memory()
    if newest is not None:
        state = checkpoint.read_state(newest)
        processes.restore_model(newest, model, kept_names)
    step = state.get("step", 0)
    total_steps = sum(s.num_steps for s in stages)
    end = total_steps if stop_after is None else min(total_steps, step + stop_after)
    log = MetricsLog(folder, step, state.get("log"), processes)

    best = checkpoint.latest(folder / BEST)
    least = math.inf if best is None or newest is None else checkpoint.read_state(best)[HELD_OUT_LOSS]

    def evaluate(stage: Stage) -> None:
        nonlocal least
        with processes.evaluating(model):
            figures = _evaluate(evaluators, model, step, folder, processes)
        log.write(step, stage.name, figures)
        loss = figures.get(HELD_OUT_LOSS, math.inf)
        (is_best,) = processes.any(step > 0 and not processes.rank and loss < least)  # the first says it for all
        if is_best:
            least = loss
            processes.save(folder / BEST, model, None, {"step": step, HELD_OUT_LOSS: loss}, kept_names)

    with closing(log), Interruption() as interruption, _progress(is_shown=not processes.rank) as progress:
        if step == 0 and schedule.evaluate_first:
            evaluate(stages[0])
        first = 0
        for stage in stages:
            last = first + stage.num_steps
            if step >= last:
                first = last
                continue
            if step >= end:
                break
            bar = progress.add_task(stage.name, total=stage.num_steps, completed=step - first, note="")
            trainable = choose_trainable(model, stage.trainable)
            optimizer = make_optimizer(stage, trainable, runtime.dtype)
            if newest is not None and step > first:
                processes.restore_optimizer(newest, optimizer)
            saved_at = time.monotonic()
            norms: list[Tensor] = []
            with _data_of(training, stage, trainable, range(step, min(last, end)), schedule, runtime) as data:
                for made in data:
                    interruption.saved = False
                    measures, norm = _train_step(
                        training, stage, step - first, step, made, trainable, optimizer, runtime, processes
                    )
                    log.add(measures)
                    norms.append(norm)
                    step += 1
                    if step % schedule.log_steps == 0 or step == last:
                        _check_finite(stage, step, norms)
                        line = log.flush(step, stage.name, stage.lr_at(step - 1 - first))
                        progress.update(bar, note=f"loss {line['loss']:.4g}" if "loss" in line else "")
                        if step % (10 * schedule.log_steps) == 0 or step == last:
                            _say(progress, f"{stage.name} {step - first}/{stage.num_steps}  {_note(line)}")
                    progress.update(bar, completed=step - first)
                    evaluates = bool(evaluators) and (step % schedule.evaluate_steps == 0 or step == total_steps)
                    due = time.monotonic() - saved_at > schedule.checkpoint_seconds
                    due, ends = processes.any(due, interruption.requested is not None)
                    if due or evaluates or ends or step in (last, end):
                        _check_finite(stage, step, norms)
                        state = {
                            "step": step, "stage": stage.name, "stages": configs.to_dict(stages), "log": log.state()
                        }  # fmt: skip
                        processes.save(folder / "checkpoints", model, optimizer, state, kept_names)
                        saved_at, interruption.saved = time.monotonic(), True
                    if interruption.requested:
                        _say(progress, f"saved at step {step}; the same command goes on from there")
                    interruption.end_if_requested()
                    if evaluates:
                        _say(progress, f"{stage.name} {step - first}/{stage.num_steps}  making previews")
                        evaluate(stage)
            first = last


def _data_of(
    training: Training,
    stage: Stage,
    trainable: dict[str, nn.Parameter],
    steps: range,
    schedule: Schedule,
    runtime: Runtime,
) -> AbstractContextManager[Iterator[Sequence[Any]]]:
    """The micro-batches of each step, made ahead unless they depend on what is trained."""
    make = partial(training.data, stage)
    if training.data_reads and any(name.startswith(training.data_reads) for name in trainable):
        return nullcontext(map(make, steps))
    return made_ahead(make, steps, schedule.workers, runtime.device)


def _check_finite(stage: Stage, step: int, norms: list[Tensor]) -> None:
    """Raises FloatingPointError if one of the last gradient norms, up to `step`, is not finite; forgets them."""
    finite = torch.stack(norms).isfinite().tolist() if norms else []
    norms.clear()
    if not all(finite):
        raise FloatingPointError(
            f"step {step - len(finite) + finite.index(False)}: the gradient is not finite; go on from the last "
            f"checkpoint with a lower learning rate: the same command and stages.{stage.name}.lr={stage.lr / 2:g}"
        )


def _train_step(
    training: Training,
    stage: Stage,
    stage_step: int,
    step: int,
    made: Sequence[Any],
    trainable: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    processes: OneProcess = ONE,
) -> tuple[Measures, Tensor]:
    """One optimiser step; returns its measures, and the largest norm of a gradient. It never waits for a GPU."""
    model = training.model.train()
    lr = stage.lr_at(stage_step)
    made = processes.fill(made, training.blank)
    counts = [training.num_targets(batch) for batch in made]
    batches = [batch.to(runtime.device) for batch in made]
    (total,) = processes.sums([sum(counts)])
    measures: Measures = {}
    autocast = torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.dtype != torch.float32)
    with autocast:
        training.before_step(model, stage, step, batches)
    for batch, count in zip(batches, counts, strict=True):
        with autocast:
            loss, parts = training.loss(model, batch, step)
        # processes average their gradients
        (loss / (total / processes.size) + processes.touch(model)).backward()
        add_measures(measures, {**parts, "loss": (loss.detach(), count)})
    groups = [[p for name, p in trainable.items() if name.startswith(prefix)] for prefix in training.clipped_apart]
    norms = [processes.whole(nn.utils.clip_grad_norm_(group, stage.clip_norm)) for group in groups if group]
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    measures["grad_norm"] = (norms[0].detach(), 1)
    for batch in made:
        for name, size in training.sizes(batch).items():
            measures[PER_STEP + name] = (measures.get(PER_STEP + name, (0.0, 1))[0] + size, 1)
    return measures, torch.stack(norms).max().detach()


def seconds_per_step(training: Training, stage: Stage, runtime: Runtime, num_steps: int = 3) -> float:
    """The shortest time of a few steps of a stage. The model is changed by them."""
    model = training.model.to(runtime.device)
    trainable = choose_trainable(model, stage.trainable)
    optimizer = make_optimizer(stage, trainable, runtime.dtype)
    times = []
    for step in range(num_steps):
        started = time.monotonic()
        made = training.data(stage, step)
        measures, _ = _train_step(training, stage, step, step, made, trainable, optimizer, runtime)
        float(measures["loss"][0])  # waits for a GPU
        times.append(time.monotonic() - started)
    return min(times)


def _evaluate(
    evaluators: Sequence[Evaluator], model: nn.Module, step: int, folder: Path, processes: OneProcess
) -> dict[str, float]:
    """The figures of all evaluators. Every process computes them, and the first keeps the pictures."""
    figures: dict[str, float] = {}
    model.eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as nowhere:
        previews = Path(nowhere) if processes.rank else folder / "previews"
        previews.mkdir(exist_ok=True)
        for evaluator in evaluators:
            figures.update(evaluator(model, step, previews))
    return figures


def _note(line: dict[str, Any]) -> str:
    hidden = ("step", "stage", "lr", "seconds_per_step", "grad_norm", "padding")
    shown = {k: v for k, v in line.items() if k not in hidden and not k.endswith("_per_second")}
    rate = f"{1 / line['seconds_per_step']:.2f} steps/s"
    if "tokens_per_second" in line:
        rate += f"  {line['tokens_per_second']:,.0f} tokens/s"
    return rate + "".join(f"  {name} {value:.4g}" for name, value in shown.items())


def _progress(is_shown: bool) -> Progress:
    """A progress bar for each stage, within 80 columns; only on a terminal."""
    console = Console(quiet=not is_shown)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )


def _say(progress: Progress, line: str) -> None:
    """Prints a line above the bars, without wrapping."""
    progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
