"""Options that several commands share. torch is not imported here, so that `--help` and argument errors are fast."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from tyro.conf import Positional, arg

from openjanus.cli.console import console, progress_bar
from openjanus.source import Compute, ModelSource

if TYPE_CHECKING:
    from openjanus.inference.engine import Engine
    from openjanus.runtime import Runtime

T = TypeVar("T")

Model = Annotated[
    str, arg(help="nano (the bundled model), a checkpoint folder of any format, a finished run, or a hub id")
]
Revision = Annotated[str | None, arg(help="branch, tag or commit of a hub id")]
AsConfigured = Annotated[bool, arg(help="follow do_normalize: false of the first Janus-1.3B files, a known mistake")]
IgnoreConfigKeys = Annotated[
    tuple[str, ...], arg(metavar="KEY ...", help="config keys of other formats to ignore, such as vq_config.something")
]
Device = Annotated[str, arg(help="auto, cpu, cuda or mps")]
Threads = Annotated[int, arg(help="CPU threads; 0: torch's own choice")]
Recipe = Annotated[
    Positional[str], arg(metavar="RECIPE", help="such as nano.janus, or a .py file with a function recipe()")
]
Overrides = Annotated[
    Positional[tuple[str, ...]], arg(metavar="KEY=VALUE ...", help="such as stages.unify.num_steps=100 or seed=1")
]


@dataclass(frozen=True)
class ModelOptions(ModelSource):
    """Which model runs, and on which device."""

    ignore_config_keys: IgnoreConfigKeys = ()  # overridden for its metavar

    def engine(self) -> "Engine":
        """Loads the model, with a progress bar. Raises ValueError if it cannot be loaded."""
        runtime = choose_runtime(self)
        with progress_bar("loading") as report:
            return self.load(runtime, report)


# Their fields are options of the command itself: --model, not --which.model.
ComputeOptions = Annotated[Compute, arg(name="")]
Which = Annotated[ModelOptions, arg(name="")]


def short_or(value: T, short: T) -> T:
    """`short` if OPENJANUS_SHORT is set: then every long command does only a little of its work."""
    return short if os.environ.get("OPENJANUS_SHORT") else value


def duration(seconds: float) -> str:
    """Hours and minutes; seconds if there are few."""
    minutes = round(seconds / 60)
    if not minutes:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def choose_runtime(compute: Compute) -> "Runtime":
    """Chooses the runtime by the options, and prints it; of the processes of torchrun, the first prints it."""
    runtime = compute.runtime()
    if os.environ.get("RANK", "0") == "0":
        console.print(str(runtime), style="dim")
    return runtime
