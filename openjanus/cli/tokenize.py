"""openjanus tokenize: drawings as image ids."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from openjanus.cli.console import progress_bar
from openjanus.cli.options import Device, Overrides, Recipe, Threads, choose_runtime, short_or
from openjanus.source import Compute

if TYPE_CHECKING:
    from openjanus.training.janus import JanusTraining


def tokenize(
    recipe: Recipe,
    overrides: Overrides = (),
    num: Annotated[int, arg(help="how many drawings")] = 80_000,
    source: Annotated[str, arg(help="source of the pictures")] = "emoji.drawings",
    device: Device = "auto",
    threads: Threads = 0,
    part: Annotated[str, arg(help="with data of your own, which part of it: 2/8 is the second of eight")] = "1/1",
) -> None:
    """Encode the drawings of a recipe as image ids, once, before `train`. Ids of data of your own are kept by content,
    so a call that was interrupted goes on."""
    from openjanus.recipes import configure
    from openjanus.recipes.tokenizing import tokenize_data, tokenize_source
    from openjanus.training.janus import JanusTraining, starting_tokenizer

    number, num_parts = _part(part)
    num = short_or(num, 8)
    run = configure(recipe, overrides)
    if not isinstance(run.task, JanusTraining):
        raise ValueError(f"recipe {recipe!r} does not train a Janus: there is nothing to tokenize")
    users = {name: data for name, data in run.task.data.items() if data.path}
    target = None if users else Path(image_ids_file(run.task, source))
    runtime = choose_runtime(Compute(device, "float32", threads))
    tokenizer = starting_tokenizer(run.task).to(runtime.device)
    for name, data in users.items():
        with progress_bar(f"tokenizing {name}") as progress:
            print(f"{name}: {tokenize_data(tokenizer, data, number - 1, num_parts, progress):,} pictures were new")
    if target is None:
        return
    with progress_bar("tokenizing") as progress:
        tokenize_source(tokenizer, source, run.seed, num, target, lambda done: progress(done, num))
    print(target)


def _part(text: str) -> tuple[int, int]:
    number, slash, parts = text.partition("/")
    if not (slash and number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"--part {text!r}: expected such as 2/8")
    return int(number), int(parts)


def image_ids_file(c: "JanusTraining", source: str) -> str:
    """The file of a source's drawings as ids. Raises ValueError if the config names none."""
    path = c.image_ids.get(source, "") if isinstance(c.image_ids, dict) else c.image_ids
    if not path:
        raise ValueError(f'image_ids names no file for {source}: set task.image_ids={{"{source}": FILE}}')
    return path
