"""Spans, documents and batches: the one form that every task takes (floor 0).

A conversation, a caption to draw, a text to continue and a training example are all *documents*: lists of spans in
reading order. A batch holds documents packed into rows:

    tokens        BOS  two  red  apples  <boi>  17   903  ...  5        understanding: positions of kind UNDERSTAND
    kind          T    T    T    T       T      G    G    ...  G        which eye embeds this position
    target        -    -    -    -       17     903  ...  5    -        what the head predicts here
    target_kind   0    0    0    0       G      G    ...  G    0        which head predicts it (0: no loss)
    position      0    1    2    3       4      5    ...                counts from 0 inside each document
    document      0    0    0    0       0      0    ...                attention stays inside; -1 is padding

`<begin_of_image>` predicting the first image id needs no special case. A batch also lists, for each kind, where its
positions are (`places`) and where its targets are (`targets`). Both are made on the CPU, when documents are laid into
rows, so that no forward pass has to ask a GPU.

Legend of shapes, used in all of openjanus:
    B rows, T positions, D width, H heads, K head width, N ids (or features) per image, M images, V vocabulary
"""

from collections.abc import Iterable, Sequence
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
class Continued:
    """New ids of pictures whose earlier ids a generation eye with a memory still holds (model/eye.py).

    image_ids: int64 [M, T], the next T ids of M pictures. place: int64 [n], for each position of kind GENERATE which id
    it embeds, as m * T + t: the guidance rows of one picture share it. cache: the M pictures in the eye's own cache.
    """

    image_ids: Tensor
    place: Tensor
    cache: Any


@dataclass(kw_only=True)
class Inputs:
    """What a forward pass embeds: ids and their positions, int64 [B, T].

    places: for each kind that occurs its positions, int64 [n], ascending, as b * T + t. pixels: float [M, 3, H, W], the
    pictures to understand in reading order. drawings: the number of ids of each picture of kind GENERATE, in reading
    order. continued: the pictures of kind GENERATE instead, if these ids only continue them.
    """

    tokens: Tensor
    position: Tensor
    places: dict[Kind, Tensor]
    pixels: Tensor | None = None
    drawings: tuple[int, ...] = ()
    continued: Continued | None = None


@dataclass
class Embedded:
    """Positions that are embedded already: x [B, T, D], position int64 [B, T]."""

    x: Tensor
    position: Tensor


@dataclass(kw_only=True)
class Batch(Inputs):
    """Packed rows: beside its inputs what each position is and what it predicts, int64 [B, T].

    targets: for each head that has any, the positions that it predicts from, int64 [n], ascending, as b * T + t.
    """

    kind: Tensor
    document: Tensor
    target: Tensor
    target_kind: Tensor
    targets: dict[Kind, Tensor]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {kind: moved(tensor) for kind, tensor in value.items()}
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})

    def num_targets(self) -> int:
        """How many positions are supervised: the denominator of the loss."""
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


def lay_out(rows: Sequence[Sequence[Document]], row_tokens: int) -> Batch:
    """A batch of these rows of documents, padded at their ends to `row_tokens` positions."""
    arrays = np.zeros((6, len(rows), row_tokens), np.int64)
    tokens, kind, target, target_kind, position, document_of = arrays
    document_of[:] = -1
    pixels: list[Tensor] = []
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
        drawings=tuple(drawings),
    )


def find_rows(documents: Iterable[Document], row_tokens: int) -> list[list[Document]]:
    """Shares documents among as few rows of `row_tokens` positions as first-fit finds, longest first.

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
    return rows


def pack(documents: Iterable[Document], row_tokens: int) -> Batch:
    """Packs documents into one batch; see `find_rows`."""
    return lay_out(find_rows(documents, row_tokens), row_tokens)


def collate(documents: Sequence[Document]) -> Batch:
    """One document a row, all of one length: what decoding continues from. The guidance rows of a prompt are such."""
    lengths = {num_tokens(document) for document in documents}
    assert len(lengths) == 1, f"documents of {sorted(lengths)} positions, expected one length"
    return lay_out([[document] for document in documents], lengths.pop())
