"""A run: a task (its type selects the training), its stages and a seed."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from filelock import FileLock, Timeout

from openjanus import config as configs
from openjanus.config import Config, ConfigError, OneOf, Range
from openjanus.data.sources import find_source
from openjanus.model.janus import Janus
from openjanus.processing.text import TextTokenizer
from openjanus.runtime import Runtime
from openjanus.training import checkpoint
from openjanus.training.janus import JanusTraining, janus_training
from openjanus.training.loop import Evaluator, Schedule, Training, fit
from openjanus.training.processes import ONE, OneProcess
from openjanus.training.resume import check_lengths, check_unchanged, open_keys, read_stages
from openjanus.training.stage import Stage
from openjanus.weights import own
from openjanus.weights.config import Checkpoint, CheckpointConfig

# A training is a config, with the kind of its `examples`, and a function (config, seed) -> Training. More are added by
# whoever imports them (openjanus/eyes).
TRAININGS: dict[type, Callable[..., Training]] = {JanusTraining: janus_training}


@dataclass(frozen=True)
class Run(Config):
    """The config of a training: it can be printed, overridden by `key=value`, and stored with the results."""

    name: str
    task: Annotated[Any, OneOf(TRAININGS)]
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


def read_run(folder: Path) -> Run:
    """The run of a folder, of any format. Raises ValueError if the file is damaged."""
    return own.load(Run, folder / "run.json")


def make_training(run: Run, start: Checkpoint | None = None) -> Training:
    """The training of a task, with parameters initialised from the run's seed.

    `start`: the initial checkpoint of a Janus, instead of the task's. Raises ValueError, before anything is built, for
    a source of examples that is unknown or does not suit the task.
    """
    for stage in run.stages:
        for name in stage.sources:
            _check_source(run, stage, name)
    torch.manual_seed(run.seed)
    return TRAININGS[type(run.task)](run.task, run.seed, *([start] if start is not None else []))


def _check_source(run: Run, stage: Stage, name: str) -> None:
    """Raises ValueError if a mixture has a name that is neither a source nor the user's data."""
    users = run.task.data
    if name not in users:
        find_source(name, run.task.examples)
    elif not users[name].path:
        kind = "data=FOLDER" if len(users) == 1 else f'data=FILE, where FILE holds {{"{name}": "FOLDER", ...}}'
        raise ValueError(f"stage {stage.name} needs data for {name!r}: give {kind}")
    elif isinstance(run.task, JanusTraining) and users[name].use == "pictures":
        raise ValueError(f"data.{name}.use is pictures, which is for eyes: a Janus learns from draw, describe or both")


def restore(folder: Path) -> Checkpoint:
    """The Janus of a run's newest whole checkpoint. It reads only the run's folder, and for LoRA its base.

    Raises ValueError if the run does not train a Janus, or has no whole checkpoint.
    """
    run = read_run(folder)
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise ValueError(f"{folder}: no checkpoint there yet")
    if isinstance(run.task, JanusTraining) and run.task.lora is not None:  # merged into the base's own matrices
        run = replace(run, task=replace(run.task, lora=replace(run.task.lora, base="float32")))
    training = make_training(run, kept_start(folder))
    restored = training.checkpoint
    if restored is None:
        raise ValueError(f"{folder}: not the run of a Janus")
    checkpoint.restore_model(newest, restored.model, training.kept_names(run.stages))
    return restored


def keep_start(start: Checkpoint, folder: Path) -> None:
    """Writes the files that `restore` needs, besides config and weights, into a run's folder."""
    start.processor.text.save(folder / "tokenizer.json")
    own.save(start.config, folder / "model.json")


def kept_start(folder: Path) -> Checkpoint | None:
    """The checkpoint of `keep_start`, with a model without weights; None for other runs, and for older ones."""
    if not (folder / "model.json").is_file():
        return None
    config = own.load(CheckpointConfig, folder / "model.json")
    text = TextTokenizer.load(folder / "tokenizer.json")
    return Checkpoint(Janus(config.model), config.make_processor(text), config.sampling, tasks=config.tasks)


# Keys that may differ in a resumed run: they affect logs and rounding only.
FREE = ("schedule.", "task.micro_batch_rows", "task.sampling", "task.image_ids", "task.recompute", "task.compile")


def check_same(run: Run, folder: Path, newest: Path) -> None:
    """Raises ValueError that lists forbidden differences from the run in the folder."""
    state = checkpoint.read_state(newest)
    before = replace(read_run(folder), stages=read_stages(state))
    check_unchanged(folder, configs.to_dict(before), configs.to_dict(run), (*FREE, *open_keys(state, run.stages)))
    check_lengths(state, run.stages)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run's folder; the system releases the lock when the process ends.

    Raises ValueError if another process holds it.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{folder}: another process trains there; wait for it, or use another folder") from None


def keep_inputs(training: Training, runtime: Runtime, folder: Path) -> None:
    """Stores the inputs of a new run besides its config: the dtype, and its files of image ids.

    Raises ValueError if the folder's run has other inputs. An older run without this file gets the present ones.
    """
    inputs: dict[str, Any] = {"dtype": str(runtime.dtype).removeprefix("torch."), **training.inputs()}
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
    evaluators_of: Callable[[Training], Sequence[Evaluator]] = lambda training: (),
    stop_after: int | None = None,
    processes: OneProcess = ONE,
) -> Training:
    """Trains a run in its folder, or resumes it there; returns it with the trained model.

    Raises ValueError if another process trains there, or if the run there has other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if processes.rank else locked(folder):
        newest = checkpoint.latest(folder / "checkpoints")
        if newest is not None:
            check_same(run, folder, newest)
        training = make_training(run, None if newest is None else kept_start(folder))
        if not processes.rank:
            keep_inputs(training, runtime, folder)
            if newest is None and training.checkpoint is not None and training.keeps_base:
                keep_start(training.checkpoint, folder)
            own.save(run, folder / "run.json")
        processes.wait()
        fit(training, run.stages, folder, runtime, evaluators_of(training), run.schedule, stop_after, processes)
    return training
