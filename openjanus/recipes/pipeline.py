"""Several runs as one command: `openjanus train nano` makes a model from nothing, eyes first.

    OUT/wide.tokenizer ─► OUT/nano.encoder ─► OUT/wide.janus ─► OUT/model, OUT/report.html

Each run resumes by itself, so the whole does, too: what is finished is left as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openjanus.recipes import find_recipe
from openjanus.recipes.evaluators import evaluators_of
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusTraining
from openjanus.training.loop import Training, seconds_per_step
from openjanus.training.run import Run, make_training, train

# The recipes of each pipeline, in order. A later one starts from the earlier ones.
PIPELINES: dict[str, tuple[str, ...]] = {"nano": ("wide.tokenizer", "nano.encoder", "wide.janus")}
TAKES = {"wide.janus": {"understanding.encoder": "nano.encoder", "generation.tokenizer": "wide.tokenizer"}}


@dataclass(frozen=True)
class Part:
    """A run of a pipeline, and its folder."""

    run: Run
    folder: Path


def parts_of(name: str, folder: Path) -> list[Part]:
    """The runs of a pipeline in `folder`, each started from the earlier ones there."""
    parts = []
    for recipe in PIPELINES[name]:
        run = find_recipe(recipe)()
        if recipe in TAKES:
            assert isinstance(run.task, JanusTraining) and isinstance(run.task.start, dict)
            taken = {part: str(folder / source) for part, source in TAKES[recipe].items()}
            run = replace(run, task=replace(run.task, start={**run.task.start, **taken}))
        parts.append(Part(run, folder / recipe))
    return parts


def estimate(parts: Sequence[Part], runtime: Runtime) -> list[float]:
    """Seconds that each run takes, by the steps that are timed here: a few of each stage, on random weights."""
    totals = []
    for part in parts:
        run = part.run
        if isinstance(run.task, JanusTraining) and isinstance(run.task.start, dict):
            text_only = {"text_tokenizer": run.task.start["text_tokenizer"]}
            run = replace(run, task=replace(run.task, start=text_only, image_ids=""))
        training = make_training(run)
        totals.append(sum(seconds_per_step(training, stage, runtime) * stage.num_steps for stage in run.stages))
    return totals


def train_parts(
    parts: Sequence[Part], runtime: Runtime, say: Callable[[str], None], stop_after: int | None = None
) -> Training:
    """Trains or resumes the runs one after the other; returns the last one. stop_after: steps of each run."""
    assert parts, "a pipeline has runs"
    for number, part in enumerate(parts, start=1):
        say(f"{number} of {len(parts)}: {part.run.name}")
        trained = train(part.run, part.folder, runtime, evaluators_of, stop_after)
    return trained
