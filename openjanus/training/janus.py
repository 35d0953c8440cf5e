"""Training Janus: next-token prediction over packed documents of every kind (arXiv 2410.13848, §3.2 and §3.3).

    source ─► conversation ─► Processor ─► document ─► pack ─► Batch ─► Janus ─► heads where supervised ─► loss

Loss falls on answers and on image ids only. A caption to draw is replaced by pads with probability `drop_caption`,
which is what classifier-free guidance compares with (§3.4). All kinds of examples are mixed within every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from openjanus.config import Config, NonNegativeFloat, PositiveInt, Range
from openjanus.data.image_ids import ImageIds, encode
from openjanus.data.sources import Gives, Source, find_source, find_text_tokenizer
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Conversation, Message, Processor, ProcessorConfig
from openjanus.sequence import Batch, Document, GenerateSpan, Kind, find_rows, lay_out
from openjanus.training.loop import Measures, Training
from openjanus.training.stage import Stage
from openjanus.weights.config import Checkpoint, CheckpointConfig
from openjanus.weights.start import Wanted, starting_image_tokenizer, starting_point


@dataclass(frozen=True)
class JanusTraining(Config):
    """`start`: where the first weights come from (weights/start.py).

    A Janus (fine-tuning) brings its text tokenizer, and its own settings of model, processor and sampling, not those
    here. A table of parts brings what its sources have; `model` and `processor` say the rest, and a `text_tokenizer` in
    the table is a name of `TEXT_TOKENIZERS`, a file, or a checkpoint folder. `changes` alter the config that results:
    ("processor.system_prompt=Be brief.",).

    `image_ids`: the file of `openjanus tokenize`, drawings as ids; or for several sources of drawings a file each. The
    drawings of a source without a file are encoded when their turn comes. `text_weight` 1 is the paper's loss (no task
    weights).
    """

    examples: ClassVar[Gives] = "conversations"  # what its sources give

    start: str | dict[str, str]
    image_ids: str | dict[str, str]
    model: JanusConfig | None = None
    processor: ProcessorConfig | None = None
    changes: tuple[str, ...] = ()
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
    return starting_point(c.start, _wanted(c), find_text_tokenizer)


def starting_tokenizer(c: JanusTraining) -> ImageTokenizer:
    """The image tokenizer that a training starts with: what its drawings must be tokenized by."""
    return starting_image_tokenizer(c.start, _wanted(c), find_text_tokenizer)


def _wanted(c: JanusTraining) -> Wanted:
    return Wanted(c.model, c.processor, c.sampling, c.changes)


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
        row_tokens, num_rows = self.config.row_tokens, self.config.micro_batch_rows
        rows = find_rows(documents, row_tokens)
        return [lay_out(rows[start : start + num_rows], row_tokens) for start in range(0, len(rows), num_rows)]

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
    hidden = model(batch).flatten(0, 1)
    total = hidden.sum() * 0  # a batch may lack one of the kinds
    measures: Measures = {}
    names_and_weights = {Kind.TEXT: ("text", text_weight), Kind.GENERATE: ("image", 1.0)}
    for kind, head in model.heads.items():
        if kind in batch.targets:
            (name, weight), places = names_and_weights[kind], batch.targets[kind]
            logits = head(hidden[places]).float()
            loss = F.cross_entropy(logits, batch.target.flatten()[places], reduction="sum")
            total = total + weight * loss
            measures[f"{name}_loss"] = (loss.detach(), len(places))
    return total, measures


def janus_training(c: JanusTraining, seed: int, start: Checkpoint | None = None) -> Training:
    """Next-token prediction with both heads.

    `start`: the checkpoint to begin with, whose weights may still be missing; None: what the config names.
    """
    begin = start or starting_checkpoint(c)
    exported = begin if isinstance(c.start, str) else replace(begin, sampling=c.sampling)
    data = JanusData(c, seed, begin.processor, begin.model.generation.tokenizer)
    return Training(
        begin.model,
        data,
        partial(janus_loss, text_weight=c.text_weight),
        num_targets=Batch.num_targets,
        checkpoint=exported,
        inputs=data.inputs,
    )
