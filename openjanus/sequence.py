"""Spans, documents and batches: the common format of all tasks (floor 0).

A conversation, a caption to draw, a text to continue and a training example are all *documents*: lists of spans in
reading order. A batch holds documents packed into rows:

    tokens        BOS  two  red  apples  <boi>  17   903  ...  5        pictures to understand and signals have no ids
    kind          T    T    T    T       T      G    G    ...  G        which eye embeds this position
    target        -    -    -    -       17     903  ...  5    -        what the head predicts here
    target_kind   0    0    0    0       G      G    ...  G    0        which head predicts it (0: no loss)
    position      0    1    2    3       4      5    ...                counts from 0 inside each document
    document      0    0    0    0       0      0    ...                attention stays inside; -1 is padding

`<begin_of_image>` predicts the first image id without a special case. A batch also lists the positions of each kind
(`places`) and of each head's targets (`targets`). Both are computed on the CPU when documents are packed, so that no
forward pass waits for a value from a GPU.

Legend of shapes, used in all of openjanus:
    B rows, T positions, D width, H heads, K head width, N ids (or features) per image, M images, V vocabulary
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Kind(IntEnum):
    """Which eye embeds a position (`kind`) and which head predicts from it (`target_kind`)."""

    PAD = 0
    TEXT = 1
    UNDERSTAND = 2
    GENERATE = 3
    SIGNAL = 4


@dataclass(frozen=True)
class TextSpan:
    """Text ids; with `loss`, each of them is a target of the text head."""

    ids: Sequence[int]
    loss: bool = False


@dataclass(frozen=True)
class UnderstandSpan:
    """A picture to understand: pixels [3, H, W] in [-1, 1], `num_features` positions for the understanding eye."""

    pixels: Tensor
    num_features: int


@dataclass(frozen=True)
class GenerateSpan:
    """A picture as image ids; with `loss`, each of them is a target of the image head."""

    image_ids: Sequence[int]
    loss: bool = False


@dataclass(frozen=True)
class SignalSpan:
    """An input of the model's third modality: values of the shape that its signal eye takes, `num_positions` for it."""

    values: Tensor
    num_positions: int


Span = TextSpan | UnderstandSpan | GenerateSpan | SignalSpan
Document = list[Span]


@dataclass
class Continued:
    """New ids of pictures whose earlier ids are in the cache of a stateful generation eye (model/eye.py).

    image_ids: int64 [M, T], the next T ids of M pictures. place: int64 [n], for each position of kind GENERATE the id
    that it embeds, as m * T + t; the guidance rows of one picture share it. cache: the eye's cache of the M pictures.
    """

    image_ids: Tensor
    place: Tensor
    cache: Any


@dataclass(kw_only=True)
class Inputs:
    """The inputs of a forward pass: ids and their positions, int64 [B, T].

    places: for each kind that occurs its positions, int64 [n], ascending, as b * T + t. pixels: float [M, 3, H, W], the
    pictures to understand in reading order. signals: float [M, ...], the signals in reading order. drawings: the number
    of ids of each picture of kind GENERATE, in reading order. continued: replaces `drawings` if these ids continue
    pictures of the eye's cache.
    """

    tokens: Tensor
    position: Tensor
    places: dict[Kind, Tensor]
    pixels: Tensor | None = None
    signals: Tensor | None = None
    drawings: tuple[int, ...] = ()
    continued: Continued | None = None


@dataclass
class Embedded:
    """Embedded positions: x [B, T, D], position int64 [B, T]."""

    x: Tensor
    position: Tensor


@dataclass(kw_only=True)
class Batch(Inputs):
    """Packed rows: the inputs, and the kind and the target of each position, int64 [B, T].

    targets: for each head that has any, the positions that it predicts from, int64 [n], ascending, as b * T + t.
    """

    kind: Tensor
    document: Tensor
    target: Tensor
    target_kind: Tensor
    targets: dict[Kind, Tensor]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device. From pinned memory it arrives while the device computes."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU can read by itself."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {kind: changed(tensor) for kind, tensor in value.items()}
            return change(value) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})

    def num_targets(self) -> int:
        """The number of supervised positions: the denominator of the loss."""
        return sum(len(places) for places in self.targets.values())


def find_kinds(kinds: Tensor) -> dict[Kind, Tensor]:
    """kinds [B, T] on the CPU -> for each kind that occurs, padding left out, its positions int64 [n] as b * T + t."""
    flat = kinds.flatten()
    found = {kind: (flat == kind).nonzero()[:, 0] for kind in Kind if kind != Kind.PAD}
    return {kind: places for kind, places in found.items() if len(places)}


