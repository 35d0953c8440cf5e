"""A new source of training examples: the bundled model learns to draw and to describe flags of three stripes.

    python examples/data_source.py --out runs/flags

A source is a function from an index to a conversation. The assistant's picture is one to draw, the user's is one to
understand. What is new: two sources, and their rows in a table.
"""

from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

import openjanus
from openjanus.data.sources import SOURCES, Source
from openjanus.processing.message import Conversation, Message
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


def flag(split: str, seed: int, index: int) -> tuple[Image.Image, str]:
    """A flag of 64x64 pixels, and its words."""
    rng = np.random.default_rng([seed, split == "train", index])
    names = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:3]]
    picture = Image.new("RGB", (64, 64))
    for i, name in enumerate(names):
        ImageDraw.Draw(picture).rectangle((0, 64 * i // 3, 64, 64 * (i + 1) // 3), fill=name)
    return picture, f"{names[0]}, {names[1]} and {names[2]}"


def drawings(split: str, seed: int) -> Source:
    """A flag to draw: index -> conversation."""

    def at(index: int) -> Conversation:
        picture, words = flag(split, seed, index)
        return [Message("user", f"a flag of {words}"), Message("assistant", picture)]

    return at


def questions(split: str, seed: int) -> Source:
    """A question about a flag: index -> conversation."""

    def at(index: int) -> Conversation:
        picture, words = flag(split, seed, index)
        return [Message("user", [picture, "which stripes has the flag?"]), Message("assistant", words)]

    return at


SOURCES["flags.drawings"] = (drawings, "conversations")
SOURCES["flags.questions"] = (questions, "conversations")


def main(out: Path, num_steps: int = 60) -> None:
    """Fine-tunes the bundled model, stores the result in out/model, and draws and asks once.

    Args:
        out: a new folder for the run
        num_steps: training steps
    """
    trainable = ("*", "!generation.tokenizer.*")
    stage = Stage("flags", num_steps, 5e-4, {"flags.drawings": 16, "flags.questions": 8}, trainable)
    task = JanusTraining(start="nano", image_ids="", row_tokens=256)
    train(Run("flags", task, (stage,)), out, Runtime.choose("cpu"))
    checkpoint.save(restore(out), out / "model")

    engine = openjanus.load(out / "model")
    engine.generate("a flag of red, white and blue", seed=1)[0].save(out / "flag.png")
    picture, words = flag("val", 0, 0)
    print("asked for", words, "- answered", engine.ask(picture, "which stripes has the flag?", max_new_tokens=12))


if __name__ == "__main__":
    tyro.cli(main)
