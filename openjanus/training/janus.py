"""Training Janus: next-token prediction over packed documents of every kind (arXiv 2410.13848, §3.2 and §3.3).

    source ─► conversation ─► Processor ─► document ─► pack ─► Batch ─► Janus ─► heads where supervised ─► loss

Only answers and image ids have a loss. For classifier-free guidance, a caption to draw is replaced by pads with
probability `drop_caption` (§3.4). If the user gives a picture to edit, half of these documents keep the picture, so
that words and picture have guidance of their own. Every step mixes all kinds of examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openjanus.config import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from openjanus.data.config import DataConfig
from openjanus.data.id_store import IdStore
from openjanus.data.image_ids import ImageIds, encode
from openjanus.data.sources import (
    Gives,
    Source,
    find_source,
    find_text_tokenizer,
    indices_of_step,
    open_users_data,
)
from openjanus.model.image_tokenizer import ImageTokenizer
from openjanus.model.janus import Janus
from openjanus.model.product_eye import ProductHead
from openjanus.processing.message import show_both_eyes
from openjanus.processing.processor import Conversation, Message, Processor
from openjanus.sequence import Batch, Document, GenerateSpan, Kind, UnderstandSpan, find_rows, lay_out, num_tokens
from openjanus.starting.start import StartConfig, starting_image_tokenizer, starting_point
from openjanus.training.loop import Measures, Training
from openjanus.training.lora import LoRAConfig, add_lora
from openjanus.training.memory import cross_entropy, recompute_layers
from openjanus.training.stage import Stage
from openjanus.weights.config import Checkpoint

ROW_STEP = 32  # rows have a multiple of it: fewer different lengths


@dataclass(frozen=True)
class JanusTraining(StartConfig):
    """What `StartConfig` says of the model, and how it is trained.

    A `text_tokenizer` in a table of parts is a name of `TEXT_TOKENIZERS`, a file, or a checkpoint folder.

    `data`: the user's own data, by the names that the mixtures of the stages give it.

    `image_ids`: the file of `openjanus tokenize` with drawings as ids, or one file for each source. Drawings of a
    source without a file are encoded during the training. `text_weight` 1 is the paper's loss (no task
    weights). `drop_view`: share of the pictures to edit that only the understanding eye sees, so that the model learns
    to look there, too. `long_row_tokens` > 0: a document that is longer than `row_tokens`, up to this length, has a
    micro-batch of its own, so that few long talks do not make all rows long. `lora`: matrices that learn a small
    difference instead (lora.py). `recompute`: layers are computed again on the way back, instead of keeping what
    they computed: it takes a third more time and much less memory. `compile`: the body's layers as compiled kernels
    (compiled.py).
    """

    examples: ClassVar[Gives] = "conversations"  # what its sources give

    image_ids: str | dict[str, str] = ""
    data: dict[str, DataConfig] = field(default_factory=dict)
    row_tokens: PositiveInt = 4096
    long_row_tokens: NonNegativeInt = 0
    micro_batch_rows: PositiveInt = 8
    drop_caption: Annotated[float, Range(0, 1)] = 0.1
    text_weight: NonNegativeFloat = 1.0
    drop_view: Annotated[float, Range(0, 1)] = 0.2
    lora: LoRAConfig | None = None
    recompute: bool = False
    compile: bool = False


def starting_checkpoint(c: JanusTraining) -> Checkpoint:
    """The model with its text tokenizer and settings before the first step."""
    return starting_point(c, find_text_tokenizer)


def starting_tokenizer(c: JanusTraining) -> ImageTokenizer:
    """The image tokenizer that a training starts with; its drawings must be encoded by it."""
    return starting_image_tokenizer(c, find_text_tokenizer)


@dataclass
class JanusData:
    """Steps as packed rows of documents of every kind.

    `image_tokenizer`: the model's, for drawings that are in no file of ids. `rank` of `size` processes: the examples of
    a step are the same for any number of processes, and each takes its slice.
    """

    config: JanusTraining
    seed: int
    processor: Processor
    image_tokenizer: ImageTokenizer
    rank: int = 0
    size: int = 1

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens files again. Tensors go as arrays: torch would share their memory."""
        tokenizer = self.image_tokenizer
        weights = {name: tensor.cpu().numpy() for name, tensor in tokenizer.state_dict().items()}
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, "image_tokenizer": (tokenizer.config, weights)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config, weights = state["image_tokenizer"]
        self.__dict__.update(state, image_tokenizer=ImageTokenizer(config).eval().requires_grad_(False))
        self.image_tokenizer.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})

    @cached_property
    def users_data(self) -> dict[str, Any]:
        """The user's data by name (readers/dataset.py)."""
        return {name: open_users_data(c) for name, c in self.config.data.items() if c.path}

    @cached_property
    def encode(self) -> IdStore:
        """Pictures to image ids, with those of users' pictures kept. Made at the first batch, as `image_ids`."""
        return IdStore(self.image_tokenizer)

    def inputs(self) -> dict[str, Any]:
        """The files of image ids and the user's data that the batches use."""
        made = {
            f"image ids of {ids.source}": {"image_tokenizer": ids.tokenizer, "num": len(ids), "seed": ids.seed}
            for ids in self._files
        }
        return made | {f"examples of {name}": len(opened.examples("train")) for name, opened in self.users_data.items()}

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
        """Drawings as ids, by source. They are checked against the image tokenizer at the first batch, because only
        then the model has the weights of a resumed run."""
        for ids in self._files:
            ids.check(self.image_tokenizer)
        return {ids.source: ids for ids in self._files}

    def __call__(self, stage: Stage, step: int) -> Sequence[Batch]:
        examples = [
            (name, index) for name, count in stage.mixture_at(step).items() for index in indices_of_step(count, step)
        ]
        mine = examples[self.rank :: self.size]
        sources = {name: self.source(name) for name, _ in mine}
        return self.packed([self.document(name, sources[name], index) for name, index in mine])

    def packed(self, documents: Sequence[Document]) -> list[Batch]:
        """The documents as micro-batches. Raises ValueError for one that is longer than a row."""
        c, length = self.config, self.config.row_tokens
        long = [document for document in documents if c.long_row_tokens and num_tokens(document) > length]
        short = [document for document in documents if not any(document is one for one in long)]
        rows = find_rows(short, length)
        chunks = [rows[start : start + c.micro_batch_rows] for start in range(0, len(rows), c.micro_batch_rows)]
        chunks += [find_rows([one], c.long_row_tokens) for one in long]
        return [self._laid_out(self._seen(chunk)) for chunk in chunks]

    def _laid_out(self, rows: list[list[Document]]) -> Batch:
        """Rows as long as the longest; compiled layers need `row_tokens`."""
        longest = max(sum(map(num_tokens, row)) for row in rows)
        fixed = self.config.compile and longest <= self.config.row_tokens
        return lay_out(rows, self.config.row_tokens if fixed else -(-longest // ROW_STEP) * ROW_STEP)

    def _seen(self, rows: list[list[Document]]) -> list[list[Document]]:
        """The rows; with several processes, one of them has a picture. The layers of an encoder that is sharded must
        run in each process as often as in the others."""
        looks = any(isinstance(span, UnderstandSpan) for row in rows for document in row for span in document)
        return rows if looks or self.size == 1 else [*rows, [self._blank_document()]]

    def _blank_document(self) -> Document:
        size_px = self.processor.config.pixels.size_px
        return [UnderstandSpan(torch.zeros(3, size_px, size_px), self.processor.num_features)]

    def blank(self) -> Batch:
        """A batch with a picture and without targets."""
        return lay_out([[self._blank_document()]], self.processor.num_features)

    def source(self, name: str, split: str = "train") -> Source:
        """A source of examples: a user's data, or one of `SOURCES`."""
        if name in self.config.data:
            return self.users_data[name].source(split, self.seed)
        # The file's ids are of one seed; captions of another seed belong to other pictures.
        seed = self.image_ids[name].seed if name in self.image_ids else self.seed
        return find_source(name, self.config.examples)(split, seed)

    def document(self, name: str, source: Source, index: int) -> Document:
        """Example `index` of the source called `name`."""
        # Random for each repetition of a drawing, so that no caption is always dropped.
        c, rng = self.config, np.random.default_rng([self.seed, index, 3])
        dropped, keeps_picture, one_view = rng.random() < c.drop_caption, rng.random() < 0.5, rng.random() < c.drop_view
        made = self.image_ids.get(name)
        if made is not None:
            index %= len(made)
        made_here = None if made is None else made[index]
        conversation = self._with_image_ids(source(index), made_here, one_view, name in c.data)
        document = self.processor.document(conversation, train=True)
        if not dropped or not any(isinstance(span, GenerateSpan) for span in document):
            return document
        edits = any(isinstance(span, UnderstandSpan) for span in document)
        return self.processor.drop(document, words=True, pictures=not (edits and keeps_picture))

    def _with_image_ids(
        self, conversation: Conversation, made: np.ndarray | None, one_view: bool, is_users: bool
    ) -> Conversation:
        """The conversation with the assistant's pictures as ids, from the file or encoded now. If it draws, the user's
        pictures are to be edited: both eyes see them, unless `one_view`. is_users: of a user's data; its ids are
        kept."""

        def ids_of(picture: Image.Image) -> np.ndarray:
            return self.encode([picture])[0] if is_users else encode(self.image_tokenizer, [picture])[0]

        def drawn(part: Any) -> Any:
            if not isinstance(part, Image.Image):
                return part
            return ids_of(part) if made is None else made

        draws = any(m.role == "assistant" and not isinstance(part, str) for m in conversation for part in m.content)
        ready: list[Message] = []
        for message in conversation:
            if message.role == "assistant":
                message = Message("assistant", [drawn(part) for part in message.content])
            ready.append(message)
        return show_both_eyes(ready, ids_of) if draws and not one_view else ready


def sizes_of(batch: Batch) -> dict[str, int]:
    """Positions without and with padding, and the pictures that are looked at or drawn."""
    looked_at = 0 if batch.pixels is None else len(batch.pixels)
    tokens = sum(len(places) for places in batch.places.values())
    return {"tokens": tokens, "pictures": looked_at + len(batch.drawings), "positions": batch.tokens.numel()}


def janus_loss(model: Janus, batch: Batch, step: int, text_weight: float = 1.0) -> tuple[Tensor, Measures]:
    """Cross-entropy of both heads, summed over the supervised positions of each."""
    hidden = model(batch).flatten(0, 1)
    total = hidden.sum() * 0  # a batch may lack one of the kinds
    measures: Measures = {}
    names_and_weights = {Kind.TEXT: ("text", text_weight), Kind.GENERATE: ("image", 1.0)}
    for kind, head in model.heads.items():
        if kind in batch.targets:
            (name, weight), places = names_and_weights[kind], batch.targets[kind]
            ids = batch.target.flatten()[places]
            if isinstance(head, ProductHead):
                loss = head.cross_entropy(hidden[places], ids)
            else:
                loss = cross_entropy(head, hidden[places], ids)
            total = total + weight * loss
            measures[f"{name}_loss"] = (loss.detach(), len(places))
    return total, measures


def janus_training(c: JanusTraining, seed: int, start: Checkpoint | None = None) -> Training:
    """Next-token prediction with both heads.

    `start`: the initial checkpoint, possibly without weights yet; None: that of the config.
    """
    begin = start or starting_checkpoint(c)
    if c.lora is not None:
        add_lora(begin.model, c.lora)
    if c.compile:
        from openjanus.training.compiled import compile_layers  # imports the compiler

        compile_layers(begin.model, c.row_tokens)
    if c.recompute:
        recompute_layers(begin.model)
    exported = begin if isinstance(c.start, str) else replace(begin, sampling=c.sampling)
    data = JanusData(c, seed, begin.processor, begin.model.generation.tokenizer)
    return Training(
        begin.model,
        data,
        partial(janus_loss, text_weight=c.text_weight),
        num_targets=Batch.num_targets,
        checkpoint=exported,
        inputs=data.inputs,
        data_reads=("generation.tokenizer.",),
        keeps_base=c.lora is None,
        sizes=sizes_of,
        blank=data.blank,
    )
