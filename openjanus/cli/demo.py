"""openjanus demo: what `make demo` runs."""

import time
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from openjanus.cli.console import progress_bar
from openjanus.cli.files import check_folder
from openjanus.cli.options import ModelOptions


def demo(out: Annotated[Path, arg(help="folder for the drawing")] = Path("demo")) -> None:
    """Draw a prompt with the bundled model, then ask about a bundled picture and about the drawing."""
    from openjanus.picture_files import PictureFolder, contact_sheet
    from openjanus.processing.image import open_image
    from openjanus.weights.hub import BUNDLED

    started = time.monotonic()
    check_folder(out)
    engine = ModelOptions().engine()
    prompt = "two red apples on a white background"
    options = engine.options(seed=1, n=1)
    with progress_bar("drawing") as progress:
        (drawn,) = engine.generate(prompt, options, progress)
    pictures = PictureFolder(out)
    path = pictures.save(drawn, "two-red-apples", prompt, options, 0)
    large = pictures.save(contact_sheet([drawn]), "two-red-apples-large", prompt, options, 0)
    shipped = BUNDLED / "pictures" / "cat-and-balloon.png"
    print(f'drew "{prompt}" into {path} ({drawn.width} px; enlarged: {large})')
    for picture, question in (
        (shipped, "what is left of the balloon?"),
        (shipped, "what color is the balloon?"),
        (path, "how many apples are there?"),
        (path, "what color are the apples?"),
    ):
        print(f"{picture}: {question} {engine.ask(open_image(picture), question)}")
    print(f"done in {time.monotonic() - started:.1f} s")
