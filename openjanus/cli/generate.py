"""openjanus generate: draw pictures into files."""

from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.drawing import Drawing, DrawingOptions, draw_files
from openjanus.cli.options import ModelOptions, Which


def generate(
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT ...", help="what to draw")],
    drawing: Drawing = DrawingOptions(),  # noqa: B008  (frozen)
    which: Which = ModelOptions(),  # noqa: B008
) -> None:
    """Draw pictures of one or several prompts into PNG files, each as soon as it is finished, with a contact sheet for
    more than one. No file is overwritten."""
    from openjanus.processing.message import Message

    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("empty prompt: say what to draw, such as 'two red apples'")
    draw_files([Message("user", prompt.strip()) for prompt in prompts], prompts, drawing, which)
