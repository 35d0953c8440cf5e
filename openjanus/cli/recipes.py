"""openjanus recipes: the list of recipes."""

import inspect
import textwrap


def recipes() -> None:
    """List the recipes of `openjanus train`, and what each of them trains."""
    from openjanus.recipes import RECIPES
    from openjanus.recipes.pipeline import PIPELINES

    for name, runs in PIPELINES.items():
        print(f"{name}\n  {', '.join(runs)}, one after the other")
    for name, make in RECIPES.items():
        print(name)
        about = (inspect.getdoc(make) or "").partition("\n\n")[0]
        print(textwrap.fill(about, 78, initial_indent="  ", subsequent_indent="  "))
