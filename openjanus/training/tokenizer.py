"""Training the image tokenizer by LlamaGen's recipe (arXiv 2406.06525 §3.1; FoundationVision/LlamaGen, vq_loss.py).

    loss = l2 |x' - x|² + l1 |x' - x| + perceptual d(x', x) + |sg[z] - e|² + commitment |z - sg[e]|² + gan -D(x')

From `discriminator_start` on, a PatchGAN with hinge loss judges the reconstructions. Both players take their
gradients in one step: the generator sees the discriminator with detached weights, the discriminator sees the
reconstruction detached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from openjanus.config import Config, NonNegativeFloat, NonNegativeInt, PositiveInt
from openjanus.data.sources import Gives, find_source, stack_pictures
from openjanus.model.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, code_usage
from openjanus.training.loop import Data, Measures, Training
from openjanus.training.perceptual import PerceptualDistance
from openjanus.training.stage import Stage

USES_DECAY = 0.9
RARE = 0.1
SEED_BATCHES = 16
SEED_ROUNDS = 20


@dataclass(frozen=True)
class TokenizerTraining(Config):
    """Loss weights as LlamaGen's.

    All steps are counted from the beginning of the run, whatever its stages. `quantise_start` > 0: until this step
    latents reach the decoder as they are; then the codebook starts as the centres of what the encoder gives.
    `revive_steps` > 0: until step `revive_end`, every so many steps, codes that hardly occur move to latents that no
    code describes well. LlamaGen has neither (0, 0); a short training without them leaves most of a codebook unused.
    """

    examples: ClassVar[Gives] = "pictures"  # what its sources give

    tokenizer: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    l2_weight: NonNegativeFloat = 1.0
    l1_weight: NonNegativeFloat = 0.0
    perceptual_weight: NonNegativeFloat = 1.0
    commitment_weight: NonNegativeFloat = 0.25
    gan_weight: NonNegativeFloat = 0.5
    discriminator_width: PositiveInt = 64
    discriminator_start: NonNegativeInt = 20000
    quantise_start: NonNegativeInt = 0
    revive_steps: NonNegativeInt = 0
    revive_end: NonNegativeInt = 10000


class PatchDiscriminator(nn.Module):
    """PatchGAN: 4x4 convolutions, stride 2 three times, one logit a patch [M, 1, h, w] (arXiv 1611.07004; pix2pix)."""

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(width, 2 * width, 4, stride, 1, bias=False), nn.BatchNorm2d(2 * width)]
            layers.append(nn.LeakyReLU(0.2))
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        self.initialise()

    def initialise(self) -> None:
        """pix2pix's: convolutions Normal(0, 0.02), norms around 1."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


class TokenizerAndDiscriminator(nn.Module):
    """The two players, and how often each code was used lately (moving average of uses per step, [num_ids])."""

    uses: Tensor

    def __init__(self, c: TokenizerTraining):
        super().__init__()
        self.tokenizer = ImageTokenizer(c.tokenizer)
        for p in self.tokenizer.parameters():
            if p.dim() == 4:  # channels-last convolutions: the fastest on the CPU and on CUDA
                p.data = p.data.contiguous(memory_format=torch.channels_last)
        self.discriminator = PatchDiscriminator(c.discriminator_width)
        self.register_buffer("uses", torch.ones(c.tokenizer.num_ids))


@dataclass
class PictureData:
    """Steps as one batch of pixels [M, 3, H, W], channels last."""

    config: TokenizerTraining
    seed: int

    def __call__(self, stage: Stage, step: int) -> Sequence[Tensor]:
        arrays = []
        for name, count in stage.mixture.items():
            source = find_source(name, self.config.examples)("train", self.seed)
            arrays += [source(step * count + i) for i in range(count)]
        pixels = stack_pictures(arrays, self.config.tokenizer.image_size_px)
        return [pixels.contiguous(memory_format=torch.channels_last)]


