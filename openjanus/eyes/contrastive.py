"""Training the understanding eye: SigLIP's sigmoid loss on pictures and their captions (arXiv 2303.15343).

    loss = - mean over images i of sum_j log sigmoid(z_ij (t x_i·y_j + b)),  z_ij = 1 for i's own caption, else -1

Embeddings x, y have unit length; t = exp(t') starts at 10, b at `bias`: -10 for the paper's batches of
32k, about -log(batch) for others, so that the loss starts near the prior. Two pictures of a batch may have equal
captions; such captions count as positive for both. After training, the text tower is dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import Config, ConfigError, FiniteFloat, PositiveInt
from openjanus.data.config import DataConfig
from openjanus.data.sources import Gives, find_text_tokenizer
from openjanus.eyes.examples import Examples, stack_pictures
from openjanus.model.vision_encoder import EncoderBlock, VisionEncoder, VisionEncoderConfig
from openjanus.processing.text import TextTokenizer
from openjanus.training.loop import Measures, Training
from openjanus.training.stage import Stage


@dataclass(frozen=True)
class ContrastiveTraining(Config):
    """`vision_encoder` must have its pooling head; the text tower has the same width.

    `text_tokenizer`: a name of `TEXT_TOKENIZERS`, a file, or a checkpoint folder. `data`: pictures with captions of the
    user's own, by the names that the mixtures give them.
    """

    examples: ClassVar[Gives] = "captioned pictures"  # kind of its sources

    vision_encoder: VisionEncoderConfig = field(default_factory=lambda: VisionEncoderConfig(pooling_head=True))
    text_num_layers: PositiveInt = 24
    text_num_heads: PositiveInt = 16
    text_mlp_width: PositiveInt = 4096
    num_text_tokens: PositiveInt = 64
    bias: FiniteFloat = -10.0
    text_tokenizer: str = ""
    data: dict[str, DataConfig] = field(default_factory=dict)

    def check(self) -> None:
        width = self.vision_encoder.width
        if not self.vision_encoder.pooling_head:
            raise ConfigError("vision_encoder.pooling_head is False, expected True: contrastive training reads it")
        if width % self.text_num_heads:
            raise ConfigError(f"text_num_heads is {self.text_num_heads}, expected a divisor of the width {width}")


class TextTower(nn.Module):
    """Text ids [M, T] with -1 as padding -> embeddings [M, D]."""

    def __init__(self, c: ContrastiveTraining, vocab_size: int):
        super().__init__()
        width = c.vision_encoder.width
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(torch.zeros(1, c.num_text_tokens, width))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, c.text_num_heads, c.text_mlp_width) for _ in range(c.text_num_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.initialise()

    def initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
        nn.init.normal_(self.position, std=self.embedding.embedding_dim**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, text_ids: Tensor) -> Tensor:
        mask = text_ids >= 0
        x = self.embedding(text_ids.clamp(min=0)) + self.position[:, : text_ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        return (self.norm(x) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class TwoTowers(nn.Module):
    """Vision encoder and text tower, with the loss's temperature and bias."""

    def __init__(self, c: ContrastiveTraining, vocab_size: int):
        super().__init__()
        width = c.vision_encoder.width
        self.vision_encoder = VisionEncoder(c.vision_encoder)
        self.text_tower = TextTower(c, vocab_size)
        self.text_projection = nn.Linear(width, width)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(c.bias))

    def forward(self, pixels: Tensor, text_ids: Tensor) -> Tensor:
        """-> logits [M, M], images by captions."""
        assert self.vision_encoder.pooling_head is not None
        x = F.normalize(self.vision_encoder.pooling_head(self.vision_encoder(pixels)), dim=-1)
        y = F.normalize(self.text_projection(self.text_tower(text_ids)), dim=-1)
        return self.log_temperature.exp() * x @ y.T + self.bias


@dataclass
class PairBatch:
    """Pixels [M, 3, H, W], text ids [M, T] (-1 padding), belongs bool [M, M]."""

    pixels: Tensor
    text_ids: Tensor
    belongs: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device | str) -> "PairBatch":
        """The same batch on a device."""
        return PairBatch(self.pixels.to(device), self.text_ids.to(device), self.belongs.to(device))


@dataclass
class PairData(Examples):
    """Steps as one batch of pictures and their captions."""

    config: ContrastiveTraining
    text: TextTokenizer

    def __call__(self, stage: Stage, step: int) -> Sequence[PairBatch]:
        c = self.config
        pairs = list(self.of_step(stage, step))
        pictures, captions = [picture for picture, _ in pairs], [caption.lower() for _, caption in pairs]
        text_ids = torch.full((len(captions), c.num_text_tokens), -1)
        for row, caption in zip(text_ids, captions, strict=True):
            ids = self.text.encode(caption)[: c.num_text_tokens]
            row[: len(ids)] = torch.tensor(ids)
        text_ids = text_ids[:, : int((text_ids >= 0).sum(dim=1).max())]
        belongs = torch.tensor([[a == b for b in captions] for a in captions])
        return [PairBatch(stack_pictures(pictures, c.vision_encoder.image_size_px), text_ids, belongs)]


def contrastive_loss(model: TwoTowers, batch: PairBatch, step: int) -> tuple[Tensor, Measures]:
    """SigLIP's sigmoid loss, summed over the images; logs the image-to-text accuracy."""
    logits = model(batch.pixels, batch.text_ids).float()
    loss = -F.logsigmoid(torch.where(batch.belongs, logits, -logits)).sum()
    best = logits.detach().argmax(dim=1)
    found = batch.belongs[torch.arange(len(best)), best].sum()
    return loss, {"image_to_text": (found, len(best))}


def contrastive_training(c: ContrastiveTraining, seed: int) -> Training:
    """SigLIP. Only `vision_encoder` is used after training."""
    text = find_text_tokenizer(c.text_tokenizer)
    return Training(TwoTowers(c, text.vocab_size), PairData(c, seed, text), contrastive_loss)
