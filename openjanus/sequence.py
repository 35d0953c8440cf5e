"""Spans, documents and batches: the one form that every task takes (floor 0).

A conversation, a caption to draw, a text to continue and a training example are all *documents*: lists of spans in
reading order. A batch holds documents packed into rows:

    tokens        BOS  two  red  apples  <boi>  17   903  ...  5        understanding: positions of kind UNDERSTAND
    kind          T    T    T    T       T      G    G    ...  G        which eye embeds this position
    target        -    -    -    -       17     903  ...  5    -        what the head predicts here
    target_kind   0    0    0    0       G      G    ...  G    0        which head predicts it (0: no loss)
    position      0    1    2    3       4      5    ...                counts from 0 inside each document
    document      0    0    0    0       0      0    ...                attention stays inside; -1 is padding

`<begin_of_image>` predicting the first image id needs no special case.

Legend of shapes, used in all of openjanus:
    B rows, T positions, D width, H heads, K head width, N ids (or features) per image, M images, V vocabulary
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from torch import Tensor


class Kind(IntEnum):
    """Which eye embeds a position (`kind`) and which head predicts from it (`target_kind`)."""

    PAD = 0
    TEXT = 1
    UNDERSTAND = 2
    GENERATE = 3


@dataclass(frozen=True)
class TextSpan:
    """Text ids; with `loss`, each of them is a target of the text head."""

    ids: Sequence[int]
    loss: bool = False


@dataclass(frozen=True)
class UnderstandSpan:
    """A picture to look at: pixels [3, H, W] in [-1, 1], which the understanding eye turns into `num_features`
    positions."""

    pixels: Tensor
    num_features: int


@dataclass(frozen=True)
class GenerateSpan:
    """A picture as image ids; with `loss`, each of them is a target of the image head."""

    image_ids: Sequence[int]
    loss: bool = False


Span = TextSpan | UnderstandSpan | GenerateSpan
Document = list[Span]


@dataclass
class Batch:
    """Packed rows; all but `pixels` are int64 [B, T]. `pixels` [M, 3, H, W] float, in reading order."""

    tokens: Tensor
    kind: Tensor
    position: Tensor
    document: Tensor
    target: Tensor
    target_kind: Tensor
    pixels: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        there = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in there.items()})

    def rows(self, start: int, stop: int) -> "Batch":
        """The rows from `start` to `stop`, with their pictures."""
        columns = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "pixels"}
        if self.pixels is None:
            return Batch(**columns)
        seen = (self.kind == Kind.UNDERSTAND).sum(dim=1)
        num_features = int(seen.sum()) // len(self.pixels)
        first, last = int(seen[:start].sum()) // num_features, int(seen[:stop].sum()) // num_features
        return Batch(**columns, pixels=self.pixels[first:last] if last > first else None)

    def num_targets(self) -> int:
        """How many positions are supervised: the denominator of the loss."""
        return int((self.target_kind != Kind.PAD).sum())


def num_tokens(document: Document) -> int:
    """Positions that a document takes in a row."""
    return sum(_span_length(span) for span in document)


def _span_length(span: Span) -> int:
    if isinstance(span, TextSpan):
        return len(span.ids)
    return span.num_features if isinstance(span, UnderstandSpan) else len(span.image_ids)


def _flatten(document: Document) -> np.ndarray:
    """One document as int64 [4, T]: tokens, kind, target, target_kind. Targets are the next position's supervised
    id."""
    length = num_tokens(document)
    flat = np.zeros((4, length), np.int64)
    tokens, kind, target, target_kind = flat
    start = 0
    for span in document:
        stop = start + _span_length(span)
        if isinstance(span, UnderstandSpan):
            kind[start:stop] = Kind.UNDERSTAND
        else:
            ids, head = (span.ids, Kind.TEXT) if isinstance(span, TextSpan) else (span.image_ids, Kind.GENERATE)
            tokens[start:stop] = ids
            kind[start:stop] = head
            if span.loss and start > 0:
                target[start - 1 : stop - 1] = ids
                target_kind[start - 1 : stop - 1] = head
            elif span.loss:  # nothing stands before the document's first id to predict it
                target[: stop - 1] = ids[1:]
                target_kind[: stop - 1] = head
        start = stop
    return flat


def _fill(rows: Sequence[Sequence[Document]], row_tokens: int, side: Literal["left", "right"]) -> Batch:
    """Lays documents into rows of `row_tokens` positions, padding at the given side."""
    arrays = np.zeros((6, len(rows), row_tokens), np.int64)
    tokens, kind, target, target_kind, position, document_of = arrays
    document_of[:] = -1
    pixels: list[Tensor] = []
    for b, documents in enumerate(rows):
        start = 0 if side == "right" else row_tokens - sum(num_tokens(d) for d in documents)
        for index, document in enumerate(documents):
            flat = _flatten(document)
            stop = start + flat.shape[1]
            tokens[b, start:stop], kind[b, start:stop], target[b, start:stop], target_kind[b, start:stop] = flat
            position[b, start:stop] = np.arange(stop - start)
            document_of[b, start:stop] = index
            pixels += [span.pixels for span in document if isinstance(span, UnderstandSpan)]
            start = stop
    t = [torch.from_numpy(a) for a in arrays]
    return Batch(t[0], t[1], t[4], t[5], t[2], t[3], torch.stack(pixels) if pixels else None)


def pack(documents: Iterable[Document], row_tokens: int) -> Batch:
    """Packs documents into as few rows of `row_tokens` positions as first-fit finds, longest first.

    Raises ValueError for a document longer than a row.
    """
    rows: list[list[Document]] = []
    free: list[int] = []
    for document in sorted(documents, key=num_tokens, reverse=True):
        length = num_tokens(document)
        if length > row_tokens:
            raise ValueError(f"a document of {length} positions does not fit a row of {row_tokens}: raise row_tokens")
        row = next((i for i, room in enumerate(free) if room >= length), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(row_tokens)
        rows[row].append(document)
        free[row] -= length
    return _fill(rows, row_tokens, "right")


def collate(documents: Sequence[Document]) -> Batch:
    """One document a row, padded on the left so that all rows end together: what decoding continues from."""
    return _fill([[d] for d in documents], max(num_tokens(d) for d in documents), "left")
