"""Short keys of a recipe: `start=MODEL`, `data=FOLDER` and `epochs=3` for what would take long paths.

start=MODEL                     task.start=MODEL
data=FOLDER                     task.data={"data": {"path": "FOLDER"}}, for a recipe with one slot for data
data=slots.json                 the data of several slots, as {"captions": "FOLDER", "chats": {"path": ...}}
data.use=draw                   task.data.data.use=draw
epochs=3                        stages.tune.num_steps, by the number of examples
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openjanus.data.sources import SOURCES
from openjanus.readers.dataset import open_data
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.weights.checkpoint import read_config
from openjanus.weights.config import TALK_AND_DRAW
from openjanus.weights.hub import find_checkpoint


def slots_of(run: Run) -> list[str]:
    """The names in a recipe's mixtures that wait for data of the user's."""
    names = [name for stage in run.stages for name in stage.mixture]
    return [name for name in dict.fromkeys(names) if name not in SOURCES and "." not in name]


def spelled_out(run: Run, overrides: Sequence[str]) -> tuple[list[str], float | None]:
    """The overrides with long keys, and the epochs, if any are given. Raises ValueError for data without a slot."""
    long: list[str] = []
    data: dict[str, Any] = {}
    epochs: float | None = None
    slots = slots_of(run)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "start":
            long.append(f"task.start={value}")
        elif key == "data":
            data |= _data(slots, run.name, value)
        elif key.startswith("data."):
            *named, field = key.split(".")[1:]
            if len(named) > 1 or not (named or len(slots) == 1):
                raise ValueError(f"override {override!r}: expected data.NAME.KEY=VALUE, where NAME is one of {slots}")
            data.setdefault(named[0] if named else slots[0], {})[field] = _value(value)
        elif key == "epochs":
            epochs = _positive(value)
        else:
            long.append(override)
    return ([*long, f"task.data={json.dumps(data)}"] if data else long), epochs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def taught(run: Run) -> Run:
    """The run with the task of editing added to what its model does, if its data has edits."""
    task = run.task
    if not isinstance(task, JanusTraining) or any(change.startswith("tasks=") for change in task.changes):
        return run
    tasks = TALK_AND_DRAW
    if isinstance(task.start, str) and task.start:
        tasks = read_config(find_checkpoint(task.start))[0].tasks
    if "edit" in tasks or not any(row.edits for c in task.data.values() for row in open_data(c).rows):
        return run
    return replace(run, task=replace(task, changes=(*task.changes, f"tasks={json.dumps([*tasks, 'edit'])}")))


def _positive(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"epochs is {value!r}, expected more than 0")
    return number


def _data(slots: Sequence[str], recipe: str, value: str) -> dict[str, Any]:
    if not slots:
        raise ValueError(f"recipe {recipe} takes no data of your own; see finetune.lora and finetune.full")
    if len(slots) == 1:
        return {slots[0]: {"path": value}}
    example = f'{{"{slots[0]}": "FOLDER"}}'
    try:
        table = json.loads(Path(value).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"recipe {recipe} takes data for {', '.join(slots)}: expected a JSON file such as {example} ({error})"
        ) from None
    if not isinstance(table, dict):
        raise ValueError(f"{value}: holds {type(table).__name__}, expected a table such as {example}")
    return {name: {"path": one} if isinstance(one, str) else one for name, one in table.items()}


def with_epochs(run: Run, epochs: float) -> Run:
    """The run with so many epochs of its data. Raises ValueError if it has several stages or several data."""
    task = run.task
    if not isinstance(task, JanusTraining) or len(task.data) != 1 or len(run.stages) != 1:
        raise ValueError("epochs needs one stage with data of one name: set stages.STAGE.num_steps instead")
    (name,), (stage,) = task.data, run.stages
    examples = len(open_data(task.data[name]).examples("train"))
    num_steps = max(1, math.ceil(epochs * examples / stage.mixture[name]))
    warmup_steps = min(stage.warmup_steps, num_steps // 10)
    return replace(run, stages=(replace(stage, num_steps=num_steps, warmup_steps=warmup_steps),))
