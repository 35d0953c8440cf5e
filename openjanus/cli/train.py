"""openjanus train: start or resume the run of a recipe, or all runs of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from openjanus.cli.console import console
from openjanus.cli.files import check_folder
from openjanus.cli.options import Device, Overrides, Recipe, Threads, choose_runtime, duration, short_or
from openjanus.source import Compute

if TYPE_CHECKING:
    from openjanus.runtime import Runtime
    from openjanus.training.run import Run

REPORT_N = 100  # prompts and questions of a split, for the report page


def train(
    recipe: Recipe,
    overrides: Overrides = (),
    out: Annotated[Path | None, arg(help="folder of the run; default runs/RECIPE")] = None,
    stop_after: Annotated[int | None, arg(help="stop after this many steps; the same command resumes")] = None,
    device: Device = "auto",
    dtype: Annotated[str, arg(help="autocast dtype: auto, float32, bfloat16")] = "auto",
    threads: Threads = 0,
    replicas: Annotated[int, arg(help="with torchrun: groups of processes that each hold the whole model")] = 1,
    check: Annotated[bool, arg(help="resolve all, run two steps, print memory and time, and keep nothing")] = False,
    print_config: Annotated[bool, arg(name="print", help="only show the recipe, with overrides, as JSON")] = False,
) -> None:
    """Train a recipe, or resume its run. Fine-tune on data of your own by `openjanus train finetune.lora start=MODEL
    data=FOLDER`. `openjanus train nano` trains a nano model of the wider emoji world from
    nothing, eyes first, and ends with a report page."""
    from openjanus import config as configs
    from openjanus.parallel.several import Several, is_torchrun, of_this_process
    from openjanus.recipes import configure
    from openjanus.recipes.pipeline import PIPELINES
    from openjanus.recipes.running import train_in
    from openjanus.runtime import dtype_name
    from openjanus.training.processes import ONE

    dtype = dtype_name(dtype, ("auto", "float32", "bfloat16"))
    if recipe in PIPELINES:
        if overrides or print_config:
            raise ValueError(f"{recipe} is {', '.join(PIPELINES[recipe])}: change or print these one by one")
        _train_all(recipe, out or Path("runs") / recipe, Compute(device, dtype, threads), short_or(stop_after, 1))
        return
    run = configure(recipe, overrides)
    if print_config:
        print(configs.to_json(run))
        return
    folder = out or Path("runs") / Path(run.name if recipe.endswith(".py") else recipe).name
    if check:
        _check(run, choose_runtime(Compute(device, dtype, threads)))
        return
    check_folder(folder)
    runtime = choose_runtime(Compute(device, dtype, threads))
    processes = ONE
    if is_torchrun():
        runtime = of_this_process(runtime)
        processes = Several(runtime.device, replicas)
    for result in train_in(run, folder, runtime, _say, short_or(stop_after, 1), processes):
        print(result)


def _say(line: str) -> None:
    console.print(line, markup=False)


def _check(run: "Run", runtime: "Runtime") -> None:
    """What a run would train, and what it would need here."""
    from openjanus.recipes.own_data import describe, estimate
    from openjanus.training.run import make_training

    training = make_training(run)
    for line in describe(run, training):
        _say(line)
    needed = estimate(run, training, runtime)
    for stage, seconds in zip(run.stages, needed.seconds, strict=True):
        print(f"{stage.name}: {seconds:.2f} s a step, about {duration(seconds * stage.num_steps)} in all")
    print(f"memory: {needed.num_bytes / 1e9:.1f} GB")


def _train_all(name: str, folder: Path, compute: Compute, stop_after: int | None) -> None:
    """All runs of a pipeline, with an estimate before and a report after them."""
    from openjanus.inference.engine import Engine
    from openjanus.recipes.evaluators import keep_result
    from openjanus.recipes.pipeline import estimate, parts_of, train_parts
    from openjanus.recipes.report import write_report

    check_folder(folder)
    runtime = choose_runtime(compute)
    parts = parts_of(name, folder)
    for part, seconds in zip(parts, totals := estimate(parts, runtime), strict=True):
        _say(f"{part.run.name}: about {duration(seconds)}")
    console.print(f"all: about {duration(sum(totals))} here; the same command goes on after an interruption")
    trained = train_parts(parts, runtime, _say, stop_after)
    print(keep_result(trained, folder))
    assert trained.checkpoint is not None, "the last run of a pipeline trains a Janus"
    report = folder / "report.html"
    runs = [(part.run.name, part.folder) for part in parts]
    write_report(report, name, Engine(trained.checkpoint), runs, short_or(REPORT_N, 2))
    print(report)
