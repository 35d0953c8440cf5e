"""A nano model of the wider emoji world: product ids, Muon, conversations and edits.

    openjanus train wide.tokenizer                    image ids that are products of a shape and a colour
    openjanus train wide.janus                        the body, with both heads and all eyes but the tokenizer

The understanding eye begins as the bundled model's. Drawings are encoded during the training, so that none is repeated.
"""

import dataclasses

from openjanus.eyes.tokenizer import TokenizerTraining
from openjanus.model.janus import JanusConfig
from openjanus.model.language_model import LanguageModelConfig
from openjanus.model.product_eye import ProductEyeConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.recipes import nano
from openjanus.training.janus import JanusTraining
from openjanus.training.run import Run
from openjanus.training.stage import Stage

NUM_SHAPES, NUM_COLOURS, COLOUR_WIDTH = 256, 32, 4
IMAGE_TOKENIZER = dataclasses.replace(nano.IMAGE_TOKENIZER, num_ids=NUM_SHAPES * NUM_COLOURS, code_width=12)


def tokenizer() -> Run:
    """As `nano.tokenizer`, with two codebooks and pictures in two colourings."""
    run = nano.tokenizer()
    assert isinstance(run.task, TokenizerTraining)
    task = dataclasses.replace(
        run.task,
        tokenizer=IMAGE_TOKENIZER,
        num_colours=NUM_COLOURS,
        colour_width=COLOUR_WIDTH,
        discriminator_start=7000,
        revive_end=4000,
    )
    stage = Stage("reconstruct", 8000, 1e-3, {"emoji.recoloured": 16}, schedule="cosine", warmup_steps=100)
    return Run("wide.tokenizer", task, (stage,))


def janus() -> Run:
    """Stages 2 and 3 of the paper. The second has more questions, which take most of a step, and trains the encoder of
    the understanding eye, too. In the first it is frozen: the gradients of an untrained body would spoil it."""
    model = JanusConfig(
        language_model=LanguageModelConfig(
            vocab_size=1536,
            width=192,
            num_layers=6,
            num_heads=6,
            num_kv_heads=6,
            head_width=32,
            ffn_width=512,
            max_positions=1024,
            qk_norm=True,
            tie_text_head=True,
        ),
        understanding=SigLIPEyeConfig(dataclasses.replace(nano.VISION_ENCODER, pooling_head=False)),
        generation=ProductEyeConfig(
            IMAGE_TOKENIZER, head_width=192, num_colours=NUM_COLOURS, colour_width=COLOUR_WIDTH
        ),
    )
    task = JanusTraining(
        start={
            "text_tokenizer": "emoji.wide",
            "understanding.encoder": "nano",
            "generation.tokenizer": "runs/wide.tokenizer",
        },
        image_ids="",
        model=model,
        processor=ProcessorConfig(PixelConfig(size_px=64)),
        row_tokens=256,
        long_row_tokens=960,
        micro_batch_rows=32,
        text_weight=4.0,
        sampling={"guidance": 1.25, "temperature": 0.7, "top_p": 0.9},
        changes=('tasks=["talk", "draw", "edit"]',),
    )
    unify = Stage(
        "unify",
        5000,
        1.5e-3,
        {"emoji.wide.drawings": 44, "emoji.wide.edits": 8, "emoji.wide.talks": 12, "emoji.texts": 2},
        ("*", "!generation.tokenizer.*", "!understanding.encoder.*"),
        warmup_steps=100,
        weight_decay=0.05,
        muon=("language_model.layers.*",),
        muon_lr=0.02,
    )
    tune = dataclasses.replace(
        unify,
        name="tune",
        num_steps=3000,
        lr=1e-3,
        mixture={"emoji.wide.drawings": 40, "emoji.wide.edits": 12, "emoji.wide.talks": 24, "emoji.texts": 2},
        trainable=("*", "!generation.tokenizer.*"),
        schedule="cosine",
        muon_lr=0.015,
    )
    return Run("wide.janus", task, (unify, tune))
