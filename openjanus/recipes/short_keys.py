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

from openjanus.readers.dataset import open_data
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.weights.checkpoint import read_config
from openjanus.weights.config import TALK_AND_DRAW
from openjanus.weights.hub import find_checkpoint


def spelled_out(run: Run, overrides: Sequence[str]) -> tuple[list[str], float | None]:
    """The overrides with long keys, and the epochs, if any are given. Raises ValueError for data without a slot."""
    long: list[str] = []
    epochs: float | None = None
    slots = list(run.task.data)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "start":
            long.append(f"task.start={value}")
        elif key == "data":
            long += [f"task.data.{path}={json.dumps(one)}" for path, one in _data(slots, run.name, value).items()]
        elif key.startswith("data."):
            is_short = len(slots) == 1 and key.count(".") == 1
            long.append(f"task.{key.replace('data.', f'data.{slots[0]}.') if is_short else key}={value}")
        elif key == "epochs":
            epochs = _positive(value)
        else:
            long.append(override)
    return long, epochs


def taught(run: Run) -> Run:
    """The run with the task of editing added to what its model does, if its data has edits."""
    task = run.task
    if not isinstance(task, JanusTraining) or any(change.startswith("tasks=") for change in task.changes):
        return run
    tasks = TALK_AND_DRAW
    if isinstance(task.start, str) and task.start:
        tasks = read_config(find_checkpoint(task.start))[0].tasks
    if "edit" in tasks or not any(row.edits for c in task.data.values() if c.path for row in open_data(c).rows):
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
    """What `data=value` gives, by its key below `task.data`."""
    if not slots:
        raise ValueError(f"recipe {recipe} takes no data of your own; see finetune.lora and finetune.full")
    if len(slots) == 1:
        return {f"{slots[0]}.path": value}
    example = f'{{"{slots[0]}": "FOLDER"}}'
    try:
        table = json.loads(Path(value).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"recipe {recipe} takes data for {', '.join(slots)}: expected a JSON file such as {example} ({error})"
        ) from None
    if not isinstance(table, dict) or (unknown := table.keys() - set(slots)):
        what = f"data for {min(unknown)!r}" if isinstance(table, dict) else type(table).__name__
        raise ValueError(f"{value}: holds {what}; expected a table for {', '.join(slots)}, such as {example}")
    given: dict[str, Any] = {}
    for name, one in table.items():
        fields = one if isinstance(one, dict) else {"path": one}
        given |= {f"{name}.{field}": said for field, said in fields.items()}
    return given


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
