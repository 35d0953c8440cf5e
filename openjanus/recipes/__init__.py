"""Recipes: runs as Python functions, by name (floor 4)."""

import difflib
from collections.abc import Callable

from openjanus.recipes import nano
from openjanus.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "nano.tokenizer": nano.tokenizer,
    "nano.encoder": nano.encoder,
    "nano.janus": nano.janus,
    "nano.longer": nano.longer,
}


def find_recipe(name: str) -> Callable[[], Run]:
    """A recipe by name. Raises ValueError naming the nearest known one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]
