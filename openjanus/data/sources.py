"""Sources of training examples: functions from an index to an example.

A source is made by `find_source(name, ...)(split, seed)` and then called with an index; the same (split, seed, index)
always gives the same example, so a training can resume without a saved position. A new source is one function and one
line in `SOURCES`.
"""

import difflib
from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from openjanus.data.config import DataConfig
from openjanus.processing.text import TextTokenizer

Source = Callable[[int], Any]
Gives = Literal["pictures", "recoloured pictures", "captioned pictures", "conversations"]  # kind of a source's examples
MakeSource = Callable[[str, int], Source]  # of a split and a seed

# "module:function", so that a world is imported only if it is used, or the function itself.
SOURCES: dict[str, tuple[str | MakeSource, Gives]] = {
    "emoji.pictures": ("openjanus.emoji.sources:pictures", "pictures"),
    "emoji.recoloured": ("openjanus.emoji.recolouring:recoloured", "recoloured pictures"),
    "emoji.captions": ("openjanus.emoji.sources:captions", "captioned pictures"),
    "emoji.drawings": ("openjanus.emoji.sources:drawings", "conversations"),
    "emoji.questions": ("openjanus.emoji.sources:questions", "conversations"),
    "emoji.wide.drawings": ("openjanus.emoji.wide_sources:drawings", "conversations"),
    "emoji.wide.talks": ("openjanus.emoji.wide_sources:talks", "conversations"),
    "emoji.wide.edits": ("openjanus.emoji.wide_sources:edits", "conversations"),
    "emoji.mini.pictures": ("openjanus.emoji.mini:pictures", "pictures"),
    "emoji.mini.captions": ("openjanus.emoji.mini:captions", "captioned pictures"),
    "emoji.mini.drawings": ("openjanus.emoji.mini:drawings", "conversations"),
    "emoji.mini.questions": ("openjanus.emoji.mini:questions", "conversations"),
    **{
        f"emoji.languages.{name}": (f"openjanus.emoji.languages:{name}", "conversations")
        for name in ("drawings", "parallel", "monolingual", "mixed", "english", "questions", "english_questions")
    },
    "emoji.texts": ("openjanus.emoji.sources:texts", "conversations"),
}

# Opens a user's data (data/config.py): what it gives has `source(split, seed)`.
USERS_DATA = "openjanus.readers.dataset:open_data"

# "module:function", as above: the text tokenizers of worlds that have one.
TEXT_TOKENIZERS = {
    "emoji": "openjanus.emoji.sources:world_text_tokenizer",
    "emoji.wide": "openjanus.emoji.wide_sources:wide_text_tokenizer",
    "emoji.languages": "openjanus.emoji.languages:languages_text_tokenizer",
}


def find_source(name: str, expected: Gives) -> MakeSource:
    """A source by name. Raises ValueError for an unknown source, or one with another kind of examples."""
    fitting = [other for other, (_, gives) in SOURCES.items() if gives == expected]
    if name not in SOURCES:
        near = difflib.get_close_matches(name, fitting, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fitting)}"
        raise ValueError(f"unknown source {name!r}; {hint}")
    make, gives = SOURCES[name]
    if gives != expected:
        raise ValueError(f"source {name!r} gives {gives}, but this needs {expected}: use {' or '.join(fitting)}")
    return _imported(make) if isinstance(make, str) else make


def open_users_data(c: DataConfig) -> Any:
    """The data of a config, as readers/dataset.py describes it. Raises ValueError if it cannot be used."""
    return _imported(USERS_DATA)(c)


def indices_of_step(count: float, step: int) -> range:
    """The examples of a step, if each has `count` of them; a fraction is carried over to later steps."""
    exact = Fraction(str(count))
    return range(int(step * exact), int((step + 1) * exact))


def find_text_tokenizer(name: str) -> TextTokenizer:
    """A text tokenizer of `TEXT_TOKENIZERS`, of a file, or of a checkpoint folder.

    Raises ValueError if there is no name, or if the file is missing or not a tokenizer.
    """
    if not name:
        raise ValueError(
            f"text_tokenizer names none, expected {', '.join(TEXT_TOKENIZERS)}, a file, or a checkpoint folder"
        )
    if name in TEXT_TOKENIZERS:
        return _imported(TEXT_TOKENIZERS[name])()
    return TextTokenizer.load(Path(name) / "tokenizer.json" if Path(name).is_dir() else name)


def _imported(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
