"""openjanus train: start or resume the run of a recipe."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from openjanus.cli.files import check_folder
from openjanus.cli.options import Device, Overrides, Recipe, Threads, choose_runtime, short_or
from openjanus.inference.source import Compute


def train(
    recipe: Recipe,
    overrides: Overrides = (),
    out: Annotated[Path | None, arg(help="folder of the run; default runs/RECIPE")] = None,
    stop_after: Annotated[int | None, arg(help="stop after this many steps; the same command resumes")] = None,
    device: Device = "auto",
    dtype: Annotated[str, arg(help="autocast dtype: auto, float32, bfloat16")] = "auto",
    threads: Threads = 0,
    print_config: Annotated[bool, arg(name="print", help="only show the recipe, with overrides, as JSON")] = False,
) -> None:
    """Train a recipe, or resume its run."""
    from openjanus import config as configs
    from openjanus.recipes import configure
    from openjanus.recipes.evaluators import evaluators_of, keep_result
    from openjanus.runtime import dtype_name
    from openjanus.training.run import train as train_run

    run = configure(recipe, overrides)
    if print_config:
        print(configs.to_json(run))
        return
    dtype = dtype_name(dtype, ("auto", "float32", "bfloat16"))
    folder = out or Path("runs") / recipe
    check_folder(folder)
    runtime = choose_runtime(Compute(device, dtype, threads))
    trained = train_run(run, folder, runtime, evaluators_of, short_or(stop_after, 1))
    print(keep_result(trained, folder))
