"""openjanus tokenize: drawings as image ids."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from openjanus.cli.console import progress_bar
from openjanus.cli.options import Device, Overrides, Recipe, Threads, choose_runtime, short_or
from openjanus.inference.source import Compute


def tokenize(
    recipe: Recipe,
    overrides: Overrides = (),
    num: Annotated[int, arg(help="how many drawings")] = 80_000,
    source: Annotated[str, arg(help="source of the pictures")] = "emoji.drawings",
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Encode the drawings of a recipe as image ids, once, before `train`."""
    from openjanus.data.image_ids import tokenize_source
    from openjanus.recipes import configure
    from openjanus.training.janus import JanusTraining, image_ids_file, starting_tokenizer

    num = short_or(num, 8)
    run = configure(recipe, overrides)
    if not isinstance(run.task, JanusTraining):
        raise ValueError(f"recipe {recipe!r} does not train a Janus: there is nothing to tokenize")
    target = Path(image_ids_file(run.task, source))
    runtime = choose_runtime(Compute(device, "float32", threads))
    tokenizer = starting_tokenizer(run.task).to(runtime.device)
    with progress_bar("tokenizing") as progress:
        tokenize_source(tokenizer, source, run.seed, num, target, lambda done: progress(done, num))
    print(target)
