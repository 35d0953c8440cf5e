"""What a generation eye with a memory keeps of the pictures that are being drawn (model/eye.py, `RememberingEye`).

    rows of the body's cache   0: cat, conditional   1: cat, unconditional   2: an answer   3: dog
    places of the eye's cache  0: cat                                                       1: dog

A picture has one place, however many rows guide it: all of them continue with the same ids. The places are the first of
the eye's cache, without gaps. An ordinary eye embeds each id by itself: it has no such cache, and nothing here happens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openjanus.inference.request import Request
from openjanus.model.eye import GenerationEye, PictureCache
from openjanus.sequence import Continued, num_tokens


@dataclass
class _Rows:
    """Where the pictures are among the rows of the body's cache, until somebody joins, leaves or moves.

    row: for each place, a row whose next id is the picture's. start: positions before the picture there, int64
    [pictures, 1]. place: for each row that draws, in ascending order, its picture.
    """

    row: Tensor
    start: Tensor
    place: Tensor
    on_host: list[tuple[int, int]]  # row and start


class Pictures:
    """The pictures that a scheduler draws. num_pictures: how many there can be at once."""

    def __init__(self, eye: GenerationEye, num_pictures: int, device: torch.device):
        self.eye, self.cache, self.device = eye, eye.make_cache(num_pictures), device
        self.owner: list[tuple[Request, int]] = []  # of each place: the request, and which of its pictures
        self._rows: _Rows | None = None

    def join(self, request: Request) -> None:
        """Takes a place for each picture of a drawing that begins."""
        if self.cache is not None:
            self.owner += [(request, index) for index in range(request.n)]

    def leave(self, request: Request) -> None:
        """Frees the places of a request; the last pictures move into them."""
        for place in reversed([place for place, (owner, _) in enumerate(self.owner) if owner is request]):
            last = self.owner.pop()
            if place < len(self.owner):
                assert self.cache is not None
                self.owner[place] = last
                self.cache.copy(len(self.owner), place, len(last[0].ids))

    def find_rows(self) -> None:
        """To be called after somebody has joined, left or moved."""
        self._rows = None
        if not self.owner:
            return
        rows = [request.rows[index] for request, index in self.owner]
        starts = [num_tokens(request.documents[0]) for request, _ in self.owner]
        place_of = {
            row: place for place, (request, index) in enumerate(self.owner) for row in request.rows[index :: request.n]
        }
        self._rows = _Rows(
            torch.tensor(rows, device=self.device),
            torch.tensor(starts, device=self.device)[:, None],
            torch.tensor([place_of[row] for row in sorted(place_of)], device=self.device),
            list(zip(rows, starts, strict=True)),
        )

    def continued(self, tokens: Tensor, position: Tensor, length: Sequence[int]) -> Continued | None:
        """The next ids of all pictures. tokens, position: int64 [rows], of all rows; length: position on the host."""
        rows = self._rows
        if self.cache is None or rows is None:
            return None
        index = position[rows.row][:, None] - rows.start
        reach = max(length[row] - start for row, start in rows.on_host) + 1
        return continue_pictures(self.eye, self.cache, tokens[rows.row][:, None], index, reach, rows.place)


def continue_pictures(
    eye: GenerationEye, cache: PictureCache, image_ids: Tensor, index: Tensor, reach: int, place: Tensor
) -> Continued:
    """Ids [M, T] of the first M pictures of an eye's cache, at these indices [M, T]; reach: 1 + the largest index;
    place: as in `Continued`.

    An index beyond a picture's end, as a window of drafts may have it, becomes the last one: what is embedded there
    predicts nothing.
    """
    N = eye.config.num_image_ids
    rows = cache.rows(0, len(image_ids), index.clamp(0, N - 1), min(max(reach, 1), N))
    return Continued(image_ids, place, rows)
