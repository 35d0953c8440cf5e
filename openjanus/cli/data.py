"""openjanus data check: what is in a user's data, what is wrong with it, and what a model sees of it."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openjanus.cli.console import progress_bar
from openjanus.cli.files import check_folder
from openjanus.cli.options import Model


def check(
    data: Annotated[Positional[str], arg(metavar="DATA", help="a folder, a file, or hub:NAME")],
    use: Annotated[Literal["draw", "describe", "both"], arg(help="what captions are for")] = "both",
    crop: Annotated[Literal["centre", "random"], arg(help="the part of a picture that is drawn")] = "centre",
    model: Model = "nano",
    row_tokens: Annotated[int, arg(help="positions of a training row")] = 4096,
    out: Annotated[Path | None, arg(help="folder for the report, and a sheet of what is drawn")] = None,
) -> None:
    """Read data of your own as a training does: counts, faults, lengths, and documents with the supervised part marked.

    It ends with an error if something cannot be used."""
    from openjanus.data.config import DataConfig
    from openjanus.readers.check import check_data, drawing_targets, lenient
    from openjanus.readers.dataset import open_data
    from openjanus.weights.checkpoint import load
    from openjanus.weights.hub import find_checkpoint

    if out is not None:
        check_folder(out)
    wanted = load(find_checkpoint(model), only="nothing: only its config and text tokenizer")
    with progress_bar("reading") as progress:
        dataset = open_data(lenient(DataConfig(data, use, crop=crop)), progress)
    report = check_data(dataset, wanted.processor, wanted.config.model.generation.num_image_ids, row_tokens)
    print(report.text)
    if out is not None:
        (out / "report.txt").write_text(f"{report.text}\n", "utf-8")
        if sheet := drawing_targets(dataset):
            sheet.save(out / "targets.png")
    if report.faults:
        raise ValueError(f"{data}: {len(report.faults)} faults; see above")
