"""openjanus chat: a conversation in the terminal."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.options import ModelOptions, Which


def chat(
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="[PICTURE ...]", help="to begin with")] = (),
    temperature: Annotated[float, arg(help="0: the most probable answer")] = 0.0,
    seed: int = 0,
    max_new_tokens: int = 512,
    system: Annotated[str | None, arg(help="system prompt; default: the checkpoint's own")] = None,
    out: Annotated[Path, arg(help="folder for drawings")] = Path("."),
    which: Which = ModelOptions(),  # noqa: B008  (frozen)
) -> None:
    """Chat with a model: @PATH adds a picture to your message, /draw draws one, /help shows the rest."""
    from openjanus.processing.image import open_image
    from openjanus.terminal import Chat

    if sys.stdin is not None and hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # undecodable bytes must not end the conversation
    images = [open_image(path) for path in pictures]
    engine = which.engine()
    options = engine.options(temperature=temperature, seed=seed)
    Chat(engine, options, out, max_new_tokens, system).run(images)
