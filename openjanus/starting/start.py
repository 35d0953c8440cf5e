"""The source of a training's initial weights, as one value.

    start: "deepseek-ai/Janus-Pro-1B"            a Janus of any format: a folder, a finished run, or a hub id
           {"language_model": "Qwen/Qwen2.5-0.5B",
            "understanding.encoder": "google/siglip-large-patch16-384",
            "generation.tokenizer": "vq_ds16_t2i.pt"}         or a table of parts (parts.py)
           {..., "understanding.encoder": "shared"}           one eye for both tasks (model/shared_eye.py)

Text tokenizer, chat template, pixel settings and sampling defaults also come from there. Parts that a table leaves out
are initialised randomly, with the shape of `model`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from torch import nn

from openjanus import config as configs
from openjanus.config import Config, NonNegativeFloat
from openjanus.model.image_tokenizer import ImageTokenizerConfig
from openjanus.model.janus import GENERATION, Janus, JanusConfig
from openjanus.model.semantic_eye import SemanticEyeConfig
from openjanus.model.shared_eye import SharedEyeConfig
from openjanus.model.siglip_eye import SigLIPEyeConfig
from openjanus.model.tower_eye import TowerEyeConfig
from openjanus.model.vision_encoder import VisionEncoderConfig
from openjanus.model.vq_eye import VQEyeConfig
from openjanus.processing.image import PixelConfig
from openjanus.processing.processor import ProcessorConfig
from openjanus.processing.text import TextTokenizer
from openjanus.starting.parts import BODY, ENCODER, IMAGE_TOKENIZER, SEMANTIC, Part, read_part
from openjanus.weights.checkpoint import load
from openjanus.weights.config import Checkpoint, CheckpointConfig
from openjanus.weights.hub import find_checkpoint
from openjanus.weights.tensors import check_shapes, shapes_of

TEXT = "text_tokenizer"
PARTS = (BODY, ENCODER, IMAGE_TOKENIZER, SEMANTIC)
SHARED = "shared"  # instead of the source of an encoder: pictures to understand enter through the generation eye
# Fields in which a model may differ from the source of a part: numbers of positions and ids, and unused parts.
FREE = ("max_positions", "vocab_size", "pooling_head", "tanh_gelu")


@dataclass(frozen=True)
class StartConfig(Config):
    """The Janus that a training begins with.

    A checkpoint as `start` (fine-tuning) brings its text tokenizer, and its own settings of model, processor and
    sampling, not those here. A table of parts brings what its sources have; `model` and `processor` say the rest.
    `changes` alter the config that results: ("processor.system_prompt=Be brief.",). If they give the understanding eye
    or the signal eye another type, that eye starts with random weights.
    """

    start: str | dict[str, str]
    model: JanusConfig | None = field(default=None, kw_only=True)
    processor: ProcessorConfig | None = field(default=None, kw_only=True)
    sampling: dict[str, NonNegativeFloat] = field(default_factory=dict, kw_only=True)
    changes: tuple[str, ...] = field(default=(), kw_only=True)

    def check(self) -> None:
        if self.model is not None and self.processor is not None:
            CheckpointConfig(self.model, self.processor, self.sampling)  # raises if they do not fit together


def starting_point(c: StartConfig, find_text: Callable[[str], TextTokenizer]) -> Checkpoint:
    """The checkpoint before the first step. find_text: finds a text tokenizer by the name in a table of parts.

    Raises ValueError for missing, unknown or unsuitable parts.
    """
    if isinstance(c.start, str):
        return _of_checkpoint(c, c.start)
    config, parts, text = _compose(c, c.start, find_text)
    model = Janus(config.model)
    for name, part in parts.items():
        _fill(name, part, attrgetter(name)(model))
    if IMAGE_TOKENIZER in parts:
        model.generation.start_from_tokenizer()
    return Checkpoint(model, config.make_processor(text), config.sampling, tasks=config.tasks)


def starting_image_tokenizer(c: StartConfig, find_text: Callable[[str], TextTokenizer]) -> Any:
    """The image tokenizer of that checkpoint; its drawings must be encoded by it."""
    if isinstance(c.start, str):
        return load(find_checkpoint(_named(c.start)), only=f"{IMAGE_TOKENIZER}.").model.generation.tokenizer
    if IMAGE_TOKENIZER not in c.start:
        raise ValueError(f"start names no {IMAGE_TOKENIZER}: a random one would give meaningless image ids")
    config, parts, _ = _compose(c, c.start, find_text)
    eye = GENERATION[type(config.model.generation)](config.model.generation, config.model.language_model.width)
    _fill(IMAGE_TOKENIZER, parts[IMAGE_TOKENIZER], eye.tokenizer)
    return eye.tokenizer


def _named(start: str) -> str:
    if not start:
        raise ValueError(
            f"start is empty, expected a Janus (folder, finished run or hub id) or a table of {', '.join(PARTS)}"
        )
    return start


def _of_checkpoint(c: StartConfig, start: str) -> Checkpoint:
    kept = load(find_checkpoint(_named(start)))
    for name in ("model", "processor", "sampling"):
        if getattr(c, name) not in (None, {}, getattr(kept.config, name)):
            warnings.warn(f"{name} is that of {start}, not the task's; `changes` can alter it", stacklevel=2)
    config = configs.override(kept.config, c.changes)
    model, weights = Janus(config.model), kept.model.state_dict()
    types = [(type(m.understanding), type(m.signal)) for m in (kept.config.model, config.model)]
    replaced = tuple(
        f"{eye}." for eye, before, now in zip(("understanding", "signal"), *types, strict=True) if before is not now
    )
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(replaced)}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(replaced)} | fresh
    check_shapes(shapes_of(weights), shapes_of(model.state_dict()), f"start {start}")
    model.load_state_dict(weights)
    return Checkpoint(model, config.make_processor(kept.processor.text), config.sampling, tasks=config.tasks)


def _compose(
    c: StartConfig, start: Mapping[str, str], find_text: Callable[[str], TextTokenizer]
) -> tuple[CheckpointConfig, dict[str, Part], TextTokenizer]:
    """The config of a Janus from parts, the parts, and its text tokenizer; no weights are read."""
    if unknown := sorted(start.keys() - {*PARTS, TEXT}):
        raise ValueError(f"start has no part {unknown[0]!r}; known: {', '.join((*PARTS, TEXT))}")
    parts: dict[str, Part] = {}
    size_px = 0 if c.model is None else c.model.generation.image_size_px
    as_tower = c.model is not None and isinstance(c.model.understanding, TowerEyeConfig)
    for name in PARTS:  # the encoder before the tokenizer: both take pictures of one size
        if name in start and (name, start[name]) != (ENCODER, SHARED):
            default_px = size_px or (parts[ENCODER].image_size_px if ENCODER in parts else 384)
            parts[name] = read_part(name, start[name], default_px, as_tower)
    model = _from_parts(parts, start.get(ENCODER) == SHARED) if c.model is None else c.model
    if start.get(ENCODER) == SHARED and not isinstance(model.understanding, SharedEyeConfig):
        raise ValueError(
            f"start.{ENCODER} is {SHARED}, but the model's eye is {type(model.understanding).__name__}, expected "
            "SharedEyeConfig"
        )
    processor = c.processor or _processor(parts, model)
    config = configs.override(CheckpointConfig(model, processor, c.sampling), c.changes)
    for name, part in parts.items():
        _check_agrees(name, start[name], part, config.model)
        part.check(config)
    text, vocab_size = _text(start, parts, find_text), config.model.language_model.vocab_size
    if text.vocab_size > vocab_size:
        raise ValueError(f"the text tokenizer has {text.vocab_size} ids, the model only {vocab_size}")
    return config, parts, text


def _from_parts(parts: Mapping[str, Part], is_shared: bool) -> JanusConfig:
    needed = (BODY, IMAGE_TOKENIZER) if is_shared else (BODY, ENCODER, IMAGE_TOKENIZER)
    if missing := [name for name in needed if name not in parts]:
        raise ValueError(f"start names no {' and no '.join(missing)}: name a source, or give a model with its shape")
    body, tokenizer = parts[BODY].config, parts[IMAGE_TOKENIZER].config
    if not isinstance(tokenizer, ImageTokenizerConfig):
        raise ValueError(f"a {type(tokenizer).__name__} needs a model that has it: start alone makes a VQEyeConfig")
    looking: Any = SharedEyeConfig()
    if not is_shared:
        encoder = parts[ENCODER].config
        if isinstance(encoder, VisionEncoderConfig):
            looking = SigLIPEyeConfig(replace(encoder, pooling_head=False))
        else:
            looking = TowerEyeConfig(encoder, parts[ENCODER].image_size_px)
    drawing = VQEyeConfig(tokenizer, body.width)
    if SEMANTIC in parts:
        drawing = SemanticEyeConfig(tokenizer, body.width, parts[SEMANTIC].config)
    return JanusConfig(body, looking, drawing)


def _processor(parts: Mapping[str, Part], model: JanusConfig) -> ProcessorConfig:
    """The chat template of the body and the pixel settings of the encoder, if they have any."""
    body, encoder = (parts[name].processor if name in parts else None for name in (BODY, ENCODER))
    pixels = PixelConfig(model.understanding_size_px) if encoder is None else encoder.pixels
    return replace(body or ProcessorConfig(), pixels=pixels)


def _text(
    start: Mapping[str, str], parts: Mapping[str, Part], find_text: Callable[[str], TextTokenizer]
) -> TextTokenizer:
    own = parts[BODY].text if BODY in parts else None
    if own is not None and TEXT in start:
        raise ValueError(f"start names a {TEXT}, but its {BODY} has its own: leave the {TEXT} out")
    if own is None and TEXT not in start:
        raise ValueError(f"start names neither a {BODY} nor a {TEXT}: one of them must give the text tokenizer")
    return own or find_text(start[TEXT])


def _check_agrees(name: str, source: str, part: Part, model: JanusConfig) -> None:
    """Raises ValueError if the config of a model contradicts the source of one of its parts."""
    eye_name, _, field = name.partition(".")
    eye = getattr(model, eye_name)
    given = getattr(eye, field, None) if field else eye
    if given is None:
        raise ValueError(f"start names {name}, but the model's {type(eye).__name__} has none: leave it out")
    if type(given) is not type(part.config):
        there, here = (c["model_type"] if isinstance(c, dict) else type(c).__name__ for c in (part.config, given))
        raise ValueError(f"start.{name} {source}: it is a {there}, but model.{name} is a {here}: name another source")
    for key, there, here in configs.differences(configs.to_dict(part.config), configs.to_dict(given)):
        if key not in FREE and not (name == IMAGE_TOKENIZER and key == "image_size_px"):
            raise ValueError(
                f"start.{name} {source}: {key} is {there}, but model.{name} has {here}: give the model the "
                "same, or name another source"
            )


def _fill(name: str, part: Part, module: nn.Module) -> None:
    try:
        part.fill(module)
    except ValueError as error:
        raise ValueError(f"start.{name}: {error}") from None
