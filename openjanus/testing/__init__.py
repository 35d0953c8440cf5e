"""A test double for projects that use openjanus: a tiny Janus with random weights, in any format, within a second.

    from openjanus.testing import tiny_checkpoint

    folder = tiny_checkpoint(tmp_path / "model", form="official")
    engine = openjanus.load(folder, weights="float32")

It draws noise and says nonsense, but it has every part of a real checkpoint: both eyes, both heads, tokenizer and
processor files. 64-px pictures, 16 features and 16 ids each.

The tests and the scripts of this repository share the other modules here: `reference` and `stages` (parity with
transformers, of the dev extra) and `on_vllm` (which needs vLLM).
"""

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from openjanus.emoji.sources import world_text_tokenizer
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import Janus, JanusConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ROLES, ProcessorConfig
from openjanus.weights.checkpoint import save
from openjanus.weights.config import Checkpoint, CheckpointConfig
from openjanus.weights.official import SYSTEM_PROMPT

# Groups of 32 and equal widths of body and image head are what all three formats can hold.
TINY = JanusConfig(
    LanguageModelConfig(
        vocab_size=1088,
        width=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_width=16,
        ffn_width=96,
        max_positions=1024,
    ),
    SigLIPEyeConfig(
        VisionEncoderConfig(image_size_px=64, patch_px=16, width=64, num_layers=2, num_heads=4, mlp_width=128)
    ),
    VQEyeConfig(
        ImageTokenizerConfig(
            image_size_px=64,
            base_width=32,
            width_multipliers=(1, 1, 1, 1, 2),
            num_res_blocks=1,
            latent_width=32,
            num_ids=96,
            code_width=8,
        ),
        head_width=64,
    ),
)


def tiny_checkpoint(
    folder: Path | str,
    form: Literal["openjanus", "official", "transformers"] = "openjanus",
    template: Literal["deepseek_old", "deepseek"] = "deepseek",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a tiny random checkpoint and returns its folder.

    template: `deepseek` as Janus-Pro, with tokens for the roles; `deepseek_old` as Janus-1.3B. The same seed gives the
    same weights in every format.
    """
    text = world_text_tokenizer()
    if template == "deepseek":
        text = text.with_special(*ROLES["deepseek"].values())
    system_prompt = SYSTEM_PROMPT if form != "transformers" else ""  # transformers' processor has it off by default
    config = CheckpointConfig(TINY, ProcessorConfig(PixelConfig(64), template, system_prompt))
    save(Checkpoint(tiny_janus(seed), config.make_processor(text), {}), Path(folder), dtype, form)
    return Path(folder)


def tiny_janus(seed: int = 0, config: JanusConfig = TINY) -> Janus:
    """A Janus whose random weights are large enough that every part matters, and none stays at a neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = Janus(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_norm = p.dim() == 1 and name.endswith("weight")
            fan_in = nn.Flatten(1)(p).shape[1] if p.dim() > 1 else 1
            p.copy_(1 + 0.1 * noise if is_norm else 0.1 * noise if p.dim() == 1 else noise * fan_in**-0.5)
    return model.eval().requires_grad_(False)
