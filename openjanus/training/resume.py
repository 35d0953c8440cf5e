"""Checks changes of a resumed run: lengths and rates of unfinished stages may change, and logging may."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from openjanus import config as configs
from openjanus.training.stage import Stage


def check_lengths(state: Mapping[str, Any], stages: tuple[Stage, ...]) -> None:
    """Raises ValueError if a stage is shorter than its finished steps."""
    first = 0
    for stage in stages:
        done = state["step"] - first
        if stage.name == state["stage"] and stage.num_steps < done:
            raise ValueError(f"stages.{stage.name}.num_steps is {stage.num_steps}, but {done} steps of it are done")
        first += stage.num_steps


def check_unchanged(folder: Path, before: Any, now: Any, free: Collection[str]) -> None:
    """Raises ValueError that lists the differences, old and new, between two configs as plain data.

    Keys that begin with one of `free` may differ.
    """
    changed = [
        f"{key} was {_shown(old)} and is {_shown(new)}"
        for key, old, new in configs.differences(before, now)
        if not key.startswith(tuple(free))
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Give them as they were, or use another "
            "folder"
        )


def read_stages(state: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages that a checkpoint was trained in."""
    return tuple(configs.from_dict(Stage, stage) for stage in state["stages"])


def open_keys(state: Mapping[str, Any], stages: tuple[Stage, ...]) -> list[str]:
    """Keys that may differ from the checkpoint's: of the running stage and of the stages after it.

    A stage that has just ended runs again if it is made longer.
    """
    keys, first = [], 0
    for before, now in zip(read_stages(state), stages, strict=False):
        if state["step"] < first + max(before.num_steps, now.num_steps):
            keys += [f"stages.{before.name}.{key}" for key in ("num_steps", "lr")]
        first += before.num_steps
    return keys


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "type" in value:
        return f"a {value['type']}"
    return "absent" if value is None else repr(value)
