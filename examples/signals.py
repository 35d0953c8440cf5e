"""A third modality: a Janus that names the shape of a wave (arXiv 2410.13848, §3.5).

    python examples/signals.py --out runs/waves

What is new: the config of a signal eye, the eye, a source of examples, and a row in two tables. The body and the other
eyes come from the bundled model. It ends with the share of unseen waves that the model names right; chance is 25%.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from openjanus.config import PositiveInt
from openjanus.data.sources import SOURCES, Source
from openjanus.inference.engine import Engine
from openjanus.model.eye import SignalEye, SignalEyeConfig
from openjanus.model.janus import SIGNAL
from openjanus.processing.message import Conversation, Message
from openjanus.runtime import Runtime
from openjanus.sequence import SignalSpan
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint

LENGTH, NUM_POSITIONS = 128, 8  # samples of a wave, and the positions that it takes
SHAPES = {
    "sine": lambda phase: np.sin(2 * np.pi * phase),
    "square": lambda phase: np.sign(np.sin(2 * np.pi * phase)),
    "sawtooth": lambda phase: 2 * (phase % 1) - 1,
    "pulse": lambda phase: 2.0 * (phase % 1 < 0.15) - 1,
}


@dataclass(frozen=True)
class WaveEyeConfig(SignalEyeConfig):
    channels: PositiveInt = 64

    @property
    def num_positions(self) -> int:
        return NUM_POSITIONS


class WaveEye(SignalEye):
    """Waves [M, LENGTH] -> embeddings [M, NUM_POSITIONS, D]: convolutions shorten the wave sixteen times."""

    def __init__(self, c: WaveEyeConfig, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, c.channels, 8, stride=4, padding=2),
            nn.GELU(),
            nn.Conv1d(c.channels, c.channels, 8, stride=4, padding=2),
            nn.GELU(),
            nn.Conv1d(c.channels, width, 1),
        )

    def forward(self, signals: Tensor) -> Tensor:
        return self.layers(signals[:, None]).transpose(1, 2)


def waves(split: str, seed: int) -> Source:
    """A noisy wave of 2 to 5 periods with the question for its shape: index -> conversation."""

    def at(index: int) -> Conversation:
        rng = np.random.default_rng([seed, split == "train", index])
        name = list(SHAPES)[rng.integers(len(SHAPES))]
        phase = rng.random() + np.linspace(0, rng.uniform(2, 5), LENGTH)
        wave = torch.from_numpy(SHAPES[name](phase) + 0.1 * rng.standard_normal(LENGTH)).float()
        question = Message("user", [SignalSpan(wave, NUM_POSITIONS), "which wave is it?"])
        return [question, Message("assistant", name)]

    return at


SIGNAL[WaveEyeConfig] = WaveEye
SOURCES["waves"] = (waves, "conversations")


def main(out: Path, num_steps: int = 120, num_questions: int = 200) -> float:
    """Trains from the bundled model, stores the result in out/model, and returns the share of right answers.

    Args:
        out: a new folder for the run
        num_steps: training steps
        num_questions: unseen waves to ask about
    """
    task = JanusTraining(
        start="nano", image_ids="", row_tokens=256, changes=('model.signal={"type": "WaveEyeConfig"}',)
    )
    stage = Stage("waves", num_steps, 1e-3, {"waves": 32}, ("signal.*", "language_model.*"), "cosine", warmup_steps=10)
    train(Run("waves", task, (stage,)), out, Runtime.choose("cpu"))
    checkpoint.save(restore(out), out / "model")

    engine, unseen = Engine(checkpoint.load(out / "model")), waves("val", 0)
    talks = [unseen(index) for index in range(num_questions)]
    answers = engine.answers([talk[:1] for talk in talks], max_new_tokens=8)
    share = float(np.mean([answer == talk[1].content[0] for answer, talk in zip(answers, talks, strict=True)]))
    print(f"{share:.0%} of {num_questions} unseen waves are named right; chance is {1 / len(SHAPES):.0%}")
    return share


if __name__ == "__main__":
    tyro.cli(main)
