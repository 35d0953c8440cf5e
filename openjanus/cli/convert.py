"""openjanus convert: a checkpoint in another format or dtype."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.console import progress_bar
from openjanus.cli.files import folder_to_write
from openjanus.cli.options import AsConfigured, IgnoreConfigKeys, Revision
from openjanus.source import ModelSource


def convert(
    source: Annotated[
        Positional[str], arg(metavar="SOURCE", help="a checkpoint of any format, a hub id, or the run of a Janus")
    ],
    target: Annotated[Positional[Path], arg(metavar="TARGET", help="the folder to write")],
    format: Annotated[str, arg(help="openjanus, official or transformers")] = "openjanus",
    dtype: Annotated[str, arg(help="stored (as they are), float32, bfloat16 or float16")] = "stored",
    revision: Revision = None,
    as_configured: AsConfigured = False,
    ignore_config_keys: IgnoreConfigKeys = (),
    adapter: Annotated[str | None, arg(help="folder of an adapter (LoRA) to merge")] = None,
) -> None:
    """Convert a checkpoint to another format or dtype, or write a run's newest state as a checkpoint folder."""
    from openjanus.recipes.cards import write_card
    from openjanus.runtime import DTYPES, dtype_name
    from openjanus.training.run import read_run, restore
    from openjanus.weights import checkpoint
    from openjanus.weights.hub import NANO

    dtype = dtype_name(dtype, ("stored", *DTYPES))
    if format not in checkpoint.FORMATS:
        raise ValueError(f"format {format!r}: expected one of {', '.join(checkpoint.FORMATS)}")
    run = None
    with folder_to_write(target):
        if source != NANO and (Path(source) / "run.json").is_file():
            kept, run = restore(Path(source)), read_run(Path(source))
        else:
            named = ModelSource(
                model=source,
                revision=revision,
                as_configured=as_configured,
                ignore_config_keys=ignore_config_keys,
                adapter=adapter,
            )
            with progress_bar("reading") as progress:
                kept = named.checkpoint(progress=progress)
        checkpoint.save(kept, target, DTYPES.get(dtype), format)
        if run is not None:
            write_card(run, target)
    print(target)