@dataclass
class TokenizerLoss:
    """Reconstruction, and from `discriminator_start` on the game of the two players."""

    config: TokenizerTraining
    perceptual: PerceptualDistance | None

    def __call__(self, model: TokenizerAndDiscriminator, batch: Tensor, step: int) -> tuple[Tensor, Measures]:
        c, M = self.config, len(batch)
        reconstructed, unit, nearest, ids = model.tokenizer.reconstruct(batch, quantised=step >= c.quantise_start)
        uses = torch.bincount(ids.flatten(), minlength=c.tokenizer.num_ids)
        model.uses.lerp_(uses.to(model.uses), 1 - USES_DECAY)
        l1, l2 = (reconstructed - batch).abs().mean(), (reconstructed - batch).square().mean()
        codebook = (unit.detach() - nearest).square().mean()
        commitment = (unit - nearest.detach()).square().mean()
        loss = c.l2_weight * l2 + c.l1_weight * l1
        if step >= c.quantise_start:
            loss = loss + codebook + c.commitment_weight * commitment
        measures: Measures = {"psnr_db": (-10 * (l2.detach() / 4).log10() * M, M)}
        measures["codes_used"] = (code_usage(ids, c.tokenizer.num_ids)[0] * M, M)
        if self.perceptual is not None:
            self.perceptual.to(batch.device)
            distance = self.perceptual(reconstructed, batch).mean()
            loss = loss + c.perceptual_weight * distance
            measures["perceptual"] = (distance.detach() * M, M)
        if c.gan_weight and step >= c.discriminator_start:
            fooling, judging = adversarial_losses(model.discriminator, reconstructed, batch)
            loss = loss + c.gan_weight * fooling + judging
            measures["discriminator"] = (judging.detach() * M, M)
        return loss * M, measures


def adversarial_losses(discriminator: nn.Module, reconstructed: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """(the generator's loss, half the discriminator's hinge loss)."""
    fixed = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooling = -functional_call(discriminator, fixed, (reconstructed,)).mean()
    real, fake = discriminator(batch), discriminator(reconstructed.detach())
    judging = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return fooling, 0.5 * judging


@dataclass
class CodebookCare:
    """What moves codes outside the gradient, before a step: the codebook's start, and the revival of rare codes."""

    config: TokenizerTraining
    seed: int
    data: Data

    def __call__(self, model: TokenizerAndDiscriminator, stage: Stage, step: int, batches: Sequence[Tensor]) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        if c.quantise_start and step == c.quantise_start:
            device = model.uses.device
            ahead = [self.data(stage, step + i)[0].to(device) for i in range(SEED_BATCHES)]
            seed_codebook(model.tokenizer, ahead, generator)
        if (
            c.revive_steps
            and step > c.quantise_start
            and step % c.revive_steps == c.revive_steps - 1
            and step < c.revive_end
        ):
            revive_codes(model, batches[0], generator)


@torch.no_grad()
def unit_latents(tokenizer: ImageTokenizer, batch: Tensor) -> Tensor:
    """Pixels [M, 3, H, W] -> unit latents of all places, [M N, C], in float32 as the codebook."""
    unit = F.normalize(tokenizer.to_code(tokenizer.encoder(batch)).float(), dim=1)
    return unit.permute(0, 2, 3, 1).reshape(-1, unit.shape[1])


@torch.no_grad()
def seed_codebook(tokenizer: ImageTokenizer, batches: Sequence[Tensor], generator: torch.Generator) -> None:
    """Spherical k-means over the latents of some batches; centres that attract nothing move to ill-described
    latents."""
    rows = torch.cat([unit_latents(tokenizer, batch) for batch in batches])
    centres = tokenizer.codes()
    for round in range(SEED_ROUNDS):
        cosine, nearest = (rows @ centres.T).max(dim=1)
        if round % 2 == 0 and round < SEED_ROUNDS - 4:
            rare = (torch.bincount(nearest, minlength=len(centres)) < 2).nonzero()[:, 0]
            if len(rare):
                chosen = torch.multinomial((1 - cosine).clamp(min=1e-6).cpu(), len(rare), generator=generator)
                centres[rare] = rows[chosen.to(rows.device)]
        else:
            centres = F.normalize(centres * 1e-3 + torch.zeros_like(centres).index_add(0, nearest, rows), dim=1)
    tokenizer.codebook.weight.copy_(centres)


@torch.no_grad()
def revive_codes(model: TokenizerAndDiscriminator, batch: Tensor, generator: torch.Generator) -> None:
    """Moves codes used less than `RARE` times a step to latents of the batch, the ill-described ones first."""
    rows = unit_latents(model.tokenizer, batch)
    error = (1 - (rows @ model.tokenizer.codes().T).max(dim=1).values).clamp(min=1e-6)
    rare = (model.uses < RARE).nonzero()[:, 0][: len(rows)]
    if not len(rare):
        return
    chosen = torch.multinomial(error.cpu(), len(rare), generator=generator).to(rows.device)
    model.tokenizer.codebook.weight[rare] = rows[chosen]
    model.uses[rare] = 1.0


def tokenizer_training(c: TokenizerTraining, seed: int) -> Training:
    """Reconstruction; of the model only the tokenizer is kept."""
    model, data = TokenizerAndDiscriminator(c), PictureData(c, seed)
    return Training(
        model,
        data,
        TokenizerLoss(c, PerceptualDistance() if c.perceptual_weight else None),
        clipped_apart=("tokenizer.", "discriminator."),
        before_step=CodebookCare(c, seed, data),
    )
