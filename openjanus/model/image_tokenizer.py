"""LlamaGen's VQ tokenizer: pixels <-> image ids.

    pixels ─► encoder ─► 1x1 conv ─► nearest code (cosine) ─► image ids ─► code ─► 1x1 conv ─► decoder ─► pixels

Codes and latents are L2-normalised before they are compared, and the code enters the decoder normalised. `stem_px` >
1 folds squares of pixels into channels first (and unfolds them last): it spares a small model the costly
full-resolution level; LlamaGen has 1. `local_encoder` makes each id a function of its own square of pixels: 1x1
convolutions, no attention, norms over channels. In LlamaGen's encoder every id depends on the whole picture, which is
hard to predict for a small transformer. Sources: arXiv 2406.06525 §3.1; deepseek-ai/Janus, vq_model.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.config import Config, ConfigError, PositiveInt


@dataclass(frozen=True)
class ImageTokenizerConfig(Config):
    image_size_px: PositiveInt = 384
    base_width: PositiveInt = 128
    width_multipliers: tuple[PositiveInt, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: PositiveInt = 2
    latent_width: PositiveInt = 256
    num_ids: PositiveInt = 16384
    code_width: PositiveInt = 8
    num_groups: PositiveInt = 32
    stem_px: PositiveInt = 1
    local_encoder: bool = False

    def check(self) -> None:
        if not self.width_multipliers:
            raise ConfigError("width_multipliers is empty, expected one number for each level")
        square_px = self.stem_px * 2 ** (len(self.width_multipliers) - 1)
        if self.image_size_px % square_px:
            raise ConfigError(
                f"image_size_px is {self.image_size_px}, expected a multiple of {square_px}, an id's side"
            )
        for i, multiplier in enumerate(self.width_multipliers):
            if self.base_width * multiplier % self.num_groups:
                raise ConfigError(
                    f"width_multipliers.{i} is {multiplier}: {multiplier} x base_width {self.base_width} must be a "
                    f"multiple of num_groups {self.num_groups}"
                )

    @property
    def grid_side(self) -> int:
        """Image ids along one side of a picture."""
        return self.image_size_px // (self.stem_px * 2 ** (len(self.width_multipliers) - 1))

    @property
    def num_image_ids(self) -> int:
        """Image ids per picture, N."""
        return self.grid_side**2


class LocalGroupNorm(nn.GroupNorm):
    """Group norm of each place by itself."""

    def forward(self, x: Tensor) -> Tensor:  # [M, C, h, w]
        rows = x.permute(0, 2, 3, 1)  # [M, h, w, C]
        return super().forward(rows.flatten(0, 2)).view(rows.shape).permute(0, 3, 1, 2)


def group_norm(width: int, c: ImageTokenizerConfig, local: bool = False) -> nn.GroupNorm:
    return (LocalGroupNorm if local else nn.GroupNorm)(c.num_groups, width, eps=1e-6)


def conv(width_in: int, width_out: int, local: bool = False) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 1) if local else nn.Conv2d(width_in, width_out, 3, padding=1)


class ResBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, c: ImageTokenizerConfig, local: bool = False):
        super().__init__()
        self.norm1 = group_norm(width_in, c, local)
        self.conv1 = conv(width_in, width_out, local)
        self.norm2 = group_norm(width_out, c, local)
        self.conv2 = conv(width_out, width_out, local)
        self.shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [M, C, h, w]
        y = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class SpatialAttention(nn.Module):
    """Single-head attention over all places of a feature map."""

    def __init__(self, width: int, c: ImageTokenizerConfig):
        super().__init__()
        self.norm = group_norm(width, c)
        self.q, self.k, self.v, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:  # [M, C, h, w]
        M, C, h, w = x.shape
        y = self.norm(x)
        q, k, v = (p(y).flatten(2).transpose(1, 2)[:, None] for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.out(y.transpose(1, 2).reshape(M, C, h, w))


class Downsample(nn.Module):
    def __init__(self, width: int, local: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 2 if local else 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        # right and bottom only, as in taming-transformers
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.conv.kernel_size[0] == 3 else x)


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks at one resolution; attention only at the lowest; `resample` leads to the next level, if there is
    one."""

    def __init__(
        self,
        width_in: int,
        width: int,
        num_blocks: int,
        attention: bool,
        resample: nn.Module,
        c: ImageTokenizerConfig,
        local: bool = False,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(width if i else width_in, width, c, local) for i in range(num_blocks))
        self.attentions = nn.ModuleList(SpatialAttention(width, c) for _ in range(num_blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[i](x)
        return self.resample(x)


def _middle(width: int, c: ImageTokenizerConfig, local: bool = False) -> nn.Sequential:
    between = nn.Identity() if local else SpatialAttention(width, c)
    return nn.Sequential(ResBlock(width, width, c, local), between, ResBlock(width, width, c, local))


class Encoder(nn.Module):
    """Pixels [M, 3, H, W] -> latents [M, Z, h, w]."""

    def __init__(self, c: ImageTokenizerConfig):
        super().__init__()
        widths = [c.base_width * m for m in c.width_multipliers]
        last, local = len(widths) - 1, c.local_encoder
        self.stem_px = c.stem_px
        self.conv_in = conv(3 * c.stem_px**2, c.base_width, local)
        self.levels = nn.ModuleList(
            Level(
                widths[i - 1] if i else c.base_width,
                width,
                c.num_res_blocks,
                i == last and not local,
                nn.Identity() if i == last else Downsample(width, local),
                c,
                local,
            )
            for i, width in enumerate(widths)
        )
        self.middle = _middle(widths[last], c, local)
        self.norm_out = group_norm(widths[last], c, local)
        self.conv_out = conv(widths[last], c.latent_width, local)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(pixels, self.stem_px))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Latents [M, Z, h, w] -> pixels [M, 3, H, W]; one more block a level than the encoder."""

    def __init__(self, c: ImageTokenizerConfig):
        super().__init__()
        widths = [c.base_width * m for m in reversed(c.width_multipliers)]
        last = len(widths) - 1
        self.stem_px = c.stem_px
        self.conv_in = nn.Conv2d(c.latent_width, widths[0], 3, padding=1)
        self.middle = _middle(widths[0], c)
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                c.num_res_blocks + 1,
                i == 0,
                nn.Identity() if i == last else Upsample(width),
                c,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[last], c)
        self.conv_out = nn.Conv2d(widths[last], 3 * c.stem_px**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.middle(self.conv_in(latents))
        for level in self.levels:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.stem_px)


class ImageTokenizer(nn.Module):
    """VQ tokenizer: `encode` gives ids, `decode` gives pixels, `reconstruct` is the differentiable way through both."""

    def __init__(self, c: ImageTokenizerConfig):
        super().__init__()
        self.config = c
        self.encoder = Encoder(c)
        self.to_code = nn.Conv2d(c.latent_width, c.code_width, 1)
        self.codebook = nn.Embedding(c.num_ids, c.code_width)
        self.from_code = nn.Conv2d(c.code_width, c.latent_width, 1)
        self.decoder = Decoder(c)
        self.initialise()

    def initialise(self) -> None:
        """Convolutions keep torch's default, as LlamaGen does; codes start evenly spread on the unit sphere."""
        nn.init.normal_(self.codebook.weight)
        if not self.codebook.weight.is_meta:
            with torch.no_grad():
                self.codebook.weight.copy_(F.normalize(self.codebook.weight, dim=-1))

    def codes(self) -> Tensor:
        """The codebook as it is used: unit vectors [num_ids, C]."""
        return F.normalize(self.codebook.weight, dim=-1)

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents z [M, C, h, w] -> unit latents, their nearest codes (both [M, C, h, w]) and image ids [M, N]."""
        unit = F.normalize(z, dim=1)
        rows = unit.detach().permute(0, 2, 3, 1).reshape(-1, unit.shape[1])
        ids = (rows @ self.codes().T).argmax(dim=-1)  # for unit vectors, nearest is the largest cosine
        M, _, h, w = z.shape
        nearest = F.normalize(self.codebook(ids), dim=-1).view(M, h, w, -1).permute(0, 3, 1, 2)
        return unit, nearest, ids.view(M, h * w)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [M, 3, H, W] in [-1, 1] -> image ids [M, N], reading order."""
        return self.quantise(self.to_code(self.encoder(pixels)))[2]

    def decode(self, image_ids: Tensor) -> Tensor:
        """Image ids [M, N] -> pixels [M, 3, H, W], about [-1, 1] (not clipped)."""
        side = self.config.grid_side
        if image_ids.shape[-1] != side * side:
            raise ValueError(f"got {image_ids.shape[-1]} image ids a picture, expected {side * side} ({side} x {side})")
        codes = F.normalize(self.codebook(image_ids), dim=-1)
        return self.decode_codes(codes.view(-1, side, side, codes.shape[-1]).permute(0, 3, 1, 2))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Unit codes [M, C, h, w] -> pixels [M, 3, H, W]."""
        return self.decoder(self.from_code(codes))

    def reconstruct(self, pixels: Tensor, quantised: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> (pixels again, unit latents, nearest codes, image ids); gradients pass the look-up straight through.

        Not `quantised`, the decoder reads the latents themselves.
        """
        return self.restore(self.to_code(self.encoder(pixels)), quantised)

    def restore(self, z: Tensor, quantised: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `reconstruct`, from latents [M, C, h, w]."""
        unit, nearest, ids = self.quantise(z)
        return self.decode_codes(unit + (nearest - unit).detach() if quantised else unit), unit, nearest, ids


def code_usage(image_ids: Tensor, num_ids: int) -> tuple[float, float]:
    """Share of the codebook that occurs in `image_ids`, and its perplexity (num_ids if all are used alike)."""
    share = torch.bincount(image_ids.flatten(), minlength=num_ids).double()
    share = share / share.sum()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    return float((share > 0).double().mean()), float(entropy.exp())
