"""openjanus generate: draw pictures into files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

from openjanus.cli.console import console, progress_bar
from openjanus.cli.files import check_folder
from openjanus.cli.options import ModelOptions, Which

if TYPE_CHECKING:
    from PIL import Image


def generate(
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT ...", help="what to draw")],
    n: Annotated[int, arg(aliases=["-n"], help="pictures per prompt")] = 1,
    first: Annotated[int, arg(help="number of the first picture: -n 1 --first 5 draws only picture 5")] = 0,
    seed: Annotated[int, arg(help="picture k of a prompt depends only on (seed, k)")] = 0,
    guidance: Annotated[float | None, arg(help="classifier-free guidance; 1: off; default: the model's own")] = None,
    picture: Annotated[
        UseAppendAction[tuple[Path, ...]],
        arg(metavar="FILE", help="a picture before the words, for a model that was trained to edit; may be repeated"),
    ] = (),
    image_guidance: Annotated[
        float | None, arg(help="guidance by the pictures, if it is not that by the words; default: the model's own")
    ] = None,
    temperature: Annotated[float | None, arg(help="0: the most probable ids; default: the model's own")] = None,
    top_k: int | None = None,
    top_p: float | None = None,
    size: Annotated[int | None, arg(help="side in pixels; a Janus draws one size only")] = None,
    speculative: Annotated[int, arg(help="ids per forward pass, such as 16; 0: off; the pictures stay the same")] = 0,
    out: Annotated[Path, arg(help="folder for the pictures")] = Path("."),
    which: Which = ModelOptions(),  # noqa: B008  (frozen)
) -> None:
    """Draw pictures of one or several prompts into PNG files, each as soon as it is finished, with a contact sheet for
    more than one. No file is overwritten."""
    from openjanus.inference.picture_files import MAX_ON_SHEET, PictureFolder, file_name
    from openjanus.processing.image import open_image
    from openjanus.processing.message import Message

    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
    if image_guidance is not None and not picture:
        raise ValueError("--image-guidance is for a prompt with pictures: give one with --picture")
    check_folder(out)
    given = [open_image(path) for path in picture]
    engine = which.engine()
    if size is not None and size not in engine.sizes_px:
        raise ValueError(f"size {size}: this model draws {' or '.join(map(str, engine.sizes_px))} px wide pictures")
    options = engine.options(
        n=n, seed=seed, guidance=guidance, image_guidance=image_guidance,
        temperature=temperature, top_k=top_k, top_p=top_p,
    )  # fmt: skip
    asked = [Message("user", [*given, prompt.strip()]) for prompt in prompts]
    pictures, names = PictureFolder(out), [f"{file_name(prompt)}-seed{seed}" for prompt in prompts]
    has_sheet = 1 < len(prompts) * n <= MAX_ON_SHEET
    paths: dict[int, Path] = {}
    images: dict[int, Image.Image] = {}
    try:
        with progress_bar("drawing") as progress:
            for place, image in engine.draw(asked, options, progress, speculative, first):
                request, k = place // n, first + place % n
                paths[place] = pictures.save(image, f"{names[request]}-{k}", prompts[request], options, k)
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
