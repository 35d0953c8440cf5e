"""A generation eye over a semantic tokenizer (arXiv 2410.13848, Figure 6b; Exp-B and Exp-C of Table 5).

    image ids ─► codes ─► semantic decoder ─► features [M, T, F] ─► adaptor ─► embeddings [M, T, D]

With a `SharedEyeConfig` beside it, pictures to understand take the same way, through the same adaptor. An id's feature
depends on the ids before it in its picture, so the eye remembers pictures that are being drawn. It predicts ids and
makes pixels of them as `VQEye` does. The official formats have no place for it; ours does.
"""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from openjanus.model.eye import Adaptor, RememberingEye, initialise_normal
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.semantic_tokenizer import PictureKVCache, SemanticDecoder, SemanticDecoderConfig
from openjanus.model.vq_eye import ImageHead, VQEyeConfig


@dataclass(frozen=True)
class SemanticEyeConfig(VQEyeConfig):
    semantic: SemanticDecoderConfig = field(default_factory=SemanticDecoderConfig)


class SemanticEye(RememberingEye):
    precise = ("tokenizer",)
    tokenizer: ImageTokenizer

    def __init__(self, c: SemanticEyeConfig, width: int):
        super().__init__()
        self.config = c
        self.tokenizer = ImageTokenizer(c.tokenizer)
        self.semantic = SemanticDecoder(c.semantic, c.tokenizer.code_width, c.num_image_ids)
        self.adaptor = Adaptor(c.semantic.feature_width, width)
        self.head = ImageHead(width, c.head_width, c.num_ids)

    def initialise(self) -> None:
        initialise_normal(self.adaptor, self.head)  # tokenizer and decoder have initialised themselves

    def encode(self, pixels: Tensor) -> Tensor:
        return self.tokenizer.encode(pixels.to(self.tokenizer.codebook.weight.dtype))

    def make_cache(self, num_pictures: int) -> PictureKVCache:
        return self.semantic.make_cache(num_pictures)

    def forward(self, image_ids: Tensor, cache: Any = None) -> Tensor:
        codes = F.normalize(self.tokenizer.codebook(image_ids).float(), dim=-1)
        return self.adaptor(self.semantic(codes, cache))
