"""The semantic half of a semantic tokenizer: image ids -> features of a semantic encoder (arXiv 2410.13848, App. A).

    pixels ─► image tokenizer ─► image ids ─► codes [M, T, C] ─┬─► pixel decoder ─► pixels
                                                               └─► linear, + positions ─► L × causal block ─► norm
                                                                   ─► linear, tanh, linear ─► features [M, T, F]

Feature t depends on the codes 0 to t only, so ids can be drawn one by one. In training the features become those of a
frozen SigLIP (eyes/semantic.py). The paper states depth, heads, width and the causal mask; head and loss are BEiT v2's
(arXiv 2208.06366; microsoft/unilm, beit2).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from openjanus.config import Config, ConfigError, PositiveInt
from openjanus.model.attention import CacheRows, KVCache, Mask
from openjanus.model.vision_encoder import EncoderBlock


@dataclass(frozen=True)
class SemanticDecoderConfig(Config):
    """feature_width: channels of the semantic encoder's features, F."""

    width: PositiveInt = 768
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    mlp_width: PositiveInt = 3072
    feature_width: PositiveInt = 1024

    def check(self) -> None:
        if self.width % self.num_heads:
            raise ConfigError(f"width is {self.width}, expected a multiple of num_heads {self.num_heads}")


class PictureKVCache(KVCache):
    """Keys and values of several pictures. Every picture is compared with all slots, filled or not: so its features do
    not depend on how far the pictures beside it are, to the last bit."""

    def rows(self, start: int, stop: int, position: Tensor, reach: int) -> CacheRows:
        return super().rows(start, stop, position, max(reach, self.num_positions))


class SemanticDecoder(nn.Module):
    """Codes [M, T, C] -> features [M, T, F]. code_width: C. num_image_ids: the largest T."""

    def __init__(self, c: SemanticDecoderConfig, code_width: int, num_image_ids: int):
        super().__init__()
        self.config = c
        self.code_in = nn.Linear(code_width, c.width)
        self.position = nn.Parameter(torch.zeros(num_image_ids, c.width))
        self.blocks = nn.ModuleList(EncoderBlock(c.width, c.num_heads, c.mlp_width) for _ in range(c.num_layers))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.head = nn.Sequential(nn.Linear(c.width, c.width), nn.Tanh(), nn.Linear(c.width, c.feature_width))
        self.initialise()

    def initialise(self) -> None:
        """As BEiT v2's decoder: matrices and positions Normal(0, 0.02), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.02)

    def make_cache(self, num_pictures: int) -> PictureKVCache:
        c, p = self.config, self.position
        sizes = (c.num_layers, num_pictures, c.num_heads, len(p), c.width // c.num_heads)
        return PictureKVCache(*sizes, p.dtype, p.device)

    def forward(self, codes: Tensor, cache: CacheRows | None = None) -> Tensor:
        """Without a cache, the first T codes of M pictures; with one, codes that continue its pictures."""
        T, masks = codes.shape[1], list[Mask]()
        if cache is None:
            causal = torch.ones(T, T, dtype=torch.bool, device=codes.device).tril()
            positions = self.position[:T]
            masks += [causal[None, None]] * len(self.blocks)
        else:
            positions = self.position[cache.position]
            masks += [partial(cache.attend, layer) for layer in range(len(self.blocks))]
        x = self.code_in(codes.to(self.position.dtype)) + positions
        for block, mask in zip(self.blocks, masks, strict=True):
            x = block(x, mask)
        return self.head(self.norm(x))
