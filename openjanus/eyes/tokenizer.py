"""Training the image tokenizer by LlamaGen's recipe (arXiv 2406.06525 §3.1; FoundationVision/LlamaGen, vq_loss.py).

    loss = l2 |x' - x|² + l1 |x' - x| + perceptual d(x', x) + |sg[z] - e|² + commitment |z - sg[e]|² + gan -D(x')

From `discriminator_start` on, a PatchGAN with hinge loss is trained on the reconstructions. Generator and discriminator
get their gradients in one step: the generator's loss detaches the discriminator's weights, the discriminator's loss
detaches the reconstruction.

With `num_colours` an id is the product of a shape and a colour (codebook.py). The shape is taken from a picture of the
same scene in other colours, the colour from the true picture, and the decoder must give the true picture. So what the
shape holds cannot be colour.

With `semantic` it becomes a semantic tokenizer: there is one more loss, on what a causal decoder reads in the codes
(semantic.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from openjanus.config import Config, ConfigError, NonNegativeFloat, NonNegativeInt, PositiveInt
from openjanus.data.config import DataConfig
from openjanus.data.sources import Gives
from openjanus.eyes.codebook import (
    ProductCodebook,
    count_uses,
    join_halves,
    revive_codes,
    seed_codebook,
    tables_of,
)
from openjanus.eyes.examples import Examples, stack_pictures
from openjanus.eyes.perceptual import PerceptualDistance
from openjanus.eyes.semantic import Teacher, semantic_distance
from openjanus.model.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from openjanus.model.semantic_tokenizer import SemanticDecoder, SemanticDecoderConfig
from openjanus.training.loop import Data, Measures, Training
from openjanus.training.stage import Stage

USES_DECAY = 0.9
SEED_BATCHES = 16


@dataclass(frozen=True)
class TokenizerTraining(Config):
    """Loss weights as LlamaGen's.

    All steps are counted from the beginning of the run, whatever its stages. `quantise_start` > 0: until this step
    latents are not quantised; then the codebook is initialised by k-means over latents. `revive_steps` > 0: until step
    `revive_end`, every `revive_steps` steps, rarely used codes move to latents with a large quantisation error.
    LlamaGen has neither (0, 0); without them, a short training leaves most of the codebook unused. `num_colours` > 0:
    image ids are products of a shape and a colour; `colour_width` of the code's channels are the colour's.

    `semantic`: the decoder that reads features of `teacher` in the codes; the teacher is a SigLIP encoder, named as in
    the `start` of a Janus. `data`: pictures of the user's own, by the names that the mixtures give them.
    """

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
    num_colours: NonNegativeInt = 0
    colour_width: PositiveInt = 4
    semantic: SemanticDecoderConfig | None = None
    semantic_weight: NonNegativeFloat = 0.25
    teacher: str = ""
    data: dict[str, DataConfig] = field(default_factory=dict)

    def check(self) -> None:
        if self.num_colours and self.tokenizer.num_ids % self.num_colours:
            raise ConfigError(f"num_colours is {self.num_colours}, expected a divisor of num_ids")
        if self.num_colours and self.colour_width >= self.tokenizer.code_width:
            raise ConfigError(f"colour_width is {self.colour_width}, expected less than tokenizer.code_width")
        if bool(self.teacher) != (self.semantic is not None):
            raise ConfigError("teacher and semantic belong together: give both, or neither")

    @property
    def examples(self) -> Gives:
        """The kind of its sources."""
        return "recoloured pictures" if self.num_colours else "pictures"

    @property
    def shape_width(self) -> int:
        """Channels of a code that are the shape's, if it has one."""
        return self.tokenizer.code_width - self.colour_width


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
    """Generator, discriminator, the semantic decoder if there is one, and the recent use of each code: a moving average
    of uses a step, for each row of the codebook's tables."""

    uses: Tensor

    def __init__(self, c: TokenizerTraining):
        super().__init__()
        self.tokenizer = ImageTokenizer(c.tokenizer)
        if c.num_colours:
            num_shapes = c.tokenizer.num_ids // c.num_colours
            widths = (c.shape_width, c.colour_width)
            self.tokenizer.codebook = ProductCodebook(num_shapes, c.num_colours, *widths)  # type: ignore[assignment]
        for p in self.tokenizer.parameters():
            if p.dim() == 4:  # channels-last convolutions: the fastest on the CPU and on CUDA
                p.data = p.data.contiguous(memory_format=torch.channels_last)
        self.discriminator = PatchDiscriminator(c.discriminator_width)
        t = c.tokenizer
        self.semantic = SemanticDecoder(c.semantic, t.code_width, t.num_image_ids) if c.semantic else None
        self.register_buffer("uses", torch.ones(sum(len(table) for table, _ in tables_of(self.tokenizer.codebook))))


