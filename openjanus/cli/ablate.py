"""openjanus ablate: the paper's controlled experiments, from the eyes to the table."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.console import console
from openjanus.cli.files import check_folder
from openjanus.cli.options import Device, Threads, choose_runtime, duration, short_or
from openjanus.source import Compute


def ablate(
    setting: Annotated[
        Positional[str], arg(metavar="SETTING", help="mini, mini.small (a smaller body), or languages")
    ] = "mini",
    out: Annotated[Path | None, arg(help="folder of all runs; default runs/ablate.SETTING")] = None,
    seeds: Annotated[int, arg(help="how many seeds each experiment gets")] = 3,
    only: Annotated[str, arg(help="experiments, such as D,A,B or all,none; default: all that the table needs")] = "",
    n: Annotated[int, arg(help="prompts, and questions of each kind, of a score")] = 300,
    device: Device = "auto",
    dtype: Annotated[str, arg(help="autocast dtype of the trainings: auto, float32, bfloat16")] = "auto",
    threads: Threads = 0,
    estimate: Annotated[bool, arg(help="only print how long it takes here")] = False,
) -> None:
    """Train and score the six experiments of the paper's Table 5 (shared or decoupled eyes, one task or both), or
    drawing in languages that were never drawn from, and write the table. The same command goes on after a stop."""
    from openjanus.recipes.ablating import PLANS, Ablation, estimated_seconds, run_all
    from openjanus.runtime import dtype_name

    if setting not in PLANS:
        raise ValueError(
            f"unknown setting {setting!r}; known: {', '.join(PLANS)}. The experiments at the size of the paper are "
            "recipes of their own: openjanus train janus-1.3b.a to janus-1.3b.f"
        )
    plan = PLANS[setting]
    names = [name.strip() for name in only.split(",") if name.strip()] or list(plan.usual)
    if unknown := [name for name in names if name not in plan.names]:
        raise ValueError(f"unknown experiment {unknown[0]!r}; known: {', '.join(plan.names)}")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}, expected 1 or more")
    folder = out or Path("runs") / f"ablate.{setting}"
    check_folder(folder)
    runtime = choose_runtime(Compute(device, dtype_name(dtype, ("auto", "float32", "bfloat16")), threads))
    ablation = Ablation(plan, folder, names, range(seeds), short_or(n, 2))
    seconds = estimated_seconds(ablation, runtime)
    console.print(f"trainings that are left: about {duration(seconds)} here; the same command goes on after a stop")
    if estimate:
        return

    def say(line: str) -> None:
        console.print(line, markup=False)

    results = run_all(ablation, runtime, say, short_or(None, 1))
    paths = plan.write(results, folder)
    print(plan.table(results))
    print(*paths, sep="\n")
