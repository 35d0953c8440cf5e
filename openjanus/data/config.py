"""What a run says of a user's data; `readers/` opens it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from openjanus.config import Config, Range

Share = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class DataConfig(Config):
    """A user's data, and how its examples are made.

    `path`: a folder or a file (readers/__init__.py lists the formats), or `hub:NAME` for a data set of the Hugging Face
    hub; empty in a recipe that waits for it. `use`: a caption with its picture is drawn, described, or both; then it
    counts as two examples. `pictures` is for the training of an image tokenizer: no words are needed. `question`: what
    the user says before a description. `crop`: the part of a picture that is drawn, if it is not square: the middle, or
    a place that is chosen at random once for each picture.
    `first_sentence`: share of the captions that end after their first sentence. `held_out`: share of the pictures that
    are not trained on. `skip_bad`: leave out what cannot be used, and count it, instead of an error.
    """

    path: str = ""
    use: Literal["draw", "describe", "both", "pictures"] = "both"
    question: str = "Describe the picture."
    crop: Literal["centre", "random"] = "centre"
    first_sentence: Share = 0.0
    held_out: Share = 0.05
    skip_bad: bool = False
