"""Training Janus: next-token prediction over packed documents of every kind (arXiv 2410.13848, §3.2 and §3.3).

    source ─► conversation ─► Processor ─► document ─► pack ─► Batch ─► Janus ─► heads where supervised ─► loss

Loss falls on answers and on image ids only. A caption to draw is replaced by pads with probability `drop_caption`,
which is what classifier-free guidance compares with (§3.4). All kinds of examples are mixed within every step.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus import config as configs
from openjanus.config import Config, NonNegativeFloat, PositiveInt, Range
from openjanus.data.image_ids import ImageIds, encode
from openjanus.data.sources import Gives, Source, find_source, find_text_tokenizer
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Conversation, Message, Processor, ProcessorConfig
from openjanus.sequence import Batch, Document, GenerateSpan, Kind, pack
from openjanus.training.loop import Measures, Training
from openjanus.training.stage import Stage
from openjanus.weights.checkpoint import check_tensors, load, load_part
from openjanus.weights.config import Checkpoint, CheckpointConfig
from openjanus.weights.hub import find_checkpoint


@dataclass(frozen=True)
class JanusTraining(Config):
    """From nothing: `model` and `processor` with the eyes of two finished runs, `tokenizer_from` and `encoder_from`,
    and a `text_tokenizer`: a name of `TEXT_TOKENIZERS`, a file, or a checkpoint folder.

    `start_from`: all of a checkpoint instead (fine-tuning): its weights, its text tokenizer, and its own settings of
    model, processor and sampling, not those here. `changes` alter them: ("processor.system_prompt=Be brief.",).

    `image_ids`: the file of `openjanus tokenize`, drawings as ids; or for several sources of drawings a file each. The
    drawings of a source without a file are encoded when their turn comes. `text_weight` 1 is the paper's loss (no task
    weights).
    """

    examples: ClassVar[Gives] = "conversations"  # what its sources give

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
    load_part(model.understanding.encoder, c.encoder_from, "vision_encoder.", dropped=("pooling_head.*",))
    model.generation.initialise_from_codebook()
    text, vocab_size = find_text_tokenizer(c.text_tokenizer), c.model.language_model.vocab_size
    if text.vocab_size > vocab_size:
        raise ValueError(f"the text tokenizer has {text.vocab_size} ids, the model only {vocab_size}")
    return Checkpoint(model, Processor(c.processor, text), c.sampling)


def _fine_tuned(c: JanusTraining) -> Checkpoint:
    start = load(find_checkpoint(c.start_from))
    for name in ("model", "processor", "sampling"):
        if getattr(c, name) not in (None, {}, getattr(start.config, name)):
            warnings.warn(f"{name} is that of {c.start_from}, not the task's; `changes` can alter it", stacklevel=2)
    config = configs.override(start.config, c.changes)
    model, weights = Janus(config.model), start.model.state_dict()
    check_tensors(weights, model.state_dict(), f"start_from {c.start_from}")
    model.load_state_dict(weights)
    return Checkpoint(model, Processor(config.processor, start.processor.text), config.sampling)


def starting_tokenizer(c: JanusTraining) -> ImageTokenizer:
    """The generation eye that a training starts with: what its drawings must be tokenized by."""
    if c.start_from:
        return load(find_checkpoint(c.start_from)).model.generation.tokenizer
    if c.model is None:
        raise ValueError("a training needs start_from, or else a model and a processor")
    tokenizer = ImageTokenizer(c.model.image_tokenizer)
    load_part(tokenizer, c.tokenizer_from, "tokenizer.")
    return tokenizer


@dataclass
class JanusData:
    """Steps as packed rows of documents of every kind.

    `image_tokenizer` is that of the model: it encodes the drawings that no file holds as ids.
    """

    config: JanusTraining
    seed: int
    processor: Processor
    image_tokenizer: ImageTokenizer

    def inputs(self) -> dict[str, Any]:
        """The files of image ids that the batches are made of."""
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
            ids.check(self.image_tokenizer)
        return {ids.source: ids for ids in self._files}

    def __call__(self, stage: Stage, step: int) -> Sequence[Batch]:
        documents = []
        for name, count in stage.mixture.items():
            # Ids were made of the drawings of one seed; another seed's captions would belong to other pictures.
            seed = self.image_ids[name].seed if name in self.image_ids else self.seed
            source = find_source(name, self.config.examples)("train", seed)
            for index in range(step * count, (step + 1) * count):
                documents.append(self.document(name, source, index))
        batch = pack(documents, self.config.row_tokens)
        rows = self.config.micro_batch_rows
        return [batch.rows(start, start + rows) for start in range(0, len(batch.tokens), rows)]

    def document(self, name: str, source: Source, index: int) -> Document:
        """Example `index` of the source called `name`."""
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
            return encode(self.image_tokenizer, [part])[0] if made is None else made

        return [
            Message(m.role, [ids_of(part) for part in m.content]) if m.role == "assistant" else m for m in conversation
        ]


def janus_loss(model: Janus, batch: Batch, step: int, text_weight: float = 1.0) -> tuple[Tensor, Measures]:
    """Cross-entropy of both heads, summed over the positions that each is supervised at."""
    hidden = model(batch)
    total = hidden.sum() * 0  # a batch may lack one of the kinds
    measures: Measures = {}
    heads = {
        "text": (Kind.TEXT, model.text_logits, text_weight),
        "image": (Kind.GENERATE, model.image_logits, 1.0),
    }
    for name, (kind, head, weight) in heads.items():
        here = batch.target_kind == kind
        if here.any():
            loss = F.cross_entropy(head(hidden[here]).float(), batch.target[here], reduction="sum")
            total = total + weight * loss
            measures[f"{name}_loss"] = (loss.detach(), int(here.sum()))
    return total, measures


def janus_training(c: JanusTraining, seed: int, start: Checkpoint | None = None) -> Training:
    """Next-token prediction with both heads.

    `start`: the checkpoint to begin with, whose weights may still be missing; None: what the config names.
    """
    begin = start or starting_checkpoint(c)
    exported = begin if c.start_from else replace(begin, sampling=c.sampling)
    data = JanusData(c, seed, begin.processor, begin.model.generation.tokenizer)
    return Training(
        begin.model,
        data,
        partial(janus_loss, text_weight=c.text_weight),
        num_targets=Batch.num_targets,
        checkpoint=exported,
        inputs=data.inputs,
    )
