"""openjanus edit: draw a picture again, with a change."""

from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.drawing import Drawing, DrawingOptions, draw_files
from openjanus.cli.options import ModelOptions, Which


def edit(
    words: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PICTURE ... CHANGE", help="picture files, then what to change")
    ],
    image_guidance: Annotated[
        float | None, arg(help="guidance by the picture; --guidance is then that by the words only")
    ] = None,
    drawing: Drawing = DrawingOptions(),  # noqa: B008  (frozen)
    which: Which = ModelOptions(),  # noqa: B008
) -> None:
    """Draw a picture again, changed as the words say, into PNG files: openjanus edit apple.png "make the apple blue".

    For a model that was trained to edit. No file is overwritten."""
    from openjanus.processing.image import open_image
    from openjanus.processing.message import Message

    if len(words) < 2:
        raise ValueError("expected a picture file and then what to change, in quotes")
    *paths, change = words
    if not change.strip():
        raise ValueError("empty instruction: say what to change, such as 'make the apple blue'")
    images = [open_image(path) for path in paths]
    draw_files([Message("user", [*images, change.strip()])], [change], drawing, which, image_guidance)
