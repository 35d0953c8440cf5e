"""Recipes: runs as Python functions, by name (floor 6)."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from openjanus import config as configs
from openjanus.recipes import ablations, finetune, janus_paper, nano, wide
from openjanus.recipes.short_keys import spelled_out, taught, with_epochs
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "nano.tokenizer": nano.tokenizer,
    "nano.encoder": nano.encoder,
    "nano.janus": nano.janus,
    "nano.longer": nano.longer,
    "wide.tokenizer": wide.tokenizer,
    "wide.janus": wide.janus,
    "janus-1.3b": janus_paper.janus,
    "janus-pro-1b": janus_paper.pro_1b,
    "janus-pro-7b": janus_paper.pro_7b,
    "janus-1.3b.semantic": ablations.paper_semantic,
    **{f"janus-1.3b.{name.lower()}": ablations.recipe_of(name) for name in ablations.EXPERIMENTS},
    "finetune.lora": finetune.lora,
    "finetune.qlora": finetune.qlora,
    "finetune.full": finetune.full,
}


def find_recipe(name: str) -> Callable[[], Run]:
    """A recipe by name, or the function `recipe` of a Python file of the user's.

    Raises ValueError that names the nearest known one, or what is wrong with the file.
    """
    if name.endswith(".py"):
        return _of_file(Path(name))
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]


def _of_file(path: Path) -> Callable[[], Run]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    recipe = getattr(module, "recipe", None)
    if not callable(recipe):
        raise ValueError(f"{path}: has no function called recipe; expected one that returns a Run")
    run = recipe()
    if not isinstance(run, Run):
        raise ValueError(f"{path}: recipe() returns {type(run).__name__}, expected a Run (docs/training.md)")
    return lambda: run


OF_A_CHECKPOINT = ("task.model", "task.processor", "task.sampling")


def configure(name: str, overrides: Sequence[str]) -> Run:
    """A recipe with `key=value` overrides; start, data and epochs are short keys (short_keys.py).

    If it starts from a checkpoint, overrides of model, processor and sampling change the checkpoint's own values
    (`JanusTraining.changes`). If it starts from parts, this also holds for overrides of a model or processor that the
    recipe does not state.
    Raises ValueError for an unknown recipe or key.
    """
    recipe = find_recipe(name)()
    overrides, epochs = spelled_out(recipe, overrides)
    of_checkpoint = [o for o in overrides if o.startswith(OF_A_CHECKPOINT)]
    run = configs.override(recipe, [o for o in overrides if o not in of_checkpoint])
    if isinstance(task := run.task, JanusTraining):
        left = [f"task.{key}." for key in ("model", "processor") if getattr(task, key) is None]
        prefixes = OF_A_CHECKPOINT if isinstance(task.start, str) else tuple(left)
        altered = [o for o in of_checkpoint if prefixes and o.startswith(prefixes)]
        changes = (*task.changes, *(o.removeprefix("task.") for o in altered))
        run = replace(run, task=replace(task, changes=changes))
        of_checkpoint = [o for o in of_checkpoint if o not in altered]
    run = taught(configs.override(run, of_checkpoint))
    return run if epochs is None else with_epochs(run, epochs)