def num_tokens(document: Document) -> int:
    """Positions that a document takes in a row."""
    return sum(_span_length(span) for span in document)


def _span_length(span: Span) -> int:
    if isinstance(span, TextSpan):
        return len(span.ids)
    if isinstance(span, GenerateSpan):
        return len(span.image_ids)
    return span.num_features if isinstance(span, UnderstandSpan) else span.num_positions


def _flatten(document: Document) -> np.ndarray:
    """One document as int64 [4, T]: tokens, kind, target, target_kind. Targets are the next position's supervised
    id."""
    length = num_tokens(document)
    flat = np.zeros((4, length), np.int64)
    tokens, kind, target, target_kind = flat
    start = 0
    for span in document:
        stop = start + _span_length(span)
        if isinstance(span, (UnderstandSpan, SignalSpan)):
            kind[start:stop] = Kind.UNDERSTAND if isinstance(span, UnderstandSpan) else Kind.SIGNAL
        else:
            ids, head = (span.ids, Kind.TEXT) if isinstance(span, TextSpan) else (span.image_ids, Kind.GENERATE)
            tokens[start:stop] = ids
            kind[start:stop] = head
            if span.loss and start > 0:
                target[start - 1 : stop - 1] = ids
                target_kind[start - 1 : stop - 1] = head
            elif span.loss:  # no earlier position can predict the document's first id
                target[: stop - 1] = ids[1:]
                target_kind[: stop - 1] = head
        start = stop
    return flat


def lay_out(rows: Sequence[Sequence[Document]], row_tokens: int) -> Batch:
    """A batch of these rows of documents, padded at their ends to `row_tokens` positions."""
    arrays = np.zeros((6, len(rows), row_tokens), np.int64)
    tokens, kind, target, target_kind, position, document_of = arrays
    document_of[:] = -1
    pixels: list[Tensor] = []
    signals: list[Tensor] = []
    drawings: list[int] = []
    for b, documents in enumerate(rows):
        start = 0
        for index, document in enumerate(documents):
            flat = _flatten(document)
            stop = start + flat.shape[1]
            tokens[b, start:stop], kind[b, start:stop], target[b, start:stop], target_kind[b, start:stop] = flat
            position[b, start:stop] = np.arange(stop - start)
            document_of[b, start:stop] = index
            pixels += [span.pixels for span in document if isinstance(span, UnderstandSpan)]
            signals += [span.values for span in document if isinstance(span, SignalSpan)]
            drawn = (len(span.image_ids) for span in document if isinstance(span, GenerateSpan))
            drawings += [length for length in drawn if length]
            start = stop
    t = [torch.from_numpy(a) for a in arrays]
    return Batch(
        tokens=t[0],
        kind=t[1],
        target=t[2],
        target_kind=t[3],
        position=t[4],
        document=t[5],
        places=find_kinds(t[1]),
        targets=find_kinds(t[3]),
        pixels=torch.stack(pixels) if pixels else None,
        signals=torch.stack(signals) if signals else None,
        drawings=tuple(drawings),
    )


def find_rows(documents: Iterable[Document], row_tokens: int) -> list[list[Document]]:
    """Shares documents among as few rows of `row_tokens` positions as first-fit finds, longest first; and then evenly
    among so many rows, where that fits, because rows are padded to the longest.

    Raises ValueError for a document longer than a row.
    """
    ordered = sorted(documents, key=num_tokens, reverse=True)
    rows: list[list[Document]] = []
    free: list[int] = []
    for document in ordered:
        length = num_tokens(document)
        if length > row_tokens:
            raise ValueError(f"a document of {length} positions does not fit a row of {row_tokens}: raise row_tokens")
        row = next((i for i, room in enumerate(free) if room >= length), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(row_tokens)
        rows[row].append(document)
        free[row] -= length
    even: list[list[Document]] = [[] for _ in rows]
    used = [0] * len(rows)
    for document in ordered:
        row = used.index(min(used))
        even[row].append(document)
        used[row] += num_tokens(document)
    return even if max(used, default=0) <= row_tokens else rows


def pack(documents: Iterable[Document], row_tokens: int) -> Batch:
    """Packs documents into one batch; see `find_rows`."""
    return lay_out(find_rows(documents, row_tokens), row_tokens)


def collate(documents: Sequence[Document]) -> Batch:
    """One document a row, all of the same length, for decoding: the guidance rows of a prompt."""
    lengths = {num_tokens(document) for document in documents}
    assert len(lengths) == 1, f"documents of {sorted(lengths)} positions, expected one length"
    return lay_out([[document] for document in documents], lengths.pop())
