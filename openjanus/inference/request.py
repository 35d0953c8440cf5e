"""A request to the decode loop: a prompt, what continues it, and what came of it so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openjanus.inference.graphs import recording_lock
from openjanus.inference.sampling import Sampler
from openjanus.sequence import Document, Kind, num_tokens


@dataclass(eq=False)
class Request:
    """One prompt to continue `n` times, by ids of one kind.

    documents: the guidance rows, all of one length: the whole prompt first, then prompts of which more and more is
    dropped (`guidance_rows`). scales: one for each but the last (sampling.py, `guide`).
    num_new: ids to give at most. stop_id: an id that ends the request; then n must be 1.
    ids: what came so far, int64 [n] each step, on the model's device. text_ids: of an answer, the same on the host.
    """

    documents: Sequence[Document]
    kind: Kind
    num_new: int
    sampler: Sampler
    stop_id: int | None = None
    scales: Sequence[float] = ()
    ids: list[Tensor] = field(default_factory=list)
    text_ids: list[int] = field(default_factory=list)
    finished: bool = False
    cancelled: bool = False
    error: Exception | None = None  # why it finished early
    rows: list[int] = field(default_factory=list)  # of the cache: n of the first document, then n of each next one

    def __post_init__(self) -> None:
        lengths = [num_tokens(document) for document in self.documents]
        if len(set(lengths)) != 1:
            raise ValueError(f"the guidance rows have {lengths} positions: expected one or several of equal length")
        if len(self.scales) != len(lengths) - 1:
            raise ValueError(
                f"got {len(self.scales)} scales for {len(lengths)} guidance rows, expected one for each but the last"
            )
        if self.scales and self.kind != Kind.GENERATE:
            raise ValueError("only drawings are guided: an answer has one row")

    @property
    def n(self) -> int:
        return self.sampler.num_rows

    @property
    def num_rows(self) -> int:
        return self.n * len(self.documents)

    def rows_of(self, number: int) -> list[int]:
        """The cache rows of a document, one for each picture; those of the last document if there is no such number."""
        start = min(number, len(self.documents) - 1) * self.n
        return self.rows[start : start + self.n]

    @property
    def num_positions(self) -> int:
        """Positions that a row needs; the last id is given, not embedded."""
        return num_tokens(self.documents[0]) + self.num_new - 1

    def drawn(self, count: int) -> list[list[int]]:
        """The first `count` ids of each of the n pictures, by one copy to the host. It waits for the device: for a
        thread of its own beside the one that steps."""
        with recording_lock:
            return torch.stack(self.ids[:count], dim=1).tolist()

    def cancel(self) -> None:
        """The request leaves the batch before the next step."""
        self.cancelled = True
