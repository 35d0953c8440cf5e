"""Training Janus: next-token prediction over packed documents of every kind (arXiv 2410.13848, §3.2 and §3.3).

    source ─► conversation ─► Processor ─► document ─► pack ─► Batch ─► Janus ─► heads where supervised ─► loss

Loss falls on answers and on image ids only. A caption to draw is replaced by pads with probability `drop_caption`,
which is what classifier-free guidance compares with (§3.4). All kinds of examples are mixed within every step.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from openjanus import config as configs
from openjanus.config import Config, NonNegativeFloat, PositiveInt, Range
from openjanus.data.image_ids import ImageIds, encode
from openjanus.data.sources import Gives, Source, find_source
from openjanus.emoji.sources import text_tokenizer
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.janus import GENERATION, Janus, JanusConfig
from openjanus.model.siglip_eye import SigLIPEye
from openjanus.processing.processor import Conversation, Message, ProcessorConfig
from openjanus.sequence import Batch, Document, GenerateSpan, Kind, pack
from openjanus.training.loop import Measures
from openjanus.training.stage import Stage
from openjanus.weights.checkpoint import check_tensors, load, load_part
from openjanus.weights.config import Checkpoint, CheckpointConfig
from openjanus.weights.hub import find_checkpoint


@dataclass(frozen=True)
class JanusTraining(Config):
    """From nothing: `model` and `processor` with the eyes of two finished runs, `tokenizer_from` and `encoder_from`,
    and the text tokenizer of a file or checkpoint folder (none: the emoji world's).

    `start_from`: all of a checkpoint instead (fine-tuning): its weights, its text tokenizer, and its own settings of
    model, processor and sampling, not those here. `changes` alter them: ("processor.system_prompt=Be brief.",).

    `image_ids`: the file of `openjanus tokenize`, drawings as ids; or for several sources of drawings a file each. The
    drawings of a source without a file are encoded when their turn comes. `text_weight` 1 is the paper's loss (no task
    weights).
    """

    model: JanusConfig | None
    processor: ProcessorConfig | None
    tokenizer_from: str
    encoder_from: str
    image_ids: str | dict[str, str]
    start_from: str = ""
    changes: tuple[str, ...] = ()
    text_tokenizer: str = ""
    row_tokens: PositiveInt = 4096
    micro_batch_rows: PositiveInt = 8
    drop_caption: Annotated[float, Range(0, 1)] = 0.1
    text_weight: NonNegativeFloat = 1.0
    sampling: dict[str, NonNegativeFloat] = field(default_factory=dict)

    def check(self) -> None:
        if self.model is not None and self.processor is not None:
            CheckpointConfig(self.model, self.processor, self.sampling)  # whose parts must fit


def image_ids_file(c: JanusTraining, source: str) -> str:
    """The file of a source's drawings as ids. Raises ValueError if the config names none."""
    path = c.image_ids.get(source, "") if isinstance(c.image_ids, dict) else c.image_ids
    if not path:
        raise ValueError(f'image_ids names no file for {source}: set task.image_ids={{"{source}": FILE}}')
    return path


def starting_checkpoint(c: JanusTraining) -> Checkpoint:
    """The model with its text tokenizer and settings before the first step."""
    if c.start_from:
        return _fine_tuned(c)
    if c.model is None or c.processor is None:
        raise ValueError("a training needs start_from, or else a model and a processor")
    model = Janus(c.model)
    load_part(model.generation.tokenizer, c.tokenizer_from, "tokenizer.")
    if isinstance(model.understanding, SigLIPEye):
        load_part(model.understanding.encoder, c.encoder_from, "vision_encoder.", dropped=("pooling_head.*",))
    model.generation.start_from_tokenizer()
    text, vocab_size = text_tokenizer(c.text_tokenizer), c.model.language_model.vocab_size
    if text.vocab_size > vocab_size:
        raise ValueError(f"the text tokenizer has {text.vocab_size} ids, the model only {vocab_size}")
    return Checkpoint(model, CheckpointConfig(c.model, c.processor).make_processor(text), c.sampling)


def _fine_tuned(c: JanusTraining) -> Checkpoint:
    start = load(find_checkpoint(c.start_from))
    for name in ("model", "processor", "sampling"):
        if getattr(c, name) not in (None, {}, getattr(start.config, name)):
            warnings.warn(f"{name} is that of {c.start_from}, not the task's; `changes` can alter it", stacklevel=2)
    config = configs.override(start.config, c.changes)
    model, weights = Janus(config.model), start.model.state_dict()
    check_tensors(weights, model.state_dict(), f"start_from {c.start_from}")
    model.load_state_dict(weights)
    processor = config.make_processor(start.processor.text)
    return Checkpoint(model, processor, config.sampling, tasks=config.tasks)


