"""The published sizes of Janus, with random weights: speed does not depend on the values of the weights."""

from dataclasses import replace

import torch

from openjanus.emoji.sources import world_text_tokenizer
from openjanus.inference.body import prepare
from openjanus.inference.quantisation import placer
from openjanus.model.janus import Janus, JanusConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.runtime import Runtime
from openjanus.weights.checkpoint import stored_tensors
from openjanus.weights.config import Checkpoint, CheckpointConfig

JANUS_1B = JanusConfig()
JANUS_7B = replace(
    JANUS_1B,
    language_model=replace(
        JANUS_1B.language_model, width=4096, num_layers=30, num_heads=32, num_kv_heads=32, ffn_width=11008
    ),
    generation=VQEyeConfig(head_width=4096),
)
SHAPES = {"janus-1.3b": JANUS_1B, "janus-pro-1b": JANUS_1B, "janus-pro-7b": JANUS_7B}


def random_checkpoint(config: JanusConfig, runtime: Runtime) -> Checkpoint:
    """A checkpoint of this shape with random weights. Its tensors are made and stored one at a time, to bound the
    memory."""
    checkpoint, place, device = empty_checkpoint(config), placer(runtime), runtime.device
    model, generator = checkpoint.model, torch.Generator(device).manual_seed(0)
    for name, tensor in stored_tensors(model).items():
        plain = tensor.dim() == 1 and name.endswith("weight")
        new = torch.empty(tensor.shape, dtype=torch.bfloat16, device=device)
        place(model, name, new.fill_(1) if plain else new.normal_(std=0.02, generator=generator))
    prepare(model.eval().requires_grad_(False), runtime)
    return checkpoint


def empty_checkpoint(config: JanusConfig) -> Checkpoint:
    """A checkpoint of this shape on the meta device: no weights."""
    with torch.device("meta"):
        model = Janus(config)
    pixels = PixelConfig(config.understanding_size_px)
    processor = CheckpointConfig(config, ProcessorConfig(pixels)).make_processor(world_text_tokenizer())
    return Checkpoint(model, processor, {})
