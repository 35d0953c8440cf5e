"""The bundled nano model, trained from random weights in the emoji world: eyes first, then Janus in stages.

    openjanus train nano.tokenizer       the generation eye (VQ tokenizer)
    openjanus train nano.encoder         the understanding eye (SigLIP)
    openjanus train nano.janus           adaptors, body and heads, in the paper's stages
    openjanus train nano.longer          more of the last stage; this gave the bundled model

64-px pictures, 64 ids each; the sizes were chosen to train on two laptop cores in a few hours.
"""

import dataclasses

from openjanus.eyes.contrastive import ContrastiveTraining
from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import JanusConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.training.stage import Stage

IMAGE_TOKENIZER = ImageTokenizerConfig(
    image_size_px=64,
    base_width=32,
    width_multipliers=(1, 2, 4),
    num_res_blocks=1,
    latent_width=64,
    num_ids=1024,
    code_width=8,
    num_groups=16,
    stem_px=2,
    local_encoder=True,
)
VISION_ENCODER = VisionEncoderConfig(
    image_size_px=64, patch_px=8, width=192, num_layers=4, num_heads=3, mlp_width=768, pooling_head=True
)


def tokenizer() -> Run:
    """LlamaGen's losses with an L1 term; the discriminator starts for the last eighth of the steps."""
    task = TokenizerTraining(
        IMAGE_TOKENIZER,
        l1_weight=1.0,
        perceptual_weight=0.1,
        gan_weight=0.02,
        discriminator_width=32,
        discriminator_start=3500,
        quantise_start=200,
        revive_steps=25,
        revive_end=2000,
    )
    stage = Stage("reconstruct", 4000, 1e-3, {"emoji.pictures": 16}, schedule="cosine", warmup_steps=100)
    return Run("nano.tokenizer", task, (stage,))


def encoder() -> Run:
    """SigLIP on pictures and their captions, 40% of which name only the objects."""
    task = ContrastiveTraining(
        VISION_ENCODER,
        text_num_layers=2,
        text_num_heads=3,
        text_mlp_width=768,
        num_text_tokens=48,
        bias=-5.0,
        text_tokenizer="emoji",
    )
    stage = Stage(
        "contrast", 1200, 1e-3, {"emoji.captions": 128}, schedule="cosine", warmup_steps=100, weight_decay=0.05
    )
    return Run("nano.encoder", task, (stage,))


def janus() -> Run:
    """The paper's three stages after a short text-only stage (the paper starts from a pretrained LLM)."""
    model = JanusConfig(
        language_model=LanguageModelConfig(
            vocab_size=1024,
            width=192,
            num_layers=5,
            num_heads=6,
            num_kv_heads=6,
            head_width=32,
            ffn_width=512,
            max_positions=512,
            qk_norm=True,
            tie_text_head=True,
        ),
        understanding=SigLIPEyeConfig(dataclasses.replace(VISION_ENCODER, pooling_head=False)),
        generation=VQEyeConfig(IMAGE_TOKENIZER, head_width=192),
    )
    task = JanusTraining(
        start={
            "text_tokenizer": "emoji",
            "understanding.encoder": "runs/nano.encoder",
            "generation.tokenizer": "runs/nano.tokenizer",
        },
        image_ids="runs/nano.image_ids.safetensors",
        model=model,
        processor=ProcessorConfig(PixelConfig(size_px=64), pictures_first=True),
        row_tokens=256,
        micro_batch_rows=16,
        text_weight=4.0,
        sampling={"guidance": 1.25, "temperature": 0.4},
    )
    adaptors = ("understanding.adaptor.*", "generation.adaptor.*", "generation.embedding.*", "generation.head.*")
    body = ("language_model.*",)
    stages = (
        Stage("language", 200, 1e-3, {"emoji.texts": 64}, body, warmup_steps=50),
        Stage("adapt", 100, 1e-3, {"emoji.questions": 16, "emoji.drawings": 32}, adaptors, "cosine", warmup_steps=20),
        Stage(
            "unify",
            2600,
            1.5e-3,
            {"emoji.questions": 16, "emoji.texts": 8, "emoji.drawings": 48},
            adaptors + body,
            warmup_steps=100,
        ),
        Stage(
            "tune",
            1500,
            1e-3,
            {"emoji.questions": 32, "emoji.texts": 4, "emoji.drawings": 48},
            ("*", "!generation.tokenizer.*"),
            "cosine",
            warmup_steps=50,
            weight_decay=0.1,
        ),
    )
    return Run("nano.janus", task, stages)


def longer() -> Run:
    """More of the third stage from where `nano.janus` ended, over drawings of another seed, with more questions.

    Run `openjanus tokenize nano.longer --num 120000` first, because its drawings are different.
    """
    run = janus()
    assert isinstance(run.task, JanusTraining)
    task = dataclasses.replace(
        run.task,
        model=None,
        processor=None,
        sampling={},
        start="runs/nano.janus/model",
        image_ids="runs/nano.longer_ids.safetensors",
        row_tokens=192,
    )
    tune = dataclasses.replace(
        run.stages[-1],
        num_steps=5000,
        lr=1.2e-3,
        mixture={"emoji.questions": 48, "emoji.texts": 4, "emoji.drawings": 48},
        warmup_steps=100,
    )
    return Run("nano.longer", task, (tune,), seed=7)
