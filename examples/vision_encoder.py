"""A new understanding eye: a small convolutional encoder instead of SigLIP.

    python examples/vision_encoder.py --out runs/convolutions

What is new: the config of the eye, the eye, and a row in a table. The body and the image tokenizer come from the
bundled model, so the model still draws as before.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from torch import Tensor, nn

import openjanus
from openjanus.config import PositiveInt
from openjanus.emoji.sources import questions
from openjanus.model.eye import (
    Adaptor,
    GenerationEyeConfig,
    UnderstandingEye,
    UnderstandingEyeConfig,
    initialise_normal,
)
from openjanus.model.janus import UNDERSTANDING
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint


@dataclass(frozen=True)
class ConvolutionEyeConfig(UnderstandingEyeConfig):
    """One feature for each square of 8x8 pixels."""

    size_px: PositiveInt = 64
    channels: PositiveInt = 96

    def num_features(self, generation: GenerationEyeConfig) -> int:
        return (self.size_px // 8) ** 2

    def image_size_px(self, generation: GenerationEyeConfig) -> int:
        return self.size_px


class ConvolutionEye(UnderstandingEye):
    """Pixels [M, 3, H, W] -> embeddings [M, N, D]."""

    def __init__(self, c: ConvolutionEyeConfig, width: int):
        super().__init__()
        self.num_features = (c.size_px // 8) ** 2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, c.channels, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(c.channels, c.channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(c.channels, c.channels, 3, padding=1),
        )
        self.adaptor = Adaptor(c.channels, width)

    def initialise(self) -> None:
        initialise_normal(self.adaptor)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.adaptor(self.encoder(pixels).flatten(2).transpose(1, 2))


UNDERSTANDING[ConvolutionEyeConfig] = ConvolutionEye


def main(out: Path, num_steps: int = 600) -> None:
    """Trains the new eye beside a frozen body, stores the result in out/model, and asks and draws once.

    Args:
        out: a new folder for the run
        num_steps: training steps
    """
    task = JanusTraining(
        start="nano", image_ids="", row_tokens=256, changes=('model.understanding={"type": "ConvolutionEyeConfig"}',)
    )
    stage = Stage("eye", num_steps, 1e-3, {"emoji.questions": 16}, trainable=("understanding.*",))
    train(Run("convolutions", task, (stage,)), out, Runtime.choose("cpu"))
    checkpoint.save(restore(out), out / "model")

    engine = openjanus.load(out / "model")
    talk = questions("seen", 0)(0)
    print(talk[0].content[-1], "".join(engine.chat(talk[:1], max_new_tokens=16)))
    engine.generate("two red apples", seed=1)[0].save(out / "apples.png")


if __name__ == "__main__":
    tyro.cli(main)
