"""SigLIP's vision transformer: pixels -> semantic features.

    pixels ─► patches + positions ─► L × [x + attention(norm x); x + mlp(norm x)] ─► norm ─► features [M, N, D]
                                                                                        └─► pooling head ─► [M, D]

The pooling head (multi-head attention pooling by one learned query) is what the contrastive training reads; Janus
reads the features, and stores the head without using it. Sources: arXiv 2303.15343; deepseek-ai/Janus, siglip_vit.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openjanus.config import Config, ConfigError, PositiveInt
from openjanus.model.attention import Mask, attend


@dataclass(frozen=True)
class VisionEncoderConfig(Config):
    """`tanh_gelu`: the approximation of GELU that the published SigLIP computes with; Janus computes GELU itself."""

    image_size_px: PositiveInt = 384
    patch_px: PositiveInt = 16
    width: PositiveInt = 1024
    num_layers: PositiveInt = 24
    num_heads: PositiveInt = 16
    mlp_width: PositiveInt = 4096
    pooling_head: bool = False
    tanh_gelu: bool = False

    def check(self) -> None:
        if self.image_size_px % self.patch_px:
            raise ConfigError(f"image_size_px is {self.image_size_px}, expected a multiple of patch_px {self.patch_px}")
        if self.width % self.num_heads:
            raise ConfigError(f"width is {self.width}, expected a multiple of num_heads {self.num_heads}")

    @property
    def num_features(self) -> int:
        return (self.image_size_px // self.patch_px) ** 2


class EncoderAttention(nn.Module):
    """Bidirectional self-attention with one fused q, k, v projection."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:  # [M, N, D]
        M, N, D = x.shape
        q, k, v = self.qkv(x).view(M, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, mask).transpose(1, 2).reshape(M, N, D))


class EncoderMLP(nn.Module):
    def __init__(self, width: int, mlp_width: int, tanh_gelu: bool = False):
        super().__init__()
        self.up = nn.Linear(width, mlp_width)
        self.down = nn.Linear(mlp_width, width)
        self.gelu: nn.Module = nn.GELU(approximate="tanh" if tanh_gelu else "none")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class EncoderBlock(nn.Module):
    """A pre-norm transformer block; also the block of the contrastive text tower."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, tanh_gelu: bool = False):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = EncoderAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = EncoderMLP(width, mlp_width, tanh_gelu)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:  # [M, N, D]
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class PoolingHead(nn.Module):
    """One learned query attends to all features, then an MLP: [M, N, D] -> [M, D] (timm's AttentionPoolLatent)."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, tanh_gelu: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = EncoderMLP(width, mlp_width, tanh_gelu)

    def forward(self, x: Tensor) -> Tensor:
        M, N, D = x.shape
        q = self.q(self.latent).expand(M, -1, -1).view(M, 1, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(x).view(M, N, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        pooled = self.out(attend(q, k, v, None).transpose(1, 2).reshape(M, D))
        return pooled + self.mlp(self.norm(pooled))


class VisionEncoder(nn.Module):
    """Pixels [M, 3, H, W] in [-1, 1] -> features [M, N, D], N = (image size / patch size)², reading order."""

    def __init__(self, c: VisionEncoderConfig):
        super().__init__()
        self.config = c
        self.patch = nn.Conv2d(3, c.width, c.patch_px, stride=c.patch_px)
        self.position = nn.Parameter(torch.zeros(1, c.num_features, c.width))
        sizes = (c.width, c.num_heads, c.mlp_width, c.tanh_gelu)
        self.blocks = nn.ModuleList(EncoderBlock(*sizes) for _ in range(c.num_layers))
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.pooling_head = PoolingHead(*sizes) if c.pooling_head else None
        self.initialise()

    def initialise(self) -> None:
        """big_vision's: Xavier-uniform matrices, zero biases, positions Normal(0, 1/sqrt(D))."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=self.config.width**-0.5)
        if self.pooling_head is not None:
            nn.init.xavier_uniform_(self.pooling_head.latent)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch(pixels.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