def starting_tokenizer(c: JanusTraining) -> ImageTokenizer:
    """The generation eye that a training starts with: what its drawings must be tokenized by."""
    if c.start_from:
        return load(find_checkpoint(c.start_from)).model.generation.tokenizer
    if c.model is None:
        raise ValueError("a training needs start_from, or else a model and a processor")
    tokenizer = GENERATION[type(c.model.generation)](c.model.generation, c.model.language_model.width).tokenizer
    load_part(tokenizer, c.tokenizer_from, "tokenizer.")
    return tokenizer


class JanusObjective:
    """Next-token prediction with both heads."""

    examples: Gives = "conversations"

    def __init__(self, c: JanusTraining, seed: int, start: Checkpoint | None = None):
        """`start`: the checkpoint to begin with, whose weights may still be missing; None: what the config names."""
        self.config, self.seed = c, seed
        begin = start or starting_checkpoint(c)
        self.model, self.processor, self.tasks = begin.model, begin.processor, begin.tasks
        self.sampling = begin.sampling if c.start_from else c.sampling

    def checkpoint(self) -> Checkpoint:
        """The model with its processor and its default sampling settings."""
        return Checkpoint(self.model, self.processor, self.sampling, tasks=self.tasks)

    def inputs(self) -> dict[str, Any]:
        """What the batches are made of besides the config: a run that goes on must find the same."""
        return {
            f"image ids of {ids.source}": {"image_tokenizer": ids.tokenizer, "num": len(ids), "seed": ids.seed}
            for ids in self._files
        }

    @cached_property
    def _files(self) -> list[ImageIds]:
        named = self.config.image_ids
        if isinstance(named, str):
            return [ImageIds.read(named)] if named else []
        files = {source: ImageIds.read(path) for source, path in named.items()}
        for source, ids in files.items():
            if ids.source != source:
                raise ValueError(f"{ids.path}: holds the drawings of {ids.source}, expected those of {source}")
        return list(files.values())

    @cached_property
    def image_ids(self) -> dict[str, ImageIds]:
        """Drawings as ids, by source. They are compared with the image tokenizer when the first batch is made: only
        then is the model the one that a run goes on with."""
        for ids in self._files:
            ids.check(self.model.generation.tokenizer)
        return {ids.source: ids for ids in self._files}

    def micro_batches(self, stage: Stage, step: int) -> Sequence[Batch]:
        documents = []
        for name, count in stage.mixture.items():
            # Ids were made of the drawings of one seed; another seed's captions would belong to other pictures.
            seed = self.image_ids[name].seed if name in self.image_ids else self.seed
            source = find_source(name, self.examples)("train", seed)
            for index in range(step * count, (step + 1) * count):
                documents.append(self._document(name, source, index))
        batch = pack(documents, self.config.row_tokens)
        rows = self.config.micro_batch_rows
        device = self.model.language_model.norm.weight.device
        return [batch.rows(start, start + rows).to(device) for start in range(0, len(batch.tokens), rows)]

    def _document(self, name: str, source: Source, index: int) -> Document:
        # Drawn anew each time a drawing comes round, so that no caption is left out for good.
        dropped = np.random.default_rng([self.seed, index, 3]).random() < self.config.drop_caption
        made = self.image_ids.get(name)
        if made is not None:
            index %= len(made)
        conversation = self._with_image_ids(source(index), None if made is None else made[index])
        document = self.processor.document(conversation, train=True)
        drawn = any(isinstance(span, GenerateSpan) for span in document)
        return self.processor.unconditional(document) if drawn and dropped else document

    def _with_image_ids(self, conversation: Conversation, made: np.ndarray | None) -> Conversation:
        """The assistant's pictures replaced by their ids: those made beforehand, or made now."""

        def ids_of(part: Any) -> Any:
            if not isinstance(part, Image.Image):
                return part
            return encode(self.model.generation.tokenizer, [part])[0] if made is None else made

        return [
            Message(m.role, [ids_of(part) for part in m.content]) if m.role == "assistant" else m for m in conversation
        ]

    def count(self, batch: Batch) -> int:
        return batch.num_targets()

    def clip_groups(self, trainable: dict[str, nn.Parameter]) -> list[list[nn.Parameter]]:
        return [list(trainable.values())]

    def loss(self, batch: Batch, stage: Stage, step: int) -> tuple[Tensor, Measures]:
        hidden = self.model(batch).flatten(0, 1)
        total = hidden.sum() * 0  # a batch may lack one of the kinds
        measures: Measures = {}
        names_and_weights = {Kind.TEXT: ("text", self.config.text_weight), Kind.GENERATE: ("image", 1.0)}
        for kind, head in self.model.heads.items():
            if kind in batch.targets:
                (name, weight), places = names_and_weights[kind], batch.targets[kind]
                logits = head(hidden[places]).float()
                loss = F.cross_entropy(logits, batch.target.flatten()[places], reduction="sum")
                total = total + weight * loss
                measures[f"{name}_loss"] = (loss.detach(), len(places))
        return total, measures
