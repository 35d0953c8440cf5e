"""openjanus ask: a question about pictures."""

from typing import Annotated

from tyro.conf import Positional, arg

from openjanus.cli.options import ModelOptions, Which


def ask(
    words: Annotated[
        Positional[tuple[str, ...]], arg(metavar="PICTURE ... QUESTION", help="picture files, then one question")
    ],
    temperature: Annotated[float, arg(help="0: the most probable answer")] = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 512,
    which: Which = ModelOptions(),  # noqa: B008  (frozen)
) -> None:
    """Answer a question about one or several pictures, streaming."""
    from openjanus.processing.image import open_image
    from openjanus.processing.processor import Message

    if len(words) < 2:
        raise ValueError("expected one or several picture files and then a question in quotes")
    *paths, question = words
    if not question.strip():
        raise ValueError("empty question: ask something, such as 'what is it?'")
    images = [open_image(path) for path in paths]
    engine = which.engine()
    options = engine.options(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    for piece in engine.chat([Message("user", [*images, question.strip()])], options, max_new_tokens):
        print(piece, end="", flush=True)
    print()
