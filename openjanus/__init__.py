"""openjanus: an open, complete implementation of Janus (arXiv 2410.13848).

    import openjanus

    engine = openjanus.load("nano")
    engine.generate("two red apples", n=4, seed=1)[0].save("apples.png")
    engine.ask(picture, "what is it?")
    openjanus.train("nano", "my-data", "runs/mine")

Start reading in sequence.py and model/janus.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openjanus.inference.engine import Engine, load
    from openjanus.processing.message import Message
    from openjanus.recipes.running import train

__all__ = ["Engine", "Message", "load", "train"]
__version__ = "0.2.0"

_HOMES = {
    "Engine": "inference.engine",
    "load": "inference.engine",
    "Message": "processing.message",
    "train": "recipes.running",
}


def __getattr__(name: str) -> Any:
    """Imports torch only when something needs it: `openjanus --help` answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openjanus' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"openjanus.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What a user may want, whether it was imported yet or not."""
    return [*__all__, "__version__"]
