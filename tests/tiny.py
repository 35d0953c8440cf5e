"""A Janus with all its parts that runs in milliseconds: seeded random weights and the emoji world's text tokenizer."""

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from openjanus.emoji.sources import world_text_tokenizer
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import Janus, JanusConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import Processor, ProcessorConfig
from openjanus.processing.text import TextTokenizer
from openjanus.sequence import Document, TextSpan, UnderstandSpan
from openjanus.weights.config import Checkpoint

LANGUAGE_MODEL = LanguageModelConfig(
    vocab_size=1024,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    ffn_width=48,
    max_positions=192,
)
# 16-px pictures: 4 features to understand, 16 ids to generate
VISION_ENCODER = VisionEncoderConfig(image_size_px=16, patch_px=8, width=32, num_layers=2, num_heads=2, mlp_width=48)
IMAGE_TOKENIZER = ImageTokenizerConfig(
    image_size_px=16,
    base_width=8,
    width_multipliers=(1, 2),
    num_res_blocks=1,
    latent_width=8,
    num_ids=48,
    code_width=4,
    num_groups=4,
    stem_px=2,
)
GENERATION = VQEyeConfig(IMAGE_TOKENIZER, head_width=32)
CONFIG = JanusConfig(LANGUAGE_MODEL, SigLIPEyeConfig(VISION_ENCODER), GENERATION)
PROCESSOR = ProcessorConfig(PixelConfig(size_px=16))
M = TypeVar("M", bound=nn.Module)


def shake(model: M, seed: int = 0) -> M:
    """Weights large enough that every part matters, and no bias or norm left at its neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(p + 0.1 * noise if p.dim() != 2 else noise * p.shape[1] ** -0.5)
    return model


def janus(config: JanusConfig = CONFIG) -> Janus:
    torch.manual_seed(0)
    return shake(Janus(config)).eval().requires_grad_(False)


def with_encoder(config: JanusConfig, **changes: Any) -> JanusConfig:
    """The same model with another SigLIP."""
    eye = config.understanding
    assert isinstance(eye, SigLIPEyeConfig)
    return replace(config, understanding=replace(eye, encoder=replace(eye.encoder, **changes)))


def with_tokenizer(config: JanusConfig, **changes: Any) -> JanusConfig:
    """The same model with another image tokenizer."""
    eye = config.generation
    assert isinstance(eye, VQEyeConfig)
    return replace(config, generation=replace(eye, tokenizer=replace(eye.tokenizer, **changes)))


def text_tokenizer() -> TextTokenizer:
    """A wrapper of one's own, whose special ids a test may change."""
    return TextTokenizer(world_text_tokenizer().tokenizer)


def processor(config: ProcessorConfig = PROCESSOR, num_features: int = CONFIG.num_features) -> Processor:
    return Processor(config, text_tokenizer(), num_features)


def checkpoint(config: JanusConfig = CONFIG, sampling: dict[str, float] | None = None) -> Checkpoint:
    return Checkpoint(janus(config), processor(num_features=config.num_features), sampling or {})


def picture_span(seed: int = 0) -> UnderstandSpan:
    generator = torch.Generator().manual_seed(seed)
    return UnderstandSpan(torch.rand(3, 16, 16, generator=generator) * 2 - 1, VISION_ENCODER.num_features)


def text_document(length: int, seed: int = 0) -> Document:
    generator = torch.Generator().manual_seed(seed)
    return [TextSpan(torch.randint(8, LANGUAGE_MODEL.vocab_size, (length,), generator=generator).tolist())]


def equal_trees(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
