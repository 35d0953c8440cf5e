"""What the commands that draw share: their options, and the way of pictures into files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from openjanus.cli.console import console, progress_bar
from openjanus.cli.files import check_folder
from openjanus.cli.options import ModelOptions

if TYPE_CHECKING:
    from PIL import Image

    from openjanus.processing.message import Message


@dataclass(frozen=True)
class DrawingOptions:
    """Settings left out are the model's own."""

    n: Annotated[int, arg(aliases=["-n"])] = 1  # pictures per prompt
    first: int = 0  # number of the first picture: -n 1 --first 5 draws only picture 5
    seed: int = 0  # picture k of a prompt depends only on (seed, k)
    guidance: float | None = None  # classifier-free guidance; 1: off; default: the model's own
    temperature: float | None = None  # 0: the most probable ids; default: the model's own
    top_k: int | None = None  # the k most probable ids only; 0: off
    top_p: float | None = None  # the fewest ids of this total probability; 1: off
    size: int | None = None  # side in pixels; a Janus draws one size only
    speculative: int = 0  # ids per forward pass, such as 16; 0: off; the pictures stay the same
    out: Path = Path(".")  # folder for the pictures


Drawing = Annotated[DrawingOptions, arg(name="")]


def draw_files(
    asked: "Sequence[Message]",
    words: Sequence[str],
    o: DrawingOptions,
    which: ModelOptions,
    image_guidance: float | None = None,
) -> None:
    """Draws each message into PNG files, with a contact sheet for more than one picture, and prints their paths.

    words: of each message, for the names of the files. Raises ValueError for options that mean nothing here.
    """
    from openjanus.picture_files import MAX_ON_SHEET, PictureFolder, file_name

    check_folder(o.out)
    engine = which.engine()
    if o.size is not None and o.size not in engine.sizes_px:
        raise ValueError(f"size {o.size}: this model draws {' or '.join(map(str, engine.sizes_px))} px wide pictures")
    options = engine.options(
        n=o.n, seed=o.seed, guidance=o.guidance, image_guidance=image_guidance,
        temperature=o.temperature, top_k=o.top_k, top_p=o.top_p,
    )  # fmt: skip
    for each in words:
        if unknown := engine.unknown_words(each):
            console.print(f"this model does not know {', '.join(unknown)}; it draws anyway", markup=False)
    pictures, names = PictureFolder(o.out), [f"{file_name(each)}-seed{o.seed}" for each in words]
    has_sheet = 1 < len(words) * o.n <= MAX_ON_SHEET
    paths: dict[int, Path] = {}
    images: dict[int, Image.Image] = {}
    try:
        with progress_bar("drawing") as progress:
            for place, image in engine.draw(asked, options, progress, o.speculative, o.first):
                request, k = place // o.n, o.first + place % o.n
                paths[place] = pictures.save(image, f"{names[request]}-{k}", words[request], options, k)
                if has_sheet:
                    images[place] = image
        if has_sheet:
            sheet = [images[place] for place in sorted(images)]
            paths[len(paths)] = pictures.save_sheet(sheet, f"{names[0]}-sheet")
    finally:  # also after an interruption
        for place in sorted(paths):
            print(paths[place])
    if len(paths) > MAX_ON_SHEET:
        console.print(f"no contact sheet: it has room for {MAX_ON_SHEET} pictures")