@dataclass
class PictureData(Examples):
    """Steps as one batch of pixels [M, 3, H, W], channels last; of recoloured pictures [M, 6, H, W], the true one
    first."""

    config: TokenizerTraining

    def __call__(self, stage: Stage, step: int) -> Sequence[Tensor]:
        c = self.config
        pictures = list(self.of_step(stage, step))
        views = zip(*pictures, strict=True) if c.num_colours else [pictures]
        pixels = torch.cat([stack_pictures(list(view), c.tokenizer.image_size_px) for view in views], dim=1)
        return [pixels.contiguous(memory_format=torch.channels_last)]


@dataclass
class TokenizerLoss:
    """Reconstruction losses, from `discriminator_start` on the adversarial losses, and the semantic loss."""

    config: TokenizerTraining
    perceptual: PerceptualDistance | None
    teacher: Teacher | None = None

    def __call__(self, model: TokenizerAndDiscriminator, batch: Tensor, step: int) -> tuple[Tensor, Measures]:
        c, M = self.config, len(batch)
        batch, z = batch[:, :3], self._latents(model.tokenizer, batch)
        is_quantised = step >= c.quantise_start
        reconstructed, unit, nearest, ids = model.tokenizer.restore(z, quantised=is_quantised)
        uses = count_uses(model.tokenizer.codebook, ids)
        model.uses.lerp_(uses.to(model.uses), 1 - USES_DECAY)
        l1, l2 = (reconstructed - batch).abs().mean(), (reconstructed - batch).square().mean()
        codebook = (unit.detach() - nearest).square().mean()
        commitment = (unit - nearest.detach()).square().mean()
        loss = c.l2_weight * l2 + c.l1_weight * l1
        if is_quantised:
            loss = loss + codebook + c.commitment_weight * commitment
        measures: Measures = {"psnr_db": (-10 * (l2.detach() / 4).log10() * M, M)}
        measures["codes_used"] = (float((uses > 0).double().mean()) * M, M)
        if self.perceptual is not None:
            self.perceptual.to(batch.device)
            distance = self.perceptual(reconstructed, batch).mean()
            loss = loss + c.perceptual_weight * distance
            measures["perceptual"] = (distance.detach() * M, M)
        if self.teacher is not None:
            assert model.semantic is not None, "a teacher has somebody to teach"
            codes = unit + (nearest - unit).detach() if is_quantised else unit  # gradients go to the encoder only
            features = model.semantic(codes.flatten(2).transpose(1, 2))
            away = semantic_distance(features, self.teacher(batch))
            loss = loss + c.semantic_weight * away
            measures["semantic_cosine"] = ((1 - away.detach()) * M, M)
        if c.gan_weight and step >= c.discriminator_start:
            fooling, judging = adversarial_losses(model.discriminator, reconstructed, batch)
            loss = loss + c.gan_weight * fooling + judging
            measures["discriminator"] = (judging.detach() * M, M)
        return loss * M, measures

    def _latents(self, tokenizer: ImageTokenizer, batch: Tensor) -> Tensor:
        """[M, C, h, w]; of two colourings, the shape is the other picture's and the colour the true one's."""
        if not self.config.num_colours:
            return tokenizer.to_code(tokenizer.encoder(batch))
        true, other = tokenizer.to_code(tokenizer.encoder(torch.cat(batch.split(3, dim=1)))).chunk(2)
        width = self.config.shape_width
        return join_halves(other[:, :width], true[:, width:], dim=1)


def adversarial_losses(discriminator: nn.Module, reconstructed: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """(the generator's loss, half the discriminator's hinge loss)."""
    fixed = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooling = -functional_call(discriminator, fixed, (reconstructed,)).mean()
    real, fake = discriminator(batch), discriminator(reconstructed.detach())
    judging = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return fooling, 0.5 * judging


@dataclass
class CodebookCare:
    """Changes of the codebook outside the gradient, before a step: its initialisation, and the revival of rare
    codes."""

    config: TokenizerTraining
    seed: int
    data: Data

    def __call__(self, model: TokenizerAndDiscriminator, stage: Stage, step: int, batches: Sequence[Tensor]) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        if c.quantise_start and step == c.quantise_start:
            device = model.uses.device
            ahead = [self.data(stage, step + i)[0][:, :3].to(device) for i in range(SEED_BATCHES)]
            seed_codebook(model.tokenizer, ahead, generator)
        if (
            c.revive_steps
            and step > c.quantise_start
            and step % c.revive_steps == c.revive_steps - 1
            and step < c.revive_end
        ):
            revive_codes(model.tokenizer, model.uses, batches[0][:, :3], generator)


def tokenizer_training(c: TokenizerTraining, seed: int) -> Training:
    """Reconstruction. Only the tokenizer is used after training, and the semantic decoder, if there is one."""
    model, data = TokenizerAndDiscriminator(c), PictureData(c, seed)
    teacher = Teacher(c.teacher, c.tokenizer, c.semantic) if c.semantic is not None else None
    return Training(
        model,
        data,
        TokenizerLoss(c, PerceptualDistance() if c.perceptual_weight else None, teacher),
        clipped_apart=("tokenizer.", "discriminator.", *(["semantic."] if teacher else [])),
        before_step=CodebookCare(c, seed, data),
    )
