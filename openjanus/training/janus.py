"""Training Janus: next-token prediction over packed documents of every kind (arXiv 2410.13848, §3.2 and §3.3).

    source ─► conversation ─► Processor ─► document ─► pack ─► Batch ─► Janus ─► heads where supervised ─► loss

Loss falls on answers and on image ids only. A caption to draw is replaced by pads with probability `drop_caption`,
which is what classifier-free guidance compares with (§3.4). All kinds of examples are mixed within every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from openjanus.config import Config, NonNegativeFloat, PositiveInt, Range
from openjanus.data.image_ids import ImageIds
from openjanus.data.sources import Gives, find_source, world_text_tokenizer
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.janus import Janus, JanusConfig
from openjanus.processing.processor import Conversation, Message, Processor, ProcessorConfig
from openjanus.sequence import Batch, Document, GenerateSpan, Kind, pack
from openjanus.training.loop import Measures
from openjanus.training.stage import Stage
from openjanus.weights.checkpoint import check_tensors, load, load_part
from openjanus.weights.config import Checkpoint, CheckpointConfig
from openjanus.weights.hub import find_checkpoint


@dataclass(frozen=True)
class JanusTraining(Config):
    """`tokenizer_from`, `encoder_from`: folders of finished runs whose eyes this one starts with.

    `start_from`: a checkpoint to start with instead, all of it (fine-tuning): `nano`, a folder, a finished run or a hub
    id. `image_ids`: the file of `openjanus tokenize`, the drawings as ids. `text_weight` 1 is the paper's loss (no task
    weights).
    """

    model: JanusConfig
    processor: ProcessorConfig
    tokenizer_from: str
    encoder_from: str
    image_ids: str
    start_from: str = ""
    row_tokens: PositiveInt = 4096
    micro_batch_rows: PositiveInt = 8
    drop_caption: Annotated[float, Range(0, 1)] = 0.1
    text_weight: NonNegativeFloat = 1.0
    sampling: dict[str, NonNegativeFloat] = field(default_factory=dict)

    def check(self) -> None:
        CheckpointConfig(self.model, self.processor, self.sampling).check()


def starting_tokenizer(c: JanusTraining) -> ImageTokenizer:
    """The generation eye that a training starts with: what its drawings must be tokenized by."""
    if c.start_from:
        return load(find_checkpoint(c.start_from)).model.generation.tokenizer
    tokenizer = ImageTokenizer(c.model.image_tokenizer)
    load_part(tokenizer, c.tokenizer_from, "tokenizer.")
    return tokenizer


def starting_checkpoint(c: JanusTraining) -> Checkpoint:
    """The model, with its processor, before the first step."""
    model = Janus(c.model)
    if c.start_from:
        start = load(find_checkpoint(c.start_from)).model.state_dict()
        check_tensors(start, model.state_dict(), f"start_from {c.start_from}")
        model.load_state_dict(start)
    else:
        load_part(model.generation.tokenizer, c.tokenizer_from, "tokenizer.")
        load_part(model.understanding.encoder, c.encoder_from, "vision_encoder.", dropped=("pooling_head.*",))
        model.generation.initialise_from_codebook()
    return Checkpoint(model, Processor(c.processor, world_text_tokenizer()), c.sampling)


class JanusObjective:
    """Next-token prediction with both heads."""

    examples: Gives = "conversations"

    def __init__(self, c: JanusTraining, seed: int, start: Checkpoint | None = None):
        """`start`: the checkpoint to begin with, whose weights may still be missing; None: what the config names."""
        self.config, self.seed = c, seed
        begin = start or starting_checkpoint(c)
        self.model, self.processor = begin.model, begin.processor
        if start is None:
            _ = self.image_ids  # a missing file is told before anything is trained

    @cached_property
    def image_ids(self) -> ImageIds:
        """Read when first asked for: a run that goes on has its image tokenizer only then, one that is restored needs
        no ids."""
        return ImageIds.load(self.config.image_ids, self.model.generation.tokenizer)

    def checkpoint(self) -> Checkpoint:
        """The model with its processor and its default sampling settings."""
        return Checkpoint(self.model, self.processor, self.config.sampling)

    def micro_batches(self, stage: Stage, step: int) -> Sequence[Batch]:
        documents = []
        for name, count in stage.mixture.items():
            # Ids were made of the drawings of one seed; another seed's captions would belong to other pictures.
            seed = self.image_ids.seed if name == self.image_ids.source else self.seed
            source = find_source(name, self.examples)("train", seed)
            for index in range(step * count, (step + 1) * count):
                documents.append(self._document(name, source, index))
        batch = pack(documents, self.config.row_tokens)
        rows = self.config.micro_batch_rows
        device = self.model.language_model.norm.weight.device
        return [batch.rows(start, start + rows).to(device) for start in range(0, len(batch.tokens), rows)]

    def _document(self, name: str, source, index: int) -> Document:
        # Drawn anew each time a drawing comes round, so that no caption is left out for good.
        dropped = np.random.default_rng([self.seed, index, 3]).random() < self.config.drop_caption
        if name == self.image_ids.source:
            index %= len(self.image_ids)
        document = self.processor.document(with_image_ids(source(index), self.image_ids, index), train=True)
        drawn = any(isinstance(span, GenerateSpan) for span in document)
        return self.processor.unconditional(document) if drawn and dropped else document

    def count(self, batch: Batch) -> int:
        return batch.num_targets()

    def clip_groups(self, trainable: dict[str, nn.Parameter]) -> list[list[nn.Parameter]]:
        return [list(trainable.values())]

    def loss(self, batch: Batch, stage: Stage, step: int) -> tuple[Tensor, Measures]:
        hidden = self.model(batch)
        total = hidden.sum() * 0  # a batch may lack one of the kinds
        measures: Measures = {}
        heads = {
            "text": (Kind.TEXT, self.model.text_logits, self.config.text_weight),
            "image": (Kind.GENERATE, self.model.image_logits, 1.0),
        }
        for name, (kind, head, weight) in heads.items():
            here = batch.target_kind == kind
            if here.any():
                loss = F.cross_entropy(head(hidden[here]).float(), batch.target[here], reduction="sum")
                total = total + weight * loss
                measures[f"{name}_loss"] = (loss.detach(), int(here.sum()))
        return total, measures


def with_image_ids(conversation: Conversation, image_ids: ImageIds, index: int) -> Conversation:
    """The assistant's picture replaced by its ids, made beforehand for this index."""
    return [
        Message(m.role, [image_ids[index] if isinstance(part, Image.Image) else part for part in m.content])
        if m.role == "assistant"
        else m
        for m in conversation
    ]
