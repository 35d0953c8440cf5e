"""The generation eye of Janus: LlamaGen's VQ tokenizer, an embedding of its ids, an adaptor and the image head.

    pixels ◄─► image tokenizer ◄─► image ids ─► embedding ─► adaptor ─► body ─► image head ─► logits over the ids

`embedding` is a table of its own beside the tokenizer's codebook, as in the official checkpoints. Sources: arXiv
2410.13848 §3.1; deepseek-ai/Janus, modeling_vlm.py.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from openjanus.config import PositiveInt
from openjanus.model.eye import Adaptor, GenerationEye, GenerationEyeConfig, initialise_normal
from openjanus.model.image_tokenizer import ImageTokenizer, ImageTokenizerConfig


@dataclass(frozen=True)
class VQEyeConfig(GenerationEyeConfig):
    """`head_width`: between the two layers of the image head."""

    tokenizer: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    head_width: PositiveInt = 2048

    @property
    def image_size_px(self) -> int:
        return self.tokenizer.image_size_px

    @property
    def grid_side(self) -> int:
        return self.tokenizer.grid_side

    @property
    def num_ids(self) -> int:
        return self.tokenizer.num_ids


class ImageHead(nn.Module):
    """Hidden states -> logits over the codebook: linear, GELU, linear (J `vision_head`)."""

    def __init__(self, width: int, head_width: int, num_ids: int):
        super().__init__()
        self.up = nn.Linear(width, head_width)
        self.gelu: nn.Module = nn.GELU()
        self.out = nn.Linear(head_width, num_ids)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(self.gelu(self.up(hidden)))


class VQEye(GenerationEye):
    precise = ("tokenizer",)
    tokenizer: ImageTokenizer

    def __init__(self, c: VQEyeConfig, width: int):
        super().__init__()
        self.config = c
        self.tokenizer = ImageTokenizer(c.tokenizer)
        self.embedding = nn.Embedding(c.num_ids, c.tokenizer.code_width)
        self.adaptor = Adaptor(c.tokenizer.code_width, width)
        self.head = ImageHead(width, c.head_width, c.num_ids)

    def initialise(self) -> None:
        initialise_normal(self.adaptor, self.head)  # the tokenizer has initialised itself
        if not self.tokenizer.codebook.weight.is_meta:
            self.start_from_tokenizer()

    def start_from_tokenizer(self) -> None:
        """The paper feeds the adaptor with "codebook embeddings" (§3.1): the table starts as a copy of the codebook."""
        with torch.no_grad():
            self.embedding.weight.copy_(self.tokenizer.codes())

    def encode(self, pixels: Tensor) -> Tensor:
        return self.tokenizer.encode(pixels.to(self.tokenizer.codebook.weight.dtype))

    def forward(self, image_ids: Tensor) -> Tensor:
        return self.adaptor(self.embedding(image_ids))
