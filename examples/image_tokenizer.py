"""A new image tokenizer with its generation eye: finite scalar quantisation (arXiv 2309.15505) instead of a codebook.

    python examples/image_tokenizer.py --out runs/scalars

Each square of 8x8 pixels becomes a few numbers, each number is rounded to one of few levels, and the levels together
are the image id. What is new: the config of the eye, the tokenizer, the eye, and a row in a table. First the tokenizer
learns to restore pictures, then the body learns to draw with its ids.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch import Tensor, nn

import openjanus
from openjanus.config import PositiveInt
from openjanus.emoji.sources import pictures
from openjanus.eyes.examples import stack_pictures
from openjanus.model.eye import Adaptor, GenerationEye, GenerationEyeConfig, initialise_normal
from openjanus.model.janus import GENERATION, Janus
from openjanus.processing.image import to_images
from openjanus.runtime import Runtime
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run, restore, train
from openjanus.training.stage import Stage
from openjanus.weights import checkpoint
from openjanus.weights.config import Checkpoint

PATCH_PX = 8


@dataclass(frozen=True)
class ScalarEyeConfig(GenerationEyeConfig):
    """`levels`: to how many levels each number of a patch is rounded. Odd, so that one of them is zero."""

    size_px: PositiveInt = 64
    levels: tuple[PositiveInt, ...] = (7, 5, 5, 5)
    channels: PositiveInt = 128

    @property
    def image_size_px(self) -> int:
        return self.size_px

    @property
    def grid_side(self) -> int:
        return self.size_px // PATCH_PX

    @property
    def num_ids(self) -> int:
        return math.prod(self.levels)


class ScalarTokenizer(nn.Module):
    """Pixels [M, 3, H, W] <-> image ids [M, N]."""

    halves: Tensor
    places: Tensor

    def __init__(self, c: ScalarEyeConfig):
        super().__init__()
        self.config = c
        self.encoder = nn.Sequential(
            nn.Conv2d(3, c.channels, PATCH_PX, stride=PATCH_PX), nn.GELU(), nn.Conv2d(c.channels, len(c.levels), 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(len(c.levels), c.channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(c.channels, 3 * PATCH_PX**2, 3, padding=1),
            nn.PixelShuffle(PATCH_PX),
        )
        places = [math.prod(c.levels[:i]) for i in range(len(c.levels))]
        self.register_buffer("halves", torch.tensor(c.levels)[:, None, None] // 2)
        self.register_buffer("places", torch.tensor(places)[:, None, None])

    def round(self, pixels: Tensor) -> Tensor:
        """The levels of each patch, [M, L, h, w], whole numbers around zero; the gradient passes the rounding."""
        x = torch.tanh(self.encoder(pixels)) * self.halves
        return x + (x.round() - x).detach()

    def restore(self, levels: Tensor) -> Tensor:
        """The pixels of these levels."""
        return self.decoder(levels / self.halves)

    def encode(self, pixels: Tensor) -> Tensor:
        digits = self.round(pixels).round().long() + self.halves
        return (digits * self.places).sum(1).flatten(1)

    def decode(self, image_ids: Tensor) -> Tensor:
        grid = image_ids.unflatten(1, (self.config.grid_side, -1))[:, None]
        digits = grid // self.places % (2 * self.halves + 1)
        return self.restore((digits - self.halves).to(self.decoder[0].weight.dtype))


class ScalarEye(GenerationEye):
    """Image ids [...] -> embeddings [..., D]; the head predicts the next id."""

    precise = ("tokenizer",)

    def __init__(self, c: ScalarEyeConfig, width: int):
        super().__init__()
        self.config = c
        self.tokenizer = ScalarTokenizer(c)
        self.embedding = nn.Embedding(c.num_ids, width)
        self.adaptor = Adaptor(width, width)
        self.head = nn.Linear(width, c.num_ids)

    def initialise(self) -> None:
        initialise_normal(self.embedding, self.adaptor, self.head)

    def forward(self, image_ids: Tensor) -> Tensor:
        return self.adaptor(self.embedding(image_ids))


GENERATION[ScalarEyeConfig] = ScalarEye


def train_tokenizer(tokenizer: ScalarTokenizer, num_steps: int) -> None:
    """Teaches it to restore pictures of the emoji world: mean absolute error, AdamW."""
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=2e-3)
    picture = pictures("train", 0)
    for step in range(num_steps):
        pixels = stack_pictures([picture(step * 16 + i) for i in range(16)], tokenizer.config.size_px)
        loss = F.l1_loss(tokenizer.restore(tokenizer.round(pixels)), pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 250 == 0 or step == num_steps - 1:
            print(f"tokenizer, step {step}: a pixel is off by {127.5 * loss.item():.1f} of 255 levels")


def main(out: Path, tokenizer_steps: int = 1500, num_steps: int = 600) -> None:
    """Trains the tokenizer, then the body with it, stores the result in out/model, and draws once.

    Args:
        out: a new folder for the run
        tokenizer_steps: training steps of the tokenizer
        num_steps: training steps of the body
    """
    torch.manual_seed(0)
    nano = openjanus.load("nano")
    model = Janus(replace(nano.model.config, generation=ScalarEyeConfig()))
    train_tokenizer(model.generation.tokenizer, tokenizer_steps)
    kept = {name: tensor for name, tensor in nano.model.state_dict().items() if not name.startswith("generation.")}
    model.load_state_dict(kept | {n: t for n, t in model.state_dict().items() if n.startswith("generation.")})
    checkpoint.save(Checkpoint(model, nano.processor, {"guidance": 1.5, "temperature": 0.7}), out / "start")

    task = JanusTraining(start=str(out / "start"), image_ids="", row_tokens=256)
    trainable = ("language_model.*", "generation.*", "!generation.tokenizer.*")
    stage = Stage("draw", num_steps, 1e-3, {"emoji.drawings": 16}, trainable)
    train(Run("scalars", task, (stage,)), out / "run", Runtime.choose("cpu"))
    checkpoint.save(restore(out / "run"), out / "model")

    engine = openjanus.load(out / "model")
    engine.generate("two red apples", seed=1)[0].save(out / "drawn.png")
    picture = pictures("seen", 0)(0)
    with torch.inference_mode():
        pixels = stack_pictures([picture], 64)
        tokenizer = engine.model.generation.tokenizer
        restored = to_images(tokenizer.decode(tokenizer.encode(pixels)))[0]
    Image.fromarray(picture).save(out / "picture.png")
    restored.save(out / "restored.png")


if __name__ == "__main__":
    tyro.cli(main)
